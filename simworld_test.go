package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The simulated switch: a kernel, a Redis, the daemon's neighbours, and daemons that come and go. What is true is known here, and only here.

// Databases of the simulated switch.
const (
	simAppl   = 0
	simConfig = 4
	simState  = 6
)

// world is one switch.
type world struct {
	*scheduler
	kernel *simKernel
	server *simServer // of APPL_DB and STATE_DB
	config *simServer // of CONFIG_DB: the same one, or another

	daemon    *simDaemon   // of several, the one that writes
	crew      []*simDaemon // the instances, nil for one that is down; empty: there is one daemon
	folder    *simFolder   // of the instances' lock
	metrics   []*metrics   // of instances
	goneAt    map[string]time.Time
	lost      bool // the databases came back with other content
	goesAlong bool // a hand-over tells that the switch goes on, whatever the databases say
	daemons   int
	reconcile time.Duration
	m         *metrics
	recorder  []byte // what the flight recorder's file holds
	ports     int    // that the switch has at most

	configured map[string]time.Time // what CONFIG_DB is to have, since when; not what it has in the middle of a rewrite
	rewriting  bool
	readable   time.Time // when CONFIG_DB last answered again
	counts     []simCount
	seen       map[string]bool // ports that had an interface that is not old, since the switch started or they were configured
	unsure     map[string]bool // seen, and gone before the daemon had decided anything
	afresh     time.Time       // when all ports were announced last
	emptied    time.Time       // since when no configured port has an interface, zero: one has, or none ever had
	awaited    map[string]bool // ports that were announced when none had, and have had none since
	blocked    bool            // something keeps ports from being announced, and CONFIG_DB as it is
	bareAt     time.Time       // when the last configured port that had an interface lost it
	unheard    map[string]bool // the message that they are new was lost: gone before the next listing, they were never seen
	goneUntold map[string]bool // left-overs that went, or before the daemon had decided: no entry goes for them
	inAppl     map[string]bool // ports that APPL_DB has, or had
	amid       *happening      // a port that is dropped while the daemon announces
	vanished   map[string]int  // interfaces of this name that went, less its DELs

	orch       map[string]bool   // ports that orchagent knows, true: it has made an interface
	batch      int               // keys that it takes at a time,
	pace       time.Duration     // in which it takes them,
	yawn       time.Duration     // and in which it begins
	pushed     time.Time         // when portmgrd told it something last
	many       time.Time         // when there were few for it to take, and the daemon had more,
	popped     time.Time         // when it took some last,
	lull       time.Time         // and when it had not for a while although many waited
	others     map[string]string // fields of STATE_DB that another daemon wrote, by port: must survive
	coldStarts int
	unlinked   bool   // a lock's file was removed: whoever had it does not know what the next one has done
	singly     int    // so many ports are asked for one by one, 0: as usual
	doubtful   bool   // something happened after which an identical write is no fault
	silent     bool   // something happened that only a comparison can find
	again      bool   // the signals may come again
	remade     bool   // the namespace was made again
	over       bool   // the run has ended
	excused    bool   // the run shows nothing any more
	broken     string // the first invariant that did not hold
	writes     int
	saved      map[int]map[string]any // what Redis comes back with
	feature    bool                   // daemons tell FEATURE|swss whether they are ready
}

// simDaemon is a daemon of the world.
type simDaemon struct {
	number     int
	ctx        *simContext
	socket     *simSocket
	filter     *keyFilter
	began      time.Time
	ended      bool
	publishing bool          // the start is behind it
	still      time.Duration // so long it was stopped,
	stoppedAt  time.Time     // the last time since then
	announced  time.Time     // when it sent PortConfigDone last
	err        error
	lastEvent  *strand

	m        *metrics // what follows is an instance's
	instance *instance
}

func newWorld(seed uint64, trace bool, m *metrics) *world {
	s := &scheduler{dice: rand.New(rand.NewPCG(seed, 7)), now: simEpoch, trace: trace}
	w := &world{
		scheduler: s, kernel: newSimKernel(s), server: newSimServer(s, "redis"), m: m,
		configured: map[string]time.Time{}, seen: map[string]bool{}, vanished: map[string]int{},
		unsure: map[string]bool{}, unheard: map[string]bool{}, inAppl: map[string]bool{}, goneUntold: map[string]bool{},
		orch: map[string]bool{}, others: map[string]string{}, ports: simPorts, batch: popBatch, pace: 2 * time.Millisecond,
	}
	w.feature, w.singly = seed%4 == 0, 1-int(seed/4%2) // mostly there are not as many ports as are counted together otherwise
	w.config, w.recorder = w.server, make([]byte, recordFixed+3*simPorts*portRing)
	w.server.events, w.server.watch, w.server.onCut = w.keyEvent, w.judge, w.cutWatch
	w.kernel.onGone, w.kernel.onNew = w.linkGone, w.linkNew
	w.kernel.lostNews = func(l *simLink) { // before the daemon has decided, such a link cannot be told from a left-over
		w.excused = w.excused || w.daemon == nil || !w.daemon.publishing
		w.unheard[l.name] = true
	}
	w.spawn("orchagent", 0, w.orchagent)
	return w
}

