package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The syncer on messages made by hand, a database of a few maps and a clock that stands still: every decision
// without a kernel, and in an order that a real one would show once in a million.

// still is a link source with nothing in it: these tests hand messages to the syncer themselves.
type still struct {
	dumps int
	down  []int32
	home  netNSID // of the namespace that has the name
	heard netNSID // of the sockets
}

func (*still) Receive(linkSink) (bool, error) { return false, nil }
func (s *still) DropDump()                    {}
func (s *still) StartDump() error             { s.dumps++; return nil }
func (*still) Wait(time.Duration) error       { return nil }
func (*still) Pause(time.Duration)            {}
func (*still) Wake()                          {}
func (*still) Rouse()                         {}
func (s *still) SetDown(_ netNSID, indexes []int32, _ func(int32, error)) {
	s.down = append(s.down, indexes...)
}
func (s *still) Home() netNSID { return s.heard }
func (s *still) Follow() (bool, error) {
	moved := s.heard != s.home
	s.heard = s.home
	return moved, nil
}

// mapDB is a database in memory that notes what is done to it.
type mapDB struct {
	config      switchConfig
	facts       startFacts
	signalsGone bool
	initDone    bool // PortInitDone was sent
	appl        map[string]bool
	state       map[string]portState
	old         leftovers // as they were written down
	done        []string  // DEL and SET of STATE_DB, and the signals
	asked       int
	broken      error            // every call fails
	refuse      map[string]error // writes of one port fail
	onFlush     func(f *flush)   // called before a flush is carried out
}

func (d *mapDB) Close() {}

func (d *mapDB) Load(context.Context) (*switchConfig, error) {
	c := d.config
	return &c, d.broken
}

func (d *mapDB) LookBack(context.Context, []portConfig) (startFacts, error) { return d.facts, d.broken }

func (d *mapDB) Announce(_ context.Context, _, fallback []portConfig, old leftovers) (announcement, error) {
	ports := d.config.ports
	if d.config.lost {
		ports = fallback
	}
	if d.broken == nil {
		d.old = old
		for _, p := range ports {
			d.appl[p.name] = true
		}
		d.done = append(d.done, fmt.Sprintf("PortConfigDone %d", len(ports)))
		d.facts.count = len(ports)
	}
	return announcement{ports: ports}, d.broken
}

func (d *mapDB) Watch(context.Context, watcher) {}

func (d *mapDB) Nudge() {}

func (d *mapDB) Recount(_ context.Context, count int) (lost bool, err error) {
	if d.broken == nil && !d.signalsGone {
		d.done = append(d.done, fmt.Sprintf("PortConfigDone %d", count))
		d.facts.count = count
	}
	return d.signalsGone, d.broken
}

func (d *mapDB) SetLogger(_ context.Context, l logSettings) error {
	d.config.logger = l
	return d.broken
}

func (d *mapDB) Flush(_ context.Context, f *flush) error {
	if d.onFlush != nil {
		d.onFlush(f)
	}
	f.refused, f.missing, f.listed, f.found = nil, false, nil, signals{}
	for _, w := range f.writes {
		w.outcome = outcome{err: d.broken}
		if w.err == nil {
			w.err = d.refuse[w.port]
		}
		if w.err != nil {
			continue
		}
		if w.ask {
			d.asked++
			w.exists = d.appl[w.port]
		}
		held, ok := d.state[w.port]
		w.deleted = w.del == delCertain || w.del == delIfOurs && ok
		if w.check && !w.deleted && ok && held == w.state {
			w.same = true
		} else if w.check && !ok {
			w.found = nothingFound
		}
		if w.deleted {
			d.done = append(d.done, "DEL "+w.port)
			delete(d.state, w.port)
		}
		if w.wanted() {
			d.done = append(d.done, fmt.Sprintf("SET %s %s/%s %d", w.port, upDown(w.state.oper), upDown(w.state.admin), w.state.mtu))
			d.state[w.port] = w.state
			w.written = true
		}
	}
	for _, w := range f.confirm {
		f.missing = f.missing || !d.appl[w.port]
	}
	if f.signals {
		f.found = signals{known: true, configDone: !d.signalsGone, count: d.facts.count,
			initDone: !d.signalsGone && (d.facts.initDone || d.initDone)}
	}
	if f.list {
		f.listed = slices.Sorted(maps.Keys(d.state))
	}
	if d.broken == nil && f.initDone {
		d.done = append(d.done, "PortInitDone")
		d.initDone = true
	}
	return d.broken
}

