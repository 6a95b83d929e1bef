package main

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// What keeps a standby from taking over, and what does not.

// TestStandbyThatIsNotReadyIsHandedNothing: whoever writes goes on, and so it does for another standby that is ready.
func TestStandbyThatIsNotReadyIsHandedNothing(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	dir := []string{"-lock.dir", s.Dir}
	writer, _ := s.start(2, dir...)
	text, err := os.ReadFile(s.ConfigFile)
	s.must(err)
	elsewhere := filepath.Join(s.Dir, "elsewhere.json") // where no Redis is
	s.must(os.WriteFile(elsewhere, []byte(strings.ReplaceAll(string(text), ".sock", ".none")), 0o644))
	blind := s.daemon(append(dir, "-standby", "-instance", "blind", "-db.config", elsewhere)...)
	s.waitRole(blind, roleStandby)
	s.waitFor("it to miss its databases", func() bool {
		code, _ := ask(t, blind, "GET", "/readyz")
		return code == 503 && blind.Logged("the databases do not answer") > 0
	})
	if code, out := s.handover(writer); code != exitNotWell || !strings.Contains(out, errNoStandby.Error()) {
		t.Errorf("it is handed over: exit code %d: %s", code, out)
	}
	s.must(writer.Signal(syscall.SIGUSR2))
	s.waitFor("the refusal in the log", func() bool { return writer.Logged("SIGUSR2", errNoStandby.Error()) == 1 })
	able := s.standby(append(dir, "-instance", "able")...)
	s.must(writer.Signal(syscall.SIGKILL))
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "2000"))
	s.waitEntry("Ethernet4", fields("up", "up", 2000)) // though the blind one waited for the lock first
	s.waitRole(able, roleWriter)
	s.waitRole(blind, roleStandby)
}

// TestWriterThatNeverHearsTheDatabasesGivesUp, for one that does: it came to the lock when nobody else was ready.
func TestWriterThatNeverHearsTheDatabasesGivesUp(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	dir := []string{"-lock.dir", s.Dir}
	first, _ := s.start(2, dir...)
	text, err := os.ReadFile(s.ConfigFile)
	s.must(err)
	elsewhere := filepath.Join(s.Dir, "elsewhere.json") // where no Redis is
	s.must(os.WriteFile(elsewhere, []byte(strings.ReplaceAll(string(text), ".sock", ".none")), 0o644))
	first.Stop()
	blind := s.daemon(append(dir, "-standby", "-instance", "blind", "-db.config", elsewhere)...)
	s.waitRole(blind, roleWriter)
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "2000"))
	able := s.standby(append(dir, "-instance", "able")...)
	s.waitEntry("Ethernet4", fields("up", "up", 2000))
	s.waitRole(able, roleWriter)
	s.waitRole(blind, roleStandby)
	if n := blind.Logged("that stands by: handing over"); n != 1 {
		t.Errorf("it has given up %d times", n)
	}
}

// TestStoppedHolderIsToldOf, keeps the lock, and goes on as if nothing had been; or is killed and replaced.
func TestStoppedHolderIsToldOf(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	writer, _ := s.start(2)
	standby := s.standby("-instance", "b")
	stopped := time.Now()
	s.must(writer.Signal(syscall.SIGSTOP))
	s.waitStatus(standby, "lock: the holder ("+hostName(), "does not answer for ", "it keeps the lock until it ends")
	if took := time.Since(stopped); took < silentAfter-beatInterval {
		t.Errorf("it is told of after %v", took)
	}
	if code, text := ask(t, standby, "GET", "/readyz"); code != 200 || !strings.HasPrefix(text, "standby, ready\n") {
		t.Errorf("what the holder does keeps the standby from being ready: %d %s", code, text)
	}
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "2000"))
	if code, out := s.handover(standby); code != exitNotWell || !strings.Contains(out, errNotWriting.Error()) {
		t.Errorf("a standby hands over: %d %s", code, out)
	}
	s.must(writer.Signal(syscall.SIGCONT))
	s.waitEntry("Ethernet4", fields("up", "up", 2000))
	s.waitFor("the standby to be content", func() bool { _, out, _ := statusOf(t, standby.Control); return !strings.Contains(out, "lock:") })
	s.waitRole(writer, roleWriter)
	s.must(writer.Signal(syscall.SIGSTOP))
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "3000"))
	s.must(writer.Signal(syscall.SIGKILL))
	s.waitEntry("Ethernet4", fields("up", "up", 3000))
	s.waitRole(standby, roleWriter)
}