// fail notes an invariant that does not hold.
func (w *world) fail(format string, args ...any) {
	if w.broken == "" && !w.excused {
		w.broken = fmt.Sprintf(format, args...)
		w.say("VIOLATION: %s", w.broken)
	}
}

func portName(i int) string { return "Ethernet" + strconv.Itoa(4*i) }

// --- The kernel's side ---

func (w *world) linkGone(l *simLink) {
	w.vanished[l.name]++
	if len(w.crew) > 0 {
		w.goneAt[l.name] = w.now
	}
	if w.bare() {
		w.bareAt = w.now
		if _, configured := w.configured[l.name]; configured && !l.old {
			w.emptied = w.now
		}
	}
	w.goneUntold[l.name] = l.old || w.daemon == nil || !w.daemon.publishing
	delete(w.others, l.name)
	lately := min(w.now.Sub(w.configured[l.name]), w.now.Sub(w.readable)) < 5*time.Second
	if d := w.daemon; d == nil || !d.publishing || lately || w.unheard[l.name] { // whether it counts as seen depends on when the daemon decides
		w.unsure[l.name] = true
	}
}

// bare says that no configured port has an interface that counts.
func (w *world) bare() bool {
	for name := range w.configured {
		if l := w.kernel.named(name); l != nil && !l.old {
			return false
		}
	}
	return true
}

func (w *world) linkNew(l *simLink) {
	if !l.old {
		if _, configured := w.configured[l.name]; configured {
			w.emptied = time.Time{}
		}
		delete(w.awaited, l.name)
		w.seen[l.name] = true
		delete(w.unsure, l.name)
	}
}

// --- CONFIG_DB ---

// configure puts a port into CONFIG_DB.
func (w *world) configure(name string, speed int) {
	w.say("CONFIG_DB has %s, speed %d", name, speed)
	w.recount()
	if _, had := w.configured[name]; !had {
		w.configured[name] = w.now
		if l := w.kernel.named(name); l == nil || l.old {
			delete(w.seen, name)
		}
	}
	w.config.command(simConfig, "hset", []string{"PORT|" + name, "lanes", "1", "speed", strconv.Itoa(speed)})
}

func (w *world) unconfigure(name string) {
	w.say("CONFIG_DB drops %s", name)
	w.bareAt = w.now
	w.recount()
	delete(w.configured, name)
	w.config.command(simConfig, "del", []string{"PORT|" + name})
}

// recount notes how many ports CONFIG_DB had up to now.
func (w *world) recount() { w.counts = append(w.counts, simCount{w.now, len(w.configured)}) }

// simCount is a number of ports and until when CONFIG_DB had it.
type simCount struct {
	until time.Time
	n     int
}

// push is portmgrd: what an operator changed goes to APPL_DB.
func (w *world) push(name string) {
	h, _ := w.config.hash(simConfig, "PORT|"+name, false)
	announced := len(w.orch) > 0 || len(w.server.members(simAppl, "PORT_TABLE_KEY_SET")) > 0
	if h == nil || !announced { // before that, portmgrd is not there
		return
	}
	w.say("portmgrd pushes %s, speed %s", name, h["speed"])
	w.pushed = w.now
	w.server.command(simAppl, "hset", []string{"_PORT_TABLE:" + name, "speed", h["speed"]})
	if w.server.command(simAppl, "sadd", []string{"PORT_TABLE_KEY_SET", name}) == int64(1) {
		w.server.messages[simChannel]++
	}
}

// pull is portmgrd when an operator has deleted a port.
func (w *world) pull(name string) {
	if _, again := w.configured[name]; again {
		return
	}
	w.say("portmgrd takes %s back", name)
	w.server.withdraw(simAppl, simChannel, "PORT_TABLE_KEY_SET", "PORT_TABLE_DEL_SET", "_PORT_TABLE:"+name, name)
}

const simChannel = "PORT_TABLE_CHANNEL@0"