// bench is a syncer on a bench, turned by hand.
type bench struct {
	*syncer
	t      *testing.T
	db     *mapDB
	source *still
	clock  time.Time
	jobs   []func() // that the syncer has others do
}

func newBench(t *testing.T, ports ...string) *bench {
	b := &bench{t: t, source: new(still), clock: time.Unix(1e9, 0),
		db: &mapDB{appl: map[string]bool{}, state: map[string]portState{}, refuse: map[string]error{}}}
	for _, p := range ports {
		b.db.config.ports = append(b.db.config.ports, portConfig{p, packedFields("lanes", "1")})
	}
	b.db.facts.events = true
	open := func(func()) (database, error) { return b.db, nil }
	beside := func(job func()) { b.jobs = append(b.jobs, job) }
	b.syncer = newSyncer(syncOptions{eoiu: 30 * time.Second, spawn: beside}, b.source, open, newMetrics("test"), new(health), slog.New(slog.DiscardHandler), func() time.Time { return b.clock })
	b.work = t.Context()
	b.wake()
	return b
}

// runningBench takes a bench through a cold start with nothing in the kernel.
func runningBench(t *testing.T, ports ...string) *bench {
	b := newBench(t, ports...)
	b.turn()
	b.dumpDone(false, nil)
	b.settleDown()
	if !b.start.running() {
		t.Fatalf("the start stopped in state %v", b.start.state)
	}
	b.db.done = nil
	return b
}

// turn is one round of the loop; it carries out the jobs that it leaves, if any.
func (b *bench) turn() (worked bool) {
	b.advance(b.clock, false)
	jobs := b.jobs
	b.jobs = nil
	for _, job := range jobs {
		job()
	}
	for {
		select {
		case fn := <-b.inbox:
			fn()
		default:
			return len(jobs) > 0
		}
	}
}

// settleDown turns, with time passing, until nothing is left to do.
func (b *bench) settleDown() {
	for range 100 {
		b.clock = b.clock.Add(flushGap)
		if !b.turn() && !b.paused() {
			return
		}
	}
	b.t.Fatal("the syncer does not come to rest")
}

// paused says that something waits for another try.
func (b *bench) paused() bool {
	for _, e := range errands {
		if b.courier.failing(e) || b.courier.wait(e, b.clock) > 0 {
			return true
		}
	}
	return len(b.outbox.resting) > 0
}

func (b *bench) say(m linkMessage, name string) {
	m.name = []byte(name)
	b.received(b.clock, 1)
	b.live(&m)
}

const (
	down    = 0
	up      = unix.IFF_UP
	running = unix.IFF_UP | unix.IFF_RUNNING
)

func news(index int32, flags uint32) linkMessage {
	return linkMessage{index: index, flags: flags, mtu: 1500}
}

func gone(index int32) linkMessage { return linkMessage{index: index, deleted: true} }

func (b *bench) want(what string, done ...string) {
	b.t.Helper()
	if !slices.Equal(b.db.done, done) {
		b.t.Errorf("%s: the databases got %q, want %q", what, b.db.done, done)
	}
	b.db.done = nil
}

