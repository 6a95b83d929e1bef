package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"portsyncd/internal/switchtest"
)

// End-to-end tests: the real binary, a real Redis, real interfaces. Each test has a switch of its own.

// patience is how long a condition may take to come true on a slow and busy machine.
var patience = 30 * time.Second

var raceFlags []string // set in race_test.go: under the race detector, so is the daemon

// buildDaemon and buildPlain make the binary under test, once: as this test is built, and without the race detector. PORTSYNCD names
// another, such as an ARM binary with qemu in front.
var (
	buildDaemon = sync.OnceValues(func() ([]string, error) { return buildBinary("portsyncd", raceFlags) })
	buildPlain  = sync.OnceValues(func() ([]string, error) { return buildBinary("portsyncd-plain", nil) })
)

func buildBinary(name string, flags []string) ([]string, error) {
	if program := os.Getenv("PORTSYNCD"); program != "" {
		return strings.Fields(program), nil
	}
	binary := filepath.Join(scratch, name)
	build := exec.Command("go", append([]string{"build", "-tags=nethttpomithttp2", "-o", binary}, append(flags, ".")...)...)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the daemon: %w\n%s", err, out)
	}
	return []string{binary}, nil
}

var scratch string // folder for the binary under test

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if own, err := os.Executable(); err == nil && strings.HasSuffix(own, babblerPath) {
		babble(os.Args[1:])
	}
	if allowed := os.Getenv(confineVariable); allowed != "" {
		fmt.Fprintln(os.Stderr, confine(allowed, os.Args[1:]))
		return 1
	}
	if port := os.Getenv(holdVariable); port != "" {
		fmt.Fprintln(os.Stderr, switchtest.HoldLinks(port, holdLimit))
		return 1
	}
	if report := os.Getenv(listenerVariable); report != "" {
		fmt.Fprintln(os.Stderr, listenToSupervisor(report, os.Args[1:], os.Stdin, os.Stdout))
		return 1
	}
	hushRedis() // before tests beside each other ask for it
	var err error
	if scratch, err = os.MkdirTemp("", "portsyncd-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	return m.Run()
}

// daemonProgram is how to run the daemon; plainDaemon, without the race detector, for tests that look at its memory.
func daemonProgram(t testing.TB) []string { return program(t, buildDaemon) }
func plainDaemon(t *testing.T) []string   { return program(t, buildPlain) }

func program(t testing.TB, build func() ([]string, error)) []string {
	t.Helper()
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// testSwitch is a switch for one test.
type testSwitch struct {
	*switchtest.Switch
	t       testing.TB
	program []string // how its daemons are run; empty: as usual
}

// newSwitch makes a switch. Where it cannot be had the test is skipped with the reason, but in CI that is a failure.
func newSwitch(t testing.TB, o switchtest.Options) *testSwitch {
	t.Helper()
	if testing.Short() {
		t.Skip("end-to-end tests are not run with -short")
	}
	if err := switchtest.Missing(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("in CI everything has to be tested: ", err)
		}
		t.Skip(err)
	}
	sw, err := switchtest.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sw.Close)
	return &testSwitch{Switch: sw, t: t}
}

func (s *testSwitch) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *testSwitch) daemon(flags ...string) *switchtest.Daemon {
	s.t.Helper()
	if s.program == nil {
		s.program = daemonProgram(s.t)
	}
	d, err := s.StartDaemon(s.program, flags...)
	s.must(err)
	s.keep(d)
	return d
}

// keep stops a daemon at the end of its test, and looks at what it printed.
func (s *testSwitch) keep(d *switchtest.Daemon) {
	s.t.Cleanup(func() {
		d.Stop()
		if s.t.Failed() {
			s.t.Logf("the daemon printed:\n%s", tail(d.Log()))
		}
		if strings.Contains(d.Log(), "\nredis: ") {
			s.t.Error("the Redis client writes to the log by itself:\n", tail(d.Log()))
		}
		if strings.Contains(d.Log(), "DATA RACE") {
			s.t.Error("the daemon has a data race:\n", d.Log())
		}
	})
}

