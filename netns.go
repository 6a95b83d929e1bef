package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const netnsUsage = "network namespace of the links: a `name` under /run/netns, or a path"

// netNSID tells one network namespace from another. The zero value is our own.
type netNSID struct{ device, inode uint64 }

// netNSPath is the file of a namespace.
func netNSPath(netns string) string {
	if strings.Contains(netns, "/") {
		return netns
	}
	return "/run/netns/" + netns
}

// netNSOf is the namespace that has a name by now.
func netNSOf(netns string) (id netNSID, err error) {
	file, err := identify(unix.AT_FDCWD, netNSPath(netns), 0)
	if err != nil {
		return id, netNSError(netns, os.NewSyscallError("stat", err))
	}
	return idOf(file), nil
}

func idOf(f fileID) netNSID { return netNSID{unix.Mkdev(f.major, f.minor), f.inode} }

// inNetNS runs open in a network namespace, on a thread of its own so that the rest of the process stays where it is,
// and tells it which one that is.
func inNetNS(netns string, open func(here netNSID) error) error {
	if netns == "" {
		return open(netNSID{})
	}
	there, err := os.OpenFile(netNSPath(netns), os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe's waits for a writer
	if err != nil {
		return netNSError(netns, err)
	}
	defer there.Close()
	id, err := identify(int(there.Fd()), "", unix.AT_EMPTY_PATH)
	if err != nil {
		return netNSError(netns, os.NewSyscallError("fstat", err))
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked unless it is back home: a thread that is not dies with the goroutine
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- netNSError(netns, os.NewSyscallError("setns", err))
			return
		}
		err = open(idOf(id))
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// errNoNetNS says that the network namespace is not there yet; a booting switch is still to make it.
var errNoNetNS = errors.New("no such network namespace")

// netNSError tells what waiting cures from what it does not. ip netns add makes the file first, and then mounts the
// namespace on it: until then it is a file like any other (EINVAL).
func netNSError(netns string, err error) error {
	kind := errConfig
	for _, early := range []error{unix.ENOENT, unix.ESRCH, unix.EINVAL} {
		if errors.Is(err, early) {
			kind = errNoNetNS
		}
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w; %s", err, netNSRemedy)
	case kind == errNoNetNS && isHidden(netNSPath(netns)):
		kind, err = errConfig, fmt.Errorf("%w, for its process is hidden from this one; %s", err, netNSRemedy)
	}
	return fmt.Errorf("%w: -netns %s: %w", kind, netns, err)
}

const netNSRemedy = "to enter a container's takes CAP_SYS_ADMIN and CAP_SYS_PTRACE, without which hidepid " +
	"(ProtectProc=invisible) hides it, and of a systemd unit RestrictNamespaces=net: deploy/systemd/netns.conf"

// isHidden says that a path is a link to the namespace of a process that is there, and that /proc does not show.
func isHidden(path string) bool {
	link, _ := os.Readlink(path)
	text, _ := strings.CutPrefix(link, "/proc/")
	text, _, _ = strings.Cut(text, "/")
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 0 {
		return false
	}
	_, err = os.Stat("/proc/" + text)
	return errors.Is(err, fs.ErrNotExist) && unix.Kill(pid, 0) != unix.ESRCH
}

// errMoved says that a name is another namespace's by now.
var errMoved = errors.New("the network namespace was made again")

// netNSPause is the time between looks for a namespace that is not there: its interfaces are made right after it, and
// those there are when it is found count as old.
const netNSPause = 50 * time.Millisecond