func TestWhichMessagesCount(t *testing.T) {
	master := func(m linkMessage) linkMessage { m.master = 99; return m }
	family := func(m linkMessage) linkMessage { m.family = unix.AF_BRIDGE; return m }
	kind := func(k string, m linkMessage) linkMessage { m.kind = []byte(k); return m }
	for name, c := range map[string]struct {
		messages []linkMessage
		names    []string
		want     []string
	}{
		"a port of APPL_DB is published":          {[]linkMessage{news(1, running)}, []string{"Ethernet0"}, []string{"SET Ethernet0 up/up 1500"}},
		"a port that APPL_DB lacks is not":        {[]linkMessage{news(1, running)}, []string{"Ethernet8"}, nil},
		"other links are not":                     {[]linkMessage{news(1, running), news(2, running), news(3, running)}, []string{"eth0", "Vlan10", "Ethernet0.10"}, nil},
		"a sub-interface takes its entry with it": {[]linkMessage{news(1, running), gone(1)}, []string{"Ethernet0.10", "Ethernet0.10"}, []string{"DEL Ethernet0.10"}},
		"a sub-interface of a VRF is still there": {[]linkMessage{news(1, running), master(gone(1))}, []string{"Ethernet0.10", "Ethernet0.10"}, nil},
		"a sub-interface that is back keeps it":   {[]linkMessage{news(1, running), gone(1), news(2, running)}, []string{"Ethernet0.10", "Ethernet0.10", "Ethernet0.10"}, nil},
		"another link has none":                   {[]linkMessage{gone(1), gone(2)}, []string{"Eth0.10", "Vlan10.1"}, nil},
		"deletion":                                {[]linkMessage{news(1, running), gone(1)}, []string{"Ethernet0", "Ethernet0"}, []string{"DEL Ethernet0"}},
		"deletion of a link never seen":           {[]linkMessage{gone(1)}, []string{"Ethernet0"}, []string{"DEL Ethernet0"}},
		"deletion with a master":                  {[]linkMessage{news(1, running), master(gone(1))}, []string{"Ethernet0", "Ethernet0"}, []string{"SET Ethernet0 up/up 1500"}},
		"deletion of family AF_BRIDGE":            {[]linkMessage{news(1, running), family(gone(1))}, []string{"Ethernet0", "Ethernet0"}, []string{"SET Ethernet0 up/up 1500"}},
		"news of family AF_BRIDGE":                {[]linkMessage{news(1, running), family(news(1, down))}, []string{"Ethernet0", "Ethernet0"}, []string{"SET Ethernet0 up/up 1500"}},
		"a team is teamsyncd's":                   {[]linkMessage{kind("team", news(1, running))}, []string{"PortChannel1"}, nil},
		"a PortChannel of another kind is a port": {[]linkMessage{kind("bond", news(1, running))}, []string{"PortChannel1"}, []string{"SET PortChannel1 up/up 1500"}},
		"delete, then create is not update":       {[]linkMessage{news(1, running), gone(1), news(2, running)}, []string{"Ethernet0", "Ethernet0", "Ethernet0"}, []string{"DEL Ethernet0", "SET Ethernet0 up/up 1500"}},
		"create whose deletion was lost":          {[]linkMessage{news(1, running), news(2, up)}, []string{"Ethernet0", "Ethernet0"}, []string{"DEL Ethernet0", "SET Ethernet0 down/up 1500"}},
		"a late deletion of an earlier interface": {[]linkMessage{news(1, running), news(2, up), gone(1)}, []string{"Ethernet0", "Ethernet0", "Ethernet0"}, []string{"DEL Ethernet0", "SET Ethernet0 down/up 1500"}},
		"rename":                    {[]linkMessage{news(1, running), news(1, running)}, []string{"Ethernet0", "Ethernet4"}, []string{"DEL Ethernet0", "SET Ethernet4 up/up 1500"}},
		"rename to what is no port": {[]linkMessage{news(1, running), news(1, running)}, []string{"Ethernet0", "eth0"}, []string{"DEL Ethernet0"}},
		"two ports change names by way of a third": {[]linkMessage{news(1, running), news(2, up), news(1, running), news(2, up), news(1, running)}, []string{"Ethernet0", "Ethernet4", "tmp", "Ethernet0", "Ethernet4"}, []string{"DEL Ethernet0", "SET Ethernet0 down/up 1500", "DEL Ethernet4", "SET Ethernet4 up/up 1500"}},
		"only the last of many changes":            {[]linkMessage{news(1, down), news(1, up), news(1, running), news(1, up)}, []string{"Ethernet0", "Ethernet0", "Ethernet0", "Ethernet0"}, []string{"SET Ethernet0 down/up 1500"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := runningBench(t, "Ethernet0", "Ethernet4", "PortChannel1")
			b.start.state = complete
			for i, m := range c.messages {
				b.say(m, c.names[i])
			}
			b.settleDown()
			slices.Sort(b.db.done) // ports in any order; DEL sorts before SET as it must come
			b.want(name, slices.Sorted(slices.Values(c.want))...)
			if b.m.queueDepth.Load() != 0 || !b.outbox.settled() {
				t.Errorf("queue depth %v, %d ports left", b.m.queueDepth.Load(), b.outbox.unwritten())
			}
		})
	}
}

