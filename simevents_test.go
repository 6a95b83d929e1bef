package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What can happen on the simulated switch.

// prepare sets the switch up: a ports are configured, and b left-overs exist. It may be a dpu, have a CONFIG_DB on a
// server of its own (apart), or one that is still being filled (unready).
func (w *world) prepare(setup happening) {
	w.reconcile = 5 * time.Second
	if w.dice.IntN(2) == 0 { // so seldom that nothing may rely on it
		w.reconcile = time.Minute
	}
	if setup.a > simPorts {
		w.crowded(setup.a + simSpare)
	}
	if setup.what == "apart" {
		w.config = newSimServer(w.scheduler, "config")
		w.config.events = w.keyEvent
	}
	for i := range setup.a {
		w.configure(portName(i), 100000)
	}
	for i := range setup.b {
		l := w.kernel.create(portName(2*i), 0, unix.IFF_UP|unix.IFF_RUNNING)
		l.old = true
		delete(w.seen, l.name)
	}
	ready := []string{configReady, "1"}
	switch setup.what {
	case "dpu":
		w.config.command(simConfig, "hset", []string{"DEVICE_METADATA|localhost", "switch_type", "dpu"})
	case "unready":
		ready[1] = "0"
		w.spawn("boot", 0, func() {
			w.nap(2 * time.Second)
			w.config.command(simConfig, "set", []string{configReady, "1"})
		})
	}
	if n := map[string]int{"two": 2, "three": 3}[setup.what]; n > 0 {
		w.crew, w.folder = make([]*simDaemon, n), newSimFolder(w)
		w.stopped, w.goneAt, w.server.orphan = map[int]bool{}, map[string]time.Time{}, w.orphaned
	}
	w.config.command(simConfig, "set", ready)
	w.server.command(simState, "hset", []string{simFeature, "container_id", "c", "up_status", "true"}) // of the run before
	w.begin()
}

// crowded makes room for many ports. orchagent may be slow with them, begin late, or take more of them at a time, as SONiC's does.
func (w *world) crowded(ports int) {
	w.ports, w.kernel.lines = ports, max(simDumpBatch, ports/10)
	w.recorder = make([]byte, recordFixed+2*ports*portRing)
	w.pace = []time.Duration{w.pace, w.pace, 100 * time.Millisecond}[w.dice.IntN(3)]
	w.batch = []int{popBatch, popBatch, 8 * popBatch}[w.dice.IntN(3)]
	w.yawn = []time.Duration{0, 0, 2 * time.Second}[w.dice.IntN(3)]
}

// dpu says that the switch has no old interfaces.
func (w *world) dpu() bool {
	h, _ := w.config.hash(simConfig, "DEVICE_METADATA|localhost", false)
	return h["switch_type"] == "dpu"
}

// begin starts a daemon, as soon as CONFIG_DB is complete.
func (w *world) begin() {
	for w.rewriting {
		w.nap(10 * time.Millisecond)
	}
	w.start(syncOptions{})
}

// happen carries out one event.
func (w *world) happen(h happening) {
	name, other := portName(h.a), portName(h.b)
	l := w.kernel.named(name)
	switch h.what {
	case "add", "drop", "speed", "reload":
		w.operate(h.what, name, 1000*(1+h.b))
	case "dropamid":
		w.amid = &h
	case "killamid":
		w.killAmid(h)
	case "save":
		w.save()
	case "other":
		w.otherField(name)
	case "visitor":
		w.visit()
	case "appear":
		w.kernel.create(name, 0, []uint32{0, unix.IFF_UP, unix.IFF_UP | unix.IFF_RUNNING}[h.b%3])
	case "stranger":
		w.kernel.create([]string{"eth0", "Ethernet0.10", "PortChannel1", "Vlan10", "PortChannel2", "Ethernet-BP0"}[h.b], 0, unix.IFF_UP)
	case "clock":
		w.stepped += time.Duration(h.a%simPorts-simPorts/2) * time.Duration(1+h.b) * 17 * time.Minute
		w.say("somebody sets the clock, by now it is off by %v", w.stepped)
	case "confighang", "configstop":
		w.configTrouble(h, name)
	case "kill", "term", "coldstart", "warm", "stop", "empty", "older", "hang", "condition", "lost", "cut", "refused", "flushappl", "flushall",
		"vandal", "listing", "cutwatch", "netns", "outlive":
		w.harm(h, name)
	case "handover", "killone", "termone", "pauseone", "unlink", "killwriting", "hangover":
		w.disturb(h)
	default:
		if l != nil {
			w.change(h, l, other)
		}
	}
}