func tail(text string) string {
	lines := slices.DeleteFunc(strings.SplitAfter(text, "\n"), func(line string) bool {
		return strings.Contains(line, "level=INFO") || strings.Contains(line, `msg="interface `) // there are hundreds
	})
	return strings.Join(lines[max(0, len(lines)-60):], "")
}

func (s *testSwitch) orchagent(create bool) *switchtest.Orchagent {
	s.t.Helper()
	o, err := s.StartOrchagent(s.t.Context(), create)
	s.must(err)
	return o
}

func (s *testSwitch) waitFor(what string, holds func() bool) {
	s.t.Helper()
	s.must(switchtest.WaitFor(patience, what, holds))
}

// entry is one hash of STATE_DB's PORT_TABLE.
func (s *testSwitch) entry(port string) map[string]string {
	s.t.Helper()
	got, err := s.State.HGetAll(context.Background(), s.StateKey(port)).Result()
	s.must(err)
	return got
}

func fields(oper, admin string, mtu int) map[string]string {
	return map[string]string{"state": "ok", "netdev_oper_status": oper, "admin_status": admin, "mtu": fmt.Sprint(mtu)}
}

// waitEntry waits until a port's entry is as wanted; nil: until there is none.
func (s *testSwitch) waitEntry(port string, want map[string]string) {
	s.t.Helper()
	var got map[string]string
	err := switchtest.WaitFor(patience, "PORT_TABLE|"+port, func() bool {
		got = s.entry(port)
		return maps.Equal(got, want) || len(got) == 0 && want == nil
	})
	if err != nil {
		s.t.Fatalf("%v: it is %v, want %v", err, got, want)
	}
}

// entries lists the ports of STATE_DB's PORT_TABLE.
func (s *testSwitch) entries() []string {
	s.t.Helper()
	keys, err := s.State.Keys(context.Background(), s.StateKey("*")).Result()
	s.must(err)
	for i := range keys {
		keys[i] = strings.TrimPrefix(keys[i], s.StateKey(""))
	}
	slices.SortFunc(keys, comparePorts)
	return keys
}

// scrape reads a daemon's metrics, or the error.
func (s *testSwitch) scrape(d *switchtest.Daemon) string {
	response, err := http.Get("http://" + d.Metrics + "/metrics")
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return string(text)
}

// scrapeSocket is the same over a unix socket, for a daemon that was started inside.
func (s *testSwitch) scrapeSocket(path string) string {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
	response, err := client.Get("http://portsyncd/metrics")
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return string(text)
}

