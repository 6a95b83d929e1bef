package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portsyncd/internal/switchtest"
)

// Boxes of which something is wrong, or another portsyncd's.

// TestSecondDaemonOfABoxIsRefused as one of a single switch is (docs/instances.md, "The lock"): it ends with exit code 1 and a line that names the holder.
func TestSecondDaemonOfABoxIsRefused(t *testing.T) {
	t.Parallel()
	b := newBoxTest(t, 2, 1)
	for _, s := range b.asics {
		b.up(s, 1)
	}
	second, err := b.StartDaemon(daemonProgram(t))
	must(t, err)
	t.Cleanup(second.Stop)
	if code, err := second.Wait(patience); err != nil || code != exitFailed {
		t.Fatalf("it ends with %d, %v", code, err)
	}
	_, last, _ := strings.Cut(second.Log(), "\nportsyncd: sw-")
	if !strings.Contains(last, ": another portsyncd writes to these databases: ") || !strings.Contains(last, fmt.Sprintf(", process %d, ", b.d.PID())) {
		t.Errorf("its last words do not name the holder:\n%s", second.Log())
	}
}

// TestBoxOneOfWhoseNamespacesIsAnothers goes on for the others, as while they are handed over one by one from the daemons of the containers, and takes that one up
// when it is free.
func TestBoxOneOfWhoseNamespacesIsAnothers(t *testing.T) {
	t.Parallel()
	b := newBoxTest(t, 2, 1)
	ours, others := b.asics[0], b.asics[1]
	b.up(ours, 1)
	b.up(others, 1)
	b.d.Stop()
	container, err := others.StartDaemon(daemonProgram(t))
	must(t, err)
	others.keep(container)
	others.waitMetric(container, "portsyncd_port_init_done", "1")
	b.d, err = b.StartDaemon(daemonProgram(t))
	must(t, err)
	ours.keep(b.d)
	b.up(ours, 1)
	ours.waitFor("it to say whose the other one is", func() bool {
		return b.d.Logged("is not looked after for now", others.NetNS, "another portsyncd writes") > 0
	})
	time.Sleep(2 * unitPause) // its next look at the other one is no end, either
	if !b.d.Running() {
		t.Fatalf("it has ended:\n%s", b.d.Log())
	}
	container.Stop()
	b.up(others, 1)
}

// TestBrokenNamespaceSaysSoOnce: one ASIC's configuration is broken. Neither the log is filled with that, nor its recorder, where 512 events of the daemon have room:
// what happened before is what somebody will ask for. Another reason is said, too, and what is mended is taken up.
func TestBrokenNamespaceSaysSoOnce(t *testing.T) {
	t.Parallel()
	b := newBoxTest(t, 2, 1)
	good, broken := b.asics[0], b.asics[1]
	b.up(good, 1)
	b.up(broken, 1)
	must(t, b.List(good.Switch))
	good.waitFor("it to go", func() bool { return !strings.Contains(good.scrape(b.d), broken.NetNS) })
	config, err := os.ReadFile(broken.ConfigFile)
	must(t, err)
	must(t, os.WriteFile(broken.ConfigFile, []byte(`{"INSTANCES": {}, "DATABASES": {}}`), 0o644))
	must(t, b.List(good.Switch, broken.Switch))
	told := func(why string) func() bool {
		return func() bool { return b.d.Logged("is not looked after for now", broken.NetNS, why) > 0 }
	}
	good.waitFor("it to be told of", told("has no APPL_DB"))
	files, err := openRecords(b.Recorder())
	must(t, err)
	defer files.close()
	events := func() int {
		all, _, err := files.read(nil, cutoff{})
		must(t, err)
		return len(slices.DeleteFunc(all, func(h happened) bool { return h.Namespace != broken.NetNS }))
	}
	time.Sleep(beatInterval) // health is told of at a beat
	lines, before := b.d.Logged("namespace="+broken.NetNS), events()
	const watched = 4 * unitPause
	time.Sleep(watched)
	if more, since := b.d.Logged("namespace="+broken.NetNS)-lines, events()-before; more > 0 || since > 0 {
		t.Errorf("in %v the log has %d more lines about it, and its recorder %d more events", watched, more, since)
	}
	must(t, os.WriteFile(broken.ConfigFile, []byte(`{"INSTANCES": 5}`), 0o644))
	good.waitFor("the other reason to be told of", told("cannot unmarshal"))
	must(t, os.WriteFile(broken.ConfigFile, config, 0o644))
	b.up(broken, 1)
}

// TestHeartbeatOfABoxThatWaits: docs/sonic.md. No loop turns where nothing can be looked after yet, and nothing is stuck.
func TestHeartbeatOfABoxThatWaits(t *testing.T) {
	t.Parallel()
	for what, leave := range map[string]func(made *switchtest.Box, one *testSwitch) error{
		"no list of namespaces": func(made *switchtest.Box, _ *testSwitch) error { return os.Remove(made.GlobalFile) },
		"a namespace without databases": func(_ *switchtest.Box, one *testSwitch) error {
			return os.WriteFile(one.ConfigFile, []byte(`{"INSTANCES": {}, "DATABASES": {}}`), 0o644)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			made, one := boxOfOne(t)
			must(t, leave(made, one))
			d, err := made.StartDaemon(daemonProgram(t), "-supervisor.heartbeat")
			must(t, err)
			one.keep(d)
			// the loop of a namespace that is given up has had one, at most
			must(t, switchtest.WaitFor(5*beatInterval, "heartbeats", func() bool { return strings.Count(d.Log(), heartbeatMark) > 2 }))
		})
	}
}