func TestDeletionComesBeforeTheFields(t *testing.T) {
	b := runningBench(t, "Ethernet0")
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	b.want("start", "SET Ethernet0 up/up 1500", "PortInitDone")
	b.say(gone(1), "Ethernet0")
	b.say(news(2, running), "Ethernet0")
	b.settleDown()
	b.want("the same state after deletion and creation", "DEL Ethernet0", "SET Ethernet0 up/up 1500")
}

func TestIdenticalStateIsNotWritten(t *testing.T) {
	b := runningBench(t, "Ethernet0")
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	b.db.done = nil
	b.say(news(1, running), "Ethernet0")
	if b.turn() || b.m.eventsProcessed.Load() != 2 {
		t.Errorf("a message without news went to the databases, or was not counted: %d", b.m.eventsProcessed.Load())
	}
	b.say(news(1, up), "Ethernet0")
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	b.want("there and back between two flushes")
	if got := b.m.eventsProcessed.Load(); got != 4 {
		t.Errorf("%d events processed, want 4", got)
	}
}

// TestChangeBackDuringAFlush: what is held changes with the acknowledgement, so the link's return to the earlier state must be written.
func TestChangeBackDuringAFlush(t *testing.T) {
	b := runningBench(t, "Ethernet0")
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	b.db.done = nil
	b.say(news(1, up), "Ethernet0")
	b.db.onFlush = func(*flush) {
		b.db.onFlush = nil
		b.say(news(1, running), "Ethernet0")
	}
	b.settleDown()
	b.want("down, and up again while down was being written", "SET Ethernet0 down/up 1500", "SET Ethernet0 up/up 1500")
}

func TestStartReadsBeforeItWrites(t *testing.T) {
	b := runningBench(t, "Ethernet0", "Ethernet4")
	b.db.state["Ethernet0"] = portState{admin: true, oper: true, mtu: 1500}
	b.say(news(1, running), "Ethernet0")
	b.say(news(2, running), "Ethernet4")
	b.settleDown()
	b.want("an entry that is right already", "SET Ethernet4 up/up 1500", "PortInitDone")
}

func TestPortInitDoneWaitsForEveryInterface(t *testing.T) {
	b := runningBench(t, "Ethernet0", "Ethernet4")
	b.say(news(1, up), "Ethernet0")
	b.settleDown()
	b.want("one of two", "SET Ethernet0 down/up 1500")
	b.say(gone(1), "Ethernet0")
	b.say(news(2, up), "Ethernet4")
	b.settleDown()
	b.want("the first was seen once", "DEL Ethernet0", "SET Ethernet4 down/up 1500", "PortInitDone")
	b.say(news(3, up), "Ethernet0")
	b.settleDown()
	b.want("it comes once", "SET Ethernet0 down/up 1500")
}

