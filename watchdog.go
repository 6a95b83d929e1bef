package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Watchdogs: systemd's, by hand over its notification socket (sd_notify(3)), and our own for hosts without systemd.

const (
	dumpLimit = 2 * time.Second // for the log to take the goroutines, if it does at all
	stacksLen = 256 << 10

	// silence is longer than a beat, and ends at one: a time that passes wakes the process even if what was waited for
	// came long ago, because the runtime does not look for the next one before
	silence = 2 * beatInterval

	extendStart = "EXTEND_TIMEOUT_USEC=30000000" // a start that waits for something is not one that hangs
)

// notifier tells systemd how the daemon is doing. Without NOTIFY_SOCKET it does nothing.
type notifier struct {
	conn  net.Conn // nil: nobody listens
	raw   syscall.RawConn
	every time.Duration // how often systemd wants to hear from us, 0: not
}

// openNotifier connects to the socket that systemd names, and takes it out of the environment.
func openNotifier() *notifier {
	n := new(notifier)
	path := os.Getenv("NOTIFY_SOCKET")
	interval, _ := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if pid := os.Getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		n.every = time.Duration(interval) * time.Microsecond / 2
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(name)
	}
	if path == "" {
		return n
	}
	if c, err := net.Dial("unixgram", path); err == nil { // a leading @ is the abstract namespace
		n.use(c)
	}
	return n
}

// use takes a connection to systemd's socket.
func (n *notifier) use(c net.Conn) {
	if raw, err := c.(syscall.Conn).SyscallConn(); err == nil {
		n.conn, n.raw = c, raw
	}
}

// Tell sends assignments such as READY=1, without waiting. It returns false if they may be said again later: systemd
// does not listen right now.
func (n *notifier) Tell(assignments ...string) (told bool) {
	told = true
	if n.conn == nil {
		return told
	}
	text := []byte(strings.Join(assignments, "\n"))
	_ = n.raw.Control(func(fd uintptr) {
		_, errno := rawIO(unix.SYS_WRITE, fd, text)
		told = errno != unix.EAGAIN
	})
	return told
}

// watchdog looks after the loop from a goroutine of its own.
type watchdog struct {
	box    *box
	log    *slog.Logger
	flush  func(limit time.Duration) // of the log
	notify *notifier
	exit   func() // ends the process, for a supervisor to start it again
	look   func() // looks after the control socket; nil: there is none

	mu    sync.Mutex  // one tick at a time
	timer *time.Timer // for a beat that does not come
	every time.Duration
	due   time.Time // when the next tick of its own is

	turns uint64 // of all loops: as long as one namespace's turns, ending would hurt it
	// between ticks of ours without a turn of a loop: a stopped process, where we stop, too, is no stuck loop
	stuck  time.Duration
	status string
	ready  bool
	heap   trimmer
}

// Run ticks until ctx ends: with the loop's beat, and by itself while that does not come, or something is wrong or not
// ready. A timer that never fires wakes nobody.
func (w *watchdog) Run(ctx context.Context) {
	w.mu.Lock()
	w.every = shortBeat
	w.timer, w.due = time.NewTimer(w.every), time.Now().Add(w.every)
	w.mu.Unlock()
	w.box.health.bell.hear(w.beat)
	for amid := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return
		case now := <-w.timer.C:
			if !w.mu.TryLock() { // a loop is amid a beat
				w.timer.Reset(shortBeat)
				if amid += shortBeat; amid > stuckAfter {
					w.giveUp(amid)
				}
				continue
			}
			amid = 0
			if left := time.Until(w.due); left > 0 { // a beat came in between
				w.timer.Reset(left)
				w.mu.Unlock()
				continue
			}
			// who was stopped meanwhile has time to turn
			w.next(w.tick(now, min(w.every, stuckAfter-2*shortBeat)) && w.every < silence)
			w.mu.Unlock()
		}
	}
}

// beat is what comes with a loop's beat, on its thread: another one that wakes would cost more. Nobody waits in here.
func (w *watchdog) beat(now time.Time) {
	if !w.mu.TryLock() {
		return
	}
	defer w.mu.Unlock()
	w.next(w.tick(now, 0))
	w.box.tell()
	w.box.giveUp()
	if w.heap.beat(w.box.messages()) {
		go w.box.trim()
	}
}

// next sets the time until the next tick, if no beat comes before.
func (w *watchdog) next(well bool) {
	w.every = shortBeat
	if well {
		w.every = silence
	}
	if w.notify.every > 0 {
		w.every = min(w.every, w.notify.every)
	}
	w.due = time.Now().Add(w.every)
	w.timer.Reset(w.every)
}

// tick ends the process if the loop is stuck, before anything else that it may do; it updates health and tells
// systemd. every is the time since the last one, if the watchdog was waiting for nothing else. It returns whether
// nothing is wrong.
func (w *watchdog) tick(now time.Time, every time.Duration) (well bool) {
	if turns := w.box.turns(); turns != w.turns || w.box.excused() {
		w.turns, w.stuck = turns, 0
	} else if w.stuck += every; w.stuck >= stuckAfter {
		w.giveUp(w.stuck)
		return false
	}
	if w.look != nil {
		w.look()
	}
	reasons, worst := w.box.Update(now, w.log)
	if !w.ready && w.box.listed() {
		w.ready = w.notify.Tell("READY=1")
	}
	status := "STATUS=" + strings.Join(append([]string{worst.String()}, reasons...), "; ")
	if status != w.status && w.notify.Tell(status) {
		w.status = status
	}
	if !w.ready && w.box.excused() {
		w.notify.Tell(extendStart)
	}
	if w.notify.every > 0 {
		w.notify.Tell("WATCHDOG=1")
	}
	return worst == ok && w.ready && w.stuck == 0
}

// giveUp writes down what every goroutine is doing and exits, for the supervisor to start the daemon again.
func (w *watchdog) giveUp(after time.Duration) {
	stacks := make([]byte, stacksLen)
	stacks = stacks[:runtime.Stack(stacks, true)]
	w.log.Log(ctxNone, levelCrit, "the loop is stuck, ending", "for", after)
	for _, stack := range bytes.Split(stacks, []byte("\n\n")) {
		w.log.Log(ctxNone, levelCrit, "goroutine", "stack", string(stack))
	}
	w.flush(dumpLimit)
	w.exit()
}
