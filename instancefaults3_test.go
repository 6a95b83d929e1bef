package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portsyncd/internal/switchtest"
)

// What may befall several instances, once more: those that hang, and what else is in their folder.

// longAgo has a file look as if nobody had touched it for a while.
func longAgo(t *testing.T, path string) {
	t.Helper()
	must(t, os.Chtimes(path, time.Time{}, time.Now().Add(-silentAfter)))
}

// holdBeside has an instance hold the lock in a folder, where another one could take over.
func (i *instance) holdBeside(t *testing.T, dir, standby string) {
	t.Helper()
	i.lock.flag = dir
	must(t, i.lock.take(dir))
	t.Cleanup(i.lock.release)
	i.enterFolder(dir)
	other := testLock(standby)
	other.flag, other.namespace = dir, i.lock.namespace
	claim := readyClaim{lock: other}
	must(t, claim.set(dir, true))
}

// TestStandbyThatIsStoppedIsHandedNothing: its claim stays, and grows old. When it goes on it is ready again.
func TestStandbyThatIsStoppedIsHandedNothing(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	writer, _ := s.start(1)
	standby := s.standby("-instance", "b")
	s.must(standby.Signal(syscall.SIGSTOP))
	longAgo(t, filepath.Join(s.Dir, "portsyncd.standby.b"))
	if code, out := s.handover(writer); code != exitNotWell || !strings.Contains(out, errNoStandby.Error()) {
		t.Errorf("it is handed over: exit code %d: %s", code, out)
	}
	s.must(standby.Signal(syscall.SIGCONT))
	s.must(switchtest.WaitFor(3*beatInterval, "the hand-over", func() bool {
		code, _ := s.handover(writer)
		return code == exitOK
	}))
	s.waitRole(standby, roleWriter)
}

// TestWhoDoesNotTakeOverIsLeftAlone for a while: each time nobody would write.
func TestWhoDoesNotTakeOverIsLeftAlone(t *testing.T) {
	b, first, second := sharedBox(t)
	dir := t.TempDir()
	handed := 0
	for _, u := range []*unit{first, second} {
		i := u.instance
		i.holdBeside(t, dir, "b")
		i.endTurn = func() { // and it takes the lock back
			handed++
			i.asked <- nil
			i.asked = nil
		}
	}
	s := newSharer(b, "a", discard())
	s.balance(t.Context())
	s.since = s.since.Add(-shareRetry)
	for _, rest := range []time.Duration{firstRest, 2 * firstRest, 4 * firstRest} {
		if r := s.rests["b"]; r != nil { // it is over
			r.until = time.Now()
		}
		before := handed
		for range 5 {
			s.balance(t.Context())
			s.since = s.since.Add(-shareRetry)
			s.until = time.Now()
		}
		if r := s.rests["b"]; handed != before+1 || r == nil || r.pause != rest {
			t.Errorf("handed over %d times; it rests %+v, not %v", handed-before, r, rest)
		}
	}
}

// TestStandbyThatIsTheFirst starts as any other: that it could not know yet whether another one writes, as there was no
// configuration, makes no take-over of a warm restart.
func TestStandbyThatIsTheFirst(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(2)
	d.Stop()
	s.askWarm("system")
	for _, p := range portNames(2) { // a new kernel
		s.must(s.IP("link", "del", p))
		s.must(s.State.Del(t.Context(), s.StateKey(p)).Err())
	}
	hidden := s.ConfigFile + ".hidden"
	s.must(os.Rename(s.ConfigFile, hidden))
	d = s.daemon("-standby", "-instance", "b")
	s.waitFor("it to stand by", func() bool { return d.Logged("standing by") == 1 })
	s.must(os.Rename(hidden, s.ConfigFile))
	s.waitRole(d, roleWriter)
	s.waitFor("the start", func() bool { return d.Logged("start decided", "warm=true") == 1 })
	if n := s.warmField("restore_count"); n != "1" || s.metric(d, "portsyncd_port_init_done") != "0" {
		t.Errorf("restore_count is %q; without an interface PortInitDone is sent", n)
	}
}

// TestFlagsOfAStandbyThatIsTheFirst count, until it has taken over from another one.
func TestFlagsOfAStandbyThatIsTheFirst(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 1))
	s.must(s.AddPorts("Ethernet0"))
	s.orchagent(false)
	hidden := s.ConfigFile + ".hidden"
	s.must(os.Rename(s.ConfigFile, hidden))
	d := s.daemon("-standby", "-instance", "b", "-old-interfaces", "adopt")
	s.waitFor("it to stand by", func() bool { return d.Logged("standing by") == 1 })
	s.must(os.Rename(hidden, s.ConfigFile))
	s.waitFor("the start", func() bool { return d.Logged("start decided", "announce=true") == 1 })
	if d.Logged("start decided", `why="-old-interfaces adopt"`) != 1 {
		t.Errorf("it sets interfaces down:\n%s", tail(d.Log()))
	}
}