// sample finds one sample's value; its name is the line's text before the value.
func sample(text, name string) string {
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// metric reads one sample of a daemon's metrics.
func (s *testSwitch) metric(d *switchtest.Daemon, name string) string {
	return sample(s.scrape(d), name)
}

func (s *testSwitch) waitMetric(d *switchtest.Daemon, name, want string) {
	s.t.Helper()
	var got string
	if err := switchtest.WaitFor(patience, name+" "+want, func() bool { got = s.metric(d, name); return got == want }); err != nil {
		s.t.Fatalf("%v: it is %q", err, got)
	}
}

func portNames(n int) (names []string) {
	for i := range n {
		names = append(names, switchtest.PortName(i))
	}
	return names
}

// start brings up a switch with n ports as a real one starts, and waits until everything is up.
func (s *testSwitch) start(n int, flags ...string) (*switchtest.Daemon, *switchtest.Orchagent) {
	s.t.Helper()
	s.must(s.Configure(s.t.Context(), n))
	o := s.orchagent(true)
	d := s.daemon(flags...)
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	for _, p := range portNames(n) {
		s.waitEntry(p, fields("up", "up", 1500))
	}
	return d, o
}

func TestColdStartOf256Ports(t *testing.T) {
	const n = 256
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), n))
	o := s.orchagent(false)
	d := s.daemon()
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	if got := o.Signal("PortConfigDone")["count"]; got != "256" {
		t.Errorf("PortConfigDone count=%s", got)
	}
	s.waitFor("all ports", func() bool { got, _ := o.Ports(); return got == n })
	if left := s.Appl.SCard(t.Context(), "PORT_TABLE_KEY_SET").Val(); left != 0 {
		t.Errorf("%d keys are left in PORT_TABLE_KEY_SET", left)
	}
	if got := s.Appl.HGet(t.Context(), "PORT_TABLE:Ethernet1020", "alias").Val(); got != "Eth256" {
		t.Errorf("alias of Ethernet1020 in APPL_DB is %q", got)
	}
	names := portNames(n)
	s.must(s.AddPorts(names[:n-1]...))
	for _, p := range names[:n-1] {
		s.waitEntry(p, fields("up", "up", 1500))
	}
	if o.Signal("PortInitDone") != nil {
		t.Error("PortInitDone came although Ethernet1020 has no interface")
	}
	if got := s.metric(d, `portsyncd_port_pending{port="Ethernet1020"}`); got != "1" {
		t.Errorf("portsyncd_port_pending of the missing port is %q", got)
	}
	s.must(s.AddPorts(names[n-1]))
	added := time.Now()
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	t.Logf("PortInitDone %v after the last interface", time.Since(added).Round(time.Millisecond))
	if got := o.Signal("PortInitDone"); got["lanes"] != "0" || len(got) != 1 {
		t.Errorf("PortInitDone has %v", got)
	}
	if got := s.entries(); !slices.Equal(got, names) {
		t.Errorf("STATE_DB has %v", got)
	}
	signals := 0
	for _, key := range o.Popped() {
		if strings.HasSuffix(key, "Done") {
			signals++
		}
	}
	if signals != 2 {
		t.Errorf("%d signals were sent", signals)
	}
	d.Stop()
}

func TestSigtermEndsCleanly(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(2)
	s.must(d.Signal(syscall.SIGTERM))
	if code, err := d.Wait(patience); err != nil || code != 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
}

func TestNoPortsSendsBothSignalsAtOnce(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	o := s.orchagent(true)
	s.daemon()
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	if got := o.Signal("PortConfigDone"); got["count"] != "0" {
		t.Errorf("PortConfigDone has %v", got)
	}
}

// TestOldInterfaces is rule 5: what exists before the start is set down and ignored by ifindex, its successor of the same name counts.
func TestOldInterfaces(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 2))
	s.must(s.AddPorts("Ethernet0", "Ethernet4"))
	o := s.orchagent(false)
	d := s.daemon()
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	s.waitFor("the old interfaces to be down", func() bool { return !s.adminUp("Ethernet0") && !s.adminUp("Ethernet4") })
	s.must(s.IP("link", "set", "Ethernet0", "mtu", "2000"))
	s.waitFor("the old interfaces' messages to be ignored", func() bool {
		return s.metric(d, `portsyncd_netlink_ignored_total{reason="old_interface"}`) != "0"
	})
	if got := s.entries(); len(got) != 0 || o.Signal("PortInitDone") != nil {
		t.Errorf("old interfaces were published (%v) or counted as seen", got)
	}
	for _, p := range portNames(2) {
		s.must(s.IP("link", "del", p))
		s.must(s.AddPorts(p))
		s.waitEntry(p, fields("up", "up", 1500))
	}
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
}

func (s *testSwitch) adminUp(link string) bool {
	out, err := exec.Command("ip", "-n", s.NetNS, "link", "show", "dev", link).Output()
	s.must(err)
	return strings.Contains(string(out), ",UP") || strings.Contains(string(out), "<UP")
}

