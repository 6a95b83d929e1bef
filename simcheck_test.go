package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What must hold on the simulated switch: some of it at each of the daemon's commands, the rest when it is quiet.

// late is how long the daemon may go by what CONFIG_DB was before: it was read before a command that is under way.
const late = 3 * dbTimeout

// late is that of the daemon that writes: one that was stopped goes by what was so before, and then looks again.
func (w *world) late() time.Duration { return late + w.daemon.still }

// judge looks at a command of the daemon's before it is carried out.
func (w *world) judge(who *simDaemon, db int, name string, args []string) {
	if len(w.crew) > 0 && !w.allowed(who, db, name, args) {
		return
	}
	switch {
	case db == simState && strings.HasPrefix(args[0], "PORT_TABLE|"):
		port := strings.TrimPrefix(args[0], "PORT_TABLE|")
		switch name {
		case "hset":
			w.judgeSet(port, args[1:])
		case "del":
			w.judgeDel(port)
		}
	case db == simState && name == "eval" && args[0] == string(scanKeys):
		w.daemon.publishing = true
	case db == simState && name == "hset" && args[0] == simFeature:
		w.judgeReady(args[1:])
	case db == simState && name == "hset" && strings.HasPrefix(args[0], "PORTSYNCD_START_TABLE|"):
		w.dropAmid()
	case db == simAppl && name == "eval":
		if args[0] == string(configDone) {
			n, _ := strconv.Atoi(args[1])
			if keys := args[2 : 2+n]; w.server.complete(db, keys) {
				w.judgeConfigDone(args[2+n+2], slices.Contains(keys, "PORT_TABLE:"+portConfigDone), w.signal)
			}
		}
		if args[0] == string(announceAll) && w.server.command(simConfig, "get", []string{configReady}) == "1" {
			out, _, _ := w.server.readConfig(simConfig, args[2:], []string{"PORT|*", ""})
			ports := announcedBy(out)
			w.judgeConfigDone(strconv.Itoa(len(ports)), false, func(name string) bool { return ports["PORT|"+name] != nil })
		}
		if args[0] == string(producerSet) && len(w.server.members(simAppl, "PORT_TABLE_KEY_SET")) < popBatch {
			w.many = w.now
		}
		if slices.Contains(args, portInitDone) {
			w.judgeInitDone()
		}
	}
}

// judgeSet: neither an old interface nor what APPL_DB lacks is published, and the same state is not written twice.
func (w *world) judgeSet(port string, fields []string) {
	w.writes++
	w.say("HSET %s %v", port, fields)
	if l := w.kernel.named(port); l != nil && l.old && !w.seen[port] {
		w.fail("%s is published, and its only interface is a left-over", port)
	}
	if !w.inAppl[port] {
		w.fail("%s is published, and was never in APPL_DB", port)
	}
	h, _ := w.server.hash(simState, "PORT_TABLE|"+port, false)
	same := true
	for i := 0; i+1 < len(fields); i += 2 {
		same = same && h[fields[i]] == fields[i+1]
	}
	if same && !w.doubtful {
		w.fail("%s is written, and it was so already", port)
	}
}

// judgeDel: an entry goes only when the interface went, or if it is ours and there is none.
func (w *world) judgeDel(port string) {
	w.say("DEL %s", port)
	l := w.kernel.named(port)
	h, _ := w.server.hash(simState, "PORT_TABLE|"+port, false)
	went := w.vanished[port] > 0
	if l != nil && !l.old && !went && !w.doubtful && !w.unlinked {
		w.fail("the entry of %s is deleted, and its interface did not go", port)
	}
	if h["state"] == "" && len(h) > 0 && !went {
		w.fail("the entry of %s is deleted, which is another daemon's", port)
	}
	if !w.doubtful && went {
		w.vanished[port]--
	}
	if l != nil {
		delete(w.others, port)
	}
}