// signal tells whether APPL_DB has a signal, on its way or there.
func (w *world) signal(name string) bool {
	return w.server.command(simAppl, "exists", []string{"PORT_TABLE:" + name, "_PORT_TABLE:" + name}) != int64(0)
}

// --- orchagent ---

// orchagent pops what is announced, 128 keys a notification, and makes interfaces once PortConfigDone has come.
func (w *world) orchagent() {
	if w.yawn > 0 {
		w.nap(w.yawn)
	}
	for {
		w.sleep(pause{until: w.now.Add(time.Hour), ready: func() bool { return !w.server.down && w.server.messages[simChannel] > 0 }})
		if w.server.down || w.server.messages[simChannel] == 0 {
			continue
		}
		w.server.messages[simChannel]--
		if w.pop() {
			w.nap(w.pace)
		} else {
			w.nap(2 * time.Millisecond)
		}
		w.makeInterfaces()
	}
}

// pop takes keys, of many at random, and tells whether there were any.
func (w *world) pop() (any bool) {
	set := w.server.members(simAppl, "PORT_TABLE_KEY_SET")
	keys := slices.Sorted(maps.Keys(set))
	if len(keys) > w.batch {
		w.dice.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		keys = keys[:w.batch]
	}
	if w.idle() {
		w.lull = w.now
	}
	if len(keys) > 0 {
		w.popped = w.now
	}
	for _, key := range keys {
		delete(set, key)
		if gone := w.server.members(simAppl, "PORT_TABLE_DEL_SET"); gone[key] {
			w.say("orchagent drops %s", key)
			delete(gone, key)
			delete(w.orch, key)
			w.server.command(simAppl, "del", []string{"PORT_TABLE:" + key})
		}
		h, _ := w.server.hash(simAppl, "_PORT_TABLE:"+key, false)
		w.say("orchagent takes %s %v", key, h)
		for _, f := range slices.Sorted(maps.Keys(h)) {
			w.server.command(simAppl, "hset", []string{"PORT_TABLE:" + key, f, h[f]})
		}
		w.server.command(simAppl, "del", []string{"_PORT_TABLE:" + key})
		if len(h) > 0 && !strings.HasSuffix(key, "Done") && !w.orch[key] {
			w.orch[key] = false
		}
	}
	return len(keys) > 0
}

// idle says that orchagent has taken nothing for a while.
func (w *world) idle() bool {
	return min(w.now.Sub(w.popped), w.now.Sub(w.many)) > consumerPatience*4/5
}

// makeInterfaces makes the interfaces that are missing, and removes left-overs of their names as syncd does.
func (w *world) makeInterfaces() {
	if w.server.command(simAppl, "exists", []string{"PORT_TABLE:" + portConfigDone}) == int64(0) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(w.orch)) {
		if w.orch[name] {
			continue
		}
		w.orch[name] = true
		w.nap(3 * time.Millisecond)
		if l := w.kernel.named(name); l != nil && l.old {
			w.kernel.remove(l)
		}
		if w.kernel.named(name) != nil {
			continue
		}
		l := w.kernel.create(name, 0, 0)
		w.otherField(name)
		w.nap(time.Millisecond)
		if w.kernel.links[l.index] == l {
			w.kernel.set(l, unix.IFF_UP|unix.IFF_RUNNING)
		}
	}
}

// otherField has another daemon write a field of its own into a port's entry of STATE_DB.
func (w *world) otherField(name string) {
	if !w.server.down && w.kernel.named(name) != nil {
		w.others[name] = strconv.Itoa(w.steps)
		w.server.command(simState, "hset", []string{"PORT_TABLE|" + name, "host_tx_ready", w.others[name]})
	}
}

// --- The daemon ---

// simDB is the daemon's databases on the fake server, with keyspace events that come as events of the scheduler.
type simDB struct {
	database
	filter *keyFilter
	over   func() bool // they are closed
	w      *world
	d      *simDaemon
}

func (db *simDB) Watch(_ context.Context, f watcher) {
	w, d := db.w, db.d
	db.filter.tell(f)
	if f.state != nil {
		db.filter.followState("__keyspace@6__:PORT_TABLE|")
	}
	for !d.ended && !db.over() {
		w.nap(2 * time.Millisecond)
		if w.server.down || w.server.hangs {
			db.filter.connected(false, errSimRefused)
			w.nap(time.Second)
			continue
		}
		db.filter.connected(true, nil)
		db.filter.configConnected(true, nil)
		d.filter = db.filter
		w.sleep(pause{until: w.now.Add(time.Hour), ready: func() bool { return d.filter != db.filter }})
		for d.filter == db.filter {
			w.sleep(pause{until: w.now.Add(time.Hour), ready: func() bool { return d.filter != db.filter }})
		}
		w.nap(time.Millisecond)
		db.filter.connected(false, errSimReset)
		w.nap(lastPause)
	}
}

