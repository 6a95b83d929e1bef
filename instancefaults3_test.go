package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// What may befall several instances, once more: those that hang, and what else is in their folder.

// longAgo has a file look as if nobody had touched it for a while.
func longAgo(t *testing.T, path string) {
	t.Helper()
	must(t, os.Chtimes(path, time.Time{}, time.Now().Add(-silentAfter)))
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
		i.writing.Store(true)
		i.lock.flag = dir
		must(t, i.lock.take(dir))
		defer i.lock.release()
		i.enterFolder(dir)
		i.endTurn = func() { // and it takes the lock back
			handed++
			i.asked <- nil
			i.asked = nil
		}
		other := testLock("b")
		other.flag, other.namespace = dir, i.lock.namespace
		claim := readyClaim{lock: other}
		must(t, claim.set(dir, true))
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
