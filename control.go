package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// The control socket: where an operator on the switch asks the daemon, whatever the metrics server is up to.

const (
	defaultControlSocket = "/run/portsyncd/control.sock"
	controlMode          = 0o660
)

const controlUsage = "`path` of the unix socket on which the daemon answers portsyncd status; empty: none"

// validateControl finds what no waiting makes right.
func validateControl(path string) error {
	if path != "" && len(path) > maxSocketPath {
		return fmt.Errorf("-control.socket %s: the path of a unix socket has 1 to %d bytes", path, maxSocketPath)
	}
	return nil
}

// controlDoor opens the socket at path.
func controlDoor(path string) door {
	name := "-control.socket " + path
	return door{name, func(ctx context.Context) (net.Listener, error) {
		l, err := listenControl(ctx, path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return l, nil
	}}
}

// listenControl makes the socket, and the folder that it is in if that is missing. One that nobody listens on any more
// is replaced, never another's that lives.
func listenControl(ctx context.Context, path string) (_ *controlListener, err error) {
	folder, err := openControlDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	// closing it gives the lock back: of two daemons that start at a time, one could take the other's socket for stale
	defer folder.Close()
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, os.NewSyscallError("flock", err)
	}
	removeStale(path)
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := shareControl(folder, path); err != nil {
		l.Close()
		return nil, err
	}
	socket := &controlListener{UnixListener: l.(*net.UnixListener), path: path}
	socket.SetUnlinkOnClose(false) // whose the file is then it does not look
	socket.id, _ = identify(unix.AT_FDCWD, path, 0)
	return socket, nil
}

// controlListener is the socket, and which file it is. As long as it is open that has no other one's inode.
type controlListener struct {
	*net.UnixListener
	path string
	id   fileID
	lost atomic.Bool
}

// gone says that its file was removed, or is another's by now.
func (l *controlListener) gone() bool {
	named, err := identify(unix.AT_FDCWD, l.path, 0)
	return errors.Is(err, fs.ErrNotExist) || err == nil && l.id != fileID{} && named != l.id
}

// look ends the socket if nobody can find it any more, for another one to be made. It comes at each beat, on a loop's
// thread.
func (l *controlListener) look() {
	if l.gone() && !l.lost.Swap(true) {
		go l.Close()
	}
}

func (l *controlListener) Accept() (net.Conn, error) {
	c, err := l.UnixListener.Accept()
	if err != nil && l.lost.Load() {
		err = fmt.Errorf("-control.socket %s: somebody has removed it, or put another file in its place", l.path)
	}
	return c, err
}

func (l *controlListener) Close() error {
	if !l.gone() {
		_ = os.Remove(l.path)
	}
	return l.UnixListener.Close()
}

// openControlDir opens a folder, which is made if its own folder is there.
func openControlDir(name string) (*os.File, error) {
	err := os.Mkdir(name, controlDirMode)
	if err == nil {
		err = os.Chmod(name, controlDirMode) // whatever the umask says
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0) // opening a pipe would wait
}

// shareControl gives the socket its folder's group. Where that is not allowed it keeps ours: that shuts out the group,
// and root is let in all the same.
func shareControl(folder *os.File, path string) error {
	of, err := folder.Stat()
	if err != nil {
		return err
	}
	socket, err := os.Lstat(path)
	if err != nil {
		return err
	}
	group := of.Sys().(*syscall.Stat_t).Gid
	if group != socket.Sys().(*syscall.Stat_t).Gid {
		_ = os.Lchown(path, -1, int(group))
	}
	return os.Chmod(path, controlMode)
}