// TestStandbyBesideAPortsyncdWithoutALock, as the C++ one is: it observes until it is told to write.
func TestStandbyBesideAPortsyncdWithoutALock(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	first, _ := s.start(2) // what the other one would have written
	s.must(first.Signal(syscall.SIGTERM))
	_, err := first.Wait(patience)
	s.must(err)
	sleep, err := exec.LookPath("sleep")
	s.must(err)
	text, err := os.ReadFile(sleep)
	s.must(err)
	binary := filepath.Join(s.Dir, appName)
	s.must(os.WriteFile(binary, text, 0o755))
	other, err := switchtest.StartProgram("ip", "netns", "exec", s.NetNS, binary, "600")
	s.must(err)
	t.Cleanup(other.Stop)
	name := func() string {
		comm, _ := os.ReadFile("/proc/" + strconv.Itoa(other.PID()) + "/comm")
		return strings.TrimSpace(string(comm))
	}
	s.waitFor("it to run", func() bool { return name() == appName })
	w := s.watchWrites()
	standby := s.standby("-instance", "b")
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "2000"))
	s.waitStatus(standby, "lock: process "+strconv.Itoa(other.PID()), "and knows of no lock; this one only observes until", "role           standby")
	s.waitStatus(standby, "Ethernet4", "STATE_DB has 1500, right is 2000")
	other.Stop()
	s.waitStatus(standby, "is not to be seen any more")
	if got := w.touched(); len(got) > 0 {
		t.Errorf("written were %v", got)
	}
	force := func(d *switchtest.Daemon) (int, string) {
		cmd := exec.Command(s.program[0], append(slices.Clone(s.program[1:]), "handover", "-force", "-control.socket", d.Control)...)
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	if code, out := force(standby); code != exitOK || out != "taken over\n" {
		t.Errorf("exit code %d: %s", code, out)
	}
	s.waitEntry("Ethernet4", fields("up", "up", 2000))
	s.waitRole(standby, roleWriter)
	if code, out := force(standby); code != exitNotWell || !strings.Contains(out, errNotBeside.Error()) {
		t.Errorf("it is forced again: exit code %d: %s", code, out)
	}
	second := s.standby("-instance", "c") // one of ours is no stranger
	s.must(standby.Signal(syscall.SIGTERM))
	s.waitRole(second, roleWriter)
}

// TestLockFolderThatIsReadOnly keeps nobody from writing who has not asked for a lock, and health says so. Where one was
// asked for it is an error.
func TestLockFolderThatIsReadOnly(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	rest := t.TempDir()
	s.program = append([]string{"unshare", "-m", "sh", "-c", `mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"`, s.Dir},
		daemonProgram(t)...)
	common := []string{"-recorder.file", "", "-control.socket", filepath.Join(rest, "a.sock")}
	d, _ := s.start(2, common...)
	d.Control = common[3]
	s.waitStatus(d, "degraded", "lock: this portsyncd writes without a lock: ", "make "+s.Dir+" writable", "-lock.dir")
	s.waitFor("the log to tell of it", func() bool { return d.Logged("this portsyncd writes without a lock, ") == 1 })
	if code, text := ask(t, d, "GET", "/readyz"); code != 200 {
		t.Errorf("/readyz: %d %s", code, text)
	}
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "2000"))
	s.waitEntry("Ethernet4", fields("up", "up", 2000))
	for _, flags := range [][]string{{"-standby"}, {"-instance", "b"}, {"-lock.dir", s.Dir}} {
		asked := s.daemon(append(flags, "-recorder.file", "", "-control.socket", "")...)
		if code, err := asked.Wait(patience); err != nil || code != exitUsage || !strings.Contains(asked.Log(), "-lock.dir") {
			t.Errorf("%v: exit code %d, %v", flags, code, err)
		}
	}
}

var (
	standbyRest = flag.Duration("standby.rest", 0, "how long TestStandbyAtRest waits before it looks what a standby takes of the processor; 0: it does not look")
	standbyTime = flag.Duration("standby.time", 10*time.Second, "and for how long it looks")
)

// TestStandbyAtRest asks the databases for nothing but its heartbeat, and whether they are there, with each beat.
func TestStandbyAtRest(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	writer, _ := s.start(4)
	standby := s.standby()
	asked := func() map[string]int {
		counts := map[string]int{}
		for _, line := range strings.Fields(s.State.Info(t.Context(), "commandstats").Val()) {
			name, rest, _ := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
			n, _, _ := strings.Cut(rest, ",")
			counts[name], _ = strconv.Atoi(n)
		}
		return counts
	}
	heartbeats := func() int { return asked()["eval"] }
	s.waitFor("the first rows", func() bool { return len(s.instances(standby)) == 1 })
	if *standbyRest > 0 { // for the time that it takes; a holder that is stopped for so long is told of
		time.Sleep(*standbyRest)
		cpu := s.cpu(standby)
		time.Sleep(*standbyTime)
		t.Logf("after %v the standby takes %v of the processor in %v", *standbyRest, s.cpu(standby)-cpu, *standbyTime)
	}
	s.must(writer.Signal(syscall.SIGSTOP)) // what it asks for is no part of this
	first := heartbeats()
	s.waitFor("a beat", func() bool { return heartbeats() > first })
	before, cpu := asked(), s.cpu(standby)
	began := time.Now()
	for heartbeats() < first+3 && time.Since(began) < patience { // whoever asks Redis often takes the caches
		time.Sleep(time.Second)
	}
	t.Logf("in %v the standby took %v of the processor", time.Since(began).Round(time.Millisecond), s.cpu(standby)-cpu)
	if n := heartbeats(); n < first+3 {
		t.Errorf("%d heartbeats in %v", n-first, time.Since(began))
	}
	for name, n := range asked() {
		if n -= before[name]; n > 0 && name != "info" {
			t.Logf("%d × %s", n, name)
			switch name {
			case "eval", "hset", "expire", "sadd", "smembers", "hgetall", "ping", "select", "hello", "client", "client|setinfo":
			default:
				t.Errorf("the standby asks: %d × %s", n, name)
			}
		}
	}
	s.must(writer.Signal(syscall.SIGCONT))
}

func (s *testSwitch) cpu(d *switchtest.Daemon) time.Duration {
	s.t.Helper()
	took, err := d.CPU()
	s.must(err)
	return took
}
