package main

import (
	"bytes"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

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
	o := s.orchagent(true)
	d := s.daemon()
	s.waitFor("the decision", func() bool { return d.Logged("start decided") == 1 })
	if d.Logged("start decided", "warm=false") != 1 {
		t.Error("the start is warm because of its own restore_count: nothing is announced")
	}
	if got := s.warmField("restore_count"); got != "0" {
		t.Errorf("restore_count is %s, want 0", got)
	}
	_ = o
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
