package main

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// promptTime is how long a thread itself waits for a Redis to answer. One that is well does so in some tens of
// microseconds: to park the goroutine meanwhile would cost more wake-ups than it saves, because the runtime then looks
// for other work, and its monitor and a second thread wake up to see what the first one is doing.
const promptTime = time.Millisecond

// promptConn is a connection to a Redis that is read and written on the calling thread, with system calls that the
// runtime is not told of, for up to patience. Only then does it park like any other, under the deadline that was set,
// and says so first. One goroutine may read while another one writes, and a third one nudges.
type promptConn struct {
	net.Conn
	raw      syscall.RawConn
	patience time.Duration // for something to be read
	slow     func()        // what is called does not come back soon
	in, out  half

	writing sync.Mutex
	greeted bool          // something was written
	asked   atomic.Int64  // the instant of the oldest nudge after which nothing was read, 0: there is none
	limit   time.Duration // for an answer to a nudge
	ask     func(fd uintptr)
}

// half is one direction of a connection.
type half struct {
	by     time.Time // deadline; zero: none
	armed  bool      // the connection's own deadline is set
	buf    []byte    // of the call under way
	n      int
	errno  unix.Errno
	waited bool // patience is over
	try    func(fd uintptr) bool
}

// dialer is how the Redis client gets a connection.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// dialPrompt is a dialer for the Redis client, which gives up at a limit. Its connections tell slow before they wait
// for long.
func dialPrompt(limit, patience time.Duration, slow func()) dialer {
	dialer := net.Dialer{Timeout: limit}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		slow()
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c := newPromptConn(conn, patience, slow)
		if c == nil {
			_ = conn.Close()
			return nil, net.ErrClosed
		}
		return c, nil
	}
}

// newPromptConn has a connection read and written promptly; nil: it is closed.
func newPromptConn(conn net.Conn, patience time.Duration, slow func()) *promptConn {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	c := &promptConn{Conn: conn, raw: raw, patience: patience, slow: slow}
	c.in.try, c.out.try, c.ask = c.tryRead, c.tryWrite, c.tryNudge
	return c
}

func (c *promptConn) SetDeadline(t time.Time) error      { c.in.by, c.out.by = t, t; return nil }
func (c *promptConn) SetReadDeadline(t time.Time) error  { c.in.by = t; return nil }
func (c *promptConn) SetWriteDeadline(t time.Time) error { c.out.by = t; return nil }

func (c *promptConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c.in.buf, c.in.waited = b, false
	err := c.raw.Read(c.in.try)
	c.in.buf = nil // it may be a long answer's, and the next call is long after
	c.asked.Store(0)
	if c.in.armed {
		c.in.armed = c.Conn.SetReadDeadline(time.Time{}) != nil
	}
	switch {
	case err != nil:
		return 0, err
	case c.in.errno != 0:
		return 0, os.NewSyscallError("read", c.in.errno)
	case c.in.n == 0:
		return 0, io.EOF
	}
	return c.in.n, nil
}

// tryRead is one try to read; false: it has to wait for long.
func (c *promptConn) tryRead(fd uintptr) bool {
	for h := &c.in; ; {
		h.n, h.errno = rawIO(unix.SYS_READ, fd, h.buf)
		if h.errno != unix.EAGAIN {
			return true
		}
		if h.waited {
			return false
		}
		if h.waited = true; !readableSoon(fd, c.patience) {
			if !h.by.IsZero() {
				h.armed = true
				_ = c.Conn.SetReadDeadline(h.by) // an error means that it is closed, which the wait says, too
			}
			c.slow()
			return false
		}
	}
}

func (c *promptConn) Write(b []byte) (written int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.greeted = true
	for written < len(b) {
		c.out.buf, c.out.waited = b[written:], false
		err := c.raw.Write(c.out.try)
		c.out.buf = nil
		if c.out.armed {
			c.out.armed = c.Conn.SetWriteDeadline(time.Time{}) != nil
		}
		if err == nil && c.out.errno != 0 {
			err = os.NewSyscallError("write", c.out.errno)
		}
		if err != nil {
			return written, err
		}
		written += c.out.n
	}
	return written, nil
}

// tryWrite is one try to write; false: the server does not read.
func (c *promptConn) tryWrite(fd uintptr) bool {
	h := &c.out
	if h.n, h.errno = rawIO(unix.SYS_WRITE, fd, h.buf); h.errno != unix.EAGAIN {
		return true
	}
	if !h.waited {
		h.waited, h.armed = true, true
		_ = c.Conn.SetWriteDeadline(h.by)
		c.slow()
	}
	return false
}

// nudge asks the server of a subscription for a sign of life, without waiting. If it has given none by a later time,
// after more than limit, whoever reads gets a time-out. To ask from here wakes no other thread, and no timer has to be
// set for the answer.
func (c *promptConn) nudge(limit time.Duration) {
	if !c.writing.TryLock() { // whoever writes has a deadline
		return
	}
	if c.greeted { // the client's own first words come first
		c.limit = limit
		_ = c.raw.Control(c.ask) // an error means that it is closed
	}
	c.writing.Unlock()
}

var pingCommand = []byte("*1\r\n$4\r\nPING\r\n")

func (c *promptConn) tryNudge(fd uintptr) {
	now, torn := instant(time.Now()), false
	asked := c.asked.Load()
	if asked == 0 {
		c.asked.Store(now)
		n, _ := rawIO(unix.SYS_WRITE, fd, pingCommand)
		torn = n > 0 && n < len(pingCommand)
	}
	if torn || asked != 0 && now-asked >= int64(c.limit) && !hasNews(fd) {
		_ = c.Conn.SetReadDeadline(epoch)
	}
}

// SyscallConn is for the client's look at an idle connection: was it closed?
func (c *promptConn) SyscallConn() (syscall.RawConn, error) { return idleLook{c.raw}, nil }

// idleLook lets the client look only where there is something to see.
type idleLook struct{ syscall.RawConn }

func (l idleLook) Read(look func(fd uintptr) bool) error {
	return l.RawConn.Read(func(fd uintptr) bool { return !hasNews(fd) || look(fd) })
}
