package main

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls on descriptors that the runtime is not told of: one that it is told of wakes its monitor.

// rawIO is read(2) or write(2), interrupted or not.
func rawIO(call, fd uintptr, b []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == 0 {
			return int(n), 0
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// readableSoon waits on this thread, for up to patience. Signals, the garbage collector's for one, end the wait for a
// moment, so that nobody waits for us.
func readableSoon(fd uintptr, patience time.Duration) bool {
	for end := time.Now().Add(patience); patience > 0; {
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		n, errno := pollIn(fd, left)
		if errno != unix.EINTR {
			return n > 0
		}
	}
	return false
}

// hasNews says that there is something to be read, or that the connection has ended.
func hasNews(fd uintptr) bool {
	n, _ := pollIn(fd, 0)
	return n > 0
}

func pollIn(fd uintptr, d time.Duration) (int, unix.Errno) {
	ask := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	limit := unix.NsecToTimespec(int64(d))
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&ask)), 1, uintptr(unsafe.Pointer(&limit)),
		0, 0, 0)
	return int(n), errno
}
