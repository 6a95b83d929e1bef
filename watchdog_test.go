package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// Whether a loop that does not turn is stuck.

// slowKernel is a link source whose dump requests, or whose reads, take as long as the test wants.
type slowKernel struct {
	still
	status  *health
	block   chan string // where the next call is to block: dump, receive, or loop: in no system call
	blocked chan struct{}
	release chan struct{}
}

func (k *slowKernel) stop(at string) {
	select {
	case where := <-k.block:
		if where != at {
			k.block <- where
			return
		}
		if where != "loop" {
			k.status.enterKernel(time.Now())
			defer func() { k.status.leaveKernel(time.Now()) }()
		}
		k.blocked <- struct{}{}
		<-k.release
	default:
	}
}

func (k *slowKernel) StartDump() error { k.stop("dump"); return k.still.StartDump() }

func (k *slowKernel) Receive(linkSink) (bool, error) {
	k.stop("receive")
	k.stop("loop")
	return false, nil
}

func (k *slowKernel) Wait(time.Duration) error { runtime.Gosched(); return nil }

// openSystemd listens where systemd would.
func openSystemd(t *testing.T) (systemd *net.UnixConn, path string) {
	path = filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { systemd.Close() })
	return systemd, path
}

// TestLoopInTheKernelIsNotStuck: while somebody holds rtnl, a dump request or the reading of a dump blocks in the
// kernel. For as long as it does, the watchdog does not end the process, systemd hears that it is well, and health
// says what it waits for and since when. A loop that stands still by itself is still stuck.
func TestLoopInTheKernelIsNotStuck(t *testing.T) {
	for _, where := range []string{"dump", "receive"} {
		t.Run(where, func(t *testing.T) {
			w, exited, _ := newWatchdog(t)
			systemd, path := openSystemd(t)
			conn, err := net.Dial("unixgram", path)
			must(t, err)
			w.notify = &notifier{every: time.Second}
			w.notify.use(conn)
			k := &slowKernel{status: w.box.health, block: make(chan string, 1),
				blocked: make(chan struct{}), release: make(chan struct{})}
			k.block <- where
			rules := syncOptions{eoiu: time.Minute, links: globs{"*"}}
			syncer := newSyncer(rules, k, nil, w.box.m, w.box.health, slog.New(slog.DiscardHandler), time.Now)
			ended := make(chan error, 1)
			go func() { ended <- syncer.Run(t.Context()) }()
			<-k.blocked
			start := time.Now()
			w.tick(start, time.Second)
			for second := 1; second < 60; second++ {
				now := start.Add(time.Duration(second) * time.Second)
				w.tick(now, time.Second)
				if *exited != 0 {
					t.Fatalf("ended after %d s in the kernel", second)
				}
				readDatagrams(t, systemd, "the watchdog's word", func(m string) bool { return m == "WATCHDOG=1" })
				if got := w.box.health.Alive(now); len(got) > 0 {
					t.Fatalf("/healthz says after %d s: %v", second, got)
				}
				check := w.box.health.Checks(now, 0)[0]
				since := fmt.Sprintf("for %ds: ", second)
				said := strings.Contains(check.reason, since) && strings.Contains(check.reason, "rtnl")
				if second > 3 && (check.level != degraded || !said) {
					t.Fatalf("after %d s netlink is %v (%s)", second, check.level, check.reason)
				}
			}
			k.block <- "loop"
			k.release <- struct{}{}
			<-k.blocked
			w.box.health.listed.Store(true)
			if check := w.box.health.Checks(time.Now(), 0)[0]; check.level != ok {
				t.Errorf("afterwards netlink is %v (%s)", check.level, check.reason)
			}
			for range 12 {
				w.tick(time.Now(), time.Second)
			}
			if *exited != exitFailed {
				t.Error("a loop that stands still by itself goes unnoticed")
			}
			k.release <- struct{}{}
		})
	}
}

