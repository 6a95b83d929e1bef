package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Orders of events that a close reading thought of, on the bench: all but the first were wrong once.

// TestPortThatLeftAnAPPLDBWithoutEventsIsNotPublished: the ports are counted although nothing has to be written.
func TestPortThatLeftAnAPPLDBWithoutEventsIsNotPublished(t *testing.T) {
	b := newBench(t, "Ethernet0")
	b.db.facts.events = false
	b.turn()
	b.dumpDone(false, nil)
	pass := func(d time.Duration) {
		for end := b.clock.Add(d); b.clock.Before(end); b.clock = b.clock.Add(100 * time.Millisecond) {
			for b.turn() {
			}
		}
	}
	b.say(news(1, running), "Ethernet0")
	pass(3 * time.Second)
	delete(b.db.appl, "Ethernet0")
	pass(3 * time.Second)
	b.db.done = nil
	b.say(news(1, up), "Ethernet0")
	pass(3 * time.Second)
	b.want("a port that left APPL_DB seconds ago")
}

// TestIncompleteFirstListingDeletesNoEntry: after so many interrupted listings a start goes on, but what they lack may exist.
func TestIncompleteFirstListingDeletesNoEntry(t *testing.T) {
	b := newBench(t, "Ethernet0", "Ethernet4")
	b.db.facts = startFacts{signals: signals{configDone: true, initDone: true, count: 2}, events: true,
		held: map[string]portState{"Ethernet0": {true, true, 1500}, "Ethernet4": {true, true, 1500}}}
	for _, p := range []string{"Ethernet0", "Ethernet4"} {
		b.db.appl[p] = true
		b.db.state[p] = portState{true, true, 1500}
	}
	b.turn()
	for range patientListings {
		b.line(news(1, running), "Ethernet0")
		b.dumpDone(true, nil)
		b.clock = b.clock.Add(beatInterval)
		b.turn()
	}
	b.settleDown()
	if !b.start.running() {
		t.Fatal("not running")
	}
	b.want("a port that the listings, all interrupted, did not have")
	b.line(news(1, running), "Ethernet0")
	b.line(news(2, running), "Ethernet4")
	b.dumpDone(false, nil)
	b.settleDown()
	b.want("a whole listing that has it")
}

// TestPortsThatAreWrittenInAStormAreNotBehind: there is always a port that waits, and none that waits long.
func TestPortsThatAreWrittenInAStormAreNotBehind(t *testing.T) {
	b := runningBench(t, "Ethernet0", "Ethernet4")
	b.start.state = complete
	flags := uint32(up)
	b.db.onFlush = func(*flush) {
		flags ^= unix.IFF_RUNNING
		b.say(news(1, flags), "Ethernet0")
		b.say(news(2, flags), "Ethernet4")
	}
	b.say(news(1, flags), "Ethernet0")
	for range 10000 {
		b.clock = b.clock.Add(flushGap)
		b.turn()
	}
	for _, c := range b.status.Checks(b.clock, 0) {
		if c.name == "queue" && c.level != ok {
			t.Errorf("every change was written at once, and the queue is %v: %s", c.level, c.reason)
		}
	}
}

// TestDeletionOfALeftOverBeforeItIsKnownForOneDeletesNothing: on a cold start the entry is not ours yet.
func TestDeletionOfALeftOverBeforeItIsKnownForOneDeletesNothing(t *testing.T) {
	b := oldBench(t, "Ethernet0")
	b.line(news(7, running), "Ethernet0")
	b.say(gone(7), "Ethernet0")
	b.dumpDone(false, nil)
	b.settleDown()
	b.want("a cold start", "PortConfigDone 1")
}

// TestLinkThatAWholeListingDidNotHaveIsNeverOld, although the message that it is new was lost.
func TestLinkThatAWholeListingDidNotHaveIsNeverOld(t *testing.T) {
	b := newBench(t, "Ethernet0")
	b.db.broken = errConfigLoading
	b.turn()
	b.dumpDone(false, nil) // no links
	b.lost("the message of a new link was")
	b.turn()
	b.line(news(9, running), "Ethernet0")
	b.dumpDone(false, nil)
	b.db.broken = nil
	b.clock = b.clock.Add(beatInterval)
	b.settleDown()
	b.settleDown()
	if !b.start.done() {
		t.Error("an interface that came after the first listing counts as old")
	}
}

