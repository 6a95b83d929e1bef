package main

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The file whose lock whoever makes the control socket takes.

// TestControlSocketAfterRootRanTheDaemon by hand, once, in the folder of the confined service (DynamicUser, RuntimeDirectoryPreserve=yes): systemd gives the service
// what is in it only if the folder itself is another's. What root's daemon has left there keeps the service's control socket away.
func TestControlSocketAfterRootRanTheDaemon(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to be another user")
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "portsyncd-control")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chown(dir, nobody, nobody))
	must(t, os.Chmod(dir, 0o755))
	path := filepath.Join(dir, "control.sock")
	l, err := listenControl(t.Context(), path) // root's
	must(t, err)
	must(t, l.Close())
	over := make(chan error)
	go func() {
		runtime.LockOSThread() // which ends with the goroutine
		_ = unix.Setfsuid(nobody)
		_ = unix.Setfsgid(nobody)
		l, err := listenControl(t.Context(), path)
		if err == nil {
			l.Close()
		}
		over <- err
	}()
	if err := <-over; err != nil {
		t.Errorf("the service, whose folder it is, cannot make its control socket: %v", err)
	}
}

// TestControlSocketOfTheLocksName: the lock of who writes is another one, whatever the socket is called.
func TestControlSocketOfTheLocksName(t *testing.T) {
	dir := t.TempDir()
	lock := newWriterLock(lockHolder{Instance: "a"}, time.Now)
	must(t, lock.take(dir))
	defer lock.release()
	l, err := listenControl(t.Context(), filepath.Join(dir, appName))
	if err != nil {
		t.Fatalf("-lock.dir %s -control.socket %s/%s: %v", dir, dir, appName, err)
	}
	l.Close()
}
