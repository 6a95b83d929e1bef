package main

import (
	"bytes"
	"path/filepath"
	"runtime/trace"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLookAtTheLockWakesNobody: before each flush the lock is looked at, on the loop's thread. A system call that the
// runtime is told of wakes its monitor, which then sleeps for 20 µs some dozen times: at 100 changes a second that was a
// third of the daemon's processor time. The runtime's own trace has two events of each such call. Nothing runs beside,
// because it would be in the trace.
func TestLookAtTheLockWakesNobody(t *testing.T) {
	const times = 20000
	traced := func(do func()) int {
		t.Helper()
		var out bytes.Buffer
		must(t, trace.Start(&out))
		for range times {
			do()
		}
		trace.Stop()
		return out.Len()
	}
	dir := t.TempDir()
	l := &writerLock{files: diskFolder{}, now: time.Now}
	must(t, l.take(dir))
	defer l.release()
	looks := traced(func() {
		must(t, l.enter())
		l.leave()
	})
	calls := traced(func() {
		var s unix.Stat_t
		must(t, unix.Stat(filepath.Join(dir, appName+lockSuffix), &s))
	})
	if looks > calls/2 {
		t.Errorf("%d looks at the lock are %d bytes of trace, as many calls of stat(2) %d", times, looks, calls)
	}
}

// TestIdentifyAsStat: statx(2) by hand says of files what the calls say that older kernels have.
func TestIdentifyAsStat(t *testing.T) {
	dir := t.TempDir()
	here, err := identify(unix.AT_FDCWD, dir, 0)
	must(t, err)
	old, err := identifyOld(unix.AT_FDCWD, dir)
	must(t, err)
	fd, err := unix.Open(dir, unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(fd)
	open, err := identify(fd, "", unix.AT_EMPTY_PATH)
	must(t, err)
	openOld, err := identifyOld(fd, "")
	must(t, err)
	if old != here || open != here || openOld != here || here == (fileID{}) {
		t.Errorf("statx: %v, stat: %v, of the open file: %v, %v", here, old, open, openOld)
	}
	if _, err := identify(unix.AT_FDCWD, filepath.Join(dir, "none"), 0); err == nil {
		t.Error("what is not there is identified")
	}
}