func TestDPUHasNoOldInterfaces(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 1))
	s.must(s.Config.HSet(t.Context(), "DEVICE_METADATA|localhost", "switch_type", "dpu").Err())
	s.must(s.AddPorts("Ethernet0"))
	o := s.orchagent(false)
	s.daemon()
	s.waitEntry("Ethernet0", fields("up", "up", 1500))
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	if !s.adminUp("Ethernet0") {
		t.Error("Ethernet0 was set down")
	}
}

// TestLinkLife takes a port through everything that rules 1 to 4 speak of, beside fields of another daemon.
func TestLinkLife(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(3)
	ctx := t.Context()
	s.must(s.State.HSet(ctx, "PORT_TABLE|Ethernet0", "host_tx_ready", "true", "supported_speeds", "10000,100000").Err())
	with := func(m map[string]string) map[string]string {
		m["host_tx_ready"], m["supported_speeds"] = "true", "10000,100000"
		return m
	}
	s.must(s.SetCable(false, "Ethernet0"))
	s.waitEntry("Ethernet0", with(fields("down", "up", 1500)))
	s.must(s.IP("link", "set", "Ethernet0", "down"))
	s.waitEntry("Ethernet0", with(fields("down", "down", 1500)))
	s.must(s.IP("link", "set", "Ethernet0", "mtu", "9100"))
	s.waitEntry("Ethernet0", with(fields("down", "down", 9100)))
	s.must(s.SetCable(true, "Ethernet0"))
	s.must(s.IP("link", "set", "Ethernet0", "up"))
	s.waitEntry("Ethernet0", with(fields("up", "up", 9100)))

	s.must(s.Batch(s.NetNS, "link add Bridge type bridge", "link set Bridge up", "link set Ethernet0 master Bridge"))
	s.must(s.Batch(s.NetNS, "link set Ethernet0 nomaster", "link add Ethernet0.10 type veth peer name x10",
		"link add Vlan10 type bridge", "link add eth0 type veth peer name eth1", "link set eth0 up", "link set Ethernet0.10 up"))
	s.must(s.State.HSet(ctx, "PORT_TABLE|Ethernet0.10", "state", "ok").Err()) // intfmgrd
	s.must(s.IP("link", "del", "Ethernet0.10"))
	s.waitEntry("Ethernet0.10", nil)
	s.must(s.IP("link", "set", "Ethernet0", "mtu", "9000")) // all of the above was handled once this is
	s.waitEntry("Ethernet0", with(fields("up", "up", 9000)))
	if got := s.metric(d, `portsyncd_netlink_ignored_total{reason="bridge_family"}`); got == "0" {
		t.Error("the bridge's messages about its port were not seen")
	}

	s.must(s.Batch(s.NetNS, "link set Ethernet4 down", "link set Ethernet4 name Ethernet99")) // APPL_DB does not have it
	s.waitEntry("Ethernet4", nil)
	s.must(s.Batch(s.NetNS, "link set Ethernet99 name Ethernet4"))
	s.waitEntry("Ethernet4", fields("down", "down", 1500))

	s.must(s.IP("link", "del", "Ethernet0"))
	s.waitEntry("Ethernet0", nil)
	s.must(s.AddPorts("Ethernet0"))
	s.waitEntry("Ethernet0", fields("up", "up", 1500))
	if got := s.entries(); !slices.Equal(got, portNames(3)) {
		t.Errorf("STATE_DB has %v", got)
	}
}

// TestNoIdenticalWrites watches the keyspace events of the entries: link messages that change nothing for a port write nothing.
func TestNoIdenticalWrites(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(2)
	events := s.State.PSubscribe(t.Context(), fmt.Sprintf("__keyspace@%d__:PORT_TABLE|*", s.StateID))
	defer events.Close()
	if _, err := events.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := s.metric(d, "portsyncd_events_processed_total")
	s.must(s.Batch(s.NetNS, "link set Ethernet0 txqueuelen 500", "link set Ethernet0 alias uplink", "link set Ethernet0 txqueuelen 1000"))
	s.waitFor("the messages to be handled", func() bool { return s.metric(d, "portsyncd_events_processed_total") != before })
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "1400"))
	s.waitEntry("Ethernet4", fields("up", "up", 1400))
	message, err := events.ReceiveMessage(t.Context())
	if err != nil || !strings.HasSuffix(message.Channel, "|Ethernet4") {
		t.Errorf("the first write was %v (%v), want the one of Ethernet4", message, err)
	}
}