// visit is a port that CONFIG_DB does not have: it comes, goes without an event as when a database is flushed, and comes again, first its interface
// and then its entry in APPL_DB. It is published at once, and not at the next comparison.
func (w *world) visit() {
	const name = "Ethernet9996"
	key := []string{"PORT_TABLE:" + name, "lanes", "1"}
	d, doubtful := w.daemon, w.doubtful
	if d == nil || !d.publishing || w.kernel.named(name) != nil {
		return
	}
	running := uint32(unix.IFF_UP | unix.IFF_RUNNING)
	w.server.command(simAppl, "hset", key)
	l := w.kernel.create(name, 0, running)
	w.sleep(pause{until: w.now.Add(time.Second)})
	w.say("%s leaves APPL_DB without an event", name)
	delete(w.server.database(simAppl), key[0])
	w.kernel.remove(l)
	w.sleep(pause{until: w.now.Add(time.Second)})
	l = w.kernel.create(name, 0, running)
	w.sleep(pause{until: w.now.Add(500 * time.Millisecond)})
	w.say("%s enters APPL_DB", name)
	w.server.command(simAppl, "hset", key)
	w.sleep(pause{until: w.now.Add(500 * time.Millisecond)})
	h, _ := w.server.hash(simState, "PORT_TABLE|"+name, false)
	if h["state"] == "" && !doubtful && d == w.daemon {
		w.fail("%s entered APPL_DB after its interface, and is not published", name)
	}
	w.kernel.remove(l)
	w.server.command(simAppl, "del", key[:1])
}

// change is what happens to a link.
func (w *world) change(h happening, l *simLink, other string) {
	running := uint32(unix.IFF_UP | unix.IFF_RUNNING)
	switch h.what {
	case "flap":
		w.kernel.set(l, running&^(l.flags&unix.IFF_RUNNING))
	case "admin":
		w.kernel.set(l, running&^(l.flags|l.flags&unix.IFF_UP<<6))
	case "mtu":
		w.kernel.setMTU(l, uint32(1500+h.b))
	case "storm", "overrun":
		for i := range 10 + 60*h.b {
			w.kernel.set(l, []uint32{unix.IFF_UP, running}[i%2])
		}
		if h.what == "overrun" && w.kernel.links[l.index] == l {
			w.kernel.setMTU(l, uint32(2000+h.b))
		}
	case "delete":
		w.kernel.remove(l)
	case "recreate":
		index := int32(0)
		if h.b%2 == 0 && !l.old {
			index = l.index
		}
		w.kernel.remove(l)
		w.kernel.create(l.name, index, running)
	case "rename":
		if l.old { // our row of STATE_DB has its name: better a left-over taken for current than the other way round
			return
		}
		w.kernel.rename(l, []string{other, "eth" + l.name[8:]}[h.b%2])
	case "swap":
		if second := w.kernel.named(other); second != nil && second != l && !l.old && !second.old {
			first := l.name
			w.kernel.rename(l, "tmp0")
			w.kernel.rename(second, first)
			w.kernel.rename(l, other)
		}
	case "bridge":
		w.kernel.enslave(l, uint32(90*(h.b%2)))
	}
}

// operate is what an operator does to CONFIG_DB, and portmgrd a little later to APPL_DB.
func (w *world) operate(what, name string, speed int) {
	if w.config.down || w.rewriting || w.blocked {
		return
	}
	_, has := w.configured[name]
	switch {
	case what == "reload":
		if w.daemon != nil && w.daemon.publishing && w.signal(portConfigDone) { // no daemon is started while CONFIG_DB says that it is not complete
			w.reload(speed/1000 > 3)
		}
		return
	case what == "add" && !has:
		// Its entry would tell that the switch goes on, which nothing else does, and a daemon that is deciding may have
		// looked at its ports before or after.
		if w.daemon != nil && !w.daemon.publishing && w.cold(w.warm()) && w.tellsOfUs(name) {
			return
		}
		w.configure(name, speed)
	case what == "speed" && has:
		w.configure(name, speed)
	case what == "drop" && has:
		if w.daemon == nil || !w.daemon.publishing { // whose entry may be all that tells that the switch goes on
			return
		}
		w.unconfigure(name)
	default:
		return
	}
	w.follow(what, name, speed)
}

