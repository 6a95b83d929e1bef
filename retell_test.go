package main

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"
)

// What a loop knew of the links is told again to the one that follows.

// successor is a syncer that goes on where another one has ended, with the databases that it has left.
func (b *bench) successor() *bench {
	c := &bench{t: b.t, source: b.source, clock: b.clock, db: b.db}
	c.db.facts.configDone, c.db.facts.initDone, c.db.facts.count = true, true, len(b.db.config.ports)
	c.db.facts.held, c.db.done = maps.Clone(b.db.state), nil
	open := func(func()) (database, error) { return c.db, nil }
	beside := func(job func()) { c.jobs = append(c.jobs, job) }
	rules := syncOptions{eoiu: 30 * time.Second, spawn: beside, old: "auto", retold: retold{links: b.knownLinks()}, takenOver: true}
	rules.carried = b.leave()
	c.syncer = newSyncer(rules, c.source, open, newMetrics("test"), new(health), slog.New(slog.DiscardHandler),
		func() time.Time { return c.clock })
	c.work = b.t.Context()
	return c
}

func (b *bench) begin() {
	b.wake()
	b.retell(b.options.retold.links)
}

func twoPorts(t *testing.T) *bench {
	b := runningBench(t, "Ethernet0", "Ethernet4")
	b.say(linkMessage{index: 1, flags: running, mtu: 9100, hasCarrier: true, carrierDown: 3}, "Ethernet0")
	b.say(news(2, up), "Ethernet4")
	b.settleDown()
	b.want("a start", "SET Ethernet0 up/up 9100", "SET Ethernet4 down/up 1500", "PortInitDone")
	return b
}

// TestRetoldLinksStandForTheListing: the kernel is not asked, nothing is written that was not owed, and flaps go on.
func TestRetoldLinksStandForTheListing(t *testing.T) {
	c := twoPorts(t).successor()
	asked := c.source.dumps
	c.begin()
	c.settleDown()
	if c.source.dumps != asked || !c.start.done() || !c.status.listed.Load() {
		t.Errorf("%d listings, and the start is in state %v", c.source.dumps-asked, c.start.state)
	}
	c.want("a takeover")
	c.say(linkMessage{index: 1, flags: up, mtu: 9100, hasCarrier: true, carrierDown: 4}, "Ethernet0")
	c.settleDown()
	c.want("a change", "SET Ethernet0 down/up 9100")
	if got := c.links.known("Ethernet0").series.flaps.Load(); got != 1 {
		t.Errorf("%d flaps, want 1", got)
	}
	c.say(gone(2), "Ethernet4")
	c.settleDown()
	c.want("a deletion", "DEL Ethernet4")
}

// TestMessageThatWaitedIsNewer than what is told again.
func TestMessageThatWaitedIsNewer(t *testing.T) {
	c := twoPorts(t).successor()
	c.begin()
	c.say(gone(2), "Ethernet4")
	c.say(linkMessage{index: 1, flags: running, mtu: 1500, hasCarrier: true, carrierDown: 3}, "Ethernet0")
	c.say(news(7, running), "Ethernet8")
	c.settleDown()
	slices.Sort(c.db.done)
	c.want("a takeover amid changes", "DEL Ethernet4", "SET Ethernet0 up/up 1500")
	if p := c.links.known("Ethernet8"); p == nil || !c.present(p) {
		t.Error("a link that came meanwhile is not known")
	}
}

// TestRecreationThatTheOneBeforeHasWritten: a standby that was stopped hears of it late, and deletes no entry for it:
// others have written to that of the new interface.
func TestRecreationThatTheOneBeforeHasWritten(t *testing.T) {
	c := twoPorts(t).successor()
	c.begin()
	c.say(gone(1), "Ethernet0")
	c.say(linkMessage{index: 9, flags: running, mtu: 9100}, "Ethernet0")
	c.settleDown()
	c.want("a takeover after a recreation")
}

// TestMessagesLostAtATakeover: what is told again may be wrong, and nothing is written before the kernel was asked.
func TestMessagesLostAtATakeover(t *testing.T) {
	c := twoPorts(t).successor()
	running := portState{admin: true, oper: true, mtu: 1500}
	c.db.facts.held["Ethernet4"], c.db.state["Ethernet4"] = running, running // written by the one before, and lost to us
	c.begin()
	c.lost("overrun")
	for range 20 {
		c.clock = c.clock.Add(time.Millisecond)
		c.turn()
	}
	if c.source.dumps == 0 || len(c.db.done) > 0 || c.status.listed.Load() {
		t.Errorf("%d listings; written was %q", c.source.dumps, c.db.done)
	}
}