// TestLoopThatCannotBeginIsNotStuck: what the start waits for may take minutes, and systemd is told not to lose
// patience either.
func TestLoopThatCannotBeginIsNotStuck(t *testing.T) {
	w, exited, _ := newWatchdog(t)
	w.box.health.listed.Store(false)
	systemd, path := openSystemd(t)
	conn, err := net.Dial("unixgram", path)
	must(t, err)
	w.notify = &notifier{every: time.Second}
	w.notify.use(conn)
	w.box.health.await(fmt.Errorf("%w: asic0", errNoNetNS))
	now := time.Now()
	for range 60 {
		now = now.Add(time.Second)
		w.tick(now, time.Second)
		extended := false
		readDatagrams(t, systemd, "the word to systemd", func(m string) bool {
			extended = extended || m == extendStart
			return extended && m == "WATCHDOG=1"
		})
	}
	check := w.box.health.Checks(now, 0)[0]
	if *exited != 0 || check.level != degraded || !strings.Contains(check.reason, "asic0") {
		t.Errorf("exit code %d; netlink is %v (%s)", *exited, check.level, check.reason)
	}
	w.box.health.await(nil)
	for range 10 {
		w.tick(now, time.Second)
	}
	if *exited != exitFailed {
		t.Error("a loop that does not begin although it could goes unnoticed")
	}
}

// TestNetworkNamespaceIsWaitedFor: the name leads nowhere, then to a file on which ip netns add is still to mount
// something, then to the namespace, as a link like those that SONiC makes.
func TestNetworkNamespaceIsWaitedFor(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 2))
	name := filepath.Join(s.Dir, "asic0")
	o := s.orchagent(true)
	d := s.daemon("-netns", name)
	s.waitMetric(d, `portsyncd_health_check{check="netlink"}`, "0.5")
	s.must(os.WriteFile(name, nil, 0o644))
	s.waitFor("the log to say so", func() bool {
		return d.Logged("level=WARN", "not there yet, waiting for it", name) == 1
	})
	for path, want := range map[string]int{"/healthz": http.StatusOK, "/readyz": http.StatusServiceUnavailable} {
		response, err := http.Get("http://" + d.Metrics + path)
		s.must(err)
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != want || want != http.StatusOK && !strings.Contains(string(text), name) {
			t.Errorf("%s answers %s: %s", path, response.Status, text)
		}
	}
	s.must(os.Remove(name))
	s.must(os.Symlink("/run/netns/"+s.NetNS, name))
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	s.waitEntry("Ethernet4", fields("up", "up", 1500))
	s.waitMetric(d, "portsyncd_health_status", "1")
	if d.Logged("waiting for it") != 1 {
		t.Error("waiting is in the log more than once")
	}
}

// TestSigtermEndsTheWaitForANamespace at once.
func TestSigtermEndsTheWaitForANamespace(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	d := s.daemon("-netns", filepath.Join(s.Dir, "asic0"))
	s.waitFor("the wait", func() bool { return d.Logged("waiting for it") == 1 })
	asked := time.Now()
	s.must(d.Signal(syscall.SIGTERM))
	if code, err := d.Wait(patience); err != nil || code != exitOK {
		t.Errorf("exit code %d, %v", code, err)
	}
	if took := time.Since(asked); took > 3*time.Second {
		t.Errorf("ended after %v", took)
	}
}

// holdVariable has this program hold the lock on links by a port of that name, see testMain; it is one lock for the
// whole machine, so for a few seconds at most.
const (
	holdVariable = "PORTSYNCD_TEST_HOLD_LINKS"
	holdLimit    = 15 * time.Second
)

func (s *testSwitch) holdLinks(t *testing.T) (release func()) {
	t.Helper()
	program, err := os.Executable()
	s.must(err)
	t.Setenv(holdVariable, "Ethernet0")
	release, err = s.HeldLinks(program)
	s.must(err)
	t.Cleanup(release)
	return release
}