// TestPortEntersAPPLDBAfterItsLink is what the reference gets wrong: the entry comes later, and no link change follows.
func TestPortEntersAPPLDBAfterItsLink(t *testing.T) {
	for name, o := range map[string]switchtest.Options{"keyspace events": {}, "no keyspace events": {NoEvents: true}} {
		t.Run(name, func(t *testing.T) {
			s := newSwitch(t, o)
			s.start(1)
			s.must(s.AddPorts("Ethernet96", "Ethernet100"))
			s.must(s.Appl.HSet(t.Context(), "PORT_TABLE:Ethernet96", "lanes", "97").Err())
			s.waitEntry("Ethernet96", fields("up", "up", 1500))
			s.must(s.Appl.Del(t.Context(), "PORT_TABLE:Ethernet96").Err())
			s.must(s.Appl.HSet(t.Context(), "PORT_TABLE:Ethernet100", "lanes", "101").Err())
			s.waitEntry("Ethernet100", fields("up", "up", 1500)) // so the deletion before it was noticed, too
			s.must(s.IP("link", "set", "Ethernet96", "mtu", "1400"))
			s.must(s.IP("link", "set", "Ethernet100", "mtu", "1400"))
			s.waitEntry("Ethernet100", fields("up", "up", 1400))
			if got := s.entry("Ethernet96"); got["mtu"] != "1500" {
				t.Errorf("a port that APPL_DB has no more was published: %v", got)
			}
		})
	}
}

func TestDatabasesElsewhere(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]switchtest.Options{"two instances": {Split: true}, "over TCP": {TCP: true}, "other ids and separators": {Odd: true}} {
		t.Run(name, func(t *testing.T) {
			s := newSwitch(t, o)
			s.start(8)
			s.must(s.SetCable(false, "Ethernet8"))
			s.waitEntry("Ethernet8", fields("down", "up", 1500))
		})
	}
}

// TestWaitsForTheDatabases starts on a switch that still boots: first no configuration file, then no server.
func TestWaitsForTheDatabases(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true, NoConfigFile: true})
	d := s.daemon()
	s.waitFor("the missing file to be reported", func() bool { return d.Logged("configuration is not there yet") > 0 })
	s.must(s.WriteConfigFile())
	s.waitMetric(d, "portsyncd_redis_connected", "0")
	s.must(s.StartRedis())
	o := s.orchagent(true)
	s.waitFor("PortInitDone", func() bool { return s.metric(d, "portsyncd_port_init_done") == "1" })
	s.waitMetric(d, "portsyncd_redis_connected", "1")
	_ = o
	if got := d.Logged("level=WARN", "waiting for it"); got != 1 {
		t.Errorf("the missing file was reported %d times", got)
	}
}

func TestRedisForgetsTheScript(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 1))
	o := s.orchagent(false)
	s.daemon()
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	s.must(s.Appl.ScriptFlush(t.Context()).Err())
	s.must(s.AddPorts("Ethernet0"))
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
}

// TestSigtermInAStorm ends the daemon while every port changes: it is gone within a second, and no entry is half-written.
func TestSigtermInAStorm(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(32)
	names := portNames(32)
	storm := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < 500 && err == nil && d.Running(); i++ {
			err = s.Flap(1, names...)
		}
		storm <- err
	}()
	s.waitFor("the storm", func() bool { return s.entry("Ethernet0")["admin_status"] == "down" })
	asked := time.Now()
	s.must(d.Signal(syscall.SIGTERM))
	code, err := d.Wait(patience)
	if err != nil || code != exitOK || d.Logged("msg=stopped") != 1 {
		t.Errorf("exit code %d, %v", code, err)
	}
	t.Logf("ended after %v", time.Since(asked).Round(time.Millisecond))
	s.must(<-storm)
	for _, p := range names {
		if got := s.entry(p); len(got) != 4 || got["state"] != "ok" || got["mtu"] != "1500" {
			t.Errorf("%s is half-written: %v", p, got)
		}
	}
}