// TestClaimThatFailsOnce is tried again: what was in its place may go, as one of the same name does that this one
// replaces.
func TestClaimThatFailsOnce(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	writer, _ := s.start(1)
	before := testLock("b")
	claim := readyClaim{lock: before}
	must(t, claim.set(s.Dir, true))
	standby := s.daemon("-standby", "-instance", "b")
	s.waitFor("the refusal", func() bool { return standby.Logged("nobody is told that this standby is ready") == 1 })
	must(t, claim.set(s.Dir, false))
	s.waitReady(standby)
	if code, out := s.handover(writer); code != exitOK {
		t.Errorf("exit code %d: %s", code, out)
	}
	if n := standby.Logged("nobody is told that this standby is ready"); n != 1 {
		t.Errorf("that is said %d times", n)
	}
}

// TestSharerBesideStrangers hands over nothing that it does not write to, and does not say that it does. What is
// refused is tried less and less often.
func TestSharerBesideStrangers(t *testing.T) {
	b, first, second := sharedBox(t)
	dir := t.TempDir()
	first.instance.holdBeside(t, dir, "b")
	second.instance.holdBeside(t, dir, "b")
	var said strings.Builder
	s := newSharer(b, "a", slog.New(slog.NewTextHandler(&said, nil)))
	s.balance(t.Context())
	for range 10 { // the loops have not begun
		s.since = s.since.Add(-s.pause)
		if s.balance(t.Context()) {
			t.Error("it is content")
		}
	}
	if s.pause != beatInterval || strings.Contains(said.String(), "to share the work") {
		t.Errorf("it is tried again after %v; the log says\n%s", s.pause, &said)
	}
	first.instance.beside.begin()
	second.instance.beside.begin()
	said.Reset()
	if s.balance(t.Context()); said.Len() > 0 || s.next != (move{}) {
		t.Errorf("the next move is %+v; the log says\n%s", s.next, &said)
	}
}

// TestRowOfAnotherType concerns nobody else: that is no instance's, and ours is made anew.
func TestRowOfAnotherType(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	writer, _ := s.start(1, "-instance", "a")
	standby := s.standby("-instance", "b")
	s.waitFor("both to be known", func() bool { all := s.instances(writer); return len(all) == 2 && all["b"].Up })
	for _, name := range []string{"b", "x"} {
		s.must(s.State.Set(t.Context(), instanceTable+"|"+name, "text", 0).Err())
	}
	s.must(s.State.SAdd(t.Context(), instanceSet, "x").Err())
	s.waitFor("it to be forgotten", func() bool { return !s.State.SIsMember(t.Context(), instanceSet, "x").Val() })
	s.waitFor("its row", func() bool { return s.State.Type(t.Context(), instanceTable+"|b").Val() == "hash" })
	s.waitFor("both to be known", func() bool { all := s.instances(writer); return len(all) == 2 && all["b"].Up })
	for _, d := range []*switchtest.Daemon{writer, standby} {
		if d.Logged("the other instances are not told") > 0 {
			t.Error("the others are not told")
		}
	}
}

// TestHolderThatOnlyObservesLives: whoever waits for the lock sees that.
func TestHolderThatOnlyObservesLives(t *testing.T) {
	dir := t.TempDir()
	i := &instance{health: new(health), lock: testLock("a"),
		instanceTools: instanceTools{strangers: func() []otherDaemon { return []otherDaemon{{PID: 1}} }}}
	must(t, i.lock.take(dir))
	i.enterFolder(dir)
	i.beside.begin()
	longAgo(t, filepath.Join(dir, "portsyncd.lock"))
	must(t, i.watch())
	if _, sign := i.lock.holder(dir); time.Since(sign) > beatInterval {
		t.Errorf("its last sign of life is of %v", sign)
	}
}

// TestBeatWaitsForNothingThatIsUnderWay, which may take as long as a Redis that hangs. It tries again.
func TestBeatWaitsForNothingThatIsUnderWay(t *testing.T) {
	dir := t.TempDir()
	a := testLock("a")
	must(t, a.take(dir))
	must(t, a.enter())
	must(t, os.Remove(filepath.Join(dir, "portsyncd.lock")))
	done := make(chan error, 1)
	go func() { done <- a.beat() }()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(dbTimeout / 2):
		t.Error("it waits")
	}
	a.leave()
	must(t, a.beat())
	if err := testLock("b").take(dir); !errors.Is(err, errHeld) {
		t.Errorf("it is not taken again: %v", err)
	}
}

