//go:build vm

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// SONIC.md's rules on messages with the kinds of links that not every kernel has. `make test-vm` boots one that has them, and
// no other command runs these tests.

func init() { patience = 2 * time.Minute } // an emulated machine is slower than any

// kernelVariable says that the kernel is the one to test: what it lacks is a failure.
const kernelVariable = "PORTSYNCD_TEST_KERNEL"

// needKind makes sure that the kernel has a kind of link.
func (s *testSwitch) needKind(kind string, options ...string) {
	s.t.Helper()
	err := s.IP(append([]string{"link", "add", "probe", "type", kind}, options...)...)
	s.needed(kind, err)
	s.must(s.IP("link", "del", "probe"))
}

// needed judges what came of using something that not every kernel has.
func (s *testSwitch) needed(what string, err error) {
	s.t.Helper()
	switch {
	case err == nil:
	case os.Getenv(kernelVariable) != "":
		s.t.Fatalf("the kernel to test has no %s: %v", what, err)
	default:
		s.t.Skipf("this kernel has no %s (%v): make test-vm boots one that has", what, err)
	}
}

// deletions counts the entries of ports that are deleted from now on.
func (s *testSwitch) deletions() func() int {
	s.t.Helper()
	events := s.State.PSubscribe(s.t.Context(), fmt.Sprintf("__keyspace@%d__:%s", s.StateID, s.StateKey("*")))
	_, err := events.Receive(s.t.Context())
	s.must(err)
	s.t.Cleanup(func() { _ = events.Close() })
	return func() (n int) {
		const mark = "Ethernet-mark" // what came before it has been received when it has
		s.must(s.State.HSet(context.Background(), s.StateKey(mark), "state", "ok").Err())
		s.must(s.State.Del(context.Background(), s.StateKey(mark)).Err())
		for m := range events.Channel() {
			switch {
			case m.Payload == "del" && strings.HasSuffix(m.Channel, mark):
				return n
			case m.Payload == "del":
				n++
			}
		}
		return -1
	}
}

// passThroughMaster takes ports into a master, lets them change there, and takes them out again: by name, and by the
// master's end. Rule 2: none of that is a port's deletion.
func (s *testSwitch) passThroughMaster(master string, down bool, make ...string) {
	s.t.Helper()
	deleted := s.deletions()
	create := strings.Join(append([]string{"link", "add", master}, make...), " ")
	enter := func(port string) (lines []string) {
		if down {
			lines = append(lines, "link set "+port+" down")
		}
		return append(lines, "link set "+port+" master "+master, "link set "+port+" up")
	}
	s.must(s.Batch(s.NetNS, append([]string{create, "link set " + master + " up"}, append(enter("Ethernet0"), enter("Ethernet4")...)...)...))
	s.waitAgreement("ports in " + master)
	s.must(s.SetCable(false, "Ethernet0"))
	s.must(s.IP("link", "set", "Ethernet4", "down"))
	s.waitAgreement("a cable pulled, and a port down, in " + master)
	s.must(s.SetCable(true, "Ethernet0"))
	s.must(s.IP("link", "set", "Ethernet4", "up"))
	s.must(s.IP("link", "set", "Ethernet0", "nomaster"))
	s.must(s.IP("link", "set", "Ethernet0", "up"))
	s.waitAgreement("a port that left " + master)
	s.must(s.IP("link", "del", master))
	s.must(s.Batch(s.NetNS, "link set Ethernet4 up", "link set Ethernet4 mtu 1400"))
	s.waitAgreement("the end of " + master)
	if n := deleted(); n > 0 {
		s.t.Errorf("%d entries were deleted", n)
	}
	s.must(s.IP("link", "del", "Ethernet4")) // a real deletion, afterwards
	s.waitEntry("Ethernet4", nil)
	s.must(s.AddPorts("Ethernet4"))
	s.waitAgreement("a port that came back")
}

