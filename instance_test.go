package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
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

// Several portsyncd for the same databases: one writes.

var (
	handovers  = flag.Int("instance.rounds", 4, "how often TestHandOverInAStorm and TestKilledWriterIsReplaced do it")
	handedOver = flag.Int("instance.ports", 16, "with how many ports")
	inAStorm   = flag.Int("instance.storm", 1, "how many hand-overs there are in each storm of TestHandOverInAStorm")
)

// spread is what is logged of times that were measured.
func spread(times []time.Duration) string {
	if slices.Sort(times); len(times) == 0 {
		return "none"
	}
	at := func(share float64) time.Duration {
		return times[int(share*float64(len(times)-1))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("%d: p50 %v, p99 %v, at most %v", len(times), at(0.5), at(0.99), at(1))
}

// handover runs the command.
func (s *testSwitch) handover(d *switchtest.Daemon) (code int, out string) {
	s.t.Helper()
	cmd := exec.Command(s.program[0], append(slices.Clone(s.program[1:]), "handover", "-control.socket", d.Control)...)
	var all bytes.Buffer
	cmd.Stdout, cmd.Stderr = &all, &all
	if err := cmd.Run(); cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), all.String()
}

// standby starts one, and waits until it is ready.
func (s *testSwitch) standby(flags ...string) *switchtest.Daemon {
	s.t.Helper()
	d := s.daemon(append([]string{"-standby"}, flags...)...)
	s.waitReady(d)
	return d
}

func (s *testSwitch) waitReady(d *switchtest.Daemon) {
	s.t.Helper()
	s.waitServed(d)
	var text string
	if err := switchtest.WaitFor(patience, "the standby", func() bool {
		_, text = ask(s.t, d, "GET", "/readyz")
		return strings.HasPrefix(text, "standby, ready\n")
	}); err != nil {
		s.t.Fatalf("%v: /readyz says %s", err, text)
	}
}

func (s *testSwitch) waitServed(d *switchtest.Daemon) {
	s.t.Helper()
	s.waitFor("the server", func() bool { return strings.Contains(s.scrape(d), "portsyncd_build_info") })
}

func (s *testSwitch) waitRole(d *switchtest.Daemon, role string) {
	s.t.Helper()
	s.waitServed(d)
	s.waitFor(role, func() bool { return s.statusAnswer(d).Role == role })
}

// TestSecondWriterIsRefused, with a line that names the first; an observer is not.
func TestSecondWriterIsRefused(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(2)
	text, err := os.ReadFile(filepath.Join(s.Dir, "portsyncd.lock"))
	s.must(err)
	var holder lockHolder
	s.must(json.Unmarshal(text, &holder))
	if holder.Instance != defaultInstance(d.Control) || holder.Version == "" || holder.Since == "" || os.Getenv("PORTSYNCD") == "" && holder.PID != d.PID() {
		t.Errorf("the lock's file has %+v", holder)
	}
	w := s.watchWrites()
	second := s.daemon("-instance", "other")
	code, err := second.Wait(patience)
	s.must(err)
	last := strings.TrimSpace(second.Log())
	last = last[strings.LastIndex(last, "\n")+1:]
	if code != exitFailed || !strings.HasPrefix(last, "portsyncd: another portsyncd writes to these databases: "+holder.Instance+",") ||
		!strings.Contains(last, fmt.Sprintf("process %d, ", holder.PID)) || !strings.Contains(last, "-standby") {
		t.Errorf("exit code %d: %s", code, last)
	}
	s.waitStatus(s.observer(), "ok\n", "observer")
	if got := w.touched(); len(got) > 0 {
		t.Errorf("written were %v", got)
	}
	elsewhere := s.daemon("-lock.dir", s.ConfigFile)
	if code, err := elsewhere.Wait(patience); err != nil || code != exitUsage || !strings.Contains(elsewhere.Log(), "-lock.dir") {
		t.Errorf("a folder that cannot be written: exit code %d, %v", code, err)
	}
}

// TestKilledWriterIsReplaced by a standby that writes only what differs, again and again.
func TestKilledWriterIsReplaced(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	n := *handedOver
	writer, _ := s.start(n)
	var took []time.Duration
	defer func() { t.Logf("right after kill -9: %s", spread(took)) }()
	for round := range *handovers {
		standby := s.standby("-instance", []string{"a", "b"}[round%2])
		w := s.watchWrites()
		s.must(writer.Signal(syscall.SIGKILL))
		_, err := writer.Wait(patience)
		s.must(err)
		killed := time.Now()
		s.must(s.IP("link", "set", "Ethernet4", "down"))
		s.waitEntry("Ethernet4", fields("down", "down", 1500))
		took = append(took, time.Since(killed))
		s.waitRole(standby, roleWriter)
		s.waitStatus(standby, "ok\n", "PortInitDone   sent", fmt.Sprintf("%d present: %d up", n, n-1))
		if got := w.touched(); !slices.Equal(got, []string{"STATE Ethernet4"}) {
			t.Errorf("written were %v", got)
		}
		s.must(s.IP("link", "set", "Ethernet4", "up"))
		s.waitEntry("Ethernet4", fields("up", "up", 1500))
		writer = standby
	}
}

// TestHandOverInAStorm: nothing is wrong afterwards, nothing is written that did not change, and no flap is lost.
func TestHandOverInAStorm(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	n := *handedOver
	s.must(s.Configure(t.Context(), n))
	s.orchagent(true)
	writer := s.standby0()
	for _, p := range portNames(n) {
		s.waitEntry(p, fields("up", "up", 1500))
	}
	steady := portNames(n)[n-2:] // no part of the storm
	var took, without []time.Duration
	admin, err := s.SetAdmin()
	s.must(err)
	defer admin.Close()
	down := func(times *[]time.Duration, port string) { // and how long it took
		t.Helper()
		index, err := s.Index(port)
		s.must(err)
		begun := time.Now()
		s.must(admin.Set(index, false))
		s.waitEntry(port, fields("down", "down", 1500))
		*times = append(*times, time.Since(begun))
		s.must(admin.Set(index, true))
	}
	standby := s.standby()
	before := s.carrierLosses() // before a port was first up: those are no flaps
	done := 0
	for round := range *handovers {
		if round%8 < 4 { // in quiet times
			w := s.watchWrites()
			if code, out := s.handover(writer); code != exitOK || out != "handed over\n" {
				t.Fatalf("round %d: exit code %d: %s", round, code, out)
			}
			s.waitRole(standby, roleWriter)
			s.waitReady(writer)
			s.waitStatus(standby, "ok\n", "PortInitDone   sent", fmt.Sprintf("%d present: %d up", n, n))
			if got := w.touched(); len(got) > 0 {
				t.Fatalf("round %d: nothing changed, and written were %v", round, got)
			}
			writer, standby, done = standby, writer, done+1
		}
		storm, calm := make(chan error, 1), make(chan struct{})
		go func() { storm <- s.flapUntil(calm, portNames(n-2)...) }()
		for i := range *inAStorm {
			down(&without, steady[0])
			if i%2 == 0 {
				s.must(writer.Signal(syscall.SIGUSR2))
			} else if code, out := s.handover(writer); code != exitOK {
				t.Fatalf("round %d: exit code %d: %s", round, code, out)
			}
			down(&took, steady[1])
			s.waitRole(standby, roleWriter)
			s.waitReady(writer)
			writer, standby, done = standby, writer, done+1
			for _, p := range steady {
				s.waitEntry(p, fields("up", "up", 1500))
			}
		}
		close(calm)
		s.must(<-storm)
		s.waitAgreement("after a hand-over in a storm")
		for _, p := range portNames(n) {
			s.waitEntry(p, fields("up", "up", 1500)) // the carrier comes back up to a second later
		}
		losses, told := s.carrierLosses(), s.scrape(writer)
		for _, p := range portNames(n) {
			want := strconv.Itoa(losses[p] - before[p])
			if got := sample(told, `portsyncd_port_flaps_total{port="`+p+`"}`); got != want {
				t.Errorf("round %d: %s has flapped %s times, the kernel says %s", round, p, got, want)
			}
		}
	}
	t.Logf("from a change in the storm to its entry: %s", spread(without))
	t.Logf("and amid a hand-over: %s", spread(took))
	if code, out := s.handover(standby); code != exitNotWell || !strings.Contains(out, errNotWriting.Error()) {
		t.Errorf("a standby hands over: exit code %d: %s", code, out)
	}
	standby.Stop()
	if code, out := s.handover(writer); code != exitNotWell || !strings.Contains(out, errNoStandby.Error()) {
		t.Errorf("without a standby: exit code %d: %s", code, out)
	}
	if code, _ := ask(t, writer, "POST", handoverPath); code != http.StatusNotFound {
		t.Errorf("the metrics server answers to a hand-over: %d", code)
	}
	s.must(s.IP("link", "set", "Ethernet0", "mtu", "2000"))
	s.waitEntry("Ethernet0", fields("up", "up", 2000))
	out := sh(t, s.program[0], "events", "-recorder.file", s.Recorder()) // which all of them wrote, one after the other
	if n := strings.Count(out, "taken over"); n != done && n < 50 || !strings.Contains(out, "MTU 2000") {
		t.Errorf("the recorder tells of %d hand-overs of %d:\n%s", n, done, tail(out))
	}
}

// standby0 starts the first of several.
func (s *testSwitch) standby0() *switchtest.Daemon {
	s.t.Helper()
	d := s.daemon("-standby", "-instance", "first")
	s.waitRole(d, roleWriter)
	return d
}

// flapUntil has ports flap until it is told to end, ten times or more.
func (s *testSwitch) flapUntil(end <-chan struct{}, ports ...string) error {
	for round := 0; ; round++ {
		if err := s.Flap(1, ports...); err != nil {
			return err
		}
		select {
		case <-end:
			if round >= 10 {
				return nil
			}
		default:
		}
	}
}

// carrierLosses is how often the kernel says that a port lost its carrier.
func (s *testSwitch) carrierLosses() map[string]int {
	s.t.Helper()
	all := map[string]int{}
	out, err := exec.Command("ip", "netns", "exec", s.NetNS, "sh", "-c", "cd /sys/class/net && grep -H . */carrier_down_count").Output()
	s.must(err)
	for line := range strings.Lines(string(out)) {
		port, count, _ := strings.Cut(strings.TrimSpace(line), "/carrier_down_count:")
		n, err := strconv.Atoi(count)
		s.must(err)
		all[port] = n
	}
	return all
}

// TestSigtermHandsOver: the standby takes over at once, and the one that ends has written what was pending.
func TestSigtermHandsOver(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{TCP: true}) // the lock is beside no socket
	dir := []string{"-lock.dir", s.Dir}
	writer, _ := s.start(4, dir...)
	standby := s.standby(dir...)
	s.must(writer.Signal(syscall.SIGTERM))
	if code, err := writer.Wait(patience); err != nil || code != 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
	s.waitRole(standby, roleWriter)
	s.must(s.IP("link", "set", "Ethernet0", "mtu", "2000"))
	s.waitEntry("Ethernet0", fields("up", "up", 2000))
	if standby.Logged("taking over", "handed_over=true") != 1 {
		t.Error("what was counted was not handed over")
	}
}

