package main

import (
	"errors"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portsyncd/internal/switchtest"
)

// The links' network namespace goes, and is made again, as when a database container of a switch of several ASICs
// starts again.

// TestNamespaceMadeAgain: links are those of the new one, also where they have ifindexes that were others' before.
func TestNamespaceMadeAgain(t *testing.T) {
	for name, absent := range map[string]bool{"at once": false, "after a time": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSwitch(t, switchtest.Options{})
			s.must(s.AddPorts("Ethernet96")) // a left-over
			d, _ := s.start(4)
			s.waitFor("the left-over to be down", func() bool { return !s.adminUp("Ethernet96") })
			was := map[string]int{}
			for _, p := range append(portNames(4), "Ethernet96") {
				was[p] = s.ifindex(p)
			}
			s.must(s.State.HSet(t.Context(), "PORT_TABLE|Ethernet12", "host_tx_ready", "true").Err())

			begun := time.Now()
			s.must(s.DropNetNS())
			if absent {
				s.waitStatus(d, "netlink: the network namespace is gone, and waited for")
				begun = time.Now()
			}
			s.must(s.MakeNetNS(map[string]int{"Ethernet12": was["Ethernet96"], "Ethernet8": was["Ethernet0"], "Ethernet0": 500}))
			s.must(s.IP("link", "set", "Ethernet0", "mtu", "2000"))
			s.waitEntry("Ethernet4", nil)
			s.waitEntry("Ethernet0", fields("up", "up", 2000))
			s.waitEntry("Ethernet8", fields("up", "up", 1500))
			with := fields("up", "up", 1500)
			with["host_tx_ready"] = "true" // it may be of the new interface
			s.waitEntry("Ethernet12", with)
			t.Logf("right after %v", time.Since(begun).Round(10*time.Millisecond))

			s.must(s.IP("link", "set", "Ethernet12", "mtu", "3000")) // heard, and not a left-over's
			with["mtu"] = "3000"
			s.waitEntry("Ethernet12", with)
			s.must(s.AddPortsAs(map[string]int{"Ethernet4": was["Ethernet4"]}))
			s.waitEntry("Ethernet4", fields("up", "up", 1500))
			s.waitStatus(d, "ok\n", "4 present: 4 up")
			if got := s.State.HGet(t.Context(), "PORTSYNCD_START_TABLE|old_interfaces", "ifindexes").Val(); got != "" {
				t.Errorf("STATE_DB still says that %s are old", got)
			}
			for _, p := range portNames(4) {
				if got := s.metric(d, `portsyncd_port_flaps_total{port="`+p+`"}`); got != "0" || !s.adminUp(p) {
					t.Errorf("%s has flapped %s times, is up: %v", p, got, s.adminUp(p))
				}
			}
			if got := s.metric(d, `portsyncd_resyncs_total{reason="namespace"}`); got != "1" {
				t.Errorf("%s listings because the namespace was made again", got)
			}
			if out := sh(t, s.program[0], "events", "-recorder.file", s.Recorder()); !strings.Contains(out, "made again") {
				t.Errorf("the recorder does not tell of it:\n%s", out)
			}
		})
	}
}

// ifindex is that of a front-panel link.
func (s *testSwitch) ifindex(link string) int {
	out, err := exec.Command("ip", "-n", s.NetNS, "-o", "link", "show", "dev", link).Output()
	s.must(err)
	text, _, _ := strings.Cut(string(out), ":")
	index, err := strconv.Atoi(text)
	s.must(err)
	return index
}

// TestNothingIsSetDownInAnotherNamespace: the name may be another one's between the decision and its carrying out.
func TestNothingIsSetDownInAnotherNamespace(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	s.must(s.AddPorts("Ethernet0"))
	k := s.openLinks()
	home, index := k.Home(), int32(s.ifindex("Ethernet0"))
	s.must(s.DropNetNS())
	if moved, err := k.Follow(); moved || !errors.Is(err, errNoNetNS) {
		t.Errorf("a name that nothing has: moved %v, %v", moved, err)
	}
	s.must(s.MakeNetNS(map[string]int{"Ethernet4": int(index)}))
	for _, followed := range []bool{false, true} {
		if followed {
			if moved, err := k.Follow(); !moved || err != nil || k.Home() == home {
				t.Errorf("a name of another: moved %v, %v", moved, err)
			}
		}
		failed := map[int32]error{}
		k.SetDown(home, []int32{index}, func(i int32, err error) { failed[i] = err })
		if !errors.Is(failed[index], errMoved) || !s.adminUp("Ethernet4") {
			t.Errorf("failures %v; Ethernet4 up: %v", failed, s.adminUp("Ethernet4"))
		}
	}
	k.SetDown(k.Home(), []int32{index}, func(_ int32, err error) { t.Error(err) })
	if s.adminUp("Ethernet4") {
		t.Error("a link of the namespace that is meant was not set down")
	}
}

// TestPortInitDoneWaitsForTheInterfacesOfANamespaceMadeAgain: an APPL_DB that was flushed with it gets the signal when
// they are there, and not because they were seen once.
func TestPortInitDoneWaitsForTheInterfacesOfANamespaceMadeAgain(t *testing.T) {
	b := runningBench(t, "Ethernet0")
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	b.want("a start", "SET Ethernet0 up/up 1500", "PortInitDone")
	b.source.home.inode++
	b.clock = b.clock.Add(beatInterval + shortBeat)
	b.db.signalsGone, b.db.initDone = true, false
	b.distrust()
	b.turn()
	b.dumpDone(false, nil) // no links
	b.settleDown()
	b.db.signalsGone = false
	b.settleDown()
	if !slices.Contains(b.db.done, "PortConfigDone 1") || slices.Contains(b.db.done, "PortInitDone") ||
		!slices.Contains(b.db.done, "DEL Ethernet0") || len(b.db.state) > 0 {
		t.Errorf("the databases got %q, want DEL, PortConfigDone, and not PortInitDone", b.db.done)
	}
	b.db.done = nil
	b.say(linkMessage{index: 1, flags: unix.IFF_UP, mtu: 9100}, "Ethernet0")
	b.settleDown()
	b.want("its interface", "SET Ethernet0 down/up 9100", "PortInitDone")
}