// TestKernelBond: a bond of that name is a port of its own (rule 1 excepts only teams), its ports stay ports.
func TestKernelBond(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.needKind("bond")
	s.start(3)
	s.passThroughMaster("bond7", true, "type", "bond", "mode", "active-backup", "miimon", "10")
	s.must(s.Appl.HSet(t.Context(), "PORT_TABLE:PortChannel7", "admin_status", "up").Err())
	s.must(s.Batch(s.NetNS, "link add PortChannel7 type bond", "link set PortChannel7 mtu 9000"))
	s.waitEntry("PortChannel7", fields("down", "down", 9000))
	s.must(s.IP("link", "del", "PortChannel7"))
	s.waitEntry("PortChannel7", nil)
}

// TestKernelTeam: a team belongs to teamsyncd, even if APPL_DB has a port of its name. teamd runs it, as on a switch.
func TestKernelTeam(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.needKind("team")
	d, _ := s.start(3)
	s.passThroughMaster("team7", true, "type", "team")

	s.must(s.Appl.HSet(t.Context(), "PORT_TABLE:PortChannel7", "admin_status", "up").Err())
	if _, err := exec.LookPath("teamd"); err == nil {
		var teamd *exec.Cmd
		s.must(s.Inside(func() error {
			teamd = exec.Command("teamd", "-t", "PortChannel7", "-p", filepath.Join(s.Dir, "teamd.pid"), "-c",
				`{"runner": {"name": "activebackup"}, "link_watch": {"name": "ethtool"}}`)
			teamd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			return teamd.Start()
		}))
		defer func() { _ = teamd.Process.Kill(); _ = teamd.Wait() }()
		s.waitFor("teamd's team", func() bool { return s.IP("link", "show", "PortChannel7") == nil })
	} else {
		t.Log("there is no teamd: the team has no runner")
		s.must(s.IP("link", "add", "PortChannel7", "type", "team"))
	}
	s.must(s.Batch(s.NetNS, "link set Ethernet0 down", "link set Ethernet0 master PortChannel7", "link set PortChannel7 up", "link set PortChannel7 mtu 1400"))
	s.waitAgreement("a port in a team")
	if got := s.entry("PortChannel7"); len(got) > 0 {
		t.Errorf("a team was published: %v", got)
	}
	if got := s.metric(d, `portsyncd_netlink_ignored_total{reason="team"}`); got == "0" || got == "" {
		t.Errorf("the team's messages were not seen: %q", got)
	}
}

// TestKernelVRF: ports of a VRF have a master, and lose it.
func TestKernelVRF(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.needKind("vrf", "table", "100")
	s.start(3)
	s.passThroughMaster("Vrf7", false, "type", "vrf", "table", "1007")
}

// TestKernelVLANBridge: SONiC's Bridge knows of VLANs, and says so of its ports in messages of its own family.
func TestKernelVLANBridge(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.needKind("bridge", "vlan_filtering", "1")
	d, _ := s.start(3)
	s.passThroughMaster("Bridge", false, "type", "bridge", "vlan_filtering", "1", "vlan_default_pvid", "0")
	before := s.number(d, `portsyncd_netlink_ignored_total{reason="bridge_family"}`)
	s.must(s.Batch(s.NetNS, "link add Bridge type bridge vlan_filtering 1", "link set Bridge up", "link set Ethernet0 master Bridge"))
	for vid := 10; vid < 14; vid++ {
		for _, args := range [][]string{{"dev", "Ethernet0", "tagged"}, {"dev", "Bridge", "self"}} {
			s.must(s.bridge(append([]string{"vlan", "add", "vid", strconv.Itoa(vid)}, args...)...))
		}
		s.must(s.Batch(s.NetNS, fmt.Sprintf("link add link Bridge up name Vlan%d type vlan id %d", vid, vid)))
	}
	deleted := s.deletions()
	s.must(s.bridge("vlan", "del", "vid", "10-13", "dev", "Ethernet0"))
	s.must(s.Batch(s.NetNS, "link set Ethernet0 nomaster", "link add link Ethernet0 name Ethernet0.10 type vlan id 10", "link set Ethernet0.10 up",
		"link del Ethernet0.10", "link set Ethernet0 mtu 1400"))
	s.waitAgreement("a port with VLANs")
	if n := deleted(); n > 0 {
		t.Errorf("%d entries were deleted", n)
	}
	if after := s.number(d, `portsyncd_netlink_ignored_total{reason="bridge_family"}`); after < before+8 {
		t.Errorf("of the bridge's messages %v were seen", after-before)
	}
}

