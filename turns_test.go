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
	"regexp"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portsyncd/internal/switchtest"
)

// Clients that ask for much, many at a time.

// fullRecorder makes a recorder's file of the usual size in which every ring is full: a switch of 512 ports after a while.
func fullRecorder(t *testing.T, path string) {
	t.Helper()
	r := openRecorder(path, defaultRecorderSize, newMetrics("test"), discard())
	at := time.Now().Add(-time.Minute)
	for i := range rings(r.image) {
		p := &port{name: switchtest.PortName(i), slot: i}
		for n := range uint32(portEvents + 1) {
			m := &linkMessage{index: int32(i + 1), flags: unix.IFF_UP, mtu: 9100, hasCarrier: true, carrierUp: n / 2, carrierDown: n / 2}
			if n%2 == 0 {
				m.flags = upRunning
			}
			at = at.Add(time.Millisecond)
			r.link(p, m, false, at)
			r.sent(p, at)
			r.landed(p, &portWrite{outcome: outcome{written: true}}, at)
		}
	}
	r.close()
}

// askers has so many clients ask for a path again and again, of one address or of two, until ctx ends. It returns how many were answered.
func askers(ctx context.Context, clients int, two bool, url string) (answered int) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for n := range clients {
		all.Go(func() {
			from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
			if two && n%2 == 1 {
				from.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}
			}
			client := &http.Client{Transport: &http.Transport{DialContext: from.DialContext, DisableCompression: true}}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				r, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
				response, err := client.Do(r)
				if err != nil {
					continue
				}
				_, err = io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if err == nil && response.StatusCode == http.StatusOK {
					mu.Lock()
					answered++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return answered
}

// mostMemory is the most that a process has had in memory, in MiB.
func mostMemory(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	kib, err := strconv.Atoi(string(regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)[1]))
	must(t, err)
	return kib >> 10
}

// memoryMax is what the unit lets the service have, in MiB.
func memoryMax(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("deploy/systemd/portsyncd.service")
	must(t, err)
	most, err := strconv.Atoi(string(regexp.MustCompile(`MemoryMax=(\d+)M`).FindSubmatch(text)[1]))
	must(t, err)
	return most
}

// silentCrowd has so many clients, half of them from another address, ask for a path, and read nothing of the answer until ctx ends.
func silentCrowd(t *testing.T, ctx context.Context, clients int, address, path string) {
	t.Helper()
	for n := range clients {
		small := func(_, _ string, c syscall.RawConn) (err error) {
			return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) }), err)
		}
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+n%2))}, Control: small}).DialContext(ctx, "tcp", address)
		must(t, err)
		defer c.Close()
		_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: switch\r\n\r\n", path)
		must(t, err)
	}
	<-ctx.Done()
}

// recorded is a daemon with a full recorder, and the address of its metrics.
func recorded(t *testing.T) (address string, d *switchtest.Daemon) {
	if testing.Short() {
		t.Skip("an emulator's memory and time are not the daemon's")
	}
	recorder := filepath.Join(t.TempDir(), "recorder")
	fullRecorder(t, recorder)
	port, err := switchtest.FreePort()
	must(t, err)
	address = fmt.Sprintf("127.0.0.1:%d", port)
	program := plainDaemon(t) // with the race detector an answer takes ten times as long to make
	d, err = switchtest.StartProgram(program[0], append(slices.Clone(program[1:]), "-standalone", "-links", "lo", "-log.output", "stderr",
		"-control.socket", "", "-recorder.file", recorder, "-web.listen-address", address)...)
	must(t, err)
	t.Cleanup(d.Stop)
	waitListening(t, address)
	return address, d
}

// TestCrowdThatAsksForEventsTakesNoMemory: SECURITY.md, "Bounded". 32 connections are all that there are, from two addresses; beyond MemoryMax the kernel
// kills the service, and in the swss container it is a critical process.
func TestCrowdThatAsksForEventsTakesNoMemory(t *testing.T) {
	for _, c := range []struct {
		name    string
		clients int
		silent  bool
	}{{"of two", maxConnections, false}, {"of two, who read nothing", maxConnections, true}} {
		t.Run(c.name, func(t *testing.T) {
			address, d := recorded(t)
			before := mostMemory(t, d.PID())
			ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
			defer stop()
			answered := 0
			if c.silent {
				silentCrowd(t, ctx, c.clients, address, eventsPath)
			} else {
				answered = askers(ctx, c.clients, c.clients > maxPerPeer, "http://"+address+eventsPath)
			}
			most := mostMemory(t, d.PID())
			t.Logf("%d clients: %d answers, %d MiB in memory at most, %d before", c.clients, answered, most, before)
			if limit := memoryMax(t); most >= limit {
				t.Errorf("%d clients that ask for %s have the daemon take %d MiB; its unit has MemoryMax=%dM", c.clients, eventsPath, most, limit)
			}
		})
	}
}

// TestCrowdThatAsksForEventsDelaysNoPort: SECURITY.md, "no client delays port synchronization".
func TestCrowdThatAsksForEventsDelaysNoPort(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	fullRecorder(t, s.Recorder())
	s.program = plainDaemon(t)
	d, _ := s.start(2)
	mtu := 1500
	typical := func(what string) time.Duration {
		var took []time.Duration
		for range 20 {
			mtu++
			want := strconv.Itoa(mtu)
			s.must(s.IP("link", "set", "Ethernet0", "mtu", want))
			begun := time.Now()
			s.waitFor("the entry", func() bool { return s.State.HGet(t.Context(), s.StateKey("Ethernet0"), "mtu").Val() == want })
			took = append(took, time.Since(begun))
			time.Sleep(100 * time.Millisecond)
		}
		slices.Sort(took)
		t.Logf("%s: a change is in STATE_DB after %v (p50), %v at most", what, took[len(took)/2].Round(100*time.Microsecond),
			took[len(took)-1].Round(100*time.Microsecond))
		return took[len(took)/2]
	}
	amid := func(path string) time.Duration {
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan int)
		go func() { over <- askers(ctx, maxConnections, true, "http://"+d.Metrics+path) }()
		time.Sleep(time.Second)
		p50 := typical("32 clients ask for " + path)
		stop()
		t.Log(<-over, "answers")
		return p50
	}
	typical("nobody asks")
	scrapes := amid("/metrics")
	for _, path := range []string{eventsPath, "/", portsPath} {
		if took := amid(path); took > 5*scrapes && took > 100*time.Millisecond {
			t.Errorf("amid 32 clients that ask for %s a change takes %v, amid as many scrapes %v", path, took, scrapes)
		}
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
