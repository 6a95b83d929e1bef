package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portsyncd/internal/switchtest"
)

// The same on a switch.

// TestStartWaitsForOneThatEnds: what took its place may be begun before it has ended, and is a critical process.
func TestStartWaitsForOneThatEnds(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	before := testLock("before")
	must(t, before.take(s.Dir))
	s.must(s.Configure(t.Context(), 1))
	s.orchagent(true)
	d := s.daemon()
	if err := switchtest.WaitFor(10*time.Second, "it to wait", func() bool { return d.Logged("another portsyncd", "waiting") == 1 }); err != nil {
		t.Fatalf("%v; it runs: %v", err, d.Running())
	}
	before.release()
	s.waitEntry("Ethernet0", fields("up", "up", 1500))
}

// TestClaimThatIsRemoved is made again: whoever empties the folder does not keep the standby from being ready for good.
func TestClaimThatIsRemoved(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	writer, _ := s.start(1)
	s.standby("-instance", "b")
	s.waitFor("its claim", func() bool { return os.Remove(filepath.Join(s.Dir, "portsyncd.standby.b")) == nil })
	var out string
	if err := switchtest.WaitFor(3*beatInterval, "the hand-over", func() (done bool) {
		code, text := s.handover(writer)
		out = text
		return code == exitOK
	}); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestSharingIsQuiet: who looks at what is in the folder does not wake up those who wait for a change, and itself.
func TestSharingIsQuiet(t *testing.T) {
	t.Parallel()
	b := newBoxTest(t, 2, 1, "-standby", "-instance", "a")
	second, err := b.StartDaemon(daemonProgram(t), "-standby", "-instance", "b")
	must(t, err)
	b.asics[0].keep(second)
	b.asics[0].waitFor("shares", func() bool { _, loads := b.writers(); return loads["a"] == 1 && loads["b"] == 1 })
	b.asics[0].waitFor("both to be ready", func() bool {
		c := readyClaim{lock: testLock("c")}
		return c.has(b.asics[0].Dir, "a") != c.has(b.asics[0].Dir, "b") && c.has(b.asics[1].Dir, "a") != c.has(b.asics[1].Dir, "b")
	})
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	defer unix.Close(fd)
	_, err = unix.InotifyAddWatch(fd, b.asics[0].Dir, unix.IN_CLOSE_WRITE|unix.IN_CREATE)
	must(t, err)
	changes := 0
	for range 200 { // two seconds in which nothing is to happen; the kernel joins what is alike and not read yet
		time.Sleep(10 * time.Millisecond)
		if n, _ := unix.Read(fd, make([]byte, 1<<12)); n > 0 {
			changes++
		}
	}
	if changes > 10 {
		t.Errorf("%d changes in two idle seconds", changes)
	}
}

// TestFolderThatIsMadeAgainIsWatched.
func TestFolderThatIsMadeAgainIsWatched(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "folder")
	must(t, os.Mkdir(dir, 0o755))
	changed := make(chan struct{}, 1)
	w := newFolderWatch(t.Context(), changed, discard())
	w.add(dir)
	must(t, os.Remove(dir))
	must(t, os.Mkdir(dir, 0o755))
	<-changed // that it is gone
	w.add(dir)
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	select {
	case <-changed:
	case <-time.After(2 * time.Second):
		t.Error("what happens in it is not heard of")
	}
}

// TestTwoSwitchesOverTCP have a lock each, as the databases are others.
func TestTwoSwitchesOverTCP(t *testing.T) {
	t.Parallel()
	for range 2 {
		s := newSwitch(t, switchtest.Options{TCP: true})
		s.start(1)
	}
}

// TestHandOverWhileWarmRestartsAreEnabled is no warm restart: what the switch enables for good says nothing of it.
func TestHandOverWhileWarmRestartsAreEnabled(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	writer, o := s.start(1)
	standby := s.standby("-instance", "b")
	s.must(s.State.HSet(t.Context(), "WARM_RESTART_ENABLE_TABLE|system", "enable", "true").Err())
	row := func() string {
		all := s.State.HGetAll(t.Context(), "WARM_RESTART_TABLE|portsyncd").Val()
		return all["restore_count"] + " " + all["state"]
	}
	before, w := row(), s.watchWrites()
	if code, out := s.handover(writer); code != exitOK {
		t.Fatal(code, out)
	}
	s.waitRole(standby, roleWriter)
	s.waitFor("the start", func() bool { return standby.Logged("start decided") == 2 })
	s.waitStatus(standby, "ok\n", "PortInitDone   sent")
	if got := w.touched(); len(got) > 0 || row() != before {
		t.Errorf("written were %v; the row is %q, and was %q; %v", got, row(), before, o.Signal("PortInitDone"))
	}
}

// TestRecorderComesBackToItsFile when a namespace is listed again.
func TestRecorderComesBackToItsFile(t *testing.T) {
	t.Parallel()
	b := newBoxTest(t, 2, 1)
	one := b.asics[1]
	b.up(one, 1)
	must(t, b.List(b.asics[0].Switch))
	series := `portsyncd_port_init_done{namespace="` + one.NetNS + `"}`
	one.waitFor("it to be left", func() bool { return !strings.Contains(one.scrape(b.d), series) })
	must(t, b.List(b.asics[0].Switch, one.Switch))
	b.up(one, 1)
	must(t, one.IP("link", "set", "Ethernet0", "mtu", "2000"))
	one.waitEntry("Ethernet0", fields("up", "up", 2000))
	program := daemonProgram(t)
	if out := sh(t, program[0], "events", "-recorder.file", b.Recorder()); !strings.Contains(out, "MTU 2000") {
		t.Errorf("the file does not have it:\n%s", tail(out))
	}
}