// TestHeldLinksAreReportedNotPunished: the real kernel, the real lock, the real watchdog.
func TestHeldLinksAreReportedNotPunished(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	systemd, path := openSystemd(t)
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "1000000")
	t.Setenv("WATCHDOG_PID", "")
	d, _ := s.start(2, "-reconcile-interval", "1s")
	s.waitMetric(d, `portsyncd_health_check{check="netlink"}`, "1")
	release := s.holdLinks(t)
	s.must(switchtest.WaitFor(12*time.Second, "netlink to be degraded", func() bool {
		return s.metric(d, `portsyncd_health_check{check="netlink"}`) == "0.5"
	}))
	s.waitFor("the log to say why", func() bool { // which comes by way of a queue
		return d.Logged("level=WARN", "health is degraded", "netlink: the kernel has had a request for", "rtnl") == 1
	})
	response, err := http.Get("http://" + d.Metrics + "/healthz")
	s.must(err)
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("/healthz answers %s", response.Status)
	}
	for range 10 { // what waits in the socket, which holds no more
		must(t, systemd.SetReadDeadline(time.Now().Add(time.Millisecond)))
		if _, err := systemd.Read(make([]byte, 4096)); err != nil {
			break
		}
	}
	readDatagrams(t, systemd, "the watchdog's word meanwhile", func(m string) bool { return m == "WATCHDOG=1" })
	release()
	s.waitMetric(d, `portsyncd_health_check{check="netlink"}`, "1")
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "1400"))
	s.waitEntry("Ethernet4", fields("up", "up", 1400))
	if !d.Running() || d.Logged("the loop is stuck") > 0 {
		t.Error("the daemon was ended")
	}
}

// TestGarbageCollectorDoesNotWaitForHeldLinks: a dump's datagrams are made when they are read, under rtnl. While that
// blocks, the rest of the program goes on.
func TestGarbageCollectorDoesNotWaitForHeldLinks(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	s.must(s.AddPorts(portNames(100)...))
	k := s.openLinks()
	k.status = new(health)
	s.must(k.StartDump())
	release := s.holdLinks(t)
	c := new(collector)
	read := make(chan error, 1)
	go func() {
		for c.dumpEnds == 0 {
			if _, err := k.Receive(c); err != nil {
				read <- err
				return
			}
		}
		read <- nil
	}()
	s.waitFor("the dump to wait for the lock", func() bool {
		since := k.status.kernel.Load()
		return since != 0 && instant(time.Now())-since > int64(50*time.Millisecond)
	})
	within(t, "a garbage collection", 5*time.Second, func() { runtime.GC() })
	release()
	s.must(<-read)
	if c.dumpErr != nil || len(c.bad) > 0 {
		t.Errorf("the dump ended with %v; malformed %v", c.dumpErr, c.bad)
	}
}

// TestHeapIsTrimmedDuringAnOutage: trimming needs no health, and who is above -memory-limit needs it most.
func TestHeapIsTrimmedDuringAnOutage(t *testing.T) {
	w, _, _ := newWatchdog(t)
	ring := new(bell)
	w.box.health.bell = ring
	w.box.health.database(errors.New("Redis is away"), nil, time.Now().Add(-time.Minute))
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { defer close(done); w.Run(ctx) }()
	ballast = make([]byte, 64<<20)
	for i := 0; i < len(ballast); i += 4096 {
		ballast[i] = 1
	}
	ballast = nil
	runtime.GC()
	for at := time.Now(); ring.heard.Load() == nil; time.Sleep(time.Millisecond) {
		if time.Since(at) > patience {
			t.Fatal("the watchdog does not listen")
		}
	}
	at := time.Now()
	for range trimAfter + 1 {
		w.box.health.turn(at, time.Time{})
		ring.ring(at)
		at = at.Add(beatInterval)
	}
	cancel()
	<-done
	var m runtime.MemStats
	if err := switchtest.WaitFor(patience, "the heap to be trimmed", func() bool {
		runtime.ReadMemStats(&m)
		return m.HeapIdle-m.HeapReleased <= 16<<20
	}); err != nil {
		t.Errorf("%d bytes of free heap stay", m.HeapIdle-m.HeapReleased)
	}
}

