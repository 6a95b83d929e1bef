package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A connection to a Redis on which nobody waits: a question is sent at a beat, and its answer is read when somebody
// wants to know, or at the next beat. The runtime is not told of its descriptor, so that an answer wakes no thread.

// peerLine is one. It belongs to one goroutine at a time.
type peerLine struct {
	fd  int
	got []byte // of answers, what is not read yet
}

// answerPart is how much is read at once.
const answerPart = 1 << 10

// errLate says that an answer is missing.
var errLate = errors.New("no answer of Redis in time")

// dialLine connects, which may take its time.
func dialLine(ctx context.Context, a dbAddress) (*peerLine, error) {
	dialer := net.Dialer{Timeout: dbDialTimeout}
	conn, err := dialer.DialContext(ctx, a.network, a.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	l := &peerLine{fd: -1}
	failed := raw.Control(func(fd uintptr) { l.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(failed, err); err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return l, nil
}

func (l *peerLine) close() { _ = unix.Close(l.fd) }

// send sends commands, all of them or none of any use.
func (l *peerLine) send(commands ...[]string) error {
	text := make([]byte, 0, 2<<10)
	for _, words := range commands {
		text = appendCommand(text, words)
	}
	n, errno := rawIO(unix.SYS_WRITE, uintptr(l.fd), text)
	switch {
	case errno == unix.EAGAIN || errno == 0 && n < len(text):
		return errLate
	case errno != 0:
		return os.NewSyscallError("write", errno)
	}
	return nil
}

// reply returns the next one that has come whole; whole is false if there is none.
func (l *peerLine) reply() (a any, whole bool, err error) {
	for {
		a, rest, whole, err := readReply(l.got)
		if whole || err != nil {
			l.got = l.got[:copy(l.got, rest)]
			return a, whole, err
		}
		if len(l.got) > answerMost {
			return nil, false, errGarbled
		}
		l.got = slices.Grow(l.got, answerPart)
		n, errno := rawIO(unix.SYS_READ, uintptr(l.fd), l.got[len(l.got):cap(l.got)])
		switch {
		case errno == unix.EAGAIN:
			return nil, false, nil
		case errno != 0:
			return nil, false, os.NewSyscallError("read", errno)
		case n == 0:
			return nil, false, io.EOF
		}
		l.got = l.got[:len(l.got)+n]
	}
}

// await waits for so many, whatever they say.
func (l *peerLine) await(n int, limit time.Duration) error {
	for end := time.Now().Add(limit); n > 0; {
		_, whole, err := l.reply()
		if err != nil {
			return err
		}
		if whole {
			n--
		} else if left := time.Until(end); !readableSoon(uintptr(l.fd), left) {
			return errLate
		}
	}
	return nil
}
