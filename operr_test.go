package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// TestFaultsAreJoinedToTheLossOfTheSameMoment, and to nothing else.
func TestFaultsAreJoinedToTheLossOfTheSameMoment(t *testing.T) {
	start := time.Now().Add(-time.Hour)
	type step struct {
		after time.Duration
		mtu   uint32 // of a message; 0: the carrier, which is
		up    bool
		says  faults // orchagent, instead
	}
	lost, back := step{up: false}, step{up: true}
	for name, c := range map[string]struct {
		steps []step
		want  []string // by event
	}{
		"after the message":   {[]step{lost, {after: 50 * time.Microsecond, says: 2}}, []string{"", "mac_remote_fault"}},
		"before the message":  {[]step{{says: 2}, {after: time.Second}}, []string{"", "mac_remote_fault"}},
		"two in a row":        {[]step{lost, {says: 2}, {says: 2 | 1<<12}}, []string{"", "mac_remote_fault no_rx_reachability"}},
		"back in between":     {[]step{lost, back, {says: 1}}, []string{"", "mac_local_fault", ""}},
		"of the later loss":   {[]step{lost, back, lost, {says: 1}}, []string{"", "", "", "mac_local_fault"}},
		"too late":            {[]step{lost, {after: 3 * time.Second, says: 1}}, []string{"", ""}},
		"too early":           {[]step{{says: 1}, {after: 3 * time.Second}}, []string{"", ""}},
		"no loss":             {[]step{{mtu: 9100}, {says: 1}}, []string{"", ""}},
		"joined only once":    {[]step{lost, {says: 1}, back, lost}, []string{"", "mac_local_fault", "", ""}},
		"one without a name":  {[]step{lost, {says: 1 << 15}}, []string{"", "error_15"}},
		"a repair in between": {[]step{lost, {mtu: 1}, {says: 1}}, []string{"", "mac_local_fault", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			r, path := testRecorder(t, 1)
			p := &port{name: "Ethernet0"}
			m, at := &linkMessage{index: 5, flags: upRunning, mtu: 1500, hasCarrier: true}, start
			r.link(p, m, false, at)
			for _, s := range c.steps {
				at = at.Add(s.after)
				switch {
				case s.says != 0:
					r.faulted(p, s.says, at)
					continue
				case s.mtu == 1:
					r.repaired(p, causeRepaired, "ok up up 1500", at)
					continue
				case s.mtu != 0:
					m.mtu = s.mtu
				case s.up:
					m.flags, m.carrierUp = upRunning, m.carrierUp+1
				default:
					m.flags, m.carrierDown = upOnly, m.carrierDown+1
				}
				r.link(p, m, false, at)
				r.sent(p, at)
				r.landed(p, &portWrite{outcome: outcome{written: true}}, at)
			}
			var got []string
			for _, h := range tookDown(t, path, "Ethernet0") {
				got = append(got, strings.Join(h.Faults, " "))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestManyLossesAreNoFaults: the count that they share four bytes with has an end.
func TestManyLossesAreNoFaults(t *testing.T) {
	r, path := testRecorder(t, 1)
	p := &port{name: "Ethernet0"}
	r.link(p, &linkMessage{index: 5, flags: upRunning, hasCarrier: true}, false, time.Now())
	r.link(p, &linkMessage{index: 5, flags: upOnly, hasCarrier: true, carrierDown: 1 << 20}, false, time.Now())
	if last := tookDown(t, path, "Ethernet0")[1]; last.Missed != 65535 || last.Faults != nil {
		t.Errorf("%+v", last)
	}
}

// TestOrchagentSaysWhy, on the server of APPL_DB or on one of its own; what is no fault, or makes no sense, says nothing.
func TestOrchagentSaysWhy(t *testing.T) {
	for _, o := range []switchtest.Options{{}, {Split: true}} {
		t.Run(fmt.Sprint("split ", o.Split), func(t *testing.T) {
			t.Parallel()
			s := newSwitch(t, o)
			s.start(2)
			says := func(port string, fields ...any) {
				s.must(s.State.HSet(t.Context(), "PORT_OPERR_TABLE|"+port, fields...).Err())
			}
			s.must(s.SetCable(false, "Ethernet0", "Ethernet4"))
			s.waitEntry("Ethernet0", fields("down", "up", 1500))
			s.waitEntry("Ethernet4", fields("down", "up", 1500))
			says("Ethernet4", "oper_error_status", "many")
			says("Ethernet4", "oper_error_status", "0")
			says("Ethernet404", "oper_error_status", "1")
			says("Ethernet0", "oper_error_status", "6", "oper_error_status_time", "2026-11-25 10:00:00",
				"mac_remote_fault_count", "1", "mac_remote_fault_time", "2026-11-25 10:00:00")
			s.waitFor("the fault", func() bool {
				all := s.eventsOf("Ethernet0")
				last := all[len(all)-1]
				return slices.Equal(last.Faults, []string{"mac_remote_fault", "fec_sync_loss"}) &&
					strings.Contains(last.line(), "- orchagent says mac_remote_fault, fec_sync_loss")
			})
			for _, h := range s.eventsOf("Ethernet4") {
				if h.Faults != nil {
					t.Errorf("%+v", h)
				}
			}
		})
	}
}