// TestColdStartMeanwhileIsSeenByTheStandby: APPL_DB is flushed, and what exists is old.
func TestColdStartMeanwhileIsSeenByTheStandby(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	writer, _ := s.start(2)
	standby := s.standby()
	s.must(writer.Signal(syscall.SIGSTOP))
	s.must(s.Appl.FlushDB(t.Context()).Err())
	s.must(s.State.Del(t.Context(), s.StateKey("Ethernet0"), s.StateKey("Ethernet4")).Err())
	s.must(writer.Signal(syscall.SIGKILL))
	has := func(signal string) bool { return s.Appl.Exists(t.Context(), "PORT_TABLE:"+signal).Val() == 1 }
	s.waitFor("PortConfigDone", func() bool { return has(portConfigDone) })
	s.waitFor("the old interfaces to be down", func() bool { return !s.adminUp("Ethernet0") && !s.adminUp("Ethernet4") })
	if has(portInitDone) || standby.Logged("start decided", `why="cold start"`) != 1 {
		t.Error("it is not seen as a cold start")
	}
}

// TestLockWhoseFileIsRemoved is taken again, or lost to who was faster; nothing is written before that is known.
func TestLockWhoseFileIsRemoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "portsyncd.lock")
	a, b := newWriterLock(lockHolder{Instance: "a", PID: 1}, time.Now), newWriterLock(lockHolder{Instance: "b", PID: 2}, time.Now)
	must(t, a.take(dir))
	if err := b.take(dir); !errors.Is(err, errHeld) || !strings.Contains(err.Error(), "a, process 1") {
		t.Errorf("a second one takes it: %v", err)
	}
	must(t, a.enter())
	a.leave()
	must(t, os.Remove(path))
	conn := new(refusing)
	d := &sonicDB{appl: conn, config: conn, state: conn, m: newMetrics("")}
	guard(d, a)
	write := func() error { return d.SetLogger(t.Context(), logSettings{}) }
	if err := write(); !errors.Is(err, errLockLost) || len(conn.sent) > 0 {
		t.Errorf("written without the file: %v, %v", err, conn.sent)
	}
	if err := write(); err != nil || len(conn.sent) != 1 { // it was taken again
		t.Errorf("%v, %v", err, conn.sent)
	}
	must(t, os.Remove(path))
	must(t, a.beat()) // takes it again, and what is written next has to know
	if err := write(); !errors.Is(err, errLockLost) {
		t.Errorf("written as if nothing had been: %v", err)
	}
	must(t, write())
	must(t, os.Remove(path))
	must(t, b.take(dir))
	for _, err := range []error{write(), a.beat(), write()} {
		if !errors.Is(err, errHeld) || !strings.Contains(err.Error(), "b, process 2") {
			t.Errorf("another one was faster: %v", err)
		}
	}
	if len(conn.sent) != 2 {
		t.Errorf("sent were %v", conn.sent)
	}
	b.release()
	if err := b.enter(); !errors.Is(err, errLockLost) {
		t.Errorf("a lock that was released: %v", err)
	}
}