// dropAmid drops the port of a "dropamid" that came before, while the daemon announces: what is old is written down,
// and CONFIG_DB is read, and read again, in the next fractions of a millisecond.
func (w *world) dropAmid() {
	h := w.amid
	if w.amid = nil; h == nil || w.config.down || w.rewriting || w.blocked {
		return
	}
	d := w.daemon
	w.spawn("operator", 0, func() {
		w.nap(time.Duration(h.b) * 100 * time.Microsecond)
		if _, has := w.configured[portName(h.a)]; has && !w.rewriting && !w.blocked && d == w.daemon { // the next one decides anew
			w.unconfigure(portName(h.a))
			w.follow("drop", portName(h.a), 1000)
		}
	})
}

// killAmid starts the switch again, drops a port while it is announced, and kills the daemon a little later.
func (w *world) killAmid(h happening) {
	w.doubtful = true
	w.coldStart()
	w.amid = &h
	dropped := func() bool { _, has := w.configured[portName(h.a)]; return !has }
	w.sleep(pause{until: w.now.Add(time.Second), ready: dropped})
	w.nap(300 * time.Microsecond)
	w.kill()
	w.begin()
}

// follow is portmgrd, which carries into APPL_DB what CONFIG_DB has.
func (w *world) follow(what, name string, speed int) {
	w.spawn("portmgrd", 0, func() {
		w.nap([]time.Duration{3 * time.Millisecond, 50 * time.Microsecond}[speed/1000%2]) // busy, or not
		for w.server.down {
			w.nap(time.Second)
		}
		if what == "drop" {
			w.pull(name)
		} else {
			w.push(name)
		}
	})
}

// reload is config reload: CONFIG_DB is flushed, filled port by port, and then said to be complete. With more it has one port more afterwards.
func (w *world) reload(more bool) {
	w.rewriting = true
	names := slices.Sorted(maps.Keys(w.configured))
	if more && len(names) < w.ports {
		for i := range w.ports {
			if !slices.Contains(names, portName(i)) {
				names = append(names, portName(i))
				break
			}
		}
	}
	w.silent = w.silent || len(names) == 0 // no event tells that a CONFIG_DB without ports is complete
	w.spawn("reload", 0, func() {
		w.say("CONFIG_DB is rewritten")
		speeds := map[string]string{}
		for _, name := range names {
			h, _ := w.config.hash(simConfig, "PORT|"+name, false)
			speeds[name] = h["speed"]
			if h == nil {
				speeds[name] = "100000"
			}
		}
		w.config.command(simConfig, "del", []string{configReady})
		for key := range w.config.database(simConfig) {
			if strings.HasPrefix(key, "PORT|") {
				delete(w.config.database(simConfig), key) // FLUSHDB sends no events
			}
		}
		for _, name := range names {
			w.nap(5 * time.Millisecond)
			w.config.command(simConfig, "hset", []string{"PORT|" + name, "lanes", "1", "speed", speeds[name]})
		}
		w.nap(20 * time.Millisecond)
		w.config.command(simConfig, "set", []string{configReady, "1"})
		w.recount()
		for _, name := range names {
			if _, had := w.configured[name]; !had {
				w.configured[name] = w.now
				if l := w.kernel.named(name); l == nil || l.old {
					delete(w.seen, name)
				}
			}
		}
		w.rewriting = false
		for _, name := range names {
			w.nap(time.Millisecond)
			w.push(name)
		}
		w.say("CONFIG_DB is complete")
	})
}

