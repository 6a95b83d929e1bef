package main

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// A count that could not be sent, and is right by the time that it could: the outage is over, and has to show as over.

// countOutage is a bench of two ports, of which CONFIG_DB drops one; the databases fail when the new count is sent.
func countOutage(t *testing.T) *bench {
	b := runningBench(t, "Ethernet0", "Ethernet4")
	b.say(news(1, running), "Ethernet0")
	b.say(news(2, running), "Ethernet4")
	b.settleDown()
	if !b.start.done() {
		t.Fatal("not complete")
	}
	b.db.config.ports = b.db.config.ports[:1]
	b.start.wantLook(true)
	b.turn() // it is read
	b.db.broken = errors.New("i/o timeout")
	for range 50 {
		if b.courier.failing(countErrand) {
			break
		}
		b.clock = b.clock.Add(flushGap)
		b.turn()
	}
	if !b.courier.failing(countErrand) {
		t.Fatal("the count was not sent: the test does not test anything")
	}
	return b
}

// TestOutageWhileACountIsSentEnds: the count was carried out and its answer lost; the next look at the signals finds it right.
func TestOutageWhileACountIsSentEnds(t *testing.T) {
	b := countOutage(t)
	b.db.broken = nil
	found := signals{known: true, configDone: true, initDone: true, count: 1} // what APPL_DB has
	b.start.compare(found)                                                    // as the flush does that follows the end of an outage, or a subscription that broke
	for range 200 {
		b.clock = b.clock.Add(100 * time.Millisecond)
		b.turn()
	}
	if b.m.redisConnected.Load() != 1 || b.courier.trouble() != nil {
		t.Errorf("20 s after the databases answer again portsyncd_redis_connected is %v, and the trouble %v", b.m.redisConnected.Load(), b.courier.trouble())
	}
}

// TestOutageEndsWhereRedisReturnsEmpty: the same, where APPL_DB comes back without the signals, and all is announced again before the count would be.
func TestOutageEndsWhereRedisReturnsEmpty(t *testing.T) {
	stuck := 0
	const tries = 20
	for range tries {
		b := countOutage(t)
		b.say(news(1, up), "Ethernet0")
		b.clock = b.clock.Add(flushGap)
		b.turn() // the flush fails, too
		b.db.broken = nil
		b.db.signalsGone = true
		clear(b.db.appl)
		clear(b.db.state)
		b.db.done = nil
		for range 2000 {
			b.clock = b.clock.Add(10 * time.Millisecond)
			b.turn()
			if slices.Contains(b.db.done, "PortConfigDone 1") {
				b.db.signalsGone = false
			}
		}
		if b.m.redisConnected.Load() != 1 {
			stuck++
		}
	}
	if stuck > 0 {
		t.Errorf("in %d of %d outages portsyncd_redis_connected is 0 for good", stuck, tries)
	}
}

// TestOutageWhileACountIsSentEndsEndToEnd: the answer to the count comes too late, and the subscription breaks in the same moment.
func TestOutageWhileACountIsSentEndsEndToEnd(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	ctx := t.Context()
	var armed, held atomic.Bool
	s.proxied(func(request []byte) (v switchtest.Verdict) {
		if armed.Load() && announces(request, portConfigDone) {
			armed.Store(false)
			held.Store(true)
			v.Hold = 2500 * time.Millisecond
		}
		return v
	})
	d, _ := s.start(4)
	s.waitMetric(d, "portsyncd_port_init_done", "1")
	s.waitAgreement("at the start")
	armed.Store(true)
	s.must(s.Config.Del(ctx, s.ConfigKey("PORT", "Ethernet12")).Err())
	s.waitFor("the count", held.Load)
	begun := time.Now()
	for time.Since(begun) < 2600*time.Millisecond { // whatever has it look at the signals
		if time.Since(begun) > 1900*time.Millisecond {
			_ = s.Appl.Do(ctx, "client", "kill", "type", "pubsub").Err()
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := switchtest.WaitFor(20*time.Second, "the outage to be over", func() bool { return s.metric(d, "portsyncd_redis_connected") == "1" }); err != nil {
		status, ready := s.metric(d, `portsyncd_health_check{check="redis"}`), s.metric(d, "portsyncd_health_status")
		if strings.Contains(s.Appl.HGet(ctx, "PORT_TABLE:PortConfigDone", "count").Val(), "3") {
			t.Errorf("%v: APPL_DB has the right count, every database answers, and redis' check is %s, health %s, 20 s later", err, status, ready)
		} else {
			t.Errorf("%v: %s %s", err, status, ready)
		}
	}
}

// TestStallDuringABreakout: Redis stalls for 2.6 s in the moment in which the new count is on its way to it, and a link changes meanwhile. It carries everything out when
// it goes on. Which of the answers is taken in first decides; five breakouts.
func TestStallDuringABreakout(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	ctx := t.Context()
	var armed, stalled atomic.Bool
	s.proxied(func(request []byte) (v switchtest.Verdict) {
		if announces(request, portConfigDone) && armed.CompareAndSwap(true, false) {
			_ = s.Redis[0].Process().Signal(syscall.SIGSTOP)
			stalled.Store(true)
		}
		return v
	})
	d, _ := s.start(4)
	s.waitMetric(d, "portsyncd_port_init_done", "1")
	s.waitAgreement("at the start")
	for round := range 5 {
		stalled.Store(false)
		armed.Store(true)
		if key := s.ConfigKey("PORT", "Ethernet200"); round%2 == 0 {
			s.must(s.Config.HSet(ctx, key, "lanes", "200", "speed", "100000").Err())
		} else {
			s.must(s.Config.Del(ctx, key).Err())
		}
		s.waitFor("the count", stalled.Load)
		s.must(s.IP("link", "set", "Ethernet0", "mtu", []string{"1400", "1450"}[round%2]))
		time.Sleep(2600 * time.Millisecond)
		s.must(s.Redis[0].Process().Signal(syscall.SIGCONT))
		s.waitAgreement("after the stall")
		if err := switchtest.WaitFor(8*time.Second, "the outage to be over", func() bool { return s.metric(d, "portsyncd_redis_connected") == "1" }); err != nil {
			t.Errorf("breakout %d: %v; the check redis is %s, and APPL_DB has count %s",
				round+1, err, s.metric(d, `portsyncd_health_check{check="redis"}`), s.Appl.HGet(ctx, "PORT_TABLE:PortConfigDone", "count").Val())
			return
		}
	}
}

// TestCountThatIsNoNumber: a PortConfigDone whose count somebody has taken or garbled is as wrong as one with another count, while the daemon runs
// and when it is started: orchagent's next warm restart goes by it.
func TestCountThatIsNoNumber(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	ctx := t.Context()
	flags := []string{"-reconcile-interval", "1s"}
	d, _ := s.start(4, flags...)
	count := func() string { return s.Appl.HGet(ctx, "PORT_TABLE:PortConfigDone", "count").Val() }
	s.waitMetric(d, "portsyncd_port_init_done", "1")
	s.waitFor("the count", func() bool { return count() == "4" })
	for _, wrong := range []string{"", "x", "-1"} {
		s.must(s.Appl.HSet(ctx, "PORT_TABLE:PortConfigDone", "count", wrong).Err())
		s.waitFor("the count in place of "+strconv.Quote(wrong), func() bool { return count() == "4" })
	}
	d.Stop()
	s.must(s.Appl.HSet(ctx, "PORT_TABLE:PortConfigDone", "count", "x").Err())
	s.daemon("-reconcile-interval", "0")
	s.waitFor("the count after the start", func() bool { return count() == "4" })
}
