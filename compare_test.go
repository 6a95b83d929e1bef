package main

import (
	"errors"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"weak"
)

// reconciling is a bench in step with two ports, whose reconciliation comes every 60 s.
func reconciling(t *testing.T) *bench {
	b := newBench(t, "Ethernet0", "Ethernet4")
	b.compare.interval = time.Minute
	b.turn()
	b.dumpDone(false, nil)
	b.settleDown()
	b.say(news(1, running), "Ethernet0")
	b.say(news(2, running), "Ethernet4")
	b.settleDown()
	b.db.done = nil
	return b
}

// reconcile lets a minute pass, and answers the dump with what the kernel has.
func (b *bench) reconcile(lines map[string]linkMessage) {
	b.t.Helper()
	before := b.source.dumps
	b.clock = b.clock.Add(time.Minute)
	for range 3 {
		b.turn()
	}
	if b.source.dumps != before+1 {
		b.t.Fatal("no dump was taken")
	}
	for name, m := range lines {
		b.line(m, name)
	}
	b.dumpDone(false, nil)
	b.settleDown()
}

// minute lets one pass, and answers the dump if there is one.
func (b *bench) minute() {
	b.clock = b.clock.Add(time.Minute)
	dumps := b.source.dumps
	for range 3 {
		b.turn()
	}
	if b.source.dumps > dumps {
		for name, m := range both() {
			b.line(m, name)
		}
		b.dumpDone(false, nil)
	}
	b.settleDown()
}

func both() map[string]linkMessage {
	return map[string]linkMessage{"Ethernet0": news(1, running), "Ethernet4": news(2, running)}
}

func TestReconciliationRepairs(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(b *bench)
		want []string
		kind func(m *metrics) *counter
	}{
		"nothing": {func(*bench) {}, nil, nil},
		"another writer": {func(b *bench) { b.db.state["Ethernet0"] = portState{admin: true, mtu: 1500} },
			[]string{"SET Ethernet0 up/up 1500"}, func(m *metrics) *counter { return &m.repairChanged }},
		"an entry lost": {func(b *bench) { delete(b.db.state, "Ethernet4") },
			[]string{"SET Ethernet4 up/up 1500"}, func(m *metrics) *counter { return &m.repairLost }},
		"an entry without an interface": {func(b *bench) { b.db.state["Ethernet96"] = portState{} },
			[]string{"DEL Ethernet96"}, func(m *metrics) *counter { return &m.repairStale }},
		"somebody else's entry": {func(b *bench) { b.db.state["CPU0"] = portState{} }, nil, nil},
	} {
		b := reconciling(t)
		c.harm(b)
		b.reconcile(both())
		b.want(name, c.want...)
		total := uint64(0)
		for _, kind := range []*counter{&b.m.repairChanged, &b.m.repairLost, &b.m.repairStale, &b.m.repairLate} {
			total += kind.Load()
		}
		if c.kind == nil && total != 0 || c.kind != nil && (total != 1 || c.kind(b.m).Load() != 1) {
			t.Errorf("%s: %d repairs are counted, or of another kind", name, total)
		}
		b.reconcile(both())
		b.want(name + ", the second time")
		if b.status.repaired.Load() != 0 {
			t.Errorf("%s: health still speaks of repairs", name)
		}
	}
}

func TestReconciliationFindsWhatTheKernelLost(t *testing.T) {
	b := reconciling(t)
	b.reconcile(map[string]linkMessage{"Ethernet0": news(1, up), "Ethernet8": news(3, up)})
	b.db.done = slices.DeleteFunc(b.db.done, func(s string) bool { return s == "PortInitDone" })
	slices.Sort(b.db.done)
	b.want("a change, a deletion and a port that APPL_DB lacks", "DEL Ethernet4", "SET Ethernet0 down/up 1500")
	b.db.appl["Ethernet8"] = true
	b.reconcile(map[string]linkMessage{"Ethernet0": news(1, up), "Ethernet8": news(3, up)})
	b.want("which has it now", "SET Ethernet8 down/up 1500")
	if b.m.repairLate.Load() != 1 {
		t.Errorf("%d late ports are counted", b.m.repairLate.Load())
	}
}