// harm is what goes wrong.
func (w *world) harm(h happening, name string) {
	switch h.what {
	case "empty", "older", "flushappl", "flushall", "outlive":
		// Nobody could tell this from a cold start, while nothing is written down or between two steps of an announcement.
		// While CONFIG_DB is rewritten, what was known of it is announced again.
		if d := w.daemon; d == nil || w.rewriting || !d.publishing || !w.signal(portConfigDone) || w.now.Sub(d.announced) < 50*time.Millisecond {
			return
		}
	}
	if d := w.daemon; h.what == "netns" && (d == nil || !d.publishing) { // as at any start
		return
	}
	if h.what == "warm" && !w.signal(portConfigDone) { // nothing to restart warm
		return
	}
	w.doubtful = true
	switch h.what {
	case "kill":
		w.kill()
		w.nap(time.Duration(h.b) * 20 * time.Millisecond)
		w.begin()
	case "term":
		w.term()
		w.begin()
	case "warm":
		w.kill()
		w.server.command(simState, "hset", []string{"WARM_RESTART_ENABLE_TABLE|swss", "enable", "true"})
		w.begin()
		d := w.daemon
		w.sleep(pause{until: w.now.Add(10 * time.Second), ready: func() bool { return d.publishing || d.ended }})
		w.server.command(simState, "hset", []string{"WARM_RESTART_ENABLE_TABLE|swss", "enable", "false"})
	case "coldstart":
		w.coldStart()
	case "stop", "empty", "older":
		w.outage(h)
	case "hang":
		w.server.hangs = true
		w.nap(time.Duration(1+h.b) * time.Second)
		w.intake(name)
		w.server.hangs = false
	case "condition":
		w.server.condition = []string{"LOADING Redis is loading", "READONLY You can't write", "OOM command not allowed"}[h.b%3]
		w.nap(time.Duration(1+h.b) * 300 * time.Millisecond)
		w.server.condition = ""
	case "lost", "cut", "refused":
		w.server.faults = append(w.server.faults, append(make([]string, h.b), h.what)...)
	case "flushappl", "flushall":
		w.flush(h.what == "flushall")
	case "vandal":
		w.silent = true
		if _, has := w.server.database(simState)["PORT_TABLE|"+name]; has && w.kernel.named(name) != nil {
			w.say("another program writes to %s", name)
			w.server.command(simState, "hset", []string{"PORT_TABLE|" + name, "netdev_oper_status", []string{"up", "down"}[h.b%2]})
		}
	case "listing":
		if w.daemon != nil {
			w.daemon.socket.dumpFault = []string{"fails", "endless"}[h.b%2]
			w.silent = true
		}
	case "cutwatch":
		w.cutWatch()
	case "netns":
		w.remake(h)
	case "outlive":
		w.outlive(h)
	}
}

// outlive starts the switch software again under a daemon that goes on (docs/several-asics.md): APPL_DB is flushed, the daemon finds that, and something
// keeps it from announcing the ports for a while. Meanwhile syncd takes the interfaces away.
func (w *world) outlive(h happening) {
	if w.server.down || w.blocked {
		return
	}
	w.say("the switch software starts again, and the daemon goes on")
	d := w.daemon
	w.blocked = true
	over := w.obstacle([]string{"", "loading", "condition", "hangs", "apart", "slow"}[h.b%6], func() {
		w.saved = nil
		w.flush(h.a%2 == 0 && len(w.crew) == 0) // where all is lost, the moment in which one takes over from another is too much
		w.restartOrchagent()
		w.cutWatch()
		found := func() bool { return d != w.daemon || w.m.portConfigDone.Load() == 0 }
		w.sleep(pause{until: w.now.Add(2 * time.Second), ready: found})
	})
	left := w.dice.IntN(4) * w.dice.IntN(2) // so many are there still when the ports are announced
	for _, l := range w.kernel.sorted() {
		if _, configured := w.configured[l.name]; !configured || l.old {
			continue
		}
		if left--; left < 0 && w.kernel.links[l.index] == l {
			w.kernel.remove(l)
			w.nap(100 * time.Microsecond)
		}
	}
	after := []time.Duration{10 * time.Millisecond, 300 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 10 * time.Second}[h.a%6]
	w.spawn("boot", 0, func() {
		w.sleep(pause{until: w.now.Add(after)})
		over()
		w.blocked, w.readable = false, w.now
	})
}

// obstacle keeps ports from being announced, from a moment before or after something happens until it is over: CONFIG_DB is being loaded, or on a server of
// its own and does not answer, or Redis does not, or refuses.
func (w *world) obstacle(what string, amid func()) (over func()) {
	loaded := func(word string) { w.config.command(simConfig, "set", []string{configReady, word}) }
	switch {
	case what == "loading", what == "apart" && w.config == w.server:
		loaded("0")
		amid()
		return func() { loaded("1") }
	case what == "apart":
		w.config.down = true
		amid()
		return func() { w.config.down = false }
	case what == "condition":
		amid()
		w.server.condition = "LOADING Redis is loading"
		return func() { w.server.condition = "" }
	case what == "hangs":
		amid()
		w.server.hangs = true
		return func() { w.server.hangs = false }
	}
	amid()
	return func() {}
}

