package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"portsyncd/internal/switchtest"
)

// Databases that answer late, lose what they had, or are on servers of their own, and a switch software that starts again while this daemon goes on.

// TestSTATEDBOfItsOwnReturnsEmpty: STATE_DB on a Redis of its own that comes back empty, while no link changes.
func TestSTATEDBOfItsOwnReturnsEmpty(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{Split: true})
	d, _ := s.start(4)
	s.waitAgreement("at the start")
	s.waitMetric(d, "portsyncd_port_init_done", "1")
	s.waitMetric(d, "portsyncd_queue_depth", "0")
	s.Redis[1].Stop()
	down := switchtest.WaitFor(12*time.Second, "the outage", func() bool { return s.metric(d, "portsyncd_redis_connected") == "0" })
	if down != nil {
		t.Errorf("two beats long nobody notices that STATE_DB is away: %v", down)
	}
	s.must(s.Redis[1].Start())
	var difference string
	if err := switchtest.WaitFor(15*time.Second, "agreement", func() bool { difference = s.difference(); return difference == "" }); err != nil {
		t.Errorf("STATE_DB came back empty, and stays so: %v: %s", err, difference)
	}
}

// lostAnswer carries flushes out, and loses the answers to some; unsent, it does not carry these out.
type lostAnswer struct {
	*mapDB
	lose   int
	unsent bool
}

func (d *lostAnswer) Flush(ctx context.Context, f *flush) (err error) {
	if d.lose == 0 || !d.unsent {
		err = d.mapDB.Flush(ctx, f)
	}
	if d.lose == 0 {
		return err
	}
	d.lose--
	timeout := errors.New("i/o timeout")
	for _, w := range f.writes {
		w.outcome = outcome{err: timeout}
	}
	return timeout
}

// TestLostAnswerToDeletionAndCreation: an interface goes and comes again, both are carried out, and one answer is lost, or two, of which the second alone concerned
// the new interface. From then on other daemons write their fields into its entry, which is not deleted any more.
func TestLostAnswerToDeletionAndCreation(t *testing.T) {
	for _, lost := range []int{1, 2} {
		b := runningBench(t, "Ethernet0")
		b.say(news(1, running), "Ethernet0")
		b.settleDown()
		b.want("start", "SET Ethernet0 up/up 1500", "PortInitDone")
		b.mirror.db = &lostAnswer{b.db, lost, false}
		b.say(gone(1), "Ethernet0")
		if lost == 2 {
			b.turn()
			b.clock = b.clock.Add(2 * time.Second)
		}
		b.say(news(2, up), "Ethernet0")
		b.turn()
		if !slices.Equal(b.db.done, []string{"DEL Ethernet0", "SET Ethernet0 down/up 1500"}) {
			t.Fatalf("the flushes did %q", b.db.done)
		}
		b.db.done = nil
		b.clock = b.clock.Add(2 * time.Second)
		b.settleDown()
		if slices.Contains(b.db.done, "DEL Ethernet0") {
			t.Errorf("%d answers were lost: the entry of the interface that is there is deleted, with what others have written: %q", lost, b.db.done)
		}
	}
}