// TestRetoldLinksAreNotEnough where there may be left-overs: only a listing tells of those.
func TestRetoldLinksAreNotEnough(t *testing.T) {
	for name, change := range map[string]func(c *bench){
		"an old interface": func(c *bench) {
			c.db.facts.old = &recordedOld{map[int32]leftover{9: {9, "Ethernet96", 0}}}
		},
		"a cold start":         func(c *bench) { c.db.facts = startFacts{signals: signals{count: -1}} },
		"-old-interfaces down": func(c *bench) { c.options.old = "down" },
		"another namespace":    nil,
	} {
		t.Run(name, func(t *testing.T) {
			c := twoPorts(t).successor()
			asked := c.source.dumps
			if change != nil {
				change(c)
				c.begin()
			} else {
				c.begin()
				c.moved(c.clock)
			}
			for range 10 {
				c.clock = c.clock.Add(time.Millisecond)
				c.turn()
			}
			if c.source.dumps == asked || c.status.listed.Load() {
				t.Errorf("%d listings, and the start is in state %v", c.source.dumps-asked, c.start.state)
			}
		})
	}
}

// TestWhatIsNotKnownForSureIsNotRetold.
func TestWhatIsNotKnownForSureIsNotRetold(t *testing.T) {
	for name, doubt := range map[string]func(b *bench){
		"messages were lost when a comparison was due": func(b *bench) {
			b.listing.want(&b.m.resyncReconcile, b.clock, 0)
			b.lost("test")
		},
		"a comparison becomes due when messages were lost": func(b *bench) {
			b.lost("test")
			b.lost("test again") // after a pause
			b.listing.want(&b.m.resyncReconcile, b.clock, 0)
		},
		"messages were lost":           func(b *bench) { b.lost("test") },
		"a listing was interrupted":    func(b *bench) { b.dumpDone(true, nil) },
		"an interface is old":          func(b *bench) { b.links.old[9] = "Ethernet96" },
		"what is old is not decided":   func(b *bench) { b.links.existing = map[int32]string{} },
		"the namespace is not there":   func(b *bench) { b.away = errNoNetNS },
		"the namespace is another":     func(b *bench) { b.links.anew(netNSID{inode: 7}) },
		"the loop ended with an error": func(b *bench) { b.failure = errHeld },
	} {
		b := twoPorts(t)
		if known := b.knownLinks(); len(known) != 2 {
			t.Fatalf("%d links are known, want 2", len(known))
		}
		if doubt(b); b.knownLinks() != nil {
			t.Errorf("%s: it is told again", name)
		}
	}
	if b := runningBench(t); b.knownLinks() == nil {
		t.Error("that there are no links is not told")
	}
}

// TestInitDoneAfterANamespaceMadeAgainAmidAHandOver: what the one before had sent was for interfaces that are no more.
func TestInitDoneAfterANamespaceMadeAgainAmidAHandOver(t *testing.T) {
	c := twoPorts(t).successor()
	c.start.handed = &predecessor{initDone: true}
	c.db.facts = startFacts{events: true, signals: signals{count: -1}} // all databases were lost
	c.db.state, c.db.appl, c.db.initDone = map[string]portState{}, map[string]bool{}, false
	c.db.broken = errors.New("Redis is away")
	c.begin()
	c.turn()
	c.source.home.inode++ // with the container of the databases
	c.clock = c.clock.Add(beatInterval + shortBeat)
	c.turn()
	c.db.broken = nil
	c.clock = c.clock.Add(beatInterval)
	c.turn()
	c.dumpDone(false, nil) // no links yet
	c.settleDown()
	if !slices.Contains(c.db.done, "PortConfigDone 2") || slices.Contains(c.db.done, "PortInitDone") {
		t.Errorf("no port has an interface, and the databases got %q", c.db.done)
	}
}

// TestWordOfThePredecessorIsPassedOn: the databases do not answer one that has taken over, and it hands over in turn.
func TestWordOfThePredecessorIsPassedOn(t *testing.T) {
	c := twoPorts(t).successor()
	c.options.handed = &predecessor{old: recordedOld{map[int32]leftover{7: {7, "Ethernet96", 0}}}, initDone: true}
	c.start.handed = c.options.handed
	c.db.broken = errors.New("Redis is away")
	c.begin()
	c.turn()
	r := c.word()
	p := r.predecessor()
	if p == nil || !p.initDone || len(p.old.byIndex) != 1 {
		t.Errorf("the next one is told %+v: to it, the interfaces of a running switch are left-overs", r)
	}
}
