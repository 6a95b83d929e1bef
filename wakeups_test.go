package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/trace"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFlushAndBeatWakeNobody: what is done before each flush, and at each beat, on the loop's thread. A system call that
// the runtime is told of wakes its monitor, which then sleeps for 20 µs some dozen times: at 100 changes a second that
// was a third of the daemon's processor time, and of an idle one's a quarter. The runtime's own trace has two events of
// each such call. Nothing runs beside, because it would be in the trace.
func TestFlushAndBeatWakeNobody(t *testing.T) {
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
	calls := traced(func() {
		var s unix.Stat_t
		must(t, unix.Stat(filepath.Join(dir, appName+lockSuffix), &s))
	})
	socket, err := listenControl(t.Context(), filepath.Join(dir, "control.sock"))
	must(t, err)
	defer socket.Close()
	p := openProcess()
	namespaces := &dbGlobalFile{path: filepath.Join(dir, "database_global.json"), now: time.Now}
	must(t, os.WriteFile(namespaces.path, []byte(`{"INCLUDES": [{"namespace": "asic0", "include": "a.json"}]}`), 0o644))
	namespaces.now = func() time.Time { return time.Now().Add(time.Minute) } // it has been so for long
	_, err = namespaces.read()
	must(t, err)
	for name, do := range map[string]func(){
		"a look at the lock": func() {
			must(t, l.enter())
			l.leave()
		},
		"a sign of life": func() { l.file.touch() },
		"a look at the holder": func() {
			if h, _ := l.holder(dir); h != l.signed() {
				t.Fatal(h)
			}
		},
		"a look at the memory": p.readMemory,
		"a look at the namespaces' file": func() {
			if _, err := namespaces.read(); err != nil {
				t.Fatal(err)
			}
		},
		"a look at the control socket": socket.look,
		"a look at a namespace":        func() { _, _ = netNSOf("/proc/self/ns/net") },
	} {
		done := traced(do)
		for tries := 1; tries < 5 && done > calls/2; tries++ { // what else the runtime does is in the trace, too
			done = min(done, traced(do))
		}
		if done > calls/2 {
			t.Errorf("%d times %s are %d bytes of trace, as many calls of stat(2) %d", times, name, done, calls)
		}
	}
}

// TestSignOfLife: whoever waits for the lock looks at its file's time; the text stays.
func TestSignOfLife(t *testing.T) {
	dir := t.TempDir()
	l := &writerLock{files: diskFolder{}, now: time.Now, me: lockHolder{Instance: "a", PID: 7}}
	must(t, l.take(dir))
	defer l.release()
	path := filepath.Join(dir, appName+lockSuffix)
	before, err := os.ReadFile(path)
	must(t, err)
	must(t, os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0)))
	must(t, l.beat())
	info, err := os.Stat(path)
	must(t, err)
	after, err := os.ReadFile(path)
	must(t, err)
	if age := time.Since(info.ModTime()); age > time.Minute || !bytes.Equal(before, after) {
		t.Errorf("the lock's file is %v old after a beat, and says %q, before %q", age, after, before)
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

// TestFileIsReadAgain when it was written or replaced, whatever else stays as it was; as long as that is not known, each time.
func TestFileIsReadAgain(t *testing.T) {
	f := &dbGlobalFile{path: filepath.Join(t.TempDir(), "database_global.json")}
	later := time.Minute
	f.now = func() time.Time { return time.Now().Add(later) }
	write := func(path, name string) {
		t.Helper()
		must(t, os.WriteFile(path, []byte(`{"INCLUDES": [{"namespace": "`+name+`", "include": "a.json"}]}`), 0o644))
	}
	check := func(want string) {
		t.Helper()
		for range 2 {
			got, err := f.read()
			if err != nil || len(got) != 1 || got[0].name != want {
				t.Errorf("read %v, %v, want %s", got, err, want)
			}
		}
	}
	for _, at := range []time.Duration{0, time.Minute} { // written in this moment, or long ago
		later = at
		for i := range 20 {
			name := fmt.Sprintf("asic%d", i%10)
			if write(f.path, name); at > 0 {
				time.Sleep(10 * time.Millisecond) // a clock tick
			}
			check(name)
		}
	}
	write(f.path+".new", "asic7")
	must(t, os.Rename(f.path+".new", f.path))
	check("asic7")
	must(t, os.WriteFile(f.path, []byte("{"), 0o644))
	if _, err := f.read(); !errors.Is(err, errNoDBConfig) { // it may be being written
		t.Errorf("a broken file: %v", err)
	}
	must(t, os.Remove(f.path))
	if _, err := f.read(); !errors.Is(err, errNoDBConfig) {
		t.Errorf("no file: %v", err)
	}
	write(f.path, "asic1")
	check("asic1")
}
