package main

import (
	"bytes"
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"portsyncd/internal/switchtest"
)

// What a second close reading found on the real databases and the real kernel.

// TestColdStartWhoseCountIsNotAcknowledgedStaysCold: a warm restart was asked for and there was no restore_count; the
// answer to the first one comes too late, and the second try finds it.
func TestColdStartWhoseCountIsNotAcknowledgedStaysCold(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	var held atomic.Int32
	s.must(s.Configure(t.Context(), 2))
	s.askWarm("system")
	s.proxied(func(request []byte) (v switchtest.Verdict) {
		if bytes.Contains(request, []byte("hset")) && bytes.Contains(request, []byte("restore_count")) && held.Add(1) == 1 {
			v.Hold = dbTimeout + 500*time.Millisecond
		}
		return v
	})
	s.orchagent(true)
	d := s.daemon()
	s.waitFor("the decision", func() bool { return d.Logged("start decided") == 1 })
	if d.Logged("start decided", "warm=false") != 1 {
		t.Error("the start is warm because of its own restore_count: nothing is announced")
	}
	if got := s.warmField("restore_count"); got != "0" {
		t.Errorf("restore_count is %s, want 0", got)
	}
}

// TestWarmStartCountsOnce whatever becomes of the answer.
func TestWarmStartCountsOnce(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	var held atomic.Int32
	s.must(s.Configure(t.Context(), 2))
	s.askWarm("system")
	s.must(s.State.HSet(t.Context(), s.StateRow("WARM_RESTART_TABLE", appName), "restore_count", "4").Err())
	s.proxied(func(request []byte) (v switchtest.Verdict) {
		if bytes.Contains(request, []byte("hset")) && bytes.Contains(request, []byte("restore_count")) && held.Add(1) == 1 {
			v.Hold = dbTimeout + 500*time.Millisecond
		}
		return v
	})
	d := s.daemon()
	s.waitFor("the decision", func() bool { return d.Logged("start decided", "warm=true") == 1 })
	if got := s.warmField("restore_count"); got != "5" {
		t.Errorf("restore_count is %s, want 5", got)
	}
}

// TestRefusedKeySetDoesNotDelayPorts: PortInitDone cannot be sent, and that is all.
func TestRefusedKeySetDoesNotDelayPorts(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	ctx := t.Context()
	s.must(s.Configure(ctx, 2))
	o := s.orchagent(false)
	d := s.daemon("-reconcile-interval", "0")
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	s.waitFor("the set to be popped", func() bool { return s.Appl.Exists(ctx, "PORT_TABLE_KEY_SET").Val() == 0 })
	s.must(s.Appl.Set(ctx, "PORT_TABLE_KEY_SET", "not a set", 0).Err())
	s.must(s.AddPorts("Ethernet0", "Ethernet4"))
	s.waitEntry("Ethernet0", fields("up", "up", 1500))
	s.waitFor("the refusal", func() bool { return d.Logged("APPL_DB refuses PortInitDone") == 1 })
	worst := time.Duration(0)
	for i := range 6 {
		start := time.Now()
		s.must(s.IP("link", "set", "Ethernet0", "mtu", strconv.Itoa(1400+i)))
		s.waitEntry("Ethernet0", fields("up", "up", 1400+i))
		worst = max(worst, time.Since(start))
	}
	if worst > 300*time.Millisecond {
		t.Errorf("a change took %v", worst)
	}
	s.must(s.Appl.Del(ctx, "PORT_TABLE_KEY_SET").Err())
	s.waitMetric(d, "portsyncd_port_init_done", "1")
}

// TestPortThatAPPLDBRefusesIsSaid: it is not announced, and nothing else would tell.
func TestPortThatAPPLDBRefusesIsSaid(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 2))
	s.must(s.Appl.Set(t.Context(), "_PORT_TABLE:Ethernet4", "not a hash", 0).Err())
	o := s.orchagent(false)
	d := s.daemon()
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	s.waitMetric(d, "portsyncd_port_config_done", "1")
	if d.Logged("Ethernet4") == 0 {
		t.Error("the log does not name the port that was not announced")
	}
}