// TestLostAnswerEndToEnd: the server carries DEL and HSET out, its answer comes too late, and orchagent's field is lost.
func TestLostAnswerEndToEnd(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	ctx := t.Context()
	var stage atomic.Int32
	s.proxied(func(request []byte) (v switchtest.Verdict) {
		has := func(text string) bool { return bytes.Contains(request, []byte(text)) }
		switch {
		case stage.Load() == 1 && has("hset") && has("Ethernet4"): // slow, and still in time
			stage.Store(2)
			v.Hold = 1500 * time.Millisecond
		case stage.Load() == 2 && has("\r\ndel\r\n") && has("PORT_TABLE|Ethernet0"):
			if !has("hset") {
				t.Error("the deletion has a flush of its own: the test does not test anything")
			}
			stage.Store(3)
			v.Hold = 3 * time.Second
		}
		return v
	})
	d, _ := s.start(2)
	stage.Store(1)
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "1400"))
	s.waitFor("the slow flush", func() bool { return stage.Load() == 2 })
	s.must(s.IP("link", "del", "Ethernet0"))
	s.must(s.AddPorts("Ethernet0"))
	s.waitFor("the late one", func() bool { return stage.Load() == 3 && s.entry("Ethernet0")["state"] == "ok" })
	s.must(s.State.HSet(ctx, s.StateKey("Ethernet0"), "host_tx_ready", "true").Err()) // orchagent, of the new interface
	s.waitMetric(d, "portsyncd_redis_connected", "0")
	s.waitMetric(d, "portsyncd_redis_connected", "1")
	s.waitAgreement("afterwards")
	time.Sleep(2 * time.Second)
	if got := s.entry("Ethernet0"); got["host_tx_ready"] != "true" {
		t.Errorf("the interface is there, and what orchagent has written of it is lost: %v", got)
	}
}

// TestEventsAreSwitchedOff: keyspace events are switched off while the daemon runs.
func TestEventsAreSwitchedOff(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(2)
	s.waitAgreement("at the start")
	s.must(s.Appl.ConfigSet(t.Context(), "notify-keyspace-events", "").Err())
	s.must(s.Appl.Do(t.Context(), "client", "kill", "type", "pubsub").Err())
	s.must(s.AddPorts("Ethernet96"))
	s.waitMetric(d, "portsyncd_ports_present", "3")
	s.must(s.Appl.HSet(t.Context(), "PORT_TABLE:Ethernet96", "lanes", "1").Err())
	if err := switchtest.WaitFor(12*time.Second, "the entry", func() bool { return len(s.entry("Ethernet96")) > 0 }); err != nil {
		t.Error(err)
	}
}

// TestSignalsThatAreSeenToBeDeletedAreAnnouncedAgain: an orchagent that starts warm and finds another count deletes all of PORT_TABLE, the signals included, and waits
// for them to come again (PortsOrch::bake, cleanPortTable). Its deletion is an event of a channel that is followed.
func TestSignalsThatAreSeenToBeDeletedAreAnnouncedAgain(t *testing.T) {
	b := runningBench(t, "Ethernet0")
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	b.db.done = nil
	b.db.signalsGone = true
	clear(b.db.appl)
	for _, key := range []string{"Ethernet0", portConfigDone, portInitDone} {
		b.applChanged(applChange{key, false})
	}
	for range 100 {
		b.clock = b.clock.Add(100 * time.Millisecond)
		b.turn()
	}
	if !slices.Contains(b.db.done, "PortConfigDone 1") {
		t.Errorf("10 s after an event told that PortConfigDone was deleted it is not sent again: %q", b.db.done)
	}
}

// TestOrchagentThatDeletesPortTable is TestSignalsThatAreSeenToBeDeletedAreAnnouncedAgain with a real Redis.
func TestOrchagentThatDeletesPortTable(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d, o := s.start(2)
	s.waitMetric(d, "portsyncd_port_init_done", "1")
	s.waitFor("orchagent to have both signals", func() bool { return slices.Contains(o.Popped(), portInitDone) })
	before := len(o.Popped())
	keys := s.Appl.Keys(t.Context(), "PORT_TABLE:*").Val()
	begun := time.Now()
	s.must(s.Appl.Del(t.Context(), keys...).Err())
	err := switchtest.WaitFor(90*time.Second, "PortConfigDone again", func() bool {
		return slices.Contains(o.Popped()[before:], portConfigDone)
	})
	if took := time.Since(begun); err != nil || took > 4*beatInterval { // a comparison is due in a minute
		t.Errorf("%v: the signals were announced again after %v", err, took.Round(100*time.Millisecond))
	}
}

