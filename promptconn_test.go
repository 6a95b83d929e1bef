package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"golang.org/x/sys/unix"
	"portsyncd/internal/switchtest"
)

// Connections that are read on the calling thread for a moment, and the loop that goes on elsewhere when that is over.

// promptPair is a connection and its other end. slow counts, from after the dial.
func promptPair(t *testing.T) (c, peer net.Conn, slow *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	must(t, err)
	defer l.Close()
	slow = new(atomic.Int32)
	c, err = dialPrompt(time.Second, promptTime, func() { slow.Add(1) })(t.Context(), "unix", l.Addr().String())
	must(t, err)
	peer, err = l.Accept()
	must(t, err)
	t.Cleanup(func() { _, _ = c.Close(), peer.Close() })
	if slow.Swap(0) == 0 {
		t.Error("a dial is not said to be slow")
	}
	return c, peer, slow
}

func TestAnswerThatIsThereIsNotSlow(t *testing.T) {
	c, peer, slow := promptPair(t)
	buf := make([]byte, 16)
	for range 100 {
		_, err := peer.Write([]byte("answer"))
		must(t, err)
		n, err := c.Read(buf)
		must(t, err)
		if string(buf[:n]) != "answer" {
			t.Fatalf("read %q", buf[:n])
		}
		_, err = c.Write([]byte("question"))
		must(t, err)
		_, err = io.ReadFull(peer, buf[:8])
		must(t, err)
	}
	if n := slow.Load(); n > 0 {
		t.Errorf("said to be slow %d times", n)
	}
}

// TestLateAnswerIsSaidToBeSlow, once, before it is waited for, and the next one may be prompt again.
func TestLateAnswerIsSaidToBeSlow(t *testing.T) {
	c, peer, slow := promptPair(t)
	must(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
	go func() {
		for end := time.Now().Add(10 * time.Second); slow.Load() == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		_, _ = peer.Write([]byte("late"))
	}()
	buf := make([]byte, 16)
	n, err := c.Read(buf)
	if err != nil || string(buf[:n]) != "late" || slow.Load() != 1 {
		t.Errorf("%q, %v, said to be slow %d times", buf[:n], err, slow.Load())
	}
}

// TestDeadlinesHold for a peer that is silent and for one that does not read; the connection can be used afterwards.
func TestDeadlinesHold(t *testing.T) {
	c, peer, slow := promptPair(t)
	buf := make([]byte, 16)
	must(t, c.SetDeadline(time.Now().Add(50*time.Millisecond)))
	if _, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a silent peer: %v", err)
	}
	must(t, c.SetDeadline(time.Now().Add(50*time.Millisecond)))
	much := make([]byte, 8<<20)
	written, err := c.Write(much)
	if !errors.Is(err, os.ErrDeadlineExceeded) || written >= len(much) {
		t.Errorf("a peer that does not read: %d bytes, %v", written, err)
	}
	if slow.Load() != 2 {
		t.Errorf("said to be slow %d times, want 2", slow.Load())
	}
	must(t, c.SetDeadline(time.Time{}))
	_, err = io.CopyN(io.Discard, peer, int64(written))
	must(t, err)
	_, err = peer.Write([]byte("x"))
	must(t, err)
	_, err = c.Read(buf)
	must(t, err)
}

// TestOneReadsWhileAnotherWrites, as a subscription does, which waits for events at once and is pinged meanwhile.
func TestOneReadsWhileAnotherWrites(t *testing.T) {
	plain, peer, _ := promptPair(t)
	c := newPromptConn(plain.(*promptConn).Conn, 0, func() {})
	must(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
	const times = 2000
	go func() { _, _ = io.CopyN(peer, peer, times) }()
	ended := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(c, make([]byte, times))
		ended <- err
	}()
	for i := range times {
		must(t, c.SetWriteDeadline(time.Now().Add(time.Minute)))
		_, err := c.Write([]byte{byte(i)})
		must(t, err)
	}
	must(t, <-ended)
}