// TestSigtermAfterAStorm: what the kernel said before the signal is in STATE_DB when the daemon has ended.
func TestSigtermAfterAStorm(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(32)
	names := portNames(32)
	s.must(s.Flap(5, names...))
	s.must(s.Batch(s.NetNS, "link set Ethernet0 mtu 1400", "link set Ethernet4 down", "link del Ethernet8"))
	s.must(d.Signal(syscall.SIGTERM))
	if code, err := d.Wait(patience); err != nil || code != exitOK || d.Logged("msg=stopped", "unwritten_ports=0") != 1 {
		t.Errorf("exit code %d, %v", code, err)
	}
	for _, p := range names {
		want := [...]string{"ok", "up", "1500"}
		switch p {
		case "Ethernet0":
			want[2] = "1400"
		case "Ethernet4":
			want[1] = "down"
		case "Ethernet8":
			want = [...]string{"", "", ""}
		}
		// not the oper state: the kernel reports a carrier's return when it gets round to it
		if got := s.entry(p); want != [...]string{got["state"], got["admin_status"], got["mtu"]} {
			t.Errorf("%s is %v, want %v", p, got, want)
		}
	}
}

// TestStandalone is the mode without databases: any Linux box's links in the metrics.
func TestStandalone(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true, NoConfigFile: true})
	s.must(s.AddPorts("Ethernet0"))
	s.must(s.IP("link", "add", "wan0", "type", "veth", "peer", "name", "x0"))
	d := s.daemon("-standalone", "-links", "Ether*,wan0")
	s.waitMetric(d, `portsyncd_port_oper_up{port="Ethernet0"}`, "1")
	s.waitMetric(d, `portsyncd_port_admin_up{port="wan0"}`, "0")
	s.waitMetric(d, `portsyncd_health_status`, "1")
	s.must(s.SetCable(false, "Ethernet0"))
	s.waitMetric(d, `portsyncd_port_flaps_total{port="Ethernet0"}`, "1")
	s.must(s.IP("link", "del", "wan0"))
	s.waitMetric(d, `portsyncd_port_admin_up{port="wan0"}`, "")
	if got := s.metric(d, `portsyncd_port_admin_up{port="x0"}`); got != "" {
		t.Error("a link that -links does not name has series")
	}
	if got := s.metric(d, "portsyncd_events_processed_total"); got == "0" {
		t.Error("no events were counted")
	}
}

// TestScrapeSurvivesNamesThatAreNotUTF8: the kernel takes any bytes for a name; Prometheus refuses a scrape with one
// that is not UTF-8.
func TestScrapeSurvivesNamesThatAreNotUTF8(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true, NoConfigFile: true})
	s.must(s.AddPorts("Ethernet0"))
	s.must(s.IP("link", "add", "Ethernet\xff", "type", "veth", "peer", "name", "Ethernet\xfe"))
	d := s.daemon("-standalone", "-links", "Ethernet*")
	s.waitMetric(d, `portsyncd_port_oper_up{port="Ethernet0"}`, "1")
	for _, port := range []string{"Ethernet/ff", "Ethernet/fe"} {
		s.waitMetric(d, `portsyncd_port_admin_up{port="`+port+`"}`, "0")
	}
	if text := s.scrape(d); !utf8.ValidString(text) {
		t.Errorf("the scrape is not UTF-8:\n%q", text)
	}
}