// restartOrchagent has it begin anew, and know nothing.
func (w *world) restartOrchagent() {
	w.drop(func(st *strand) bool { return st.name == "orchagent" || st.name == "portmgrd" })
	w.spawn("orchagent", 0, w.orchagent)
	clear(w.orch)
}

// remake makes the namespace again, after a time in which there is none, and with interfaces for the ports that had
// some, whose ifindexes are other ports' of before.
func (w *world) remake(h happening) {
	names := slices.Sorted(maps.Keys(w.orch))
	names = slices.DeleteFunc(names, func(name string) bool { l := w.kernel.named(name); return l == nil || l.old })
	for name := range w.seen {
		w.unsure[name] = true // what was seen before says nothing, and the daemon may have found out or not
	}
	w.kernel.remake()
	w.remade, w.kernel.away = true, h.b%2 == 0
	w.spawn("namespace", 0, func() {
		w.nap(time.Duration(h.b) * 3 * time.Second)
		w.kernel.away = false
	})
	if h.a%2 == 0 {
		slices.Reverse(names)
	}
	w.spawn("syncd", 0, func() {
		for _, name := range names {
			w.nap(time.Duration(1+h.b) * 200 * time.Millisecond * simPorts / time.Duration(max(w.ports, simPorts)))
			w.kernel.create(name, 0, unix.IFF_UP|unix.IFF_RUNNING)
		}
	})
}

// intake changes a link while the databases do not answer, and looks whether the daemon takes the news in.
func (w *world) intake(name string) {
	d, l := w.daemon, w.kernel.named(name)
	if d == nil || l == nil {
		return
	}
	w.kernel.setMTU(l, uint32(4000+w.steps%1000))
	w.sleep(pause{until: w.now.Add(100 * time.Millisecond), ready: func() bool { return len(d.socket.queue) == 0 }})
	if len(d.socket.queue) > 0 && d == w.daemon && !w.stopped[d.number] && (d.instance == nil || d.instance.writing.Load()) {
		w.fail("link messages wait for databases that do not answer")
	}
}

// configTrouble has a CONFIG_DB on a server of its own not answer for a while. A link that changes meanwhile is written
// as ever.
func (w *world) configTrouble(h happening, name string) {
	if w.config == w.server || w.rewriting || w.blocked {
		return
	}
	w.say("CONFIG_DB: %s", h.what)
	w.config.hangs, w.config.down = h.what == "confighang", h.what == "configstop"
	for i := range 3 {
		w.nap(time.Duration(1+h.b) * time.Second)
		w.changeMeanwhile(name, uint32(3000+w.steps%1000+i))
	}
	w.config.hangs, w.config.down, w.readable = false, false, w.now
}

// changeMeanwhile changes a link, and looks for it in STATE_DB a little later.
func (w *world) changeMeanwhile(name string, mtu uint32) {
	d, l, s := w.daemon, w.kernel.named(name), w.server
	undisturbed := func() bool {
		return d != nil && d == w.daemon && d.publishing && !d.socket.congested && d.socket.dump == nil && !s.down &&
			!s.hangs && s.condition == "" && len(s.faults) == 0 && !w.doubtful
	}
	if l == nil || l.old || !undisturbed() || s.command(simAppl, "exists", []string{"PORT_TABLE:" + name}) == int64(0) {
		return
	}
	w.kernel.setMTU(l, mtu)
	w.sleep(pause{until: w.now.Add(500 * time.Millisecond)})
	entry, _ := s.hash(simState, "PORT_TABLE|"+name, false)
	if undisturbed() && w.kernel.links[l.index] == l && entry["mtu"] != strconv.Itoa(int(mtu)) {
		w.fail("%s waits for a CONFIG_DB that does not answer: %v", name, entry)
	}
}

// term ends the daemon by SIGTERM: it flushes and ends within a second, or it is killed.
func (w *world) term() {
	d := w.daemon
	if d == nil {
		return
	}
	w.say("SIGTERM")
	asked := w.now
	d.ctx.cancel()
	d.socket.Wake()
	w.sleep(pause{until: w.now.Add(2 * time.Second), ready: func() bool { return d.ended }})
	if took := w.now.Sub(asked); took > time.Second+dbTimeout/10 && !w.server.hangs {
		w.fail("SIGTERM took %v", took)
	}
	w.kill()
}