// TestColdStartOfTheContainerUnderADaemonOfTheHostOnTheBench: the daemon runs on the host (docs/several-asics.md, "In place of the daemons of the containers"), and the container
// swss<N> is started again, cold: syncd takes its interfaces along, swss.sh flushes APPL_DB, and a new orchagent waits.
func TestColdStartOfTheContainerUnderADaemonOfTheHostOnTheBench(t *testing.T) {
	b := runningBench(t, "Ethernet0", "Ethernet4")
	b.say(news(1, running), "Ethernet0")
	b.say(news(2, running), "Ethernet4")
	b.settleDown()
	b.settleDown()
	b.say(gone(1), "Ethernet0")
	b.say(gone(2), "Ethernet4")
	b.settleDown()
	b.db.done = nil
	clear(b.db.appl)
	b.db.signalsGone, b.db.initDone = true, false
	b.compare.askSignals()
	b.turn()
	b.db.signalsGone = false
	for range 50 {
		b.clock = b.clock.Add(100 * time.Millisecond)
		b.turn()
	}
	if !slices.Contains(b.db.done, "PortConfigDone 2") {
		t.Fatalf("the databases got %q", b.db.done)
	}
	if slices.Contains(b.db.done, "PortInitDone") {
		t.Errorf("PortInitDone before there is a single interface: %q", b.db.done)
	}
}

// TestColdStartOfTheContainerUnderADaemonOfTheHost is the same with a real Redis and real interfaces.
func TestColdStartOfTheContainerUnderADaemonOfTheHost(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.must(s.Configure(ctx, 2))
	o, err := s.StartOrchagent(ctx, true)
	s.must(err)
	s.daemon("-reconcile-interval", "2s") // by default it takes up to a minute until anybody notices
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	s.waitAgreement("at the start")
	cancel()
	for _, p := range portNames(2) {
		s.must(s.IP("link", "del", p))
		s.waitEntry(p, nil)
	}
	s.must(s.Appl.FlushDB(t.Context()).Err())
	o = s.orchagent(false) // has made no interface yet
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	time.Sleep(3 * time.Second)
	if o.Signal("PortInitDone") != nil {
		t.Error("PortInitDone came before there was a single interface")
	}
	s.must(s.AddPorts(portNames(2)...))
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
}

// TestHowLongANewOrchagentWaits: no event tells of a FLUSHDB, but where there is no interface at all it is looked for.
func TestHowLongANewOrchagentWaits(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.must(s.Configure(ctx, 2))
	o, err := s.StartOrchagent(ctx, true)
	s.must(err)
	s.daemon()
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	s.waitAgreement("at the start")
	cancel()
	for _, p := range portNames(2) {
		s.must(s.IP("link", "del", p))
		s.waitEntry(p, nil)
	}
	s.must(s.Appl.FlushDB(t.Context()).Err())
	o = s.orchagent(false)
	begun := time.Now()
	err = switchtest.WaitFor(75*time.Second, "PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	if took := time.Since(begun); err != nil || took > 4*beatInterval { // a comparison is due in a minute
		t.Errorf("%v: after APPL_DB was flushed a new orchagent waited %v for PortConfigDone", err, took.Round(100*time.Millisecond))
	}
}

// TestBareWhilePortInitDoneIsOwed: one of two ports never had an interface, so PortInitDone is owed; the container is started again, cold.
func TestBareWhilePortInitDoneIsOwed(t *testing.T) {
	b := runningBench(t, "Ethernet0", "Ethernet4")
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	b.say(gone(1), "Ethernet0")
	b.settleDown()
	b.db.done = nil
	clear(b.db.appl)
	b.db.signalsGone, b.db.initDone = true, false
	for range 300 {
		b.clock = b.clock.Add(100 * time.Millisecond)
		b.turn()
	}
	if !slices.Contains(b.db.done, "PortConfigDone 2") {
		t.Errorf("30 s (six beats) after APPL_DB was flushed, with no interface at all, nothing is announced: %q, state %v", b.db.done, b.start.state)
	}
}