// inTime fails where something waits for ever.
func inTime(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { do(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s waits", what)
	}
}

// TestPipesInTheFolder are waited for by nobody, and are neither locked nor claimed.
func TestPipesInTheFolder(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"portsyncd.lock", "portsyncd.standby.b", "portsyncd.handover", "portsyncd.handover.new"} {
		must(t, unix.Mkfifo(filepath.Join(dir, name), 0o600))
	}
	a := testLock("a")
	claim := readyClaim{lock: a}
	inTime(t, "a look", func() {
		if names := claim.names(dir); len(names) > 0 {
			t.Errorf("ready are %v", names)
		}
		if _, err := findRecord(a.files, filepath.Join(dir, "portsyncd.handover"), "boot", 0); err == nil {
			t.Error("a pipe is a record")
		}
	})
	inTime(t, "a lock", func() {
		if err := a.take(dir); !errors.Is(err, errConfig) || !strings.Contains(err.Error(), errNoFile.Error()) {
			t.Errorf("the lock: %v", err)
		}
	})
	path := filepath.Join(dir, "portsyncd.handover")
	inTime(t, "a word", func() { must(t, a.files.put(path, []byte("a word"))) })
	if text, _, err := a.files.look(path); string(text) != "a word" {
		t.Errorf("the next one reads %q, %v", text, err)
	}
}

// TestLinksInTheFolder lead to nobody's file elsewhere, to be read or written.
func TestLinksInTheFolder(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "elsewhere")
	must(t, os.WriteFile(elsewhere, []byte("precious"), 0o600))
	path := filepath.Join(dir, "portsyncd.handover")
	must(t, os.Symlink(elsewhere, path))
	must(t, os.Symlink(elsewhere, path+".new"))
	if text, _, err := (diskFolder{}).look(path); err == nil {
		t.Errorf("it is followed to %q", text)
	}
	must(t, diskFolder{}.put(path, []byte("a word")))
	if text, err := os.ReadFile(elsewhere); string(text) != "precious" {
		t.Errorf("the file elsewhere has %q, %v", text, err)
	}
	if text, _, err := (diskFolder{}).look(path); string(text) != "a word" {
		t.Errorf("the next one reads %q, %v", text, err)
	}
	must(t, os.Truncate(path, lockFileMost+1))
	if _, _, err := (diskFolder{}).look(path); !errors.Is(err, unix.EFBIG) {
		t.Errorf("a file without end: %v", err)
	}
}

// TestPipeBesideTheRecorder is no namespace's.
func TestPipeBesideTheRecorder(t *testing.T) {
	_, path := testRecorder(t, 1)
	must(t, unix.Mkfifo(path+".pipe", 0o600))
	inTime(t, "portsyncd events", func() {
		if code := runEvents([]string{"-recorder.file", path}, io.Discard, io.Discard); code != exitOK {
			t.Errorf("exit code %d", code)
		}
	})
}

// TestLockFolderThatIsNotThere is waited for, and named: the databases have nothing to do with it.
func TestLockFolderThatIsNotThere(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 1))
	s.orchagent(true)
	dir := filepath.Join(s.Dir, "none")
	d := s.daemon("-lock.dir", dir)
	s.waitStatus(d, "the lock's folder is not there: ", "make "+dir+", or name another")
	if d.Logged("the lock's folder is not there, waiting for it (-lock.dir)") != 1 || d.Logged("the databases do not answer") > 0 {
		t.Errorf("the log says\n%s", tail(d.Log()))
	}
	s.must(os.Mkdir(dir, 0o700))
	s.waitEntry("Ethernet0", fields("up", "up", 1500))
}

// TestHandOverThatIsNotAnswered is no reason to start the daemon again, and it is said how long that was waited for.
func TestHandOverThatIsNotAnswered(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket) // which takes connections, and no more
	must(t, err)
	defer l.Close()
	for request, restarts := range map[string]bool{"GET " + statusPath: true, "POST " + handoverPath: false} {
		_, _, err := sendDaemon(socket, request, time.Now().Add(300*time.Millisecond))
		if err == nil || !strings.Contains(err.Error(), " for 300ms: ") || strings.Contains(err.Error(), restart) != restarts {
			t.Errorf("%s: %v", request, err)
		}
	}
}

// openOf is how often a process has a file open.
func openOf(t *testing.T, pid int, path string) (n int) {
	t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	for _, fd := range all {
		if to, _ := os.Readlink(fd); to == path {
			n++
		}
	}
	return n
}

