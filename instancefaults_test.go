package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portsyncd/internal/switchtest"
)

// What may befall the lock, its folder, and what is told through it.

// testLock is a lock in a folder of its own kind.
func testLock(name string) *writerLock {
	return newWriterLock(lockHolder{Instance: name, PID: 1}, time.Now)
}

// blocked is a folder whose files cannot be opened or made, until it is mended.
type blocked struct {
	diskFolder
	why error
}

func (f *blocked) open(path string) (lockFile, error) {
	if f.why != nil {
		return nil, lockError(filepath.Dir(path), &os.PathError{Op: "open", Path: path, Err: f.why})
	}
	return f.diskFolder.open(path)
}

// TestLockThatCannotBeTakenAgain ends nobody: whoever has asked for no lock writes without, and takes it as soon as it
// can; the others wait.
func TestLockThatCannotBeTakenAgain(t *testing.T) {
	for _, why := range []error{unix.ENOSPC, unix.EROFS, unix.EACCES, unix.ENOENT} {
		for _, optional := range []bool{true, false} {
			dir := t.TempDir()
			folder := new(blocked)
			a := testLock("a")
			a.files, a.optional = folder, optional
			must(t, a.take(dir))
			folder.why = why
			must(t, os.Remove(filepath.Join(dir, "portsyncd.lock")))
			if err := a.enter(); !errors.Is(err, errLockLost) || errors.Is(err, errConfig) {
				t.Errorf("%v, optional %v: %v", why, optional, err)
			}
			must(t, a.beat())
			switch err := a.enter(); {
			case optional:
				if err != nil || a.missing() == nil {
					t.Errorf("%v: one that needs no lock writes no more: %v, %v", why, err, a.missing())
				}
				a.leave()
			case !errors.Is(err, errLockLost) || errors.Is(err, errConfig):
				t.Errorf("%v: one that needs the lock: %v", why, err)
			}
			folder.why = nil
			if err := a.enter(); !errors.Is(err, errLockLost) { // others may have written meanwhile
				t.Errorf("%v, optional %v: the lock is back: %v", why, optional, err)
			}
			must(t, a.enter())
			a.leave()
			if a.missing() != nil {
				t.Errorf("%v: %v", why, a.missing())
			}
			if err := testLock("b").take(dir); !errors.Is(err, errHeld) {
				t.Errorf("%v, optional %v: it is not locked: %v", why, optional, err)
			}
		}
	}
}

// TestEmptiedFolderWakesNobody who waits for the lock before the holder has it again, and none of them ends for it.
func TestEmptiedFolderWakesNobody(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "portsyncd.lock")
	a, b := testLock("a"), testLock("b")
	must(t, a.take(dir))
	got := make(chan error, 1)
	go func() { _, err := b.await(dir, nil); got <- err }()
	waits := func() bool {
		info, err := os.Stat(path)
		must(t, err)
		locks, err := os.ReadFile("/proc/locks")
		must(t, err)
		for line := range strings.Lines(string(locks)) {
			if strings.Contains(line, "-> FLOCK") && strings.Contains(line, fmt.Sprintf(":%d ", info.Sys().(*syscall.Stat_t).Ino)) {
				return true
			}
		}
		return false
	}
	for range 101 {
		must(t, switchtest.WaitFor(patience, "the other one to wait", waits))
		must(t, os.Remove(path))
		if err := a.enter(); !errors.Is(err, errLockLost) {
			t.Fatalf("the holder: %v", err)
		}
		select {
		case err := <-got:
			t.Fatalf("who waited: %v", err)
		default:
		}
	}
	a.release()
	select {
	case err := <-got:
		must(t, err)
	case <-time.After(patience):
		t.Fatal("who waited does not get it")
	}
}

// unsigned is a folder without room for a byte.
type unsigned struct{ diskFolder }

type unsignedFile struct{ lockFile }

func (unsignedFile) write([]byte) error { return unix.ENOSPC }

func (f unsigned) open(path string) (lockFile, error) {
	file, err := f.diskFolder.open(path)
	return unsignedFile{file}, err
}

// TestLockWithoutASignature is as good as one with it: the disk may be full.
func TestLockWithoutASignature(t *testing.T) {
	dir := t.TempDir()
	a := testLock("a")
	a.files = unsigned{}
	must(t, a.take(dir))
	must(t, a.enter())
	a.leave()
	a.release()
	if held, err := a.await(dir, nil); held || err != nil {
		t.Errorf("another one had it: %v, %v", held, err)
	}
	if err := testLock("b").take(dir); !errors.Is(err, errHeld) {
		t.Errorf("it is not locked: %v", err)
	}
}

// TestSetDownTellsTheNextWrite: that the lock was lost is not told to who sets a link down only.
func TestSetDownTellsTheNextWrite(t *testing.T) {
	dir := t.TempDir()
	i := &instance{lock: testLock("a")}
	i.writing.Store(true)
	must(t, i.lock.take(dir))
	must(t, os.Remove(filepath.Join(dir, "portsyncd.lock")))
	if _, err := i.may(); !errors.Is(err, errLockLost) {
		t.Errorf("the first link: %v", err)
	}
	over, err := i.may() // it is ours again
	must(t, err)
	over()
	if err := i.lock.enter(); !errors.Is(err, errLockLost) {
		t.Errorf("what is written next does not hear of it: %v", err)
	}
	must(t, i.lock.enter())
	i.lock.leave()
}

// TestCountsOfAStandbyThatIsBehind: it may have heard less of a port than the holder.
func TestCountsOfAStandbyThatIsBehind(t *testing.T) {
	own := []carriedPort{{Port: "Ethernet0", Flaps: 1, Ifindex: 3, CarrierDown: 7, Counted: true, UpSeen: true}}
	theirs := []carriedPort{{Port: "Ethernet0", Flaps: 3, Ifindex: 3, CarrierDown: 9, Counted: true, UpSeen: true}}
	got := joinCarried(own, theirs)[0]
	if got.Flaps != 3 || got.CarrierDown != 9 {
		t.Errorf("%+v", got)
	}
	m := newMetrics("")
	links := newLinkTable(nil, m, discard())
	links.carry([]carriedPort{got})
	at := time.Now()
	for _, message := range []linkMessage{{carrierDown: 8}, {carrierDown: 9}, {carrierDown: 10}} { // the first one had been under way
		message.name, message.index, message.hasCarrier, message.flags = []byte("Ethernet0"), 3, true, upRunning
		links.live(&message, at)
	}
	if flaps := links.known("Ethernet0").series.flaps.Load(); flaps != 4 {
		t.Errorf("%d flaps", flaps)
	}
}

// TestNobodyElseCanLockTheFile: whoever may open it, if only to read, can keep portsyncd from starting.
func TestNobodyElseCanLockTheFile(t *testing.T) {
	dir := t.TempDir()
	must(t, testLock("a").take(dir))
	info, err := os.Stat(filepath.Join(dir, "portsyncd.lock"))
	must(t, err)
	if info.Mode().Perm()&0o077 != 0 {
		t.Errorf("others may open it: %v", info.Mode())
	}
}