// TestBoxOfFabricASICs has nothing to look after (docs/several-asics.md), and nothing is wrong with it: it is ready, and systemd's start ends.
func TestBoxOfFabricASICs(t *testing.T) {
	t.Parallel()
	made, fabric := boxOfOne(t)
	must(t, fabric.Config.HSet(t.Context(), fabric.ConfigKey("DEVICE_METADATA", "localhost"), "switch_type", "fabric").Err())
	must(t, fabric.Configure(t.Context(), 1))
	path := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer systemd.Close()
	d, err := made.StartDaemon(append([]string{"env", "NOTIFY_SOCKET=" + path}, daemonProgram(t)...), "-supervisor.heartbeat")
	must(t, err)
	fabric.keep(d)
	b := &testBox{Box: made, t: t, d: d}
	fabric.waitFor("the fabric ASIC to be left out", func() bool { return d.Logged("is not looked after", fabric.NetNS) == 1 })
	fabric.waitMetric(d, "portsyncd_health_status", "1")
	if code, body := b.probe("/readyz"); code != 200 {
		t.Errorf("health is ok, and /readyz answers %d %s", code, body)
	}
	must(t, systemd.SetReadDeadline(time.Now().Add(4*beatInterval)))
	for told := ""; !strings.Contains(told, "READY=1"); {
		said := make([]byte, 4096)
		n, err := systemd.Read(said)
		if err != nil {
			t.Fatalf("systemd still waits for READY=1: %v", err)
		}
		told = string(said[:n])
	}
	before := strings.Count(d.Log(), heartbeatMark)
	beats := func() bool { return strings.Count(d.Log(), heartbeatMark) > before }
	if err := switchtest.WaitFor(4*beatInterval, "heartbeats", beats); err != nil {
		t.Errorf("supervisor-proc-exit-listener takes it for stuck: %v", err)
	}
}

// TestListedNamespaceThatIsNotLookedAfter: its entry was changed while the kernel holds its loop. Whoever asks hears so, until it is let go.
func TestListedNamespaceThatIsNotLookedAfter(t *testing.T) {
	file := filepath.Join(t.TempDir(), "database_global.json")
	s := newQuietSeveral(t, file)
	ctx, stop := context.WithCancel(t.Context())
	defer func() { stop(); s.ended.Wait() }()
	held := &runningUnit{namespaceConfig: namespaceConfig{"held", "x"}, cancel: func() {}, over: make(chan struct{}),
		published: &unit{namespace: "held", m: newUnitMetrics(s.m, "held"), health: new(health), log: discard()}}
	s.running["held"] = held
	must(t, os.WriteFile(file, []byte(`{"INCLUDES": [{"namespace": "held", "include": "y"}, {"namespace": "portsyncd-none", "include": "x"}]}`), 0o644))
	says := func(now time.Time) bool {
		must(t, s.look(ctx))
		s.box.Update(now, discard())
		ready := strings.Join(s.box.Ready(now), "\n")
		metric := strings.Contains(string(s.box.Append(nil)), "\n"+`portsyncd_health_check{check="netlink"} 0.5`+"\n")
		if said := strings.Contains(ready, "netlink: held is "); said != metric {
			t.Errorf("the metrics say so: %v, and /readyz:\n%s", metric, ready)
		}
		return metric
	}
	if now := time.Now(); !says(now) {
		t.Error("database_global.json lists it, nobody looks after it, and nothing says so")
	}
	close(held.over)
	if says(time.Now()) {
		t.Error("it is let go, and something still says that it is not looked after")
	}
}

// TestFollowedBoxGetsANamespace: portsyncd events -follow hears of one that is added later (docs/several-asics.md, "reads all of them").
func TestFollowedBoxGetsANamespace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "recorder")
	record := func(namespace string) {
		r := openRecorder(recorderOf(path, namespace), recordFixed+portRing, newMetrics("test"), discard())
		r.link(&port{name: "Ethernet-" + namespace}, &linkMessage{index: 5, flags: upRunning}, false, time.Now().Add(-time.Minute))
		r.close()
	}
	record("asic0")
	ctx, stop := context.WithCancel(t.Context())
	out := new(lockedBuffer)
	over := make(chan error)
	go func() { over <- showEvents(ctx, &eventsOptions{file: path, follow: true}, out) }()
	must(t, switchtest.WaitFor(patience, "the first", func() bool { return strings.Contains(out.String(), "Ethernet-asic0") }))
	record("asic1")
	if err := switchtest.WaitFor(5*time.Second, "the second", func() bool { return strings.Contains(out.String(), "Ethernet-asic1") }); err != nil {
		t.Errorf("%v; it prints\n%s", err, out)
	}
	stop()
	must(t, <-over)
}

// TestPipeInPlaceOfANamespace holds up nobody: neither the others of the list, which are published and followed, nor the one itself for good.
func TestPipeInPlaceOfANamespace(t *testing.T) {
	needRoot(t, "it takes root to put something into /run/netns")
	name := fmt.Sprintf("portsyncd-pipe-%d", os.Getpid())
	path := netNSPath(name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, unix.Mkfifo(path, 0o600))
	t.Cleanup(func() { _ = os.Remove(path) })
	file := filepath.Join(t.TempDir(), "database_global.json")
	s := newQuietSeveral(t, file)
	text := fmt.Sprintf(`{"INCLUDES": [{"namespace": %q, "include": "x"}, {"namespace": "portsyncd-none", "include": "x"}]}`, name)
	must(t, os.WriteFile(file, []byte(text), 0o644))
	ctx, stop := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- s.look(ctx) }()
	select {
	case err := <-over:
		must(t, err)
	case <-time.After(5 * time.Second):
		t.Fatalf("the list is looked at no more, and %d of 2 namespaces are published", len(s.box.units()))
	}
	stop()
	s.ended.Wait()
}
