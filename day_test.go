package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// day is a switch on which one thing after another happens to a port, beside a second one for storms.
type day struct {
	*testSwitch
	d           *switchtest.Daemon
	name, other string
}

// dayFlags: a small buffer can be overrun, and a comparison comes soon.
var dayFlags = []string{"-netlink.receive-buffer", "64KiB", "-reconcile-interval", "1s"}

// kernelSays is a file of a port's in sysfs.
func (s *day) kernelSays(port, file string) string {
	out, err := exec.Command("ip", "netns", "exec", s.NetNS, "cat", "/sys/class/net/"+port+"/"+file).Output()
	s.must(err)
	return strings.TrimSpace(string(out))
}

// settle waits until the kernel itself says so: it tells of a carrier up to a second late.
func (s *day) settle(port, operstate string) error {
	s.waitFor("the kernel to have "+port+" "+operstate, func() bool { return s.kernelSays(port, "operstate") == operstate })
	return nil
}

func (s *day) cable(in bool) func() error { return func() error { return s.SetCable(in, s.name) } }

func (s *day) ip(args ...string) func() error { return func() error { return s.IP(args...) } }

// restarted ends the daemon by a signal, has something happen without one, and starts the next.
func (s *day) restarted(sig syscall.Signal, meanwhile func() error) func() error {
	return func() error {
		s.must(s.d.Signal(sig))
		s.waitFor("its end", func() bool { return !s.d.Running() })
		s.must(meanwhile())
		s.d = s.daemon(dayFlags...)
		return nil
	}
}

// held has something happen while a process is stopped.
func (s *day) held(signal func(syscall.Signal) error, meanwhile func() error) func() error {
	return func() error {
		s.must(signal(syscall.SIGSTOP))
		s.must(meanwhile())
		return signal(syscall.SIGCONT)
	}
}

func (s *day) entry(fields ...any) func() error {
	return func() error { return s.State.HSet(s.t.Context(), s.StateKey(s.name), fields...).Err() }
}

// dayFault is one thing that happens, and what is told of the port then. "admin up" and "carrier back" may be one.
type dayFault struct {
	what string
	do   func() error
	want []string
	last string // which the last event's line has, too
}