// TestWaitForALockThatIsGivenUp is gone on with by the next one who waits for it. Where nobody does, the lock is free
// when it comes.
func TestWaitForALockThatIsGivenUp(t *testing.T) {
	dir := t.TempDir()
	holder, waits := testLock("a"), newLockWaits()
	must(t, holder.take(dir))
	over := make(chan struct{})
	close(over)
	next := func() *writerLock {
		l := testLock("b")
		l.waits = waits
		return l
	}
	for range 3 {
		if held, err := next().await(dir, over); !held || !errors.Is(err, errGivenUp) {
			t.Errorf("it has the lock: %v, %v", held, err)
		}
	}
	must(t, switchtest.WaitFor(patience, "the holder's file and one more to be open", func() bool {
		return openOf(t, os.Getpid(), filepath.Join(dir, "portsyncd.lock")) == 2
	}))
	l, got := next(), make(chan error)
	go func() { _, err := l.await(dir, nil); got <- err }()
	must(t, switchtest.WaitFor(patience, "the next one", func() bool {
		waits.mu.Lock()
		defer waits.mu.Unlock()
		return waits.of[l.in(dir, lockSuffix)].takers == 1
	}))
	holder.release()
	must(t, <-got)
	if h, _ := holder.holder(dir); !l.held() || h != l.signed() {
		t.Errorf("the holder is %v", h)
	}
	if _, err := next().await(dir, over); !errors.Is(err, errGivenUp) {
		t.Error(err)
	}
	l.release()
	must(t, switchtest.WaitFor(patience, "the lock to be free", func() bool { return holder.take(dir) == nil }))
}

// TestNamespaceThatIsListedAgain is waited for once.
func TestNamespaceThatIsListedAgain(t *testing.T) {
	t.Parallel()
	b := newBoxTest(t, 2, 1)
	one := b.asics[1]
	b.up(one, 1)
	text, err := os.ReadFile(b.GlobalFile)
	must(t, err)
	own := filepath.Join(b.Dir, "own.json")
	list := func(text []byte) {
		must(t, os.WriteFile(own+".new", text, 0o644))
		must(t, os.Rename(own+".new", own))
	}
	list(text)
	standby, err := b.StartDaemon(daemonProgram(t), "-standby", "-instance", "b", "-db.global", own)
	must(t, err)
	one.keep(standby)
	waits := func() int { return openOf(t, standby.PID(), filepath.Join(one.Dir, "portsyncd.lock")) }
	one.waitFor("it to stand by", func() bool { return waits() == 1 })
	list(bytes.Replace(text, []byte(`"namespace":"`+one.NetNS+`"`), []byte(`"container_name":"dpu9"`), 1))
	one.waitFor("it to be left", func() bool { return standby.Logged("is not listed any more", one.NetNS) == 1 })
	list(text)
	one.waitFor("it to stand by again", func() bool { return standby.Logged("start decided", one.NetNS) == 2 })
	if err := switchtest.WaitFor(time.Second, "one wait", func() bool { return waits() == 1 }); err != nil {
		t.Errorf("%v: its lock's file is open %d times", err, waits())
	}
}

// TestWaitForALockWhoseFileIsRemoved: the call that is under way waits for a file that is no more, of a holder that
// hangs, and whoever waits later does so for the one that is there.
func TestWaitForALockWhoseFileIsRemoved(t *testing.T) {
	t.Parallel()
	dir, waits := t.TempDir(), newLockWaits()
	lock := func(name string) *writerLock {
		l := testLock(name)
		l.waits = waits
		return l
	}
	hangs, holds := testLock("h"), testLock("c")
	must(t, hangs.take(dir))
	defer hangs.release()
	over, ended := make(chan struct{}), make(chan error, 2)
	wait := func(l *writerLock, over chan struct{}) {
		_, err := l.await(dir, over)
		ended <- err
	}
	go wait(lock("b"), over)
	begun := func() bool {
		waits.mu.Lock()
		defer waits.mu.Unlock()
		call := waits.of[hangs.in(dir, lockSuffix)]
		return call != nil && call.takers == 1
	}
	must(t, switchtest.WaitFor(patience, "the first wait", begun))
	close(over) // its namespace is not listed any more
	if err := <-ended; !errors.Is(err, errGivenUp) {
		t.Fatal(err)
	}
	must(t, os.Remove(filepath.Join(dir, "portsyncd.lock")))
	must(t, holds.take(dir))
	second := lock("b")
	go wait(second, make(chan struct{}))
	must(t, switchtest.WaitFor(patience, "the second one", begun))
	holds.release()
	select {
	case err := <-ended:
		must(t, err)
	case <-time.After(patience):
		t.Fatal("the lock is free, and whoever waits for it does not get it")
	}
	// the call that was left finds another file behind the path, and has its lock when nobody else has, for a moment
	open := func(n int) func() bool {
		return func() bool { return openOf(t, os.Getpid(), filepath.Join(dir, "portsyncd.lock")) == n }
	}
	hangs.release()
	must(t, switchtest.WaitFor(patience, "the call that was left to wait for the new file", open(2)))
	second.release()
	must(t, switchtest.WaitFor(patience, "that to end", open(0)))
}