// TestSecondStartOfTheContainer: it is started again twice, the second time before it had made its interfaces.
func TestSecondStartOfTheContainer(t *testing.T) {
	b := runningBench(t, "Ethernet0", "Ethernet4")
	b.say(news(1, running), "Ethernet0")
	b.say(news(2, running), "Ethernet4")
	b.settleDown()
	b.settleDown()
	b.say(gone(1), "Ethernet0")
	b.say(gone(2), "Ethernet4")
	b.settleDown()
	for n := range 2 {
		b.db.done = nil
		clear(b.db.appl)
		b.db.signalsGone, b.db.initDone = true, false
		for range 300 {
			b.clock = b.clock.Add(100 * time.Millisecond)
			b.turn()
			if slices.Contains(b.db.done, "PortConfigDone 2") {
				b.db.signalsGone = false
			}
		}
		if !slices.Contains(b.db.done, "PortConfigDone 2") {
			t.Errorf("start %d: 30 s after the flush nothing is announced: %q, state %v", n+1, b.db.done, b.start.state)
		}
	}
}

// TestDeletionOwedWhereAPPLDBLacksThePort: while Redis is away an interface goes and comes again, and its port is taken out of APPL_DB (breakout).
func TestDeletionOwedWhereAPPLDBLacksThePort(t *testing.T) {
	b := runningBench(t, "Ethernet0", "Ethernet4")
	b.db.appl["Ethernet0"] = true
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	if _, there := b.db.state["Ethernet0"]; !there {
		t.Fatal("not published")
	}
	b.mirror.db = &lostAnswer{b.db, 1, true}
	b.say(gone(1), "Ethernet0")
	b.say(news(2, up), "Ethernet0")
	delete(b.db.appl, "Ethernet0")
	b.turn()
	b.db.done = nil
	for range 300 {
		b.clock = b.clock.Add(100 * time.Millisecond)
		b.turn()
	}
	b.compare.begin(b.links.all)
	b.settleDown()
	if got, there := b.db.state["Ethernet0"]; there {
		t.Errorf("the interface of this entry is gone, and APPL_DB does not have the port: it stays for good: %+v; done %q", got, b.db.done)
	}
}

// withoutCONFIG is a server that has renamed CONFIG away.
type withoutCONFIG struct {
	redisConn
	asked int
}

func (c *withoutCONFIG) Exec(_ context.Context, commands []redis.Cmder) error {
	err := redisReply("ERR unknown command 'config', with args beginning with: 'get' 'notify-keyspace-events' ")
	for _, command := range commands {
		c.asked++
		command.SetErr(err)
	}
	return err
}

// TestServerWithoutCONFIG: it is asked once (askEvents says so), and not with each comparison.
func TestServerWithoutCONFIG(t *testing.T) {
	c := new(withoutCONFIG)
	d := &sonicDB{m: newMetrics("test"), appl: c}
	for range 3 {
		d.askEvents(t.Context())
	}
	if c.asked != 1 {
		t.Errorf("it was asked %d times, and portsyncd_redis_errors_total grew by %v", c.asked, d.m.redisErrors.Load())
	}
}

// eventsConn is a server that sends events, or does not.
type eventsConn struct {
	redisConn
	set string
}

func (c *eventsConn) Exec(_ context.Context, commands []redis.Cmder) error {
	for _, command := range commands {
		command.(*redis.StringSliceCmd).SetVal([]string{"notify-keyspace-events", c.set})
	}
	return nil
}

// TestSplitServersAreNotPolledForEver: CONFIG_DB is on a server of its own; APPL_DB's events are switched off, and on again.
func TestSplitServersAreNotPolledForEver(t *testing.T) {
	c := &eventsConn{set: "AKE"}
	d := &sonicDB{m: newMetrics("test"), appl: c, configSends: true}
	d.applAddr.address, d.cfgAddr.address = "a", "b"
	s := start{facts: startFacts{events: true}}
	c.set = ""
	s.follow(d.askEvents(t.Context()))
	if s.facts.events {
		t.Fatal("not polled")
	}
	c.set = "AKE"
	s.follow(d.askEvents(t.Context()))
	if !s.facts.events {
		t.Error("events are sent again, and APPL_DB and CONFIG_DB are asked every second for good")
	}
}