// TestKernelDummy: ports without a cable, whose carrier is set by hand.
func TestKernelDummy(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.needKind("dummy")
	s.must(s.Configure(t.Context(), 2))
	o := s.orchagent(false)
	s.daemon()
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	s.must(s.Batch(s.NetNS, "link add Ethernet0 type dummy", "link add Ethernet4 type dummy", "link set Ethernet0 up"))
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	s.waitEntry("Ethernet0", fields("up", "up", 1500))
	s.waitEntry("Ethernet4", fields("down", "down", 1500))
	s.must(s.IP("link", "set", "Ethernet0", "carrier", "off"))
	s.waitEntry("Ethernet0", fields("down", "up", 1500))
	s.must(s.IP("link", "set", "Ethernet0", "carrier", "on"))
	s.waitEntry("Ethernet0", fields("up", "up", 1500))
	s.waitAgreement("dummies")
}

// TestKernelAlternativeNames: a link's other names are no ports, also if APPL_DB has one of them; its name is.
func TestKernelAlternativeNames(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.start(2)
	s.needed("alternative names", s.IP("link", "property", "add", "dev", "Ethernet0", "altname", "probe-of-alternative-names"))
	s.must(s.Appl.HSet(t.Context(), "PORT_TABLE:Ethernet100", "lanes", "101").Err())
	s.must(s.IP("link", "property", "add", "dev", "Ethernet0", "altname", "Ethernet100", "altname", "PortChannel1"))
	s.must(s.Batch(s.NetNS, "link set Ethernet100 mtu 1400", "link set Ethernet4 mtu 1300"))
	s.waitAgreement("alternative names")
	if got := s.entry("Ethernet100"); len(got) > 0 {
		t.Errorf("an alternative name was published: %v", got)
	}
	s.must(s.IP("link", "property", "del", "dev", "Ethernet0", "altname", "Ethernet100"))
	deleted := s.deletions()
	s.must(s.Batch(s.NetNS, "link set Ethernet0 down", "link set Ethernet0 name Ethernet100")) // and now it is its name
	s.waitEntry("Ethernet100", fields("down", "down", 1400))
	s.waitEntry("Ethernet0", nil)
	s.waitFor("the old name's deletion", func() bool { return deleted() >= 0 })
	s.must(s.Batch(s.NetNS, "link set Ethernet100 name Ethernet0", "link set Ethernet0 up"))
	s.waitEntry("Ethernet100", nil)
	s.waitAgreement("the name that came back")
}

// TestKernelMacsec: a secured link lies on the port, under whatever name it has; it comes and goes, and the port stays.
func TestKernelMacsec(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.start(2)
	s.needed("macsec", s.IP("link", "add", "link", "Ethernet0", "macsec_eth0", "type", "macsec", "encrypt", "on"))
	deleted := s.deletions()
	s.must(s.Batch(s.NetNS, "link set macsec_eth0 up", "link set macsec_eth0 mtu 1400", "link set Ethernet0 mtu 9100"))
	s.must(s.SetCable(false, "Ethernet0"))
	s.waitAgreement("a secured port whose cable was pulled")
	s.must(s.SetCable(true, "Ethernet0"))
	s.must(s.IP("link", "del", "macsec_eth0"))
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "1300"))
	s.waitAgreement("a port that was secured")
	if n := deleted(); n > 0 {
		t.Errorf("%d entries were deleted", n)
	}
	if got := s.entries(); !slices.Equal(got, portNames(2)) {
		t.Errorf("STATE_DB has %v", got)
	}
}