func TestOldInterfacesByIfindex(t *testing.T) {
	anEntry := map[string]portState{"Ethernet0": {mtu: 1500}}
	for _, c := range []struct {
		switchType string
		facts      startFacts
		option     string
		old        bool
	}{
		{"", startFacts{}, "auto", true},
		{"dpu", startFacts{}, "auto", false},
		{"", startFacts{warm: true}, "auto", false},
		{"", startFacts{signals: signals{configDone: true, initDone: true}, held: anEntry}, "auto", false},
		{"", startFacts{signals: signals{configDone: true}, held: anEntry}, "auto", false},
		{"", startFacts{signals: signals{configDone: true, initDone: true}}, "auto", false}, // Redis was emptied, and then the daemon killed
		{"", startFacts{signals: signals{configDone: true}}, "auto", true},
		{"", startFacts{signals: signals{configDone: true, initDone: true}, held: anEntry}, "down", true},
		{"", startFacts{}, "adopt", false},
	} {
		b := newBench(t, "Ethernet0")
		b.db.config.switchType, b.db.facts, b.options.old = c.switchType, c.facts, c.option
		b.db.facts.events = true
		b.db.appl["Ethernet0"] = true
		b.turn()
		m := news(7, running)
		m.name = []byte("Ethernet0")
		b.dumped(&m)
		b.say(news(7, up), "Ethernet0") // before anybody knows whether it is old
		b.dumpDone(false, nil)
		b.settleDown()
		b.say(news(7, running), "Ethernet0")
		b.settleDown()
		if seen := b.start.done(); seen == c.old {
			t.Errorf("%+v: PortInitDone is %v", c, seen)
		}
		if _, published := b.db.state["Ethernet0"]; published == c.old {
			t.Errorf("%+v: published: %v", c, published)
		}
		b.say(news(8, running), "Ethernet0")
		b.settleDown()
		if !b.start.done() || b.db.state["Ethernet0"] != (portState{true, true, 1500}) {
			t.Errorf("%+v: a new interface of the same name does not count", c)
		}
	}
}

func TestFailedWriteIsRetried(t *testing.T) {
	b := runningBench(t, "Ethernet0", "Ethernet4")
	b.start.state = complete
	b.db.refuse["Ethernet0"] = errors.New("WRONGTYPE")
	b.say(news(1, running), "Ethernet0")
	b.say(news(1, running), "Ethernet0")
	b.say(news(2, running), "Ethernet4")
	for range 3 {
		b.clock = b.clock.Add(2 * time.Second)
		b.turn()
	}
	b.want("one port is refused", "SET Ethernet4 up/up 1500")
	if failed, ok := b.m.eventsFailed.Load(), b.m.eventsProcessed.Load(); failed != 2 || ok != 1 {
		t.Errorf("%d events failed and %d processed, want 2 and 1: each fails once", failed, ok)
	}
	delete(b.db.refuse, "Ethernet0")
	b.clock = b.clock.Add(2 * time.Second)
	b.settleDown()
	b.want("and then not any more", "SET Ethernet0 up/up 1500")
	if failed, ok := b.m.eventsFailed.Load(), b.m.eventsProcessed.Load(); failed != 2 || ok != 3 {
		t.Errorf("%d events failed and %d processed, want 2 and 3", failed, ok)
	}
}

// TestOutage: while the databases are away nothing is forgotten, memory stays bounded, and afterwards everything is compared.
func TestOutage(t *testing.T) {
	b := runningBench(t, "Ethernet0", "Ethernet4")
	b.say(news(1, running), "Ethernet0")
	b.say(news(2, running), "Ethernet4")
	b.settleDown()
	b.db.done = nil
	b.db.broken = errors.New("connection refused")
	const messages = 3000
	for i := range messages {
		b.clock = b.clock.Add(time.Millisecond)
		b.say(news(1, up|uint32(i%2)*unix.IFF_RUNNING), "Ethernet0")
		b.turn()
	}
	if b.m.redisConnected.Load() != 0 {
		t.Error("the outage does not show")
	}
	b.say(gone(1), "Ethernet0")
	clear(b.db.state) // it comes back empty
	b.db.broken = nil
	b.clock = b.clock.Add(2 * time.Second)
	b.settleDown()
	b.want("after the outage", "DEL Ethernet0", "SET Ethernet4 up/up 1500")
	if got := b.m.eventsProcessed.Load(); got != messages+3 {
		t.Errorf("%d events processed, want %d", got, messages+3)
	}
	if b.m.redisConnected.Load() != 1 || b.courier.trouble() != nil {
		t.Error("the recovery does not show")
	}
}

