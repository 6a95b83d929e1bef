package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// The control socket: where an operator on the switch asks the daemon, whatever the metrics server is up to.

const (
	defaultControlSocket = "/run/portsyncd/control.sock"
	controlMode          = 0o660
	guardSuffix          = ".guard" // of the file that is locked while the socket is made; .lock may be the writer's
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
func listenControl(ctx context.Context, path string) (_ *socketFile, err error) {
	folder, err := openControlDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	// Of two daemons that start at a time, one could take the other's socket for stale. Their lock is no lock on the
	// folder: that is open to every user, and whoever may open a file may lock it.
	lock, err := openFile(path+guardSuffix, os.O_RDWR|os.O_CREATE)
	if errors.Is(err, fs.ErrPermission) && os.Remove(path+guardSuffix) == nil { // another user's, in a folder of ours
		lock, err = openFile(path+guardSuffix, os.O_RDWR|os.O_CREATE)
	}
	if err != nil {
		return nil, err
	}
	defer lock.Close() // which gives the lock back; the file stays, or one could lock it while another makes the next
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
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
	return newSocketFile(l, path, "-control.socket "+path), nil
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