// TestBadInput: one clear line that names the flag or file, and exit code 2.
func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	instance := `"INSTANCES":{"redis":{"unix_socket_path":"/nowhere"}}`
	for name, c := range map[string]struct {
		args string
		want []string
	}{
		"unknown flag":      {"-nonsense", []string{"nonsense"}},
		"argument":          {"start", []string{`"start"`, "flags only"}},
		"log level":         {"-log.level LOUD", []string{"-log.level", `"LOUD"`, "NOTICE"}},
		"log output":        {"-log.output paper", []string{"-log.output", `"paper"`, "stderr"}},
		"pattern":           {"-standalone -links a,[", []string{"-links", `"["`}},
		"links alone":       {"-links eth*", []string{"-links", "-standalone"}},
		"TLS incomplete":    {"-standalone -web.tls-cert a.crt -web.tls-client-ca ca.crt", []string{"-web.tls-key", "all three"}},
		"names without TLS": {"-standalone -web.tls-allowed-names me", []string{"-web.tls-allowed-names", "-web.tls-cert"}},
		"memory limit":      {"-standalone -memory-limit 1MiB", []string{"-memory-limit", "1MiB", "8MiB"}},
		"receive buffer":    {"-standalone -netlink.receive-buffer lots", []string{"-netlink.receive-buffer", "lots", "KiB"}},
		"old interfaces":    {"-old-interfaces keep", []string{"-old-interfaces", `"keep"`, "adopt"}},
		"reconcile":         {"-reconcile-interval 1ms", []string{"-reconcile-interval", "1ms"}},
		"no object":         {"-db.config " + file("list.json", `["INSTANCES"]`), []string{"-db.config", "list.json"}},
		"no such database":  {"-db.config " + file("nodb.json", `{`+instance+`,"DATABASES":{"APPL_DB":{"id":0,"separator":":","instance":"redis"}}}`), []string{"nodb.json", "CONFIG_DB"}},
		"no such instance":  {"-db.config " + file("noinst.json", `{`+instance+`,"DATABASES":{"APPL_DB":{"id":0,"separator":":","instance":"redis7"}}}`), []string{"noinst.json", "redis7"}},
		"no separator":      {"-db.config " + file("nosep.json", `{`+instance+`,"DATABASES":{"APPL_DB":{"id":0,"instance":"redis"}}}`), []string{"nosep.json", "separator"}},
		"instance, no door": {"-db.config " + file("nodoor.json", `{"INSTANCES":{"redis":{}},"DATABASES":{"APPL_DB":{"id":0,"separator":":","instance":"redis"}}}`), []string{"nodoor.json", "unix_socket_path"}},
		"no address":        {"-standalone -web.listen-address nonsense", []string{"-web.listen-address", "host:port"}},
		"no such port":      {"-standalone -web.listen-address localhost:99999", []string{"-web.listen-address", "99999"}},
		"no socket":         {"-standalone -web.listen-address unix:", []string{"-web.listen-address", "unix:", "path"}},
		"address twice":     {"-web.listen-address :9090 -web.listen-address :9090", []string{":9090", "twice"}},
		"an empty name": {"-web.tls-cert a -web.tls-key a -web.tls-client-ca a -web.tls-allowed-names me.example,",
			[]string{"-web.tls-allowed-names", `"me.example,"`}},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-log.output", "stderr", "-web.listen-address", ""}, strings.Fields(c.args)...)
			program := daemonProgram(t)
			d, err := switchtest.StartProgram(program[0], append(program[1:], args...)...)
			if err != nil {
				t.Fatal(err)
			}
			code, err := d.Wait(patience)
			if err != nil || code != exitUsage {
				t.Errorf("exit code %d, %v; it printed:\n%s", code, err, d.Log())
			}
			for _, word := range c.want {
				if d.Logged("portsyncd:", word) == 0 && d.Logged("flag provided but not defined", word) == 0 && d.Logged("invalid value", word) == 0 {
					t.Errorf("no line names %s; it printed:\n%s", word, d.Log())
				}
			}
		})
	}
}