// faults are what happens, in order.
func (s *day) faults() []dayFault {
	appl := "PORT_TABLE:" + s.name
	daemon := func(sig syscall.Signal) error { return s.d.Signal(sig) }
	redis := func(sig syscall.Signal) error { return s.Redis[0].Process().Signal(sig) }
	nothing := func() error { return nil }
	return []dayFault{
		{"cable out", s.cable(false), []string{"carrier lost"}, "oper down"},
		{"cable in", s.cable(true), []string{"carrier back"}, "oper up"},
		{"MTU", s.ip("link", "set", s.name, "mtu", "9100"), []string{"MTU changed"}, "MTU was 1500"},
		{"set down", s.ip("link", "set", s.name, "down"), []string{"admin down"}, "admin down"},
		{"set up", s.ip("link", "set", s.name, "up"), []string{"admin up", "carrier back"}, "oper up"},
		{"three flaps of a daemon that is stopped", s.held(daemon, func() error {
			s.must(s.Flap(3, s.name))
			return s.settle(s.name, "up")
		}), []string{"admin down", "admin up", "carrier back", "admin down", "admin up", "carrier back", "admin down", "admin up",
			"carrier back"}, "oper up"},
		{"three flaps behind an overrun", s.held(daemon, func() error {
			s.must(s.Batch(s.NetNS, "link add eth1 type veth peer name eth2"))
			s.must(s.Flap(200, "eth1"))
			s.must(s.Flap(3, s.name))
			return s.settle(s.name, "up")
		}), []string{"found by a listing"}, "3 more losses"},
		{"kill -9, and cable out meanwhile", s.restarted(syscall.SIGKILL, func() error {
			s.must(s.SetCable(false, s.name))
			return s.settle(s.name, "down")
		}), []string{"found by a listing"}, "oper down"},
		{"cable in again", s.cable(true), []string{"carrier back"}, "oper up"},
		{"an entry that another program changed", s.entry("netdev_oper_status", "down"), []string{"repaired"}, "oper down, MTU 9100)"},
		{"an entry that another program deleted", func() error {
			return s.State.Del(s.t.Context(), s.StateKey(s.name)).Err()
		}, []string{"repaired"}, "written"},
		{"cable out while Redis hangs", s.held(redis, func() error {
			s.must(s.SetCable(false, s.name))
			s.waitFor("an outage", func() bool { return s.metric(s.d, "portsyncd_redis_connected") == "0" })
			return s.settle(s.name, "down")
		}), []string{"carrier lost"}, "oper down"},
		{"cable in after that", s.cable(true), []string{"carrier back"}, "oper up"},
		{"a remote fault", func() error {
			s.must(s.SetCable(false, s.name))
			s.must(s.settle(s.name, "down"))
			return s.State.HSet(s.t.Context(), "PORT_OPERR_TABLE|"+s.name, "oper_error_status", "2").Err()
		}, []string{"carrier lost"}, "orchagent says mac_remote_fault"},
		{"which is over", s.cable(true), []string{"carrier back"}, "oper up"},
		{"into a bridge and out", func() error {
			return s.Batch(s.NetNS, "link add Bridge type bridge", "link set "+s.name+" master Bridge", "link set "+s.name+" nomaster")
		}, []string{"unknown"}, "ignored: bridge or LAG"},
		{"a restart of the daemon, and nothing else", s.restarted(syscall.SIGTERM, nothing), nil, ""},
		{"another MTU over a restart", s.restarted(syscall.SIGTERM, s.ip("link", "set", s.name, "mtu", "9000")),
			[]string{"found by a listing"}, "MTU was 9100"},
		{"MTU while APPL_DB does not have it", func() error {
			s.must(s.Appl.Rename(s.t.Context(), appl, "kept").Err())
			return s.IP("link", "set", s.name, "mtu", "8000")
		}, []string{"MTU changed"}, ""},
		{"which has it again", func() error { return s.Appl.Rename(s.t.Context(), "kept", appl).Err() }, nil, "written after"},
		{"set down before a rename", s.ip("link", "set", s.name, "down"), []string{"admin down"}, "admin down"},
		{"renamed", s.ip("link", "set", s.name, "name", "tmp0"), []string{"renamed"}, "is gone - deleted"},
		{"and back", s.ip("link", "set", "tmp0", "name", s.name), []string{"created again"}, "admin down"},
		{"up again", s.ip("link", "set", s.name, "up"), []string{"admin up", "carrier back"}, "oper up"},
		{"deleted", s.ip("link", "del", s.name), []string{"admin down", "deleted"}, "is gone - deleted"}, // the kernel sets it down first
	}
}

// TestEventsOfADay: 25 things that are done to a port are told with their cause, each once and none missing, over kill -9
// and restarts of the daemon. After each the losses of carrier that are told are those that the kernel counts.
func TestEventsOfADay(t *testing.T) {
	t.Parallel()
	s := &day{testSwitch: newSwitch(t, switchtest.Options{}), name: "Ethernet0", other: "Ethernet4"}
	s.d, _ = s.start(2, dayFlags...)
	want := whats(s.eventsOf(s.name))
	faults := s.faults()
	if len(faults) != 25 {
		t.Errorf("%d things happen", len(faults))
	}
	for _, f := range faults {
		s.must(f.do())
		want = append(want, f.want...)
		var got []happened
		told := func() bool {
			got = s.eventsOf(s.name)
			last := got[len(got)-1]
			return mergedAs(whats(got), want) && strings.Contains(last.line(), f.last) && last.Outcome != outcomes[outcomePending] &&
				last.Outcome != outcomes[outcomeFailed] && s.lossesAreTheKernels(s.name, got) == ""
		}
		if !eventually(told) {
			t.Fatalf("%s: %s\n%v, want %v: %s", f.what, s.lossesAreTheKernels(s.name, got), whats(got), want, got[len(got)-1].line())
		}
	}
	own := whats(s.eventsOf())
	for what, n := range map[string]int{"started": 4, "stopped": 2, "links listed": 4, "start decided": 4, "PortConfigDone sent": 1,
		"PortInitDone sent": 1, "link messages lost": 1, "databases down": 1, "databases back": 1} {
		got := 0
		for _, w := range own {
			if w == what {
				got++
			}
		}
		if got < n || got > n && what != "PortConfigDone sent" && what != "PortInitDone sent" {
			t.Errorf("%q %d times, want %d: %v", what, got, n, own)
		}
	}
}

