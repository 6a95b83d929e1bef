package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portsyncd/internal/switchtest"
)

// What mends of before left over, or broke.

// TestAbstractSocketIsServedOn: -web.listen-address unix:@name has no file that somebody could remove.
func TestAbstractSocketIsServedOn(t *testing.T) {
	name := fmt.Sprintf("@portsyncd-test-%d", os.Getpid())
	l, err := listen(t.Context(), "unix:"+name)
	must(t, err)
	defer l.Close()
	if file, isFile := l.(*socketFile); isFile {
		file.look()
		time.Sleep(50 * time.Millisecond)
	}
	c, err := net.Dial("unix", name)
	if err != nil {
		t.Fatalf("after a beat nobody listens any more: %v", err)
	}
	c.Close()
}

// TestRecordersByAnotherPath: a path is the same file however it is written, and its namespaces have the same names.
func TestRecordersByAnotherPath(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	openRecorder(recorderOf(filepath.Join(dir, "recorder"), "asic0"), recordFixed+portRing, newMetrics("test"), discard()).close()
	for _, path := range []string{"recorder", "./recorder", dir + "//recorder", dir + "/../" + filepath.Base(dir) + "/recorder"} {
		t.Run(strings.ReplaceAll(strings.ReplaceAll(path, dir, "DIR"), "/", "|"), func(t *testing.T) {
			files, err := openRecords(path)
			must(t, err)
			defer files.close()
			if len(files) == 0 || files[0].namespace != "asic0" {
				t.Errorf("%d files, and the namespace of the first is not asic0: %q", len(files), namesOfRecords(files))
			}
		})
	}
}

// slowly reads a connection at so many bytes a second.
type slowly struct {
	net.Conn
	rate int
}

func (s slowly) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b[:min(len(b), 2048)])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(s.rate))
	return n, err
}

// askSlowly asks for a path over a line that takes as much as a network of small segments does, and returns how much it got.
func askSlowly(ctx context.Context, from, address, path string, rate int) (got int, err error) {
	small := func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10), unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1460))
		}), err)
	}
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Control: small}).DialContext(ctx, "tcp", address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: switch\r\nConnection: close\r\n\r\n", path); err != nil {
		return 0, err
	}
	response, err := http.ReadResponse(bufio.NewReader(slowly{c, rate}), nil)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return len(text), err
}

// TestSlowLineGetsItsAnswer: docs/api.md, "Whoever reads one may take 10 s": whoever reads something of it all the time gets all of it, as long as
// the 10 s of a request are enough.
func TestSlowLineGetsItsAnswer(t *testing.T) {
	address, _ := recorded(t)
	path := eventsPath + "?"
	for i := 8; ; i++ {
		path += "&port=" + switchtest.PortName(i)
		if i%4 < 3 {
			continue
		}
		response, err := http.Get("http://" + address + path)
		must(t, err)
		text, err := io.ReadAll(response.Body)
		must(t, err)
		response.Body.Close()
		whole := len(text)
		if response.StatusCode != http.StatusOK {
			t.Fatal(i, response.Status, string(text))
		}
		if whole < 240<<10 {
			continue
		}
		begun := time.Now()
		got, err := askSlowly(t.Context(), "127.0.0.1", address, path, 40<<10)
		if got != whole {
			t.Errorf("a client that reads 40 KiB a second gets %d of %d bytes in %v: %v", got, whole, time.Since(begun).Round(time.Millisecond), err)
		}
		return
	}
}

// TestSlowReadersKeepNobodyOut: SECURITY.md, "A client that stalls keeps nobody else out". One address has 16 connections, over which it reads just fast enough.
func TestSlowReadersKeepNobodyOut(t *testing.T) {
	address, _ := recorded(t)
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	var crowd sync.WaitGroup
	for range maxPerPeer {
		crowd.Go(func() {
			for ctx.Err() == nil {
				_, _ = askSlowly(ctx, "127.0.0.2", address, eventsPath, 100<<10)
			}
		})
	}
	time.Sleep(2 * time.Second)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var codes []int
	var took []time.Duration
	for ctx.Err() == nil {
		begun := time.Now()
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+statusPath, nil)
		response, err := client.Do(r)
		if err != nil {
			break
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		codes, took = append(codes, response.StatusCode), append(took, time.Since(begun).Round(time.Millisecond))
		time.Sleep(100 * time.Millisecond)
	}
	stop()
	crowd.Wait()
	if len(took) == 0 || slices.Contains(codes, http.StatusServiceUnavailable) {
		t.Errorf("one address that reads slowly keeps another one waiting for %s: %v after %v", statusPath, codes, took)
	}
}