// TestKernel1000Interfaces starts with that many ports, and renames, sets down and deletes a part of them.
func TestKernel1000Interfaces(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.needKind("dummy")
	const n = 1000
	names := portNames(n)
	s.must(s.Configure(t.Context(), n))
	o := s.orchagent(false)
	s.daemon()
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	s.waitFor("all ports", func() bool { got, _ := o.Ports(); return got == n })
	var add, change []string
	for i, p := range names {
		add = append(add, "link add "+p+" up type dummy")
		switch i % 4 {
		case 1:
			change = append(change, "link set "+p+" down")
		case 2:
			change = append(change, "link set "+p+" mtu 9100")
		case 3:
			change = append(change, "link del "+p)
		}
	}
	s.must(s.Batch(s.NetNS, add...))
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	t.Logf("they agree %v after the last was made", s.waitAgreement("1,000 ports"))
	s.must(s.Batch(s.NetNS, change...))
	t.Logf("they agree %v after the last change", s.waitAgreement("1,000 ports that changed"))
	if got := len(s.entries()); got != n*3/4 {
		t.Errorf("STATE_DB has %d ports", got)
	}
}

// nameSimulated gives the ports that netdevsim has made names of a front panel's, from the i-th on, and sets them up.
func (s *testSwitch) nameSimulated(count, i int) {
	s.t.Helper()
	var made []string
	s.waitFor("the simulated ports", func() bool {
		out, err := exec.Command("ip", "-n", s.NetNS, "-br", "link").Output()
		s.must(err)
		made = regexp.MustCompile(`(?m)^(eth|eni)[^ @]+`).FindAllString(string(out), -1)
		return len(made) == count
	})
	slices.Sort(made)
	for k, name := range made {
		port := switchtest.PortName(i + k)
		s.must(s.Batch(s.NetNS, fmt.Sprintf("link set %s name %s", name, port), fmt.Sprintf("link set %s up", port)))
	}
}

// linkSimulated lays a cable between two ports of netdevsim.
func (s *testSwitch) linkSimulated(one, other string) {
	s.t.Helper()
	s.must(s.Inside(func() error {
		ns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer ns.Close()
		a, errA := net.InterfaceByName(one)
		b, errB := net.InterfaceByName(other)
		if err := errors.Join(errA, errB); err != nil {
			return err
		}
		ends := fmt.Sprintf("%d:%d %d:%d", ns.Fd(), a.Index, ns.Fd(), b.Index)
		return os.WriteFile(netdevsimBus+"link_device", []byte(ends), 0o200)
	}))
}

const netdevsimBus = "/sys/bus/netdevsim/"

// TestKernelNetdevsim: the kernel's simulated switch, whose ports come and go as orchagent's do.
func TestKernelNetdevsim(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	_, err := os.Stat(netdevsimBus)
	s.needed("netdevsim", err)
	const id, device = "4711", "devices/netdevsim4711/"
	t.Cleanup(func() { _ = os.WriteFile(netdevsimBus+"del_device", []byte(id), 0o200) })
	s.must(s.Configure(t.Context(), 4))
	o := s.orchagent(false)
	s.daemon()
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	s.must(s.netdevsim("new_device", id, "4"))
	s.nameSimulated(4, 0)
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	s.waitAgreement("simulated ports")
	s.must(s.netdevsim(device+"del_port", "3"))
	s.waitEntry("Ethernet12", nil)
	s.waitAgreement("a simulated port that went")
	s.must(s.IP("link", "set", "Ethernet4", "down"))
	s.waitEntry("Ethernet4", fields("down", "down", 1500))
	s.must(s.netdevsim(device+"new_port", "3"))
	s.nameSimulated(1, 3)
	s.waitAgreement("a simulated port that came back")
	if got := s.entries(); !slices.Equal(got, portNames(4)) {
		t.Errorf("STATE_DB has %v", got)
	}
	if _, err := os.Stat(netdevsimBus + "link_device"); err == nil { // since Linux 6.9
		s.linkSimulated("Ethernet0", "Ethernet8")
		s.waitEntry("Ethernet0", fields("up", "up", 1500))
		s.must(s.IP("link", "set", "Ethernet8", "down"))
		s.waitEntry("Ethernet0", fields("down", "up", 1500))
		s.must(s.IP("link", "set", "Ethernet8", "up"))
		s.waitEntry("Ethernet0", fields("up", "up", 1500))
	} else {
		t.Log("this kernel's netdevsim has no carriers of its own")
	}
	s.must(s.netdevsim("del_device", id))
	s.waitFor("the device's ports to go", func() bool { return len(s.entries()) == 0 })
}