// coldStart starts the whole switch software again: APPL_DB is flushed, STATE_DB's ports are deleted, and what exists is old.
func (w *world) coldStart() {
	w.kill()
	if w.server.down || w.rewriting {
		w.begin()
		return
	}
	w.say("the switch software starts again, cold")
	w.coldStarts++
	w.saved = nil
	w.restartOrchagent()
	clear(w.server.database(simAppl))
	clear(w.server.messages)
	for key := range w.server.database(simState) {
		if strings.HasPrefix(key, "PORT_TABLE|") {
			delete(w.server.database(simState), key)
		}
	}
	w.server.command(simState, "del", []string{"WARM_RESTART_ENABLE_TABLE|swss"})
	clear(w.others)
	w.seen = map[string]bool{}
	w.again, w.awaited = false, nil
	w.begin()
}

// outage stops Redis for a while. It comes back as it was, empty, or as it was when it last saved.
func (w *world) outage(h happening) {
	if w.rewriting {
		return
	}
	w.say("Redis stops")
	w.server.stop()
	w.nap(time.Duration(h.b+1) * 300 * time.Millisecond)
	switch h.what {
	case "stop":
		w.server.restart(func(int, string) bool { return true })
	case "empty":
		w.lose(func(db int, key string) bool { return db == simConfig })
	case "older":
		w.lose(func(db int, key string) bool { return db == simConfig })
		for db, d := range w.saved {
			w.server.dbs[db] = cloneDatabase(d)
		}
		w.awaited = nil
	}
	if len(w.server.members(simAppl, "PORT_TABLE_KEY_SET")) > 0 {
		w.server.messages[simChannel] = 1 // orchagent looks at what waits
	}
	w.say("Redis is back, %s", h.what)
	if h.what != "stop" {
		w.sleep(pause{until: w.now.Add(3 * time.Second)}) // a daemon that ends before it has noticed leaves no trace of what it knew
	}
}

// save has Redis save what it has, but for CONFIG_DB.
func (w *world) save() {
	w.saved = map[int]map[string]any{}
	for _, db := range []int{simAppl, simState} {
		w.saved[db] = cloneDatabase(w.server.database(db))
	}
}

// cloneDatabase copies a database.
func cloneDatabase(d map[string]any) map[string]any {
	out := map[string]any{}
	for key, v := range d {
		switch v := v.(type) {
		case map[string]string:
			out[key] = maps.Clone(v)
		case map[string]bool:
			out[key] = maps.Clone(v)
		default:
			out[key] = v
		}
	}
	return out
}

// lose restarts Redis with what keep leaves. orchagent makes nothing again: its interfaces are there.
func (w *world) lose(keep func(db int, key string) bool) {
	w.again, w.silent, w.lost = true, true, true
	if d := w.daemon; len(w.crew) > 0 && (d == nil || !d.publishing && d.instance.handed == nil) {
		w.excused = true // as where it is lost in the moment in which whoever wrote dies
	}
	w.server.restart(keep)
	clear(w.others)
}

// flush empties APPL_DB, or all but CONFIG_DB, without anybody being disconnected. Only a comparison finds it.
func (w *world) flush(all bool) {
	w.say("APPL_DB is flushed")
	w.silent, w.again = true, true
	clear(w.server.database(simAppl))
	clear(w.server.messages)
	if all {
		clear(w.server.database(simState))
		clear(w.others)
	}
}

// heal ends every fault, and looks at the switch when it has had the time that is promised.
func (w *world) heal() {
	for w.rewriting || w.blocked {
		w.nap(10 * time.Millisecond)
	}
	s := w.server
	s.down, s.hangs, s.condition, s.faults = false, false, "", nil
	w.kernel.away = false
	w.config.down, w.config.hangs = false, false
	if len(w.crew) > 0 && !w.healCrew() {
		return
	}
	if w.daemon == nil || w.daemon.ended {
		w.begin()
	}
	w.daemon.socket.dumpFault, w.daemon.socket.torn = "", 0
	w.say("everything is healed")
	if !w.silent {
		soon := 5 * time.Second
		if w.m.overruns.Load() > 0 {
			soon = 12 * time.Second // pauses between listings in a storm, and after interrupted ones
		}
		if w.remade { // a beat finds it
			soon += 2 * time.Second
		}
		w.sleep(pause{until: w.now.Add(soon)})
		w.check()
	}
	w.sleep(pause{until: w.now.Add(3*w.reconcile + 5*time.Second)})
	w.check()
}
