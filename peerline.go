package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
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

// answerMost is more than all instances' rows take.
const answerMost = 1 << 20

// errLate says that an answer is missing, and errGarbled that it makes no sense.
var (
	errLate    = errors.New("it does not answer in time")
	errGarbled = errors.New("its answer makes no sense")
)

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
	if failed := raw.Control(func(fd uintptr) { l.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); failed != nil {
		err = failed
	}
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return l, nil
}

func (l *peerLine) close() { _ = unix.Close(l.fd) }

// send sends commands, all of them or none of any use.
func (l *peerLine) send(commands ...[]string) error {
	text := make([]byte, 0, 2<<10)
	for _, words := range commands {
		text = append(strconv.AppendInt(append(text, '*'), int64(len(words)), 10), "\r\n"...)
		for _, word := range words {
			text = append(strconv.AppendInt(append(text, '$'), int64(len(word)), 10), "\r\n"...)
			text = append(append(text, word...), "\r\n"...)
		}
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
			l.got = l.got[len(l.got)-len(rest):]
			return a, whole, err
		}
		if len(l.got) > answerMost {
			return nil, false, errGarbled
		}
		var some [4 << 10]byte
		n, errno := rawIO(unix.SYS_READ, uintptr(l.fd), some[:])
		switch {
		case errno == unix.EAGAIN:
			return nil, false, nil
		case errno != 0:
			return nil, false, os.NewSyscallError("read", errno)
		case n == 0:
			return nil, false, io.EOF
		}
		l.got = append(l.got, some[:n]...)
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

// refused is an answer that is an error.
type refused string

func (r refused) Error() string { return string(r) }

const (
	depthMost = 8   // lists within each other, in an answer
	lineMost  = 512 // bytes of an answer that is one line
)

// readReply reads an answer from the beginning of what was received (RESP2): a text, an int64, nil, refused, or a list
// of these. whole is false if more has to come.
func readReply(b []byte) (a any, rest []byte, whole bool, err error) { return readWithin(b, 0) }

func readWithin(b []byte, depth int) (a any, rest []byte, whole bool, err error) {
	end := bytes.Index(b[:min(len(b), lineMost)], []byte("\r\n"))
	if end < 0 {
		if len(b) >= lineMost {
			err = errGarbled
		}
		return nil, b, false, err
	}
	line, rest := string(b[:end]), b[end+2:]
	if line == "" || depth > depthMost {
		return nil, b, false, errGarbled
	}
	n, numErr := strconv.ParseInt(line[1:], 10, 64)
	switch line[0] {
	case '+':
		return line[1:], rest, true, nil
	case '-':
		return refused(line[1:]), rest, true, nil
	case ':', '$', '*':
		if numErr != nil || n > answerMost {
			return nil, b, false, fmt.Errorf("%w: %q", errGarbled, line)
		}
	default:
		return nil, b, false, fmt.Errorf("%w: %q", errGarbled, line)
	}
	switch {
	case line[0] == ':':
		return n, rest, true, nil
	case n < 0:
		return nil, rest, true, nil
	case line[0] == '$':
		if len(rest) < int(n)+2 {
			return nil, b, false, nil
		}
		return string(rest[:n]), rest[n+2:], true, nil
	}
	list := []any{}
	for range n {
		var item any
		if item, rest, whole, err = readWithin(rest, depth+1); !whole {
			return nil, b, false, err
		}
		list = append(list, item)
	}
	return list, rest, true, nil
}