func TestFlapsAreTheKernelsCount(t *testing.T) {
	carrier := func(index int32, flags, down uint32) linkMessage {
		m := news(index, flags)
		m.hasCarrier, m.carrierDown = true, down
		return m
	}
	b := runningBench(t, "Ethernet0")
	var want uint64
	check := func(what string) {
		t.Helper()
		if got := b.links.ports["Ethernet0"].series.flaps.Load(); got != want {
			t.Errorf("%s: %d flaps, want %d", what, got, want)
		}
	}
	b.say(carrier(1, up, 1), "Ethernet0")
	b.say(carrier(1, up, 2), "Ethernet0")
	check("not up yet")
	b.say(carrier(1, running, 2), "Ethernet0")
	b.say(carrier(1, up, 3), "Ethernet0")
	want = 1
	check("down")
	b.say(carrier(1, running, 10), "Ethernet0")
	want = 8
	check("seven more that were lost or coalesced")
	b.say(gone(1), "Ethernet0")
	b.say(carrier(2, running, 1<<32-1), "Ethernet0")
	check("a new interface starts counting anew, the port goes on")
	b.say(carrier(2, up, 1), "Ethernet0")
	want = 10
	check("32 bits wrap")
	b.say(gone(2), "Ethernet0")
	b.say(news(3, running), "Ethernet0")
	b.say(news(3, up), "Ethernet0")
	b.say(news(3, up), "Ethernet0")
	want = 11
	check("a kernel that does not count")
}

func TestFlapsOutliveThePort(t *testing.T) {
	b := runningBench(t)
	b.say(news(1, running), "Ethernet40")
	b.say(news(1, up), "Ethernet40")
	b.say(gone(1), "Ethernet40")
	b.settleDown()
	if len(b.links.ports) != 0 {
		t.Errorf("a port that is gone is kept: %v", b.links.ports)
	}
	b.say(news(2, running), "Ethernet40")
	if got := b.links.ports["Ethernet40"].series.flaps.Load(); got != 1 {
		t.Errorf("%d flaps, want 1", got)
	}
}

func (b *bench) line(m linkMessage, name string) {
	m.name = []byte(name)
	b.dumped(&m)
}

// TestResync: a dump is compared with what is known, and live messages that came meanwhile are newer.
func TestResync(t *testing.T) {
	b := runningBench(t, "Ethernet0", "Ethernet4", "Ethernet8", "Ethernet12")
	for i, p := range []string{"Ethernet0", "Ethernet4", "Ethernet8"} {
		b.say(news(int32(i+1), running), p)
	}
	b.settleDown()
	b.db.done = nil
	b.lost("test")
	b.lost("test again")
	b.turn()
	if b.source.dumps != 2 {
		t.Fatalf("%d dumps, want the first and one more", b.source.dumps)
	}
	b.say(news(1, up), "Ethernet0")       // live, and newer than the line that follows
	b.line(news(1, running), "Ethernet0") // late
	b.say(gone(2), "Ethernet4")           // live
	b.line(news(2, running), "Ethernet4") // late
	b.line(news(4, up), "Ethernet12")     // its message was lost; so was the deletion of Ethernet8
	b.dumpDone(false, nil)
	b.settleDown()
	slices.Sort(b.db.done)
	b.want("after the dump", "DEL Ethernet4", "DEL Ethernet8", "PortInitDone", "SET Ethernet0 down/up 1500", "SET Ethernet12 down/up 1500")
}

