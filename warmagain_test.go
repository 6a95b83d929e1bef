package main

import (
	"syscall"
	"testing"

	"portsyncd/internal/switchtest"
)

// A turn that is not warm, after one that was.

// TestWarmStartIsOverWithItsTurn: a daemon that started warm, handed over, and has taken over again does not start warm any more. The query of
// docs/metrics.md for a warm restart that does not come to an end would find it for good.
func TestWarmStartIsOverWithItsTurn(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	first, _ := s.start(2)
	s.must(first.Signal(syscall.SIGTERM))
	_, err := first.Wait(patience)
	s.must(err)
	ctx := t.Context()
	s.must(s.State.HSet(ctx, "WARM_RESTART_ENABLE_TABLE|swss", "enable", "true").Err())
	s.must(s.State.HSet(ctx, "WARM_RESTART_TABLE|portsyncd", "restore_count", "0").Err())
	a := s.daemon("-instance", "a")
	s.waitMetric(a, `portsyncd_warm_restart_state{state="reconciled"}`, "1")
	s.waitMetric(a, "portsyncd_warm_start", "1")
	s.must(s.State.HSet(ctx, "WARM_RESTART_ENABLE_TABLE|swss", "enable", "false").Err()) // as finalize-warmboot does
	b := s.standby("-instance", "b")
	for _, d := range []*switchtest.Daemon{a, b} {
		if code, out := s.handover(d); code != exitOK {
			t.Fatal(code, out)
		}
		for _, other := range []*switchtest.Daemon{a, b} {
			if other != d {
				s.waitRole(other, roleWriter)
				s.waitMetric(other, "portsyncd_port_init_done", "1")
			}
		}
		s.waitReady(d)
	}
	text := s.scrape(a)
	if warm, over := sample(text, "portsyncd_warm_start"), sample(text, `portsyncd_warm_restart_state{state="reconciled"}`); warm == "1" && over != "1" {
		t.Errorf("it has taken over, and says that it started warm (%s) and has not reconciled (%s)", warm, over)
	}
}

// TestWarmStartThatLacksPortConfigDone: APPL_DB was emptied before a warm start, whose interfaces come late. Ports and signals are announced when it is
// complete, and not a minute later, with the next comparison.
func TestWarmStartThatLacksPortConfigDone(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	ctx := t.Context()
	s.must(s.Configure(ctx, 2))
	s.must(s.State.HSet(ctx, "WARM_RESTART_TABLE|portsyncd", "restore_count", "0").Err())
	s.askWarm("swss")
	o := s.orchagent(false)
	d := s.daemon()
	s.waitMetric(d, `portsyncd_resyncs_total{reason="reconcile"}`, "1")
	if o.Signal("PortConfigDone") != nil {
		t.Error("it was announced before the start was complete")
	}
	s.must(s.AddPorts(portNames(2)...))
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	s.waitEntry("Ethernet4", fields("up", "up", 1500))
}