// judgeConfigDone: the count is that of CONFIG_DB, and every port was pushed before.
func (w *world) judgeConfigDone(text string, again bool, pushed func(name string) bool) {
	count, _ := strconv.Atoi(text)
	w.say("PortConfigDone, count %d", count)
	w.daemon.announced = w.now
	if !again {
		w.afresh = w.now
		w.judgeWaiting()
	}
	for _, l := range w.kernel.sorted() {
		l.unsaid = false
	}
	lately := slices.ContainsFunc(w.counts, func(c simCount) bool { return c.n == count && w.now.Sub(c.until) < w.late() })
	if count != len(w.configured) && !lately {
		w.fail("PortConfigDone says %d ports, CONFIG_DB has %d", count, len(w.configured))
	}
	for _, name := range slices.Sorted(maps.Keys(w.configured)) {
		if !again && w.now.Sub(w.configured[name]) > w.late() && !w.rewriting && !pushed(name) {
			w.fail("PortConfigDone comes before %s is in APPL_DB", name)
		}
	}
	if !again && w.knownEmpty() {
		w.awaited = map[string]bool{}
		for name := range w.configured {
			w.awaited[name] = true
		}
	}
	if w.bare() || w.now.Sub(w.bareAt) < w.late() { // then the switch software starts again: whatever was seen is waited for
		for name := range w.seen {
			w.unsure[name] = true
		}
	}
}

// knownEmpty says that no configured port has an interface, and that the daemon knows that: all of them went a while ago.
func (w *world) knownEmpty() bool {
	while := 500*time.Millisecond + w.daemon.still
	if w.m.overruns.Load() > 0 || w.remade || w.daemon.socket.dump != nil { // a listing tells
		while += 15 * time.Second
	}
	lately := slices.ContainsFunc(w.counts, func(c simCount) bool { return w.now.Sub(c.until) < w.late() })
	return w.bare() && !w.emptied.IsZero() && w.now.Sub(w.emptied) > while && !lately
}

// judgeWaiting: PortConfigDone comes when orchagent takes it with the last ports, or after them, as long as it takes some now and then. What others push
// meanwhile is their business.
func (w *world) judgeWaiting() {
	waiting := len(w.server.members(simAppl, "PORT_TABLE_KEY_SET"))
	others := w.now.Sub(w.pushed) < late
	if waiting >= popBatch && !others && !w.idle() && w.now.Sub(w.lull) > late {
		w.fail("PortConfigDone comes while %d ports wait for an orchagent that takes them", waiting)
	}
}