// TestInterfaceThatWasRenamedBeforeTheDecisionIsNotOld: it is no front-panel port any more.
func TestInterfaceThatWasRenamedBeforeTheDecisionIsNotOld(t *testing.T) {
	b := oldBench(t, "Ethernet0")
	b.line(news(7, running), "Ethernet0")
	b.say(news(7, running), "eth7")
	b.dumpDone(false, nil)
	b.settleDown()
	b.settleDown()
	if old := b.links.leftovers(); len(old) != 0 || len(b.source.down) != 0 {
		t.Errorf("old are %v, set down %v", old, b.source.down)
	}
}

// TestRefusedKeyDoesNotHoldAWarmRestartUp: it concerns its port alone.
func TestRefusedKeyDoesNotHoldAWarmRestartUp(t *testing.T) {
	b := newBench(t, "Ethernet0", "Ethernet4")
	b.db.facts = startFacts{warm: true, signals: signals{configDone: true, initDone: true, count: 2}, events: true}
	b.db.appl["Ethernet0"], b.db.appl["Ethernet4"] = true, true
	b.db.refuse["Ethernet4"] = errWrongType
	b.turn()
	b.line(news(1, running), "Ethernet0")
	b.line(news(2, running), "Ethernet4")
	b.dumpDone(false, nil)
	for range 500 {
		b.clock = b.clock.Add(10 * time.Millisecond)
		b.turn()
	}
	if b.warm.state != warmReconciled {
		t.Errorf("the warm restart is %s after 5 s", b.warm.state)
	}
}

// noRecount is a database that does not take another count.
type noRecount struct {
	*mapDB
	why  error
	asks int
}

func (d *noRecount) Recount(context.Context, int) (bool, error) { d.asks++; return false, d.why }

// TestCountThatIsRefusedConcernsNobodyElse: it is tried now and then, and nothing else is doubted for it.
func TestCountThatIsRefusedConcernsNobodyElse(t *testing.T) {
	for name, split := range map[string]bool{"one server": false, "two servers": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "Ethernet0")
			db := &noRecount{mapDB: b.db, why: errors.New("refused")}
			b.openDB = func(func()) (database, error) { return db, nil }
			var log bytes.Buffer
			b.courier.log = slog.New(slog.NewTextHandler(&log, nil))
			b.db.facts.split = split
			b.turn()
			b.dumpDone(false, nil)
			b.say(news(1, running), "Ethernet0")
			b.settleDown()
			b.db.config.ports = append(slices.Clip(b.db.config.ports), portConfig{"Ethernet4", packedFields()})
			b.start.wantLook(true)
			asked := b.db.asked
			for range 1000 {
				b.clock = b.clock.Add(10 * time.Millisecond)
				b.turn()
			}
			if back := strings.Count(log.String(), "answer again"); back > 0 || b.db.asked > asked+1 {
				t.Errorf("in 10 s the databases answered again %d times, and %d ports were asked for", back, b.db.asked-asked)
			}
			if db.asks < 5 || db.asks > 30 {
				t.Errorf("tried %d times in 10 s", db.asks)
			}
			db.why = nil
			b.clock = b.clock.Add(2 * time.Second)
			b.settleDown()
			if b.courier.trouble() != nil || b.start.count != 2 {
				t.Error("it is not got over")
			}
		})
	}
}

// TestRefusedPortInitDoneIsTriedAgainWithinTwoSeconds, and not at the next beat.
func TestRefusedPortInitDoneIsTriedAgainWithinTwoSeconds(t *testing.T) {
	b := runningBench(t, "Ethernet0")
	refused := 0
	b.db.onFlush = func(f *flush) {
		if f.initDone {
			refused++
		}
	}
	b.start.refusedInitDone(errWrongType, b.clock)
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	if wait := b.advance(b.clock, false); wait > refusalRest {
		t.Errorf("nothing happens for %v", wait)
	}
}

// TestRefusalIsNotCalledSilence: the log says what is the matter.
func TestRefusalIsNotCalledSilence(t *testing.T) {
	var c courier
	if text := c.outage(startErrand, fmt.Errorf("APPL_DB: %w", errWrongType)); strings.Contains(text, "do not answer") {
		t.Errorf("a refused key is said as %q", text)
	}
}