// listingBench is a bench in step with one port, whose links are being listed because messages were lost.
func listingBench(t *testing.T) *bench {
	b := runningBench(t, "Ethernet0")
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	b.db.done = nil
	b.lost("test")
	b.turn()
	return b
}

func TestInterruptedDumpDeletesNothing(t *testing.T) {
	b := listingBench(t)
	b.dumpDone(true, nil)
	b.settleDown()
	b.want("a dump that may lack links")
	before := b.source.dumps
	b.turn()
	if b.source.dumps != before {
		t.Error("it is repeated at once")
	}
	b.clock = b.clock.Add(beatInterval)
	b.turn()
	b.dumpDone(false, nil)
	b.settleDown()
	b.want("the next one is whole", "DEL Ethernet0")
}

func TestDumpIsNotBegunOverWaitingMessages(t *testing.T) {
	b := runningBench(t)
	before := b.source.dumps
	b.lost("test")
	b.advance(b.clock, true)
	if b.source.dumps != before {
		t.Error("the dump began while older messages wait")
	}
}

// TestVanishedDuringTheQuestion: APPL_DB was asked, then the port left it, and only then comes the answer.
func TestVanishedDuringTheQuestion(t *testing.T) {
	b := runningBench(t, "Ethernet0")
	b.start.state = complete
	flushes := 0
	b.db.onFlush = func(*flush) {
		if flushes++; flushes == 1 {
			b.applChanged(applChange{"Ethernet0", false})
		} else {
			delete(b.db.appl, "Ethernet0")
		}
	}
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	b.db.onFlush = nil
	b.db.done = nil
	b.say(news(1, up), "Ethernet0")
	b.settleDown()
	b.want("it is asked again")
	b.db.appl["Ethernet0"] = true
	b.applChanged(applChange{"Ethernet0", true})
	b.settleDown()
	b.want("and published when it is back", "SET Ethernet0 down/up 1500")
}

// TestEntryBeforeTheSubscription: the port was asked for and not there, entered APPL_DB, and only then did the subscription stand.
func TestEntryBeforeTheSubscription(t *testing.T) {
	b := runningBench(t, "Ethernet0")
	b.start.state = complete
	delete(b.db.appl, "Ethernet0")
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	b.want("not in APPL_DB yet")
	b.db.appl["Ethernet0"] = true
	b.watchChanged(true, nil)
	b.settleDown()
	b.want("the subscription stands", "SET Ethernet0 up/up 1500")
}

func TestAPPLDBWithoutEvents(t *testing.T) {
	b := newBench(t, "Ethernet0")
	b.db.facts.events = false
	b.turn()
	b.dumpDone(false, nil)
	for range 10 {
		b.clock = b.clock.Add(flushGap)
		b.turn()
	}
	b.say(news(1, running), "Ethernet0")
	b.say(news(2, running), "Ethernet4")
	for range 3 {
		b.clock = b.clock.Add(flushGap)
		b.turn()
	}
	b.db.done = nil
	b.db.appl["Ethernet4"] = true
	delete(b.db.appl, "Ethernet0")
	b.clock = b.clock.Add(checkInterval)
	b.turn()
	b.want("found by the check", "SET Ethernet4 up/up 1500")
	b.clock = b.clock.Add(flushGap)
	b.say(news(1, up), "Ethernet0")
	b.turn()
	b.want("a port that left is not written")
}