func TestFightIsLeftAlone(t *testing.T) {
	b := reconciling(t)
	for range 60 {
		b.db.state["Ethernet0"] = portState{mtu: 9}
		b.reconcile(both())
	}
	repairs := b.m.repairChanged.Load()
	if repairs < fightAfter || repairs > fightAfter+6 {
		t.Errorf("%d repairs in 60 minutes of a fight", repairs)
	}
	for range 2*restAtMost + 2 {
		b.reconcile(both())
	}
	if p := b.compare.rows.of(b.links.ports["Ethernet0"]); p.repairs != 0 {
		t.Errorf("the fight is over, and still counted: %d", p.repairs)
	}
}

// TestLostAnswerToADeletion: the DEL may have been carried out, and another daemon may have begun the next entry since.
func TestLostAnswerToADeletion(t *testing.T) {
	b := reconciling(t)
	b.say(gone(1), "Ethernet0")
	b.db.onFlush = func(*flush) {
		b.db.onFlush = nil
		delete(b.db.state, "Ethernet0")
		b.db.refuse["Ethernet0"] = errors.New("i/o timeout")
	}
	b.turn()
	delete(b.db.refuse, "Ethernet0")
	b.clock = b.clock.Add(2 * time.Second)
	b.settleDown()
	b.want("it was carried out")
}

// TestDeletionAfterALostAnswer: whatever became of the first deletion, the second one is real, and takes the key with whatever is in it.
func TestDeletionAfterALostAnswer(t *testing.T) {
	b := reconciling(t)
	b.db.refuse["Ethernet0"] = errors.New("i/o timeout")
	b.say(gone(1), "Ethernet0")
	b.turn()
	delete(b.db.refuse, "Ethernet0")
	delete(b.db.state, "Ethernet0") // the first one was carried out; what the key holds now is not ours
	b.say(news(5, up), "Ethernet0")
	b.say(gone(5), "Ethernet0")
	b.clock = b.clock.Add(2 * time.Second)
	b.settleDown()
	b.want("a real deletion", "DEL Ethernet0")
}

func TestAPPLDBLostTheSignals(t *testing.T) {
	b := reconciling(t)
	if !b.start.done() {
		t.Fatal("the start is not over")
	}
	b.db.broken = errors.New("connection refused")
	b.say(news(1, up), "Ethernet0")
	b.turn()
	clear(b.db.appl)
	clear(b.db.state)
	b.db.broken = nil
	b.db.signalsGone = true
	b.clock = b.clock.Add(2 * time.Second)
	for range 10 {
		b.clock = b.clock.Add(flushGap)
		b.turn()
	}
	b.db.signalsGone = false
	b.settleDown()
	if i := slices.Index(b.db.done, "PortConfigDone 2"); i < 0 || !slices.Contains(b.db.done[i:], "PortInitDone") {
		t.Errorf("the databases got %v", b.db.done)
	}
	if b.db.state["Ethernet0"] != (portState{admin: true, mtu: 1500}) || b.db.state["Ethernet4"] != (portState{true, true, 1500}) {
		t.Errorf("STATE_DB has %v", b.db.state)
	}
}

// TestStormOfOverruns: one resync for many, and growing pauses between them.
func TestStormOfOverruns(t *testing.T) {
	b := reconciling(t)
	b.compare.interval = 0
	before, start := b.source.dumps, b.clock
	for b.clock.Sub(start) < 10*time.Second {
		b.lost("test")
		b.lost("test")
		b.clock = b.clock.Add(10 * time.Millisecond)
		b.advance(b.clock, false)
		if b.listing.underWay {
			b.dumpDone(true, nil)
		}
	}
	if dumps := b.source.dumps - before; dumps < 5 || dumps > 20 {
		t.Errorf("%d dumps in 10 s of storm", dumps)
	}
	if b.m.overruns.Load() != 2000 {
		t.Errorf("%d overruns counted", b.m.overruns.Load())
	}
	b.clock = b.clock.Add(time.Hour)
	b.lost("after an hour")
	if b.listing.dueAt.After(b.clock) {
		t.Error("after an hour of calm a resync waits")
	}
}