// cutWatch breaks the daemons' subscriptions.
func (w *world) cutWatch() {
	for _, d := range w.alive() {
		d.filter = nil
	}
}

// onlyOld is told of a link that is set down.
func (w *world) onlyOld(l *simLink) {
	if !l.old {
		w.fail("interface %d is set down, which is not old", l.index)
	}
}

// alive are the daemons that run: one, or all instances.
func (w *world) alive() (all []*simDaemon) {
	if len(w.crew) > 0 {
		for _, d := range w.crew {
			if d != nil {
				all = append(all, d)
			}
		}
		return all
	}
	if w.daemon != nil {
		all = append(all, w.daemon)
	}
	return all
}

// keyEvent tells the daemon of a change of a key, a little later and in order.
func (w *world) keyEvent(db int, key, what string) {
	if port, is := strings.CutPrefix(key, "PORT_TABLE:"); is && db == simAppl {
		w.inAppl[port] = true
	}
	for _, d := range w.alive() {
		if d.filter != nil {
			w.tellKey(d, db, key, what)
		}
	}
}

func (w *world) tellKey(d *simDaemon, db int, key, what string) {
	ofPorts := db == simAppl && strings.HasPrefix(key, "PORT_TABLE:")
	ofConfig := db == simConfig && (strings.HasPrefix(key, "PORT|") || key == "LOGGER|portsyncd")
	ofState := db == simState && strings.HasPrefix(key, "PORT_TABLE|") && d.filter.stateKey != ""
	if !ofPorts && !ofConfig && !ofState {
		return
	}
	channel, filter := "__keyspace@"+strconv.Itoa(db)+"__:"+key, d.filter
	before := d.lastEvent
	d.lastEvent = w.spawn("event", d.number, func() {
		w.nap(500 * time.Microsecond)
		if before != nil {
			w.sleep(pause{until: w.now.Add(time.Minute), ready: func() bool { return before.ended }})
		}
		if d.filter == filter {
			filter.event(channel, what)
		}
	})
}

// start starts a daemon. cold says that the switch has just started: what exists is old.
func (w *world) start(options syncOptions) {
	if len(w.crew) > 0 {
		w.startAll()
		return
	}
	w.daemons++
	d := &simDaemon{number: w.daemons, ctx: newSimContext(), socket: w.kernel.subscribe(16 + w.dice.IntN(200)), began: w.now}
	w.daemon = d
	clear(w.unheard)
	if w.dice.IntN(12) == 0 { // links come and go all the time, and none of these is sure to be in a listing soon
		d.socket.torn, w.silent = w.dice.IntN(10), true
		for _, l := range w.kernel.sorted() {
			w.unheard[l.name] = true
		}
		if d.socket.torn%2 == 1 { // and that takes long enough for an operator to configure another port
			w.spawn("operator", 0, func() {
				w.nap(time.Duration(d.socket.torn) * 300 * time.Millisecond)
				for i := range w.ports {
					if _, has := w.configured[portName(i)]; !has && !d.publishing && w.daemon == d {
						w.operate("add", portName(i), 1000)
						return
					}
				}
			})
		}
	}
	d.socket.forbidden = w.onlyOld
	w.markOld()
	w.m.warmStart.Set(0) // a new process has metrics of its own
	w.m.portsPresent.Set(0)
	w.say("daemon %d starts", d.number)
	open := func(slow func()) (database, error) {
		db := w.connect(d, w.m, slow)
		return &simDB{db, db.filter, func() bool { return false }, w, d}, nil
	}
	options.spawn = func(f func()) { w.spawn("errand", d.number, f) }
	options.end = func() { panic(killed{}) }
	options.random = func(n int64) int64 { return w.dice.Int64N(n) }
	options.recorder = newRecorder(nil, w.recorder, w.m, slog.New(slog.DiscardHandler), "boot", w.now)
	options.reconcile, options.eoiu = w.reconcile, 2*time.Second
	options.feature = w.feature
	if options.old == "" {
		options.old = "auto"
	}
	status := new(health)
	s := newSyncer(options, d.socket, open, w.m, status, slog.New(slog.DiscardHandler), w.clock)
	w.widen(s)
	w.spawn("daemon", d.number, func() {
		s.launch(d.ctx, func(err error) {
			d.err, d.ended = err, true
			w.say("the daemon ends: %v", err)
		})
	})
}