func TestPacing(t *testing.T) {
	var p pace
	now := time.Unix(0, 0)
	for i := range flushBurst {
		if wait := p.wait(now); wait != 0 {
			t.Fatalf("change %d waits %v", i, wait)
		}
		p.take(now)
	}
	last := flushGap
	for i := range 2 * stormGrowth {
		wait := p.wait(now)
		if wait < last || wait > longGap {
			t.Fatalf("flush %d of a storm waits %v, want %v to %v", i, wait, last, longGap)
		}
		last = wait
		now = now.Add(wait)
		p.take(now)
	}
	if last != longGap {
		t.Errorf("flushes of a long storm wait %v, want %v", last, longGap)
	}
	now = now.Add(longGap + flushGap) // one token to spare: the storm is over
	p.take(now)
	p.take(now)
	if wait := p.wait(now); wait < flushGap || wait > flushGap+flushGap/4 {
		t.Errorf("after a storm a flush waits %v, want %v again", wait, flushGap)
	}
	now = now.Add(time.Hour)
	for range flushBurst {
		p.take(now)
	}
	if wait := p.wait(now); wait != flushGap {
		t.Errorf("after an hour %d flushes at once, and the next waits %v", flushBurst, wait)
	}
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	var b backoff
	var last time.Duration
	for i := range 20 {
		pause := b.next(nil)
		if full := min(firstPause<<min(i, 10), lastPause); pause > full || pause < full*3/4 {
			t.Errorf("pause %d is %v, want up to %v", i, pause, full)
		}
		last = pause
	}
	if last > lastPause {
		t.Errorf("it grows to %v", last)
	}
}

func TestBrokenConfigurationEndsTheStart(t *testing.T) {
	b := newBench(t)
	b.openDB = func(func()) (database, error) { return nil, fmt.Errorf("%w: broken", errConfig) }
	b.turn()
	b.dumpDone(false, nil)
	b.turn()
	if !errors.Is(b.failure, errConfig) {
		t.Errorf("failure is %v", b.failure)
	}
}

// lateListing: a listing that does not end in time is given up, but its lines go on coming while messages wait.
func lateListing(t *testing.T) *bench {
	b := listingBench(t) // one listing under way
	dumps := b.source.dumps
	b.clock = b.clock.Add(31 * time.Second) // -eoiu-timeout is 30 s
	b.advance(b.clock, true)                // the source has more to hand out: lines of this very listing
	if b.source.dumps != dumps {
		t.Fatal("another listing was asked for: the test does not test anything")
	}
	return b
}

func TestLineOfAListingThatWasGivenUpIsNoNews(t *testing.T) {
	b := lateListing(t)
	b.say(news(1, up), "Ethernet0")       // live, and newer than
	b.line(news(1, running), "Ethernet0") // this line, which the kernel had filled in before
	if _, state := b.links.interfaceOf(b.links.known("Ethernet0")); state.oper {
		t.Error("a line of a listing that was given up overruled a newer live message")
	}
}

func TestEndOfAListingThatWasGivenUpDropsNobody(t *testing.T) {
	b := lateListing(t)
	b.db.appl["Ethernet4"] = true
	b.line(news(1, running), "Ethernet0")
	m := news(9, running)
	m.created = true
	b.say(m, "Ethernet4") // came into being when all lines had been filled in
	b.dumpDone(false, nil)
	if index, _ := b.links.interfaceOf(b.links.port("Ethernet4")); index == 0 {
		t.Error("the end of a listing that was given up dropped an interface that a live message told of meanwhile")
	}
}

// TestMalformedLineDropsNobody: a line of a listing that makes no sense says that the link is there, at least.
func TestMalformedLineDropsNobody(t *testing.T) {
	b := listingBench(t)
	k := &kernelLinks{buffers: new(bufferShare), dumpSeq: 7, dumping: true}
	k.receiveBuffer = k.buffers.take()
	bad := linkRequest(unix.RTM_NEWLINK, unix.NLM_F_MULTI, 7, 1, unix.IFF_UP, 0, 6, 0, unix.IFLA_MTU, 0, 220, 5, 0, 0) // an MTU of two bytes
	done := linkRequest(unix.NLMSG_DONE, unix.NLM_F_MULTI, 7, 0, 0, 0)
	k.takeDump(slices.Concat(bad, done), b.syncer)
	b.settleDown()
	if slices.Contains(b.db.done, "DEL Ethernet0") {
		t.Errorf("a line that could not be read had the entry of its port deleted: %q", b.db.done)
	}
}