// TestSignalsAgainAfterAdoption: the run before had announced all ports; that one has lost its interface since does not hold the signal back.
func TestSignalsAgainAfterAdoption(t *testing.T) {
	b := newBench(t, "Ethernet0", "Ethernet4")
	b.compare.interval = time.Minute
	b.db.facts = startFacts{signals: signals{configDone: true, initDone: true, count: 2}, events: true}
	b.turn()
	b.line(news(1, running), "Ethernet0") // else the switch software would be starting again
	b.dumpDone(false, nil)
	b.settleDown()
	b.want("adopted")
	b.db.signalsGone = true
	b.reconcile(map[string]linkMessage{"Ethernet0": news(1, running)})
	b.db.signalsGone = false
	b.settleDown()
	if !slices.Contains(b.db.done, "PortConfigDone 2") || !slices.Contains(b.db.done, "PortInitDone") {
		t.Errorf("the databases got %v", b.db.done)
	}
}

// TestFightEndsWhenNothingIsFound: over the entry of a port without an interface, too, which a comparison finds only as
// long as it is there.
func TestFightEndsWhenNothingIsFound(t *testing.T) {
	c := &comparison{m: newMetrics(""), log: discard()}
	ports := []*port{{name: "Ethernet0"}, {name: "Ethernet4", slot: 1}}
	all := func(each func(p *port)) {
		for _, p := range ports {
			each(p)
		}
	}
	stale := &portWrite{del: delIfOurs, outcome: outcome{deleted: true, found: "ok up up 9100"}}
	for range fightAfter {
		c.begin(all)
		c.judge(ports[0], stale, true, false)
	}
	for i := range 2 { // it begins with a rest of one comparison
		if first, n := c.fight(); n != 1 || first != "Ethernet0" {
			t.Fatalf("comparison %d: %d fights, over %q", i, n, first)
		}
		c.begin(all)
	}
	if _, n := c.fight(); n != 1 { // it takes part by now
		t.Errorf("%d fights", n)
	}
	c.begin(all)
	if _, n := c.fight(); n != 0 {
		t.Errorf("%d fights, and nothing was found", n)
	}
	h := new(health)
	h.fighting("Ethernet0", 1)
	if h.fighting("Ethernet4", 1); !strings.Contains(h.reconcileReason(), "Ethernet4") {
		t.Error(h.reconcileReason())
	}
}

func (h *health) reconcileReason() string {
	_, why := h.reconcile()
	return why
}

// TestComparisonLetsPortsGo: a port that everybody has forgotten is not kept by the list of the comparison before.
func TestComparisonLetsPortsGo(t *testing.T) {
	c := new(comparison)
	const many = 512
	gone := make([]weak.Pointer[port], 0, many)
	ended := make(chan struct{})
	compare := func(ports []*port) {
		c.begin(func(each func(*port)) {
			for _, p := range ports {
				each(p)
			}
		})
		for len(c.take()) > 0 {
		}
	}
	go func() { // whose stack holds nothing afterwards
		defer close(ended)
		var ports []*port
		for i := range many {
			p := &port{name: "Ethernet" + strconv.Itoa(4*i), slot: i}
			ports, gone = append(ports, p), append(gone, weak.Make(p))
		}
		compare(ports)
		for _, p := range ports {
			c.forget(p)
		}
	}()
	<-ended
	compare([]*port{{name: "Ethernet0"}})
	runtime.GC()
	runtime.GC()
	kept := 0
	for _, w := range gone {
		if w.Value() != nil {
			kept++
		}
	}
	if kept > 0 {
		t.Errorf("%d of %d ports that are gone are still held", kept, many)
	}
	runtime.KeepAlive(c)
}