// connect makes a daemon's connections.
func (w *world) connect(d *simDaemon, m *metrics, slow func()) *sonicDB {
	conns := newConns(slow)
	conns.appl = &simConn{w.server, simAppl, conns.tellSlow, d, false}
	conns.state = &simConn{w.server, simState, conns.tellSlow, d, false}
	conns.config = &simConn{w.config, simConfig, conns.tellSlow, d, false}
	db := &sonicDB{
		applAddr:  dbAddress{name: "APPL_DB", network: "sim", address: w.server.name, id: simAppl, separator: ":"},
		cfgAddr:   dbAddress{name: "CONFIG_DB", network: "sim", address: w.config.name, id: simConfig, separator: "|"},
		stateAddr: dbAddress{name: "STATE_DB", network: "sim", address: w.server.name, id: simState, separator: "|"},
		m:         m, bootID: "boot",
	}
	db.use(conns)
	w.suit(db)
	return db
}

// widen gives a loop an inbox that is never full, for who waits for room in it would not let the loop go on.
func (w *world) widen(s *syncer) { s.inbox = make(chan func(), 64*w.ports) }

// suit gives databases what they take from elsewhere.
func (w *world) suit(db *sonicDB) {
	db.singly = w.singly
	db.sleep = func(t time.Duration) { w.sleep(pause{until: w.now.Add(t)}) }
}

// markOld decides as the switch means it which interfaces are left-overs: those that exist when a daemon starts, unless the run before has announced,
// or there are none on such a switch.
func (w *world) markOld() {
	warm := w.warm()
	if warm || w.cold(warm) {
		for _, l := range w.kernel.sorted() {
			if strings.HasPrefix(l.name, "Ethernet") {
				l.unsaid = l.unsaid || !l.old
				l.old = !warm && !w.dpu()
			}
		}
	} else {
		row, _ := w.server.hash(simState, "PORTSYNCD_START_TABLE|old_interfaces", false)
		for _, l := range w.kernel.sorted() { // who took it for one may have told nobody
			said := !l.unsaid || slices.ContainsFunc(strings.Fields(row["ifindexes"]), func(word string) bool {
				index, _, _ := strings.Cut(word, ":")
				return index == fmt.Sprint(l.index)
			})
			l.old, l.unsaid = l.old && said, false
		}
	}
	if _, known := w.server.database(simState)["PORTSYNCD_START_TABLE|old_interfaces"]; !known && !w.cold(warm) && !w.goesAlong {
		for _, l := range w.kernel.sorted() { // nobody knows any more which were: all are taken for current
			l.old = false
		}
	}
	if !warm && w.signal(portInitDone) {
		return
	}
	clear(w.seen) // a new daemon has to see them all
	for _, l := range w.kernel.sorted() {
		w.linkNew(l)
	}
}

// cold says that nothing tells that the switch software goes on.
func (w *world) cold(warm bool) bool {
	return !warm && !w.goesAlong && !w.signal(portConfigDone) && !w.signal(portInitDone) && !w.goesOn()
}

// goesOn says that APPL_DB was lost, and the switch software goes on: STATE_DB tells.
func (w *world) goesOn() bool {
	for name := range w.configured {
		if w.tellsOfUs(name) {
			return true
		}
	}
	return false
}

// tellsOfUs says that a port's entry of STATE_DB and our row are what a daemon before has left.
func (w *world) tellsOfUs(name string) bool {
	row, _ := w.server.hash(simState, "PORTSYNCD_START_TABLE|old_interfaces", false)
	h, _ := w.server.hash(simState, "PORT_TABLE|"+name, false)
	return row != nil && h["state"] == "ok" && len(h) >= 4
}

// warm says that a warm restart was asked for, and can be had.
func (w *world) warm() bool {
	h, _ := w.server.hash(simState, "WARM_RESTART_TABLE|portsyncd", false)
	e, _ := w.server.hash(simState, "WARM_RESTART_ENABLE_TABLE|swss", false)
	return e["enable"] == "true" && h["restore_count"] != ""
}

// kill ends the daemon as kill -9 does.
func (w *world) kill() {
	if len(w.crew) > 0 {
		w.killAll()
		return
	}
	d := w.daemon
	if d == nil {
		return
	}
	w.say("daemon %d is killed", d.number)
	w.daemon = nil
	d.ended, d.filter = true, nil
	w.kernel.unsubscribe(d.socket)
	w.drop(func(st *strand) bool { return st.owner == d.number })
}
