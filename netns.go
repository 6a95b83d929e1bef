package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const netnsUsage = "network namespace of the links: a `name` under /run/netns, or a path"

// inNetNS runs open in a network namespace, on a thread of its own so that the rest of the process stays where it is.
func inNetNS(netns string, open func() error) error {
	if netns == "" {
		return open()
	}
	path := netns
	if !strings.Contains(netns, "/") {
		path = "/run/netns/" + netns
	}
	there, err := os.Open(path)
	if err != nil {
		return netNSError(netns, err)
	}
	defer there.Close()
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
		err = open()
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
	return fmt.Errorf("%w: -netns %s: %w", kind, netns, err)
}

// netNSPause is the time between looks for a namespace that is not there: its interfaces are made right after it, and
// those there are when it is found count as old.
const netNSPause = 50 * time.Millisecond