// TestForeignKeyOfAPortWithoutInterfaceIsLeftAlone: it is no entry of ours, and nothing of ours waits for it.
func TestForeignKeyOfAPortWithoutInterfaceIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.must(s.State.Set(t.Context(), s.StateKey("Ethernet96"), "not a hash", 0).Err())
	d, _ := s.start(2, "-reconcile-interval", "1s")
	compared := s.number(d, `portsyncd_resyncs_total{reason="reconcile"}`)
	s.waitFor("three comparisons", func() bool {
		return s.number(d, `portsyncd_resyncs_total{reason="reconcile"}`) >= compared+3
	})
	s.waitMetric(d, "portsyncd_queue_depth", "0")
	if got := s.metric(d, `portsyncd_health_check{check="redis"}`); got != "1" {
		t.Errorf("redis is %s", got)
	}
}

// TestListingThatFollowsOneGivenUp: the kernel still has the first one under way, and takes no second.
func TestListingThatFollowsOneGivenUp(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.must(s.AddPorts(portNames(150)...))
	k := s.openLinks()
	c := &collector{}
	s.must(k.StartDump())
	if _, err := k.Receive(c); err != nil { // the first datagram
		t.Fatal(err)
	}
	s.must(k.StartDump())
	c.lines = nil
	s.receive(k, c, "the end", func() bool { return c.dumpEnds > 0 })
	if c.dumpErr != nil || len(c.lines) < 150 {
		t.Errorf("the second listing ended with %v after %d lines", c.dumpErr, len(c.lines))
	}
}

// TestCreationsOfEveryKindAreTold: passes, and guards what "never old" rests on: taps, links that are created up, and
// links that come from another namespace.
func TestCreationsOfEveryKindAreTold(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	for name, create := range map[string][][]string{
		"tap":        {{"tuntap", "add", "dev", "Ethernet0", "mode", "tap"}},
		"created up": {{"link", "add", "Ethernet0", "up", "type", "veth", "peer", "name", "far0"}},
	} {
		t.Run(name, func(t *testing.T) {
			links := s.openLinks()
			for _, args := range create {
				s.must(s.IP(args...))
			}
			s.must(s.IP("link", "del", "Ethernet0"))
			var sink creations
			s.receive(links, &sink, "the deletion", func() bool { return sink.deleted })
			if sink.created != 1 {
				t.Errorf("%d messages say that the link is new", sink.created)
			}
		})
	}
	t.Run("moved in", func(t *testing.T) {
		s.must(s.Batch(s.FarNS, "link add Ethernet0 type veth peer name far0"))
		links := s.openLinks()
		s.must(s.Batch(s.FarNS, "link set Ethernet0 netns "+s.NetNS))
		s.must(s.IP("link", "del", "Ethernet0"))
		var sink creations
		s.receive(links, &sink, "the deletion", func() bool { return sink.deleted })
		if sink.created != 1 {
			t.Errorf("%d messages say that the link is new", sink.created)
		}
	})
}

// TestReplacedPortIsNotDeletedAgain: a running switch loses APPL_DB, and while it is announced again an operator replaces
// a port. It is dropped, and configured again before we take it back; orchagent has it by then, with what portmgrd adds.
func TestReplacedPortIsNotDeletedAgain(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	ctx := t.Context()
	s.must(s.Configure(ctx, 3))
	var armed, back atomic.Bool
	var dropped, returned bool // the proxy's
	var deleted atomic.Int32
	inAppl := func() bool { return s.Appl.HGet(ctx, "PORT_TABLE:Ethernet4", "mtu").Val() == "9100" }
	s.proxied(func(request []byte) (v switchtest.Verdict) {
		switch {
		case armed.Load() && announces(request, "Ethernet4") && !dropped:
			dropped = true
			s.must(s.Config.Del(ctx, s.ConfigKey("PORT", "Ethernet4")).Err())
		case bytes.Contains(request, []byte("PORT_TABLE_DEL_SET")) && !returned:
			returned = true
			s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", "Ethernet4"), "lanes", "1", "speed", "25000").Err())
			s.must(s.Appl.HSet(ctx, "_PORT_TABLE:Ethernet4", "lanes", "1", "speed", "25000", "mtu", "9100").Err())
			s.must(s.Appl.SAdd(ctx, "PORT_TABLE_KEY_SET", "Ethernet4").Err())
			s.must(s.Appl.Publish(ctx, "PORT_TABLE_CHANNEL@"+strconv.Itoa(s.ApplID), "G").Err())
			for end := time.Now().Add(time.Second); !inAppl() && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			back.Store(true)
		}
		return v
	})
	s.orchagent(true)
	left := func() { // by one that was killed amid an announcement: this one is none that is a single step
		s.must(s.State.HSet(ctx, s.ConfigKey(startRows, pushedRow), "Ethernet0", "").Err())
	}
	left()
	d := s.daemon("-reconcile-interval", "1s")
	s.waitMetric(d, "portsyncd_port_init_done", "1")
	stop, err := s.Redis[0].Events(s.ApplID, "PORT_TABLE:Ethernet4", func(e switchtest.KeyEvent) {
		if back.Load() && e.Operation == "del" {
			deleted.Add(1)
		}
	})
	s.must(err)
	defer stop()
	armed.Store(true)
	left()
	s.must(s.Appl.FlushDB(ctx).Err())
	s.waitFor("the announcement", func() bool { return d.Logged("PortConfigDone sent", "count=3") == 2 })
	s.waitFor("orchagent to have it", func() bool { return s.Appl.Exists(ctx, "PORT_TABLE:PortConfigDone").Val() == 1 })
	if !returned || deleted.Load() > 0 || !inAppl() {
		t.Errorf("a port that came back (%v) was deleted %d times under orchagent, and has portmgrd's mtu: %v", returned,
			deleted.Load(), inAppl())
	}
}