// TestHolderThatDoesNotAnswer is told of, and keeps the lock.
func TestHolderThatDoesNotAnswer(t *testing.T) {
	dir := t.TempDir()
	holder := newWriterLock(lockHolder{Instance: "a", PID: 1}, time.Now)
	must(t, holder.take(dir))
	i := &instance{health: new(health), lock: newWriterLock(lockHolder{}, time.Now), instanceTools: instanceTools{now: time.Now}}
	i.folder.Store(&dir)
	trouble := func() string {
		must(t, i.watch())
		if why := i.health.lock.Load(); why != nil {
			return *why
		}
		return ""
	}
	if why := trouble(); why != "" {
		t.Error(why)
	}
	i.holding.at = i.holding.at.Add(-silentAfter - 2*time.Second)
	if why := trouble(); !strings.HasPrefix(why, "the holder (a, process 1, version , since ") || !strings.Contains(why, "does not answer for 17s") {
		t.Errorf("it is not told of: %q", why)
	}
	must(t, os.Chtimes(filepath.Join(dir, "portsyncd.lock"), time.Time{}, time.Now().Add(-time.Minute))) // whatever the clock says
	if why := trouble(); why != "" {
		t.Errorf("it lives: %s", why)
	}
}

// TestCountsAreJoined: the larger one counts, and the kernel's own counts bridge the time in between.
func TestCountsAreJoined(t *testing.T) {
	own := []carriedPort{{Port: "Ethernet0", Flaps: 1, Ifindex: 3, CarrierDown: 9, Counted: true},
		{Port: "Ethernet4", Flaps: 8, Ifindex: 4, CarrierDown: 8, Counted: true},
		{Port: `an "odd" name`, Flaps: 2, Ifindex: 5, UpSeen: true, Admin: true, Oper: true, MTU: 9100, Changed: 1700000000.123}}
	theirs := []carriedPort{{Port: "Ethernet0", Flaps: 5, Ifindex: 3, CarrierDown: 7, Counted: true, UpSeen: true},
		{Port: "Ethernet4", Flaps: 3, Ifindex: 4, CarrierDown: 7, Counted: true, UpSeen: true},
		{Port: `an "odd" name`, Flaps: 4, Ifindex: 6, CarrierDown: 1, Counted: true, UpSeen: true}, {Port: "Ethernet12", Flaps: 6}}
	var got []uint64
	for _, p := range joinCarried(own, theirs) {
		got = append(got, p.Flaps)
	}
	if want := []uint64{7, 8, 4, 6}; !slices.Equal(got, want) {
		t.Errorf("flaps %v, want %v", got, want)
	}
	for _, half := range []string{"", "1 2 3", "1 2 3 true true true true 1500 1.5", "1 2 3 yes true true true 1500 1.5 Ethernet0",
		"1 -2 3 true true true true 1500 1.5 Ethernet0", "1 2 3 true true true true 1500 late Ethernet0"} {
		if err := new(carriedPort).UnmarshalText([]byte(half)); err == nil {
			t.Errorf("%q is taken for a port", half)
		}
	}
	path, disk := filepath.Join(t.TempDir(), "record"), diskFolder{}
	word := handoverRecord{BootID: "boot", At: time.Second, To: `b,"counts":`, Ports: own, Old: []string{"1:Ethernet0:2"}}
	must(t, leaveRecord(disk, path, word))
	if r, age, err := readRecord(disk, path, "boot", 3*time.Second, false); err != nil || r.To != word.To || age != 2*time.Second || len(r.Ports) > 0 {
		t.Errorf("the record's head is %+v, %v old, %v", r, age, err)
	}
	for _, c := range []struct {
		boot string
		at   time.Duration
		good bool
	}{{"boot", 2 * time.Second, true}, {"another", 2 * time.Second, false}, {"boot", time.Minute, false}, {"boot", 0, false}} {
		must(t, leaveRecord(disk, path, handoverRecord{BootID: "boot", At: time.Second, Ports: own}))
		r, err := findRecord(disk, path, c.boot, c.at)
		ports := r.Ports
		if good := err == nil && slices.Equal(ports, own); good != c.good {
			t.Errorf("at %v of %s: %v, %v", c.at, c.boot, ports, err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("it is found twice")
		}
	}
}