// TestSystemdThatDoesNotListen: the loop's thread tells it how things are, and does not wait; what was not said is said later.
func TestSystemdThatDoesNotListen(t *testing.T) {
	w, _, _ := newWatchdog(t)
	systemd, path := openSystemd(t)
	conn, err := net.Dial("unixgram", path)
	must(t, err)
	defer conn.Close()
	w.notify = &notifier{every: time.Second}
	w.notify.use(conn)
	w.box.health.listed.Store(false)
	now := time.Now()
	tick := func() {
		now = now.Add(time.Second)
		w.box.health.turn(now, time.Time{})
		w.tick(now, 0)
	}
	full := func() {
		for range 100_000 {
			if !w.notify.Tell("WATCHDOG=1") {
				return
			}
		}
		t.Fatal("the queue is never full")
	}
	full()
	w.box.health.listed.Store(true)
	within(t, "a tick", patience, tick)
	if w.ready || w.status != "" {
		t.Errorf("systemd has heard nothing: ready %v, status %q", w.ready, w.status)
	}
	buf := make([]byte, 4096)
	for {
		must(t, systemd.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		if _, err := systemd.Read(buf); err != nil {
			break
		}
	}
	tick()
	seen := map[string]bool{}
	readDatagrams(t, systemd, "what was not said", func(m string) bool {
		seen[m] = true
		return seen["READY=1"] && seen["STATUS=ok"]
	})
}

// TestLoopThatIsStuckInABeat ends the daemon, too: what comes with a beat runs on the loop's thread.
func TestLoopThatIsStuckInABeat(t *testing.T) {
	t.Parallel()
	w, _, out := newWatchdog(t)
	w.box.health.bell = new(bell)
	exited := make(chan struct{}, 1)
	w.exit = func() {
		select {
		case exited <- struct{}{}:
		default:
		}
	}
	go w.Run(t.Context())
	for begun := time.Now(); w.box.health.bell.heard.Load() == nil; time.Sleep(time.Millisecond) {
		if time.Since(begun) > patience {
			t.Fatal("the watchdog does not listen")
		}
	}
	w.mu.Lock() // and never leaves it
	within(t, "the end", 2*stuckAfter, func() { <-exited })
	if !strings.Contains(out.String(), "the loop is stuck, ending\" for=11s") {
		t.Errorf("the log does not say for how long: %.200s", out.String())
	}
}

// TestIdleLoopIsNotTakenForStuck: a tick of the watchdog's own that was due just when a beat came.
func TestIdleLoopIsNotTakenForStuck(t *testing.T) {
	t.Parallel()
	var exits atomic.Int32
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 400 {
		h := &health{bell: new(bell)}
		h.listed.Store(true)
		w := &watchdog{box: newBox(&unit{m: newMetrics(""), health: h}), log: slog.New(slog.DiscardHandler),
			flush: func(time.Duration) {}, notify: new(notifier)}
		var once sync.Once
		w.exit = func() { once.Do(func() { exits.Add(1) }) }
		all.Go(func() { w.Run(ctx) })
		all.Go(func() { // a loop that beats every five seconds, and is idle meanwhile
			for h.bell.heard.Load() == nil {
				time.Sleep(100 * time.Microsecond)
			}
			at := time.Now().Add(shortBeat + time.Duration(i%40-20)*25*time.Microsecond)
			for range 2 {
				time.Sleep(time.Until(at))
				h.turn(time.Now(), time.Time{})
				h.beat(time.Now())
				at = at.Add(beatInterval)
			}
		})
	}
	time.Sleep(shortBeat + beatInterval + time.Second)
	cancel()
	all.Wait()
	if n := exits.Load(); n > 0 {
		t.Errorf("of 400 healthy loops, %d were taken for stuck", n)
	}
}

// TestBeatWaitsForNoScrape: with -memory-limit, a scrape that is amid reading /proc holds the lock that the loop's thread takes.
func TestBeatWaitsForNoScrape(t *testing.T) {
	w, _, _ := newWatchdog(t)
	w.timer = time.NewTimer(time.Hour)
	w.box.health.memoryLimit = 1 << 30
	w.box.m.process.mu.Lock()
	done := make(chan struct{})
	go func() { w.beat(time.Now()); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Second):
		t.Error("the loop's thread waits for a scrape")
	}
	w.box.m.process.mu.Unlock()
	<-done
}