// TestRefusedPortThatIsDroppedIsNotTakenBack: the key that APPL_DB has in its place is somebody else's.
func TestRefusedPortThatIsDroppedIsNotTakenBack(t *testing.T) {
	s := newSwitch(t, switchtest.Options{ApartConfig: true})
	ctx := t.Context()
	s.must(s.Configure(ctx, 3))
	s.must(s.Appl.Set(ctx, "_PORT_TABLE:Ethernet4", "somebody else's", 0).Err())
	dropped := false
	s.proxied(func(request []byte) (v switchtest.Verdict) {
		if announces(request, "Ethernet4") && !dropped {
			dropped = true
			s.must(s.Config.Del(ctx, s.ConfigKey("PORT", "Ethernet4")).Err())
		}
		return v
	})
	d := s.daemon()
	s.waitMetric(d, "portsyncd_port_config_done", "1")
	if got, err := s.Appl.Get(ctx, "_PORT_TABLE:Ethernet4").Result(); err != nil {
		t.Errorf("somebody else's key is %q, %v", got, err)
	}
	if s.Appl.SIsMember(ctx, "PORT_TABLE_KEY_SET", "Ethernet4").Val() {
		t.Error("the deletion of a port that was never announced is announced")
	}
	if d.Logged("APPL_DB refuses ports") > 0 {
		t.Error("the log asks for a port to be configured again that CONFIG_DB does not have")
	}
}

// TestCountAfterAWarmStartThatLacksAPort: a configured port never gets an interface, so the start does not end; a day
// later an operator adds another port.
func TestCountAfterAWarmStartThatLacksAPort(t *testing.T) {
	b := newBench(t, "Ethernet0", "Ethernet4")
	b.db.facts = startFacts{warm: true, signals: signals{configDone: true, initDone: true, count: 2}, events: true}
	b.turn()
	b.line(news(1, running), "Ethernet0")
	b.dumpDone(false, nil)
	b.settleDown()
	b.clock = b.clock.Add(24 * time.Hour)
	b.settleDown()
	b.db.done = nil
	b.db.config.ports = append(b.db.config.ports, portConfig{"Ethernet8", packedFields()})
	b.start.wantLook(true)
	b.settleDown()
	b.want("a port that was added a day after a warm start", "PortConfigDone 3")
}

// longList is a STATE_DB whose list of keys takes many answers, each of which comes at once.
type longList struct{ answers int }

func (l *longList) Exec(_ context.Context, commands []redis.Cmder) error {
	l.answers--
	commands[0].(*redis.Cmd).SetVal(pack([]any{strconv.Itoa(l.answers), []any{}}))
	return nil
}
func (*longList) Nudge() {}

func (*longList) Subscribe(context.Context, []string, func(), func(channel, payload string)) error {
	panic("nobody asked for that")
}
func (*longList) Close() error { return nil }

// TestLongListIsSaidToBeSlow: the loop must not wait for all of it.
func TestLongListIsSaidToBeSlow(t *testing.T) {
	for _, answers := range []int{1, 300} {
		slow := 0
		d := &sonicDB{m: newMetrics("test"), slow: func() { slow++ }, state: &longList{answers}}
		_, err := d.listState(t.Context())
		must(t, err)
		if (slow > 0) != (answers > 1) {
			t.Errorf("a list of %d answers was said to be slow %d times", answers, slow)
		}
	}
}
