package switchtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// thread is a thread of a /proc that does not exist.
type thread struct {
	id                                string
	cpu, runs, voluntary, involuntary int64
}

func fakeTasks(t *testing.T, threads ...thread) string {
	t.Helper()
	tasks := t.TempDir()
	for _, one := range threads {
		folder := filepath.Join(tasks, one.id)
		stat := fmt.Sprintf("%d 77 %d\n", one.cpu, one.runs)
		status := fmt.Sprintf("Name:\tportsyncd\nvoluntary_ctxt_switches:\t%d\nnonvoluntary_ctxt_switches:\t%d\n",
			one.voluntary, one.involuntary)
		if err := errors.Join(os.Mkdir(folder, 0o755),
			os.WriteFile(filepath.Join(folder, "schedstat"), []byte(stat), 0o644),
			os.WriteFile(filepath.Join(folder, "status"), []byte(status), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return tasks
}

// TestSumsKeepThreadsThatEnded: what a thread did before it ended stays counted, and one with its id is another one.
func TestSumsKeepThreadsThatEnded(t *testing.T) {
	var sums tally
	for _, step := range []struct {
		what    string
		threads []thread
		want    Counters
	}{
		{"two threads", []thread{{"10", 1000, 5, 3, 2}, {"11", 500, 4, 4, 0}}, Counters{1500, 9, 7, 2, 0}},
		{"both went on", []thread{{"10", 1100, 6, 4, 2}, {"11", 700, 6, 5, 1}}, Counters{1800, 12, 9, 3, 0}},
		{"one ended, one came", []thread{{"10", 1100, 6, 4, 2}, {"12", 50, 1, 1, 0}}, Counters{1850, 13, 10, 3, 1}},
		{"an id used again", []thread{{"10", 1200, 7, 5, 2}, {"12", 20, 0, 0, 0}}, Counters{1970, 14, 11, 3, 2}},
		{"nothing happened", []thread{{"10", 1200, 7, 5, 2}, {"12", 20, 0, 0, 0}}, Counters{1970, 14, 11, 3, 2}},
	} {
		got, err := sums.read(fakeTasks(t, step.threads...))
		if err != nil || got != step.want {
			t.Errorf("%s: %+v (%v), want %+v", step.what, got, err, step.want)
		}
	}
	gone := fakeTasks(t, thread{"10", 1200, 7, 5, 2})
	if err := os.Mkdir(filepath.Join(gone, "13"), 0o755); err != nil { // listed, and nothing to read any more
		t.Fatal(err)
	}
	if got, err := sums.read(gone); err != nil || got != (Counters{1970, 14, 11, 3, 4}) {
		t.Errorf("a thread that ended under the reader: %+v (%v)", got, err)
	}
	if got := (Counters{10, 9, 8, 7, 6}).Sub(Counters{1, 2, 3, 4, 5}); got != (Counters{9, 7, 5, 3, 1}) {
		t.Errorf("the difference is %+v", got)
	}
	if _, err := sums.read(filepath.Join(gone, "no such folder")); err == nil {
		t.Error("a process that has ended is no error")
	}
}

// TestSumsOfARealProcess lets a thread of this process end, and compares with what the kernel has counted of all of its
// threads, those that have ended included.
func TestSumsOfARealProcess(t *testing.T) {
	var sums tally
	read := func() Counters {
		t.Helper()
		c, err := sums.read("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	worked, end, id := make(chan bool), make(chan bool), 0
	var work func()
	work = func() {
		runtime.LockOSThread() // it ends with its goroutine
		if id = unix.Gettid(); id == os.Getpid() {
			go work() // on another one: the first never ends
			<-end
			runtime.UnlockOSThread()
			return
		}
		for begun := time.Now(); time.Since(begun) < 20*time.Millisecond; {
			unix.Getppid()
		}
		moment := unix.NsecToTimespec(int64(time.Millisecond))
		_ = unix.Nanosleep(&moment, nil) // what a running thread takes is counted when it stops
		close(worked)
		<-end
	}
	go work()
	<-worked
	alive := read()
	if alive.CPU <= 0 || alive.Runs == 0 || alive.Voluntary == 0 {
		t.Errorf("the counters of this process are %+v", alive)
	}
	close(end)
	if err := WaitFor(10*time.Second, "the thread to end", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", id))
		return os.IsNotExist(err)
	}); err != nil {
		t.Fatal(err)
	}
	after := read()
	since := after.Sub(alive)
	if min(int64(since.CPU), since.Runs, since.Voluntary, since.Involuntary) < 0 || since.Ended < 1 {
		t.Errorf("a thread ended, and the sums changed by %+v", since)
	}
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	if after.Voluntary > int64(usage.Nvcsw) || after.Involuntary > int64(usage.Nivcsw) {
		t.Errorf("the sums are %+v, more than the kernel's own %d and %d", after, usage.Nvcsw, usage.Nivcsw)
	}
}
