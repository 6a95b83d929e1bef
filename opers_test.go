package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// TestOrchagentAndTheKernelDisagreeForGood: the cases of sonic-buildimage#22257, in which orchagent missed that a port
// came up and the kernel did not, and of #24689, the other way round. diff and health name both, each port with what is
// said of it; the switch is ready all the same, and nobody touches orchagent's field.
func TestOrchagentAndTheKernelDisagreeForGood(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(6, "-reconcile-interval", "1s")
	ctx := t.Context()
	for _, p := range portNames(6) {
		s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", p), "mtu", "1500").Err())
		s.must(s.Appl.HSet(ctx, "PORT_TABLE:"+p, "oper_status", "up").Err())
	}
	s.must(s.SetCable(false, "Ethernet12", "Ethernet16"))
	s.waitEntry("Ethernet12", fields("down", "up", 1500))
	s.waitEntry("Ethernet16", fields("down", "up", 1500))
	s.must(s.Appl.HSet(ctx, "PORT_TABLE:Ethernet8", "oper_status", "down").Err())
	s.must(s.Appl.HSet(ctx, "PORT_TABLE:Ethernet16", "oper_status", "not_present").Err()) // another word for down
	code, out := s.waitStatus(d, "differs: 2 ports differ, the first is Ethernet", ", since 2",
		"orchagent's oper_status is down, the kernel's up", "orchagent's oper_status is up, the kernel's down",
		"Ethernet8   Eth3  differs", "Ethernet12  Eth4  differs", "portsyncd diff says")
	if code != exitNotWell || strings.Contains(out, "failed") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	s.waitMetric(d, `portsyncd_health_check{check="differs"}`, "0.5")
	if code, body := ask(t, d, "GET", "/readyz"); code != http.StatusOK {
		t.Errorf("not ready: %d %s", code, body)
	}
	_, out, _ = s.diff("-json")
	var r diffReport
	s.must(json.Unmarshal([]byte(out), &r))
	if got := fmt.Sprint(names(r.Ports)); got != "[Ethernet8 Ethernet12]" {
		t.Errorf("diff names %s: %s", got, out)
	}
	for port, want := range map[string]string{"Ethernet8": "down", "Ethernet12": "up", "Ethernet16": "not_present"} {
		if got := s.Appl.HGet(ctx, "PORT_TABLE:"+port, "oper_status").Val(); got != want {
			t.Errorf("oper_status of %s is %s", port, got)
		}
	}
	s.must(s.Appl.HSet(ctx, "PORT_TABLE:Ethernet8", "oper_status", "up").Err())
	s.must(s.SetCable(true, "Ethernet12"))
	s.waitMetric(d, `portsyncd_health_check{check="differs"}`, "1")
	s.must(s.Appl.HSet(ctx, "PORT_TABLE:Ethernet4", "oper_status", "down").Err())
	s.waitMetric(d, `portsyncd_health_check{check="differs"}`, "0.5")
	s.must(s.IP("link", "del", "Ethernet4")) // nothing is left to differ in
	s.waitMetric(d, `portsyncd_health_check{check="differs"}`, "1")
}

func names(ports []portDiff) (names []string) {
	for _, p := range ports {
		names = append(names, p.Port)
	}
	return names
}

// TestDifferenceHasToLast: two seconds, of an interface that does not change meanwhile.
func TestDifferenceHasToLast(t *testing.T) {
	d, at := new(operLook), time.Unix(1e9, 0)
	ports := []*port{{name: "Ethernet0", series: newMetrics("").newPort("Ethernet0", 0)}, {name: "Ethernet4", slot: 1, series: newMetrics("").newPort("Ethernet4", 0)}}
	step := func(what string, after time.Duration, p *port, says string, changed float64, want ...string) {
		t.Helper()
		at = at.Add(after)
		d.look(p, says, changed, at)
		var got []string
		for _, p := range d.ports {
			got = append(got, p.name)
			if says := p.series.differs.Load(); says == nil || *says == "" {
				t.Errorf("%s: nothing is published of %s", what, p.name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	step("seen", 0, ports[0], "a", 1)
	if wait := d.wait(at); wait != settleTime {
		t.Errorf("it is looked at again after %v", wait)
	}
	step("too early", settleTime-1, ports[0], "a", 1)
	step("changed meanwhile", 1, ports[0], "a", 2)
	step("otherwise", settleTime, ports[0], "b", 2)
	step("lasts", settleTime, ports[0], "b", 2, "Ethernet0")
	step("another port", 0, ports[1], "d", 2, "Ethernet0")
	step("which lasts, too", settleTime, ports[1], "d", 2, "Ethernet0", "Ethernet4")
	all, news := d.news()
	if !news || len(all) != 2 || all[0].says != "b" || all[1] != (disagreement{"Ethernet4", "d", at.Add(-settleTime)}) {
		t.Errorf("%+v %v", all, news)
	}
	if _, news := d.news(); news {
		t.Error("that is no news")
	}
	step("over", 0, ports[0], "", 2, "Ethernet4")
	d.forget(ports[1])
	if all, news := d.news(); !news || len(all) > 0 || ports[0].series.differs.Load() != nil || ports[1].series.differs.Load() != nil {
		t.Errorf("%+v %v", all, news)
	}
	if again := d.take(); len(again) != 1 || again[0] != ports[0] {
		t.Errorf("to be looked at again: %v", again)
	}
	if n := testing.AllocsPerRun(100, func() { d.look(ports[1], "", 1, at); d.changed(ports[1], at) }); n != 0 {
		t.Errorf("%v allocations where all agree", n)
	}
}

// TestDisagreementsOfTwoSources are one check: a port counts once, one that has just begun not at all.
func TestDisagreementsOfTwoSources(t *testing.T) {
	h, now := new(health), time.Unix(1e9, 0)
	h.listed.Store(true)
	h.differ.tell(operDisagrees, []disagreement{{"Ethernet4", "a", now.Add(-time.Minute)}, {"Ethernet8", "b", now.Add(-settleTime + 1)}})
	h.differ.tell(stateDisagrees, []disagreement{{"Ethernet4", "c", now.Add(-time.Hour)}, {"Ethernet0", "d", now.Add(-settleTime)}})
	if got := h.differ.differing(now); got != "2 ports differ, the first is Ethernet4, since 2001-09-09T00:46:40Z: c" {
		t.Error(got)
	}
	h.initDone.Store(true)
	if failing := h.Ready(now, nil); len(failing) != 1 { // STATE_DB is not what the kernel says
		t.Errorf("ready: %q", failing)
	}
	h.differ.tell(stateDisagrees, nil)
	if failing := h.Ready(now, nil); len(failing) > 0 {
		t.Errorf("not ready: %q", failing)
	}
	h.differ.tell(operDisagrees, nil)
	if got := h.differ.differing(now); got != "" {
		t.Error(got)
	}
}
