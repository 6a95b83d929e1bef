package main

import (
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

const featureRow = "FEATURE|swss"

// TestFeatureStatus: what SONiC's sysmonitor reads of a container, on a real Redis. The row's other fields are the
// container's, and its three are written when they change. A start that is under way is no failure, which false would be to some sysmonitors.
func TestFeatureStatus(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	ctx := t.Context()
	s.must(s.Configure(ctx, 2))
	s.must(s.State.HSet(ctx, featureRow, "container_id", "c0ffee", "up_status", "true", "fail_reason", "", "update_time", "1.5").Err())
	var writes atomic.Int32
	stop, err := s.Redis[0].Events(s.StateID, featureRow, func(switchtest.KeyEvent) { writes.Add(1) })
	s.must(err)
	defer stop()
	status := func() map[string]string { return s.State.HGetAll(ctx, featureRow).Val() }
	s.orchagent(false)
	begun := time.Now()
	d := s.daemon("-feature-status", "-reconcile-interval", "1s")
	s.waitFor("the row to say that a start is under way", func() bool {
		return status()["up_status"] == "" && status()["fail_reason"] != ""
	})
	s.must(s.AddPorts("Ethernet0", "Ethernet4"))
	s.waitFor("the row to say ready", func() bool {
		h := status()
		return h["up_status"] == "true" && h["fail_reason"] == ""
	})
	if s.Appl.Exists(ctx, "PORT_TABLE:PortInitDone", "_PORT_TABLE:PortInitDone").Val() == 0 {
		t.Error("it says ready before PortInitDone")
	}
	h := status()
	at, err := strconv.ParseFloat(h["update_time"], 64)
	if told := time.Unix(int64(at), 0); err != nil || told.Before(begun.Truncate(time.Second)) || told.After(time.Now()) {
		t.Errorf("update_time is %q, it began at %v", h["update_time"], begun)
	}
	if h["container_id"] != "c0ffee" || len(h) != 4 {
		t.Errorf("the row is %v", h)
	}
	compared := s.number(d, `portsyncd_resyncs_total{reason="reconcile"}`)
	s.waitFor("two comparisons", func() bool {
		return s.number(d, `portsyncd_resyncs_total{reason="reconcile"}`) >= compared+2
	})
	if n := writes.Load(); n != 2 {
		t.Errorf("the row was written %d times, want 2", n)
	}
	s.must(s.State.Del(ctx, featureRow).Err())
	s.waitFor("the row to be there again", func() bool { return status()["up_status"] == "true" })

	s.must(s.State.Set(ctx, featureRow, "not a hash", 0).Err())
	s.waitFor("the refusal", func() bool { return d.Logged("STATE_DB refuses FEATURE swss") == 1 })
	s.must(s.IP("link", "set", "Ethernet0", "mtu", "1400"))
	s.waitEntry("Ethernet0", fields("up", "up", 1400))
	if got := s.metric(d, `portsyncd_health_check{check="redis"}`); got != "1" || !d.Running() {
		t.Errorf("a row of another type makes redis %s", got)
	}
}

// TestFeatureStatusIsOnlyWrittenIfAskedFor: the row is the container's.
func TestFeatureStatusIsOnlyWrittenIfAskedFor(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(1)
	s.waitMetric(d, "portsyncd_port_init_done", "1")
	if s.State.Exists(t.Context(), featureRow).Val() != 0 {
		t.Error("it is written without the flag")
	}
}
