package switchtest

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// KeyEvent is a keyspace event: an operation on a key, with the time when this process had it.
type KeyEvent struct {
	At        time.Time
	Key       string
	Operation string // hset, del …
}

// Events calls on for every keyspace event of one database whose key matches a pattern, until the returned function is called. It
// blocks in read(2) on a thread of its own, so that its times are as good as they get.
func (r *Redis) Events(db int, pattern string, on func(KeyEvent)) (stop func(), err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	prefix := fmt.Sprintf("__keyspace@%d__:", db)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: r.Socket}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	if _, err := unix.Write(fd, []byte("PSUBSCRIBE \""+prefix+pattern+"\"\r\n")); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("write", err)
	}
	ended := make(chan struct{})
	stood := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		in := &stamped{fd: fd}
		words := bufio.NewReaderSize(in, 64<<10)
		_, err := reply(words)
		stood <- err
		for err == nil {
			var m []string // pmessage, pattern, channel, message
			if m, err = reply(words); err == nil && len(m) == 4 {
				on(KeyEvent{in.at, strings.TrimPrefix(m[2], prefix), m[3]})
			}
		}
	}()
	stop = func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
		<-ended
		_ = unix.Close(fd)
	}
	if err := <-stood; err != nil {
		stop()
		return nil, fmt.Errorf("subscribe to keyspace events: %w", err)
	}
	return stop, nil
}

// stamped notes when its last read returned.
type stamped struct {
	fd int
	at time.Time
}

func (s *stamped) Read(b []byte) (int, error) {
	n, err := unix.Read(s.fd, b)
	s.at = time.Now()
	if err == nil && n == 0 {
		err = os.ErrClosed
	}
	return max(n, 0), err
}

// reply reads an array of bulk strings or integers, which is all that a subscriber is sent.
func reply(in *bufio.Reader) ([]string, error) {
	head, err := in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	if head[0] != '*' {
		return nil, fmt.Errorf("unexpected reply %q", head)
	}
	n, err := strconv.Atoi(strings.TrimSpace(head[1:]))
	out := make([]string, 0, n)
	for len(out) < n && err == nil {
		var line string
		if line, err = in.ReadString('\n'); err == nil && line[0] == '$' {
			line, err = in.ReadString('\n')
		}
		out = append(out, strings.TrimSpace(line))
	}
	return out, err
}