// TestComparisonAfterAnAdoption: what a daemon that was killed had sent is carried out after the next one has read STATE_DB. docs/start.md: where
// existing interfaces are current, everything is compared 2 s after the start.
func TestComparisonAfterAnAdoption(t *testing.T) {
	for name, interval := range map[string]time.Duration{"-reconcile-interval 1m": time.Minute, "-reconcile-interval 0": 0} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "Ethernet0")
			b.compare.interval = interval
			right := portState{true, true, 1500}
			b.db.facts = startFacts{signals: signals{configDone: true, initDone: true, count: 1}, held: map[string]portState{"Ethernet0": right}, events: true}
			b.db.appl["Ethernet0"], b.db.state["Ethernet0"] = true, right
			b.turn()
			b.line(news(1, running), "Ethernet0")
			b.dumpDone(false, nil)
			b.settleDown()
			b.db.state["Ethernet0"] = portState{true, false, 1500} // the last command of the one that was killed
			dumps := b.source.dumps
			for range 60 {
				b.clock = b.clock.Add(100 * time.Millisecond)
				b.turn()
				if b.source.dumps > dumps {
					dumps = b.source.dumps
					b.line(news(1, running), "Ethernet0")
					b.dumpDone(false, nil)
				}
			}
			if b.db.state["Ethernet0"] != right {
				t.Error("6 s after the start the entry is still what the killed one had sent")
			}
		})
	}
}

// TestWhatWasFoundIsOverWithoutComparisons: with -reconcile-interval 0 one that found something is followed by another, or health would never hear of its end.
func TestWhatWasFoundIsOverWithoutComparisons(t *testing.T) {
	for name, harm := range map[string]func(b *bench){
		"an entry put right": func(b *bench) {
			b.db.state["Ethernet0"] = portState{admin: true, mtu: 1500}
			b.compare.soon(b.clock.Add(time.Minute - settleTime))
			b.reconcile(both())
			if why, _ := b.status.reconcile(); why != degraded {
				t.Fatal("nothing was repaired: the test does not test anything")
			}
		},
		"orchagent's word": func(b *bench) {
			p := b.links.ports["Ethernet0"]
			b.opers.look(p, "down", 1, b.clock)
			b.opers.look(p, "down", 1, b.clock.Add(settleTime))
			b.compare.askSignals() // any flush
			b.settleDown()
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := reconciling(t)
			b.compare.interval, b.compare.next = 0, time.Time{}
			harm(b)
			b.reconcile(both())
			if why, says := b.status.reconcile(); why != ok {
				t.Error("a minute later, ", says)
			}
			b.opers.look(b.links.ports["Ethernet0"], "", 1, b.clock)
			before := b.source.dumps
			for range 4 {
				b.minute()
			}
			if more := b.source.dumps - before; more > 1 { // one may have been due
				t.Errorf("nothing is wrong any more, and it is compared %d times more", more)
			}
		})
	}
}

// TestFightIsOverWithoutComparisons: with -reconcile-interval 0 a fight that is over shows as over, too.
func TestFightIsOverWithoutComparisons(t *testing.T) {
	b := reconciling(t)
	b.compare.interval, b.compare.next = 0, time.Time{}
	b.compare.soon(b.clock)
	for range fightAfter + 3 {
		b.db.state["Ethernet0"] = portState{mtu: 9}
		b.minute()
	}
	if _, n := b.compare.fight(); n != 1 {
		t.Fatal("no fight: the test does not test anything")
	}
	b.db.state["Ethernet0"] = portState{true, true, 1500} // the other program has ended
	for range 3 * restAtMost {
		b.minute()
	}
	if level, why := b.status.reconcile(); level != ok {
		t.Errorf("three hours after the other program has ended: %s", why)
	}
}
