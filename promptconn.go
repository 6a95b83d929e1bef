package main

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// promptTime is how long a thread itself waits for a Redis to answer. One that is well does so in some tens of
// microseconds: to park the goroutine meanwhile would cost more wake-ups than it saves, because the runtime then looks
// for other work, and its monitor and a second thread wake up to see what the first one is doing.
const promptTime = time.Millisecond

// promptConn is a connection to a Redis that is read and written on the calling thread, with system calls that the
// runtime is not told of, for up to promptTime. Only then does it park like any other, under the deadline that was set,
// and says so first.
type promptConn struct {
	net.Conn
	raw  syscall.RawConn
	slow func() // what is called does not come back soon

	readBy, writeBy time.Time // deadlines; zero: none
	armed           bool      // the connection's own deadline is set
	buf             []byte    // of the call under way
	n               int
	errno           unix.Errno
	waited          bool // promptTime is over
	read, write     func(fd uintptr) bool
}

// dialer is how the Redis client gets a connection; nil is its own.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// dialPrompt is a dialer for the Redis client, which gives up at a limit. Its connections tell slow before they wait
// for long.
func dialPrompt(limit time.Duration, slow func()) dialer {
	dialer := net.Dialer{Timeout: limit}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		slow()
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c := &promptConn{Conn: conn, slow: slow}
		if c.raw, err = conn.(syscall.Conn).SyscallConn(); err != nil {
			_ = conn.Close()
			return nil, err
		}
		c.read, c.write = c.tryRead, c.tryWrite
		return c, nil
	}
}

func (c *promptConn) SetDeadline(t time.Time) error      { c.readBy, c.writeBy = t, t; return nil }
func (c *promptConn) SetReadDeadline(t time.Time) error  { c.readBy = t; return nil }
func (c *promptConn) SetWriteDeadline(t time.Time) error { c.writeBy = t; return nil }

func (c *promptConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c.buf, c.waited = b, false
	err := c.raw.Read(c.read)
	c.disarm()
	switch {
	case err != nil:
		return 0, err
	case c.errno != 0:
		return 0, os.NewSyscallError("read", c.errno)
	case c.n == 0:
		return 0, io.EOF
	}
	return c.n, nil
}

// tryRead is one try to read into buf; false: it has to wait for long.
func (c *promptConn) tryRead(fd uintptr) bool {
	for {
		c.n, c.errno = rawIO(unix.SYS_READ, fd, c.buf)
		if c.errno != unix.EAGAIN {
			return true
		}
		if c.waited {
			return false
		}
		if c.waited = true; !readableSoon(fd) {
			c.park(c.Conn.SetReadDeadline, c.readBy)
			return false
		}
	}
}

func (c *promptConn) Write(b []byte) (written int, err error) {
	for written < len(b) {
		c.buf, c.waited = b[written:], false
		err := c.raw.Write(c.write)
		c.disarm()
		if err == nil && c.errno != 0 {
			err = os.NewSyscallError("write", c.errno)
		}
		if err != nil {
			return written, err
		}
		written += c.n
	}
	return written, nil
}

// tryWrite is one try to write buf; false: the server does not read.
func (c *promptConn) tryWrite(fd uintptr) bool {
	if c.n, c.errno = rawIO(unix.SYS_WRITE, fd, c.buf); c.errno != unix.EAGAIN {
		return true
	}
	if !c.waited {
		c.waited = true
		c.park(c.Conn.SetWriteDeadline, c.writeBy)
	}
	return false
}

// park prepares for a wait in the runtime's poller.
func (c *promptConn) park(setDeadline func(time.Time) error, by time.Time) {
	c.armed = true
	_ = setDeadline(by) // an error means that the connection is closed, which the wait says, too
	c.slow()
}

func (c *promptConn) disarm() {
	if c.armed {
		c.armed = false
		_ = c.Conn.SetDeadline(time.Time{})
	}
}

// SyscallConn is for the client's look at an idle connection: was it closed?
func (c *promptConn) SyscallConn() (syscall.RawConn, error) { return idleLook{c.raw}, nil }

// idleLook lets the client look only where there is something to see.
type idleLook struct{ syscall.RawConn }

func (l idleLook) Read(look func(fd uintptr) bool) error {
	return l.RawConn.Read(func(fd uintptr) bool { return !hasNews(fd) || look(fd) })
}

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

// readableSoon waits on this thread, for up to promptTime. Signals, the garbage collector's for one, end the wait for
// a moment, so that nobody waits for us.
func readableSoon(fd uintptr) bool {
	for end := time.Now().Add(promptTime); ; {
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		n, errno := pollIn(fd, left)
		if errno != unix.EINTR {
			return n > 0
		}
	}
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