// TestInterfacesThatGoButForAnUnconfiguredOne: as TestInterfacesThatGoWhileTheAnnouncementWaits, and an interface stays that is no configured port's: that of an in-band
// port, of a PortChannel, or one that orchagent has left there (SONIC.md, "Seen under the real orchagent").
func TestInterfacesThatGoButForAnUnconfiguredOne(t *testing.T) {
	b := runningBench(t, "Ethernet0", "Ethernet4")
	b.say(news(1, running), "Ethernet0")
	b.say(news(2, running), "Ethernet4")
	b.say(news(3, running), "PortChannel1")
	b.settleDown()
	b.settleDown()
	if !b.start.done() {
		t.Fatal("not complete")
	}
	config := &loadingConfig{b.db, true}
	b.mirror.db = config
	b.db.done = nil
	b.db.signalsGone, b.db.initDone = true, false
	clear(b.db.appl)
	b.compare.askSignals()
	pass := func(d time.Duration) {
		for end := b.clock.Add(d); b.clock.Before(end); b.clock = b.clock.Add(50 * time.Millisecond) {
			b.turn()
		}
	}
	pass(3 * time.Second)
	if !b.start.in(reannouncing) {
		t.Fatal("the loss is not noticed: the test does not test anything")
	}
	b.say(gone(1), "Ethernet0")
	b.say(gone(2), "Ethernet4")
	pass(20 * time.Second)
	config.loading = false
	pass(10 * time.Second)
	if !slices.Contains(b.db.done, "PortConfigDone 2") {
		t.Fatalf("the databases got %q", b.db.done)
	}
	if slices.Contains(b.db.done, "PortInitDone") {
		t.Errorf("no configured port has had an interface for 20 s when the ports are announced, and PortInitDone is sent at once: %q", b.db.done)
	}
}

// TestFightIsOverWithoutComparisons: with -reconcile-interval 0 a fight that is over shows as over, too.
func TestFightIsOverWithoutComparisons(t *testing.T) {
	b := reconciling(t)
	b.compare.interval, b.compare.next = 0, time.Time{}
	minute := func() {
		b.clock = b.clock.Add(time.Minute)
		dumps := b.source.dumps
		for range 3 {
			b.turn()
		}
		if b.source.dumps > dumps {
			for name, m := range both() {
				b.line(m, name)
			}
			b.dumpDone(false, nil)
		}
		b.settleDown()
	}
	b.compare.soon(b.clock)
	for range fightAfter + 3 {
		b.db.state["Ethernet0"] = portState{mtu: 9}
		minute()
	}
	if _, n := b.compare.fight(); n != 1 {
		t.Fatal("no fight: the test does not test anything")
	}
	b.db.state["Ethernet0"] = portState{true, true, 1500} // the other program has ended
	for range 3 * restAtMost {
		minute()
	}
	if level, why := b.status.reconcile(); level != ok {
		t.Errorf("three hours after the other program has ended: %s", why)
	}
}

// TestSocketFileThatIsClosedTwice, as every server's is: by Drain, and by net/http. What another daemon has made in between stays.
func TestSocketFileThatIsClosedTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.sock")
	for range 20 { // whether an inode's number is another file's at once is up to the file system
		l, err := listen(t.Context(), "unix:"+path)
		must(t, err)
		must(t, l.Close())
		next, err := listen(t.Context(), "unix:"+path)
		must(t, err)
		_ = l.Close()
		_, err = os.Lstat(path)
		next.Close()
		if err != nil {
			t.Fatalf("the next daemon's socket is removed: %v", err)
		}
	}
}

func namesOfRecords(files recordFiles) (names []string) {
	for _, o := range files {
		names = append(names, o.namespace)
	}
	return names
}