// TestNudge: a server that gives no sign of life until the next nudge fails whoever reads; one that does, whenever that is read, does not. Nobody waits.
func TestNudge(t *testing.T) {
	plain, peer, _ := promptPair(t)
	c := newPromptConn(plain.(*promptConn).Conn, 0, func() {})
	heard := func() string {
		t.Helper()
		must(t, peer.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		buf := make([]byte, 64)
		n, err := peer.Read(buf)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	late := func() { c.asked.Add(-int64(dbTimeout)) }
	c.nudge(dbTimeout)
	if got := heard(); got != "" {
		t.Errorf("the first word is %q", got)
	}
	_, err := c.Write([]byte("hello"))
	must(t, err)
	for range 3 { // the answer to the first one is not due yet
		c.nudge(dbTimeout)
	}
	if got := heard(); got != "hello"+string(pingCommand) {
		t.Errorf("heard %q", got)
	}
	_, err = peer.Write([]byte("pong"))
	must(t, err)
	late()
	c.nudge(dbTimeout) // it has answered, and nobody has read that yet
	buf := make([]byte, 16)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "pong" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	c.nudge(dbTimeout)
	if got := heard(); got != string(pingCommand) {
		t.Errorf("after an answer, heard %q", got)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := c.Read(buf)
		ended <- err
	}()
	late()
	c.nudge(dbTimeout)
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("no answer: %v", err)
		}
	case <-time.After(patience):
		t.Error("whoever reads waits for an answer for ever")
	}
	written := make(chan struct{})
	go func() { // until the other end is closed
		_, _ = c.Write(make([]byte, 8<<20))
		close(written)
	}()
	if err := switchtest.WaitFor(patience, "a writer that waits", func() bool {
		if c.writing.TryLock() {
			c.writing.Unlock()
			return false
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	c.nudge(dbTimeout)
	must(t, peer.Close())
	<-written
}

func TestEndOfAConnection(t *testing.T) {
	c, peer, _ := promptPair(t)
	must(t, peer.Close())
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read: %v", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write: %v", err)
	}
}

// TestServerThatRestartsWhileIdleCausesNoError: the client looks at an idle connection before it uses it.
func TestServerThatRestartsWhileIdleCausesNoError(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.openDB()
	for range 3 {
		_, err := d.listState(t.Context())
		s.must(err)
		s.Redis[0].Stop()
		s.must(s.Redis[0].Start())
	}
	_, err := d.listState(t.Context())
	s.must(err)
}

// fed is a link source that a test feeds.
type fed struct {
	still
	news chan linkMessage
}

func (f *fed) Receive(sink linkSink) (bool, error) {
	for {
		select {
		case m := <-f.news:
			m.name = []byte("Ethernet0")
			sink.received(time.Now(), 1)
			sink.live(&m)
		default:
			if f.dumps > 0 {
				f.dumps = 0
				sink.dumpDone(false, nil)
			}
			return false, nil
		}
	}
}

func (f *fed) Wait(time.Duration) error { time.Sleep(time.Millisecond); return nil }

// slowDB is databases that take as long as a test wants over each flush with writes.
type slowDB struct {
	*mapDB
	slow    func()
	began   chan struct{}
	release chan struct{}
}

func (d *slowDB) Flush(ctx context.Context, f *flush) error {
	if len(f.writes) > 0 {
		d.slow()
		d.began <- struct{}{}
		<-d.release
	}
	return d.mapDB.Flush(ctx, f)
}

// TestLoopGoesOnWhileAFlushIsSlow: links are taken in, what came of the flush is taken in, too, and the daemon ends
// within its second although one never ends.
func TestLoopGoesOnWhileAFlushIsSlow(t *testing.T) {
	source := &fed{news: make(chan linkMessage, 10)}
	db := &slowDB{mapDB: &mapDB{appl: map[string]bool{"Ethernet0": true}, state: map[string]portState{}},
		began: make(chan struct{}, 10), release: make(chan struct{})}
	db.config.ports = []portConfig{{"Ethernet0", packedFields("lanes", "1")}}
	db.facts.events = true
	open := func(slow func()) (database, error) { db.slow = slow; return db, nil }
	status, m := new(health), newMetrics("test")
	s := newSyncer(syncOptions{eoiu: 30 * time.Second}, source, open, m, status, slog.New(slog.DiscardHandler), time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	await := func(what string, holds func() bool) {
		t.Helper()
		must(t, switchtest.WaitFor(10*time.Second, what, holds))
	}
	await("the start", func() bool { return m.portConfigDone.Load() == 1 })
	source.news <- news(1, running)
	<-db.began
	turns := status.turns.Load()
	source.news <- news(1, up)
	await("the message to be taken in", func() bool { return m.messages.Load() == 2 && status.turns.Load() > turns+10 })
	db.release <- struct{}{}
	<-db.began // the second state
	db.release <- struct{}{}
	await("both to be acknowledged", func() bool { return m.queueDepth.Load() == 0 })
	if want := []string{"PortConfigDone 1", "SET Ethernet0 up/up 1500", "SET Ethernet0 down/up 1500"}; !slices.Equal(
		slices.DeleteFunc(db.done, func(what string) bool { return what == portInitDone }), want) {
		t.Errorf("the databases got %q", db.done)
	}
	source.news <- news(1, running)
	<-db.began
	asked := time.Now()
	cancel()
	select {
	case err := <-ended:
		if took := time.Since(asked); err != nil || took > stopLimit+time.Second {
			t.Errorf("ended after %v: %v", took, err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the daemon waits for a flush that does not end")
	}
	close(db.release)
}

// A Redis that says only as much as a subscription needs, and nothing any more when it is mute.
func mutableRedis(t *testing.T) (a dbAddress, mute *atomic.Bool, subscribed *atomic.Int32) {
	path := filepath.Join(t.TempDir(), "redis")
	l, err := net.Listen("unix", path)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	mute, subscribed = new(atomic.Bool), new(atomic.Int32)
	serve := func(c net.Conn) {
		defer c.Close()
		for r := bufio.NewReader(c); ; {
			head, err := r.ReadString('\n')
			if err != nil {
				return
			}
			n, _ := strconv.Atoi(strings.TrimSpace(head)[1:])
			var args []string
			for range n {
				size, _ := r.ReadString('\n')
				k, _ := strconv.Atoi(strings.TrimSpace(size)[1:])
				text := make([]byte, k+2)
				_, _ = io.ReadFull(r, text)
				args = append(args, string(text[:k]))
			}
			if mute.Load() {
				continue
			}
			switch strings.ToLower(args[0]) {
			case "psubscribe":
				subscribed.Add(1)
				defer subscribed.Add(-1)
				for i, p := range args[1:] {
					fmt.Fprintf(c, "*3\r\n$10\r\npsubscribe\r\n$%d\r\n%s\r\n:%d\r\n", len(p), p, i+1)
				}
			case "ping":
				fmt.Fprint(c, "*2\r\n$4\r\npong\r\n$0\r\n\r\n")
			default:
				fmt.Fprint(c, "-ERR unknown command\r\n")
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return dbAddress{network: "unix", address: path, separator: "|"}, mute, subscribed
}

// TestEverySubscriptionIsNudged: an observer, or a standby, follows two things on a STATE_DB on a server of its own.
func TestEverySubscriptionIsNudged(t *testing.T) {
	t.Parallel()
	hushRedis()
	appl, _, _ := mutableRedis(t)
	state, mute, subscribed := mutableRedis(t)
	m := newMetrics("test")
	d := &sonicDB{m: m, slow: func() {}, applAddr: appl, cfgAddr: appl, stateAddr: state}
	d.filter = newKeyFilter(keyspace(d.applAddr, d.applKey("")), keyspace(d.cfgAddr, d.configKey(loggerTable, appName)))
	d.appl, d.config = connect(appl, m, d.slow, writeBuffer), connect(appl, m, d.slow, writeBuffer)
	d.state = connect(state, m, d.slow, writeBuffer)
	t.Cleanup(d.Close)
	w := watcher{appl: func(applChange) {}, config: func(bool) {}, state: func(string) {}, fault: func(string, faults) {},
		connected: func(bool, error) {}}
	go d.Watch(t.Context(), w)
	time.Sleep(500 * time.Millisecond)
	if subscribed.Load() == 0 {
		t.Fatal("nothing is followed")
	}
	mute.Store(true)
	for range 3 {
		d.Nudge()
		time.Sleep(dbTimeout + 100*time.Millisecond)
	}
	if n := subscribed.Load(); n != 0 {
		t.Errorf("%d subscriptions to a server that hangs are believed to stand", n)
	}
}

// TestConnectionLetsGoOfWhatItWasGiven: an answer that nobody keeps is not kept until the next one.
func TestConnectionLetsGoOfWhatItWasGiven(t *testing.T) {
	c, peer, _ := promptPair(t)
	const n = 64 << 10
	told := make(chan error, 1)
	go func() {
		if _, err := peer.Write(make([]byte, n)); err != nil {
			told <- err
			return
		}
		_, err := io.ReadFull(peer, make([]byte, n))
		told <- err
	}()
	read, written := func() (read, written weak.Pointer[byte]) {
		in, out := make([]byte, n), make([]byte, n)
		_, err := io.ReadFull(c, in)
		must(t, err)
		_, err = c.Write(out)
		must(t, err)
		return weak.Make(&in[0]), weak.Make(&out[0])
	}()
	must(t, <-told)
	runtime.GC()
	runtime.GC()
	if read.Value() != nil || written.Value() != nil {
		t.Error("what was read or written stays in memory")
	}
	runtime.KeepAlive(c)
}
