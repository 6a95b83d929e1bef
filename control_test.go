package main

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"

	"golang.org/x/sys/unix"
)

// standaloneWith is a daemon with a control socket and nothing else to serve.
func standaloneWith(t *testing.T, socket string) *switchtest.Daemon {
	t.Helper()
	return startStandalone(t, "-links", "lo", "-web.listen-address", "", "-control.socket", socket)
}

func answers(t *testing.T, socket string) {
	t.Helper()
	must(t, switchtest.WaitFor(patience, "the daemon to answer", func() bool {
		_, out, _ := statusOf(t, socket)
		return strings.Contains(out, "databases      none")
	}))
}

// TestControlSocketIsForItsFoldersGroup: mode 0660, and the folder is made.
func TestControlSocketIsForItsFoldersGroup(t *testing.T) {
	t.Parallel()
	made := filepath.Join(t.TempDir(), "made", "control.sock")
	standaloneWith(t, made)
	answers(t, made)
	folder, err := os.Stat(filepath.Dir(made))
	must(t, err)
	if folder.Mode().Perm() != 0o755 {
		t.Errorf("the folder has mode %v", folder.Mode())
	}
	given := filepath.Join(t.TempDir(), "control.sock")
	if os.Geteuid() == 0 {
		must(t, os.Chown(filepath.Dir(given), -1, 1))
	}
	standaloneWith(t, given)
	answers(t, given)
	info, err := os.Stat(given)
	must(t, err)
	folder, err = os.Stat(filepath.Dir(given))
	must(t, err)
	if info.Mode().Perm() != 0o660 || info.Sys().(*syscall.Stat_t).Gid != folder.Sys().(*syscall.Stat_t).Gid {
		t.Errorf("the socket has mode %v and group %d", info.Mode(), info.Sys().(*syscall.Stat_t).Gid)
	}
}

// TestControlSocketIsWaitedFor: without it the daemon runs, says so, and serves as soon as it can.
func TestControlSocketIsWaitedFor(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "not", "there")
	socket := filepath.Join(dir, "control.sock")
	d := standaloneWith(t, socket)
	waiting(t, d, "-control.socket "+socket, "no such file")
	listed(t, d)
	must(t, os.Mkdir(filepath.Dir(dir), 0o755))
	must(t, d.Signal(syscall.SIGHUP))
	served(t, d, func() error { answers(t, socket); return nil })
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket is left behind")
	}
}

// TestControlSocketOfALiveDaemonIsNotTaken; that of a killed one is.
func TestControlSocketOfALiveDaemonIsNotTaken(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "control.sock")
	first := standaloneWith(t, socket)
	answers(t, socket)
	second := standaloneWith(t, socket)
	waiting(t, second, "-control.socket "+socket, "address already in use")
	if _, out, _ := statusOf(t, socket, "-json"); !strings.Contains(out, pidField(first)) {
		t.Errorf("somebody else answers:\n%s", out)
	}
	must(t, first.Signal(syscall.SIGKILL))
	must(t, switchtest.WaitFor(patience, "the second to answer", func() bool {
		_, out, _ := statusOf(t, socket, "-json")
		return strings.Contains(out, pidField(second))
	}))
}

func pidField(d *switchtest.Daemon) string { return fmt.Sprintf("\"pid\": %d,", d.PID()) }

// TestValuesOfSwitches: force=0 and follow=0 are a no.
func TestValuesOfSwitches(t *testing.T) {
	r, _ := testRecorder(t, 1)
	a := newAPI(newBox(&unit{m: newMetrics("test"), health: new(health), record: r}), true)
	begun := time.Now()
	a.serveEvents(httptest.NewRecorder(), httptest.NewRequest("GET", eventsPath+"?follow=0", nil))
	if took := time.Since(begun); took >= followLimit {
		t.Errorf("follow=0 waited %v", took)
	}
	b, _, _ := sharedBox(t)
	w := httptest.NewRecorder()
	newAPI(b, false).serveHandover(w, httptest.NewRequest("POST", handoverPath+"?force=0", nil))
	if answer := w.Body.String(); !strings.Contains(answer, errNotWriting.Error()) || strings.Contains(answer, errNotBeside.Error()) {
		t.Errorf("force=0 is answered with %s", answer)
	}
}

// TestWhoeverMayReadTheFolderKeepsNoControlSocketAway: it is open to every user (0755), and whoever may open a file may lock it.
func TestWhoeverMayReadTheFolderKeepsNoControlSocketAway(t *testing.T) {
	needTool(t, "setpriv", "flock")
	t.Parallel()
	folder, err := os.MkdirTemp("", "portsyncd-folder-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	must(t, os.Chmod(folder, controlDirMode))
	user, err := switchtest.StartProgram("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "flock", "--no-fork", "-x", folder, "sh", "-c", "echo locked; exec sleep 60")
	must(t, err)
	t.Cleanup(user.Stop)
	must(t, switchtest.WaitFor(patience, "a user's lock", func() bool { return strings.Contains(user.Log(), "locked") }))
	socket := filepath.Join(folder, "control.sock")
	d := standaloneWith(t, socket)
	listed(t, d)
	if err := switchtest.WaitFor(12*time.Second, "the control socket", func() bool { _, err := os.Lstat(socket); return err == nil }); err != nil {
		t.Errorf("%v: another user has the folder locked", err)
	}
}

// TestControlSocketAfterRootRanTheDaemon by hand, once, in the folder of the confined service (DynamicUser, RuntimeDirectoryPreserve=yes): systemd gives the service
// what is in it only if the folder itself is another's. What root's daemon has left there keeps the service's control socket away.
func TestControlSocketAfterRootRanTheDaemon(t *testing.T) {
	needRoot(t, "it takes root to be another user")
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