// mergedAs says that events are those that are wanted, where "admin up" and "carrier back" may be one message.
func mergedAs(got, want []string) bool {
	one := func(words []string) string {
		return strings.ReplaceAll(strings.Join(words, ","), "admin up,carrier back", "admin up")
	}
	return one(got) == one(want)
}

// lossesAreTheKernels holds the losses that are told of a port's interface against the kernel's own count, empty: they
// are the same, or the interface is gone.
func (s *day) lossesAreTheKernels(port string, all []happened) string {
	last := all[len(all)-1]
	if last.Now == nil {
		return ""
	}
	first := slices.IndexFunc(all, func(h happened) bool { return h.Ifindex == last.Ifindex && h.Now != nil })
	told := 0
	for i, h := range all[first+1:] {
		if h.What == causes[causeRepaired] || h.What == causes[causeCreated] || h.What == causes[causeRecreated] {
			continue
		}
		told += losses(all[first+1+i : first+2+i])
	}
	kernel, err := strconv.Atoi(s.kernelSays(port, "carrier_down_count"))
	s.must(err)
	if counted := kernel - int(all[first].Carrier.Down); told != counted {
		return fmt.Sprintf("%d losses of carrier are told, the kernel counts %d", told, counted)
	}
	return ""
}

// TestDaemonWhoseRecorderIsCutShort goes on, opens it again, and records what happens from then on.
func TestDaemonWhoseRecorderIsCutShort(t *testing.T) {
	t.Parallel()
	s := &day{testSwitch: newSwitch(t, switchtest.Options{}), name: "Ethernet0"}
	s.d, _ = s.start(1)
	s.must(os.Truncate(s.Recorder(), 0))
	s.must(s.IP("link", "set", s.name, "mtu", "9100"))
	s.waitEntry(s.name, fields("up", "up", 9100))
	s.waitFor("the recorder", func() bool { return s.d.Logged("level=NOTICE", "the flight recorder records again") == 1 })
	s.must(s.SetCable(false, s.name))
	s.waitEntry(s.name, fields("down", "up", 9100))
	s.waitFor("what happened", func() bool { return slices.Equal(whats(s.eventsOf(s.name)), []string{"carrier lost"}) })
	s.waitMetric(s.d, `portsyncd_health_check{check="recorder"}`, "1")
}

// TestEventsOverKills: the daemon is killed again and again amid a storm, and each loss of carrier is told, once.
func TestEventsOverKills(t *testing.T) {
	t.Parallel()
	s := &day{testSwitch: newSwitch(t, switchtest.Options{}), name: "Ethernet0"}
	s.d, _ = s.start(1)
	var got []happened
	for i := range 5 {
		storm := make(chan error, 1)
		go func() { storm <- s.Flap(4, s.name) }()
		time.Sleep(time.Duration(i) * time.Millisecond) // whatever it is doing then
		s.must(s.d.Signal(syscall.SIGKILL))
		s.must(<-storm)
		s.waitFor("its end", func() bool { return !s.d.Running() })
		s.d = s.daemon()
		if !eventually(func() bool { got = s.eventsOf(s.name); return s.lossesAreTheKernels(s.name, got) == "" }) {
			t.Fatalf("after kill %d: %s: %v", i, s.lossesAreTheKernels(s.name, got), whats(got))
		}
		if len(got) > portEvents/2 {
			break // the ring has begun to forget
		}
	}
}
