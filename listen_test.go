package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newFullSocket makes a unix socket whose listener lives and takes nobody more: its queue is full.
func newFullSocket(t *testing.T) (path string, leave func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "full.sock")
	open := func() int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		t.Cleanup(func() { _ = unix.Shutdown(fd, unix.SHUT_RDWR); unix.Close(fd) })
		return fd
	}
	listener := open()
	must(t, unix.Bind(listener, &unix.SockaddrUnix{Name: path}))
	must(t, unix.Listen(listener, 0))
	for err := error(nil); err == nil; {
		if err = unix.Connect(open(), &unix.SockaddrUnix{Name: path}); err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
	}
	return path, func() { must(t, unix.Shutdown(listener, unix.SHUT_RDWR)) }
}

// TestLiveSocketIsNeverRemoved: only a socket that refuses connections is left over from a crash.
func TestLiveSocketIsNeverRemoved(t *testing.T) {
	exists := func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	}
	full, leave := newFullSocket(t)
	removeStale(full)
	if !exists(full) {
		t.Fatal("the socket of a listener with a full queue was removed")
	}
	datagrams := filepath.Join(t.TempDir(), "datagrams.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: datagrams}))
	removeStale(datagrams)
	if !exists(datagrams) {
		t.Error("a live socket of another type was removed")
	}
	leave()
	removeStale(full)
	if exists(full) {
		t.Error("a socket whose listener has gone is still there")
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	removeStale(file)
	if !exists(file) {
		t.Error("a file that is no socket was removed")
	}
}

// TestAbstractSocketIsServedOn: -web.listen-address unix:@name has no file that somebody could remove.
func TestAbstractSocketIsServedOn(t *testing.T) {
	name := fmt.Sprintf("@portsyncd-test-%d", os.Getpid())
	l, err := listen(t.Context(), "unix:"+name)
	must(t, err)
	defer l.Close()
	if file, isFile := l.(*socketFile); isFile {
		file.look()
		time.Sleep(50 * time.Millisecond)
	}
	c, err := net.Dial("unix", name)
	if err != nil {
		t.Fatalf("after a beat nobody listens any more: %v", err)
	}
	c.Close()
}

// TestSocketFileThatIsClosedTwice, as every server's is: by Drain, and by net/http. What another daemon has made in between stays.
func TestSocketFileThatIsClosedTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.sock")
	for range 20 { // whether an inode's number is another file's at once is up to the file system
		l, err := listen(t.Context(), "unix:"+path)
		must(t, err)
		must(t, l.Close())
		next, err := listen(t.Context(), "unix:"+path)
		must(t, err)
		_ = l.Close()
		_, err = os.Lstat(path)
		next.Close()
		if err != nil {
			t.Fatalf("the next daemon's socket is removed: %v", err)
		}
	}
}

// TestMetricsAreServedOverPlainTCP, not over Multipath TCP.
func TestMetricsAreServedOverPlainTCP(t *testing.T) {
	l, err := listen(t.Context(), "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		if protocol, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || protocol != unix.IPPROTO_TCP {
			t.Errorf("the listener's protocol is %d: %v", protocol, err)
		}
	}))
}