// judgeInitDone: every configured port had its interface.
func (w *world) judgeInitDone() {
	w.say("PortInitDone")
	if w.signal(portInitDone) && !w.again && !w.doubtful {
		w.fail("PortInitDone comes twice")
	}
	if since := w.bareAt.Add(w.late()); w.again && w.bare() && !w.bareAt.IsZero() && w.afresh.After(since) {
		for name, at := range w.configured { // one that is added just now is not waited for
			if w.now.Sub(at) > w.late() {
				w.fail("PortInitDone comes, and all interfaces, %s's too, had gone when the ports were announced", name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.awaited)) {
		if at, configured := w.configured[name]; configured && w.now.Sub(at) > w.late() {
			w.fail("PortInitDone comes, and %s has had no interface since all had gone and the ports were announced", name)
		}
	}
	w.awaited = nil
	lag := w.late()
	if w.now.Sub(w.server.failed) > late && w.config == w.server && len(w.crew) == 0 { // nothing keeps CONFIG_DB from being read
		lag = 500 * time.Millisecond
	}
	for _, name := range slices.Sorted(maps.Keys(w.configured)) {
		if w.now.Sub(w.configured[name]) > lag && !w.seen[name] && !w.again {
			w.fail("PortInitDone comes before %s has an interface", name)
		}
	}
}

// simFeature is the row in which the container says that it is ready. Its other fields are the container's.
const simFeature = "FEATURE|swss"

// judgeReady: the row is written when it is to change, only if that was asked for, and no switch is ready before
// PortInitDone is sent.
func (w *world) judgeReady(fields []string) {
	w.say("ready: %v", fields)
	h, _ := w.server.hash(simState, simFeature, false)
	switch {
	case !w.feature:
		w.fail("%s is written, and nobody asked for it", simFeature)
	case len(fields) != 6 || fields[0] != "up_status" || fields[2] != "fail_reason" || fields[4] != "update_time":
		w.fail("%s gets %v", simFeature, fields)
	case fields[1] == "false": // to sonic-buildimage#18817 a failure
		w.fail("%s says that the container has failed", simFeature)
	case h["up_status"] == fields[1] && h["fail_reason"] == fields[3] && !w.doubtful:
		w.fail("%s is written, and it was so already", simFeature)
	case fields[1] == "true" && !w.signal(portInitDone) && !w.doubtful:
		w.fail("%s says ready before PortInitDone", simFeature)
	}
}

// checkReady: the row says whether PortInitDone is sent: "true", or nothing and a reason.
func (w *world) checkReady() {
	h, _ := w.server.hash(simState, simFeature, false)
	up := ""
	if w.m.portInitDone.Load() == 1 {
		up = "true"
	}
	if w.feature && (h["up_status"] != up || h["update_time"] == "" || (h["fail_reason"] == "") != (up == "true")) {
		w.fail("%s is %v, and PortInitDone is sent: %t", simFeature, h, up == "true")
	}
	if h != nil && !w.doubtful && h["container_id"] != "c" {
		w.fail("a field of %s that is another's is lost: %v", simFeature, h)
	}
}

// check is what holds when it is quiet.
func (w *world) check() {
	if w.daemon == nil || w.daemon.ended {
		w.fail("the daemon has ended: %v", w.daemon)
		return
	}
	for _, l := range w.kernel.sorted() {
		w.checkPort(l)
	}
	for key := range w.server.database(simState) {
		port, isPort := strings.CutPrefix(key, "PORT_TABLE|")
		h, _ := w.server.hash(simState, key, false)
		heard := !w.doubtful && w.m.overruns.Load() == 0 && !w.goneUntold[port] // that the interface went, and then the entry goes whoever wrote it
		if isPort && (h["state"] != "" || heard) && w.kernel.named(port) == nil {
			w.fail("%s has an entry and no interface: %v", port, h)
		}
	}
	for _, port := range slices.Sorted(maps.Keys(w.others)) {
		h, _ := w.server.hash(simState, "PORT_TABLE|"+port, false)
		if h["host_tx_ready"] != w.others[port] {
			w.fail("another daemon's field of %s is lost: %v", port, h)
		}
	}
	w.checkSignals()
	w.checkReady()
	w.checkDropped()
	if len(w.crew) > 0 {
		w.checkCrew()
	} else {
		w.checkRecorder()
	}
	w.checkPresent()
	w.sleep(pause{until: w.now.Add(late), ready: func() bool { return w.m.queueDepth.Load() == 0 }}) // a comparison may be under way
	if n := w.m.queueDepth.Load(); n != 0 {
		w.fail("%v ports wait to be written", n)
	}
	if w.m.redisConnected.Load() != 1 {
		w.fail("every database answers, and portsyncd_redis_connected is 0")
	}
}

// checkPort: STATE_DB is what the kernel says of every port that APPL_DB has.
func (w *world) checkPort(l *simLink) {
	inAppl := w.server.command(simAppl, "exists", []string{"PORT_TABLE:" + l.name}) == int64(1)
	h, _ := w.server.hash(simState, "PORT_TABLE|"+l.name, false)
	switch {
	case l.old && w.seen[l.name], !inAppl:
		return
	case !w.isPort(l) || l.old:
		if h["state"] != "" {
			w.fail("%s is published: %v", l.name, h)
		}
		return
	}
	want := map[string]string{"state": "ok", "mtu": strconv.Itoa(int(l.mtu)),
		"admin_status": upDown(l.flags&unix.IFF_UP != 0), "netdev_oper_status": upDown(l.flags&unix.IFF_RUNNING != 0)}
	for f, v := range want {
		if h[f] != v {
			w.fail("%s is %v in STATE_DB, the kernel says %v", l.name, h, want)
			return
		}
	}
}

// checkRecorder: of every port the last record is what the kernel says, no record is missing in between, and they tell of
// each loss of carrier once.
func (w *world) checkRecorder() {
	records := map[string][]portRecord{}
	for i := range rings(w.recorder) {
		ring := ringOf(w.recorder, i)
		for n := range uint32(portEvents) {
			if e, whole := takePortRecord(eventAt(ring, n)); whole {
				records[ringName(ring)] = append(records[ringName(ring)], e)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(records)) {
		all := records[name]
		slices.SortFunc(all, func(a, b portRecord) int { return int(int32(a.number - b.number)) })
		for i := 1; i < len(all); i++ {
			w.checkRecords(name, &all[i-1], &all[i])
		}
		if last := all[len(all)-1]; last.ofLink() && last.present && w.kernel.named(name) == nil {
			w.fail("the last record of %s has an interface, and there is none: %+v", name, last)
		}
	}
	for _, l := range w.kernel.sorted() {
		all := records[l.name]
		if !w.isPort(l) || l.old {
			continue
		}
		if len(all) == 0 {
			w.fail("nothing is recorded of %s", l.name)
			return
		}
		last := all[len(all)-1]
		if last.ofLink() && (!last.present || last.index != l.index ||
			last.now != stateOf(&l.linkMessage) || last.carrierDown != l.carrierDown) {
			w.fail("the last record of %s is %+v, the kernel has %+v", l.name, last, l.linkMessage)
		}
	}
}

// checkRecords looks at two records, one after the other.
func (w *world) checkRecords(name string, a, b *portRecord) {
	if b.number != a.number+1 {
		w.fail("record %d of %s is missing", a.number+1, name)
	}
	if a.index != b.index || !a.present || !b.present || !b.ofLink() {
		return
	}
	if b.carrierDown < a.carrierDown { // another interface, with the same ifindex
		return
	}
	told, counted := b.missed, b.carrierDown-a.carrierDown
	if b.before.oper && !b.now.oper && counted > 0 {
		told++
	}
	if told != counted {
		w.fail("%d losses of carrier of %s are told, the kernel counts %d", told, name, counted)
	}
}

// checkSignals: both are there when they should be, and say what CONFIG_DB says.
func (w *world) checkSignals() {
	done, _ := w.server.hash(simAppl, "PORT_TABLE:"+portConfigDone, false)
	warmGoesOn := w.m.warmStart.Load() == 1 && w.m.portInitDone.Load() == 0 // until then orchagent goes by the count that is there
	if done["count"] != strconv.Itoa(len(w.configured)) && !warmGoesOn {
		w.fail("PortConfigDone in APPL_DB is %v, CONFIG_DB has %d ports", done, len(w.configured))
	}
	waits := ""
	for _, name := range slices.Sorted(maps.Keys(w.configured)) {
		if !w.seen[name] || w.unsure[name] {
			waits = name
		}
	}
	if sent := w.signal(portInitDone); waits == "" && !sent {
		w.fail("PortInitDone never came, and every port has its interface")
	}
	if w.m.portInitDone.Load() == 0 && w.signal(portInitDone) && w.m.warmStart.Load() == 0 && !w.again {
		w.fail("the daemon does not know that PortInitDone is sent")
	}
	for _, name := range slices.Sorted(maps.Keys(w.configured)) {
		has, _ := w.config.hash(simConfig, "PORT|"+name, false)
		appl, _ := w.server.hash(simAppl, "PORT_TABLE:"+name, false)
		if appl["speed"] != has["speed"] && appl != nil && w.saved == nil { // what an older APPL_DB says is portmgrd's business
			w.fail("%s has speed %q in APPL_DB, and %q in CONFIG_DB", name, appl["speed"], has["speed"])
		}
	}
}

// checkDropped: APPL_DB has no port that CONFIG_DB has dropped.
func (w *world) checkDropped() {
	if w.saved != nil { // what an older APPL_DB has is portmgrd's business
		return
	}
	for _, key := range slices.Sorted(maps.Keys(w.server.database(simAppl))) {
		name, isPort := strings.CutPrefix(strings.TrimPrefix(key, "_"), "PORT_TABLE:")
		if _, configured := w.configured[name]; isPort && !configured && !strings.HasSuffix(name, "Done") {
			w.fail("APPL_DB has %s, which CONFIG_DB has dropped", name)
		}
	}
}

// checkPresent: the daemon counts the links that are ports, and no others (rule 1), and has set the left-overs down
// (rule 5).
func (w *world) checkPresent() {
	ports := 0
	for _, l := range w.kernel.sorted() {
		if w.isPort(l) && !l.old {
			ports++
		}
		if l.old && !l.setDown && !w.doubtful && !w.silent {
			w.fail("%s is a left-over, and was not set down", l.name)
		}
	}
	if n := int(w.m.portsPresent.Load()); n != ports {
		w.fail("the daemon knows %d ports, the kernel has %d", n, ports)
	}
}

// isPort is rule 1.
func (w *world) isPort(l *simLink) bool {
	front, lag := strings.HasPrefix(l.name, "Ethernet"), strings.HasPrefix(l.name, "PortChannel") && string(l.kind) != "team"
	return (front || lag) && !strings.Contains(l.name, ".")
}
