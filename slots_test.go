package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// TestScrapeIsAnsweredWithinASecondAmongIdleAndSilentClients: 40 connections that have had an answer and stay, and 160
// that never say a word, all from Prometheus' own address, do not keep it out. Its connection that was closed meanwhile
// is made again.
func TestScrapeIsAnsweredWithinASecondAmongIdleAndSilentClients(t *testing.T) {
	among := func(t *testing.T, address string, dial func() (net.Conn, error), prometheus *http.Client, url string) {
		scrape := func() {
			t.Helper()
			start := time.Now()
			response, err := prometheus.Get(url)
			must(t, err)
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			must(t, err)
			if response.StatusCode != http.StatusOK || sample(string(text), "portsyncd_http_connections") == "" {
				t.Errorf("the scrape got status %d, %d bytes", response.StatusCode, len(text))
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("the scrape took %v", took)
			}
		}
		scrape()
		for range 40 {
			c, err := dial()
			must(t, err)
			defer c.Close()
			askOn(t, c, "/healthz")
		}
		for range 160 {
			c, err := net.Dial("tcp", address)
			must(t, err)
			defer c.Close()
		}
		for range 3 {
			scrape()
			prometheus.CloseIdleConnections()
		}
	}
	t.Run("plain", func(t *testing.T) {
		d := newStandalone(t)
		dial := func() (net.Conn, error) { return net.Dial("tcp", d.Metrics) }
		among(t, d.Metrics, dial, &http.Client{}, "http://"+d.Metrics+"/metrics")
	})
	t.Run("TLS", func(t *testing.T) {
		d := newTLSDaemon(t)
		config := d.clientConfig()
		among(t, d.Metrics, func() (net.Conn, error) { return tls.Dial("tcp", d.Metrics, config) },
			&http.Client{Transport: &http.Transport{TLSClientConfig: config}}, "https://"+d.Metrics+"/metrics")
	})
}

// askOn sends a request on a connection that stays open, and reads the answer.
func askOn(t *testing.T, c net.Conn, path string) {
	t.Helper()
	_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
	must(t, err)
	must(t, c.SetDeadline(time.Now().Add(patience)))
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	must(t, err)
	_, err = io.Copy(io.Discard, response.Body)
	must(t, err)
}

// clientConfig is how a client of the daemon's CA connects.
func (d *tlsDaemon) clientConfig() *tls.Config {
	d.ca.issue("client", clientTemplate())
	pair, err := tls.LoadX509KeyPair(filepath.Join(d.dir, "client.crt"), filepath.Join(d.dir, "client.key"))
	must(d.t, err)
	roots := x509.NewCertPool()
	roots.AddCert(d.ca.cert)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "localhost"}
}

// newStandalone is the real daemon with the machine's own links, on a free port.
func newStandalone(t *testing.T, flags ...string) *switchtest.Daemon {
	t.Helper()
	port, err := switchtest.FreePort()
	must(t, err)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	d := startStandalone(t, append([]string{"-web.listen-address", address}, flags...)...)
	d.Metrics = address
	waitListening(t, address)
	return d
}

// startStandalone does not wait for anything.
func startStandalone(t *testing.T, flags ...string) *switchtest.Daemon {
	t.Helper()
	program := daemonProgram(t)
	args := append(slices.Clone(program[1:]), "-standalone", "-log.output", "stderr", "-control.socket", "", "-recorder.file", "")
	d, err := switchtest.StartProgram(program[0], append(args, flags...)...)
	must(t, err)
	t.Cleanup(func() {
		d.Stop()
		if t.Failed() {
			t.Log(d.Log())
		}
	})
	return d
}

func waitListening(t *testing.T, address string) {
	t.Helper()
	must(t, switchtest.WaitFor(patience, "the daemon to listen", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	}))
}

// TestOnePeerTakesHalfOfTheSlotsAtMost: what one address opens is closed again for its own next connection, not for
// others'.
func TestOnePeerTakesHalfOfTheSlotsAtMost(t *testing.T) {
	w := newWebTest(t, nil)
	quiet, err := net.Dial("tcp", w.address)
	must(t, err)
	defer quiet.Close()
	askOn(t, quiet, "/healthz")
	other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range 4 * maxConnections {
		c, err := other.Dial("tcp", w.address)
		must(t, err)
		defer c.Close()
	}
	must(t, switchtest.WaitFor(patience, "the crowd to be let in", func() bool {
		return w.box.m.httpEvicted.Load() == 4*maxConnections-maxPerPeer
	}))
	if got := w.box.m.httpConnections.Load(); got != maxPerPeer+1 {
		t.Errorf("%v connections are open, want %d of one peer and one of another", got, maxPerPeer)
	}
	askOn(t, quiet, "/healthz")
}

// blockingWeb is a server whose answers to /metrics wait for leave to be closed.
func blockingWeb(t *testing.T) (w *webTest, entered chan struct{}, leave chan struct{}) {
	w, entered, leave = newWebTest(t, nil), make(chan struct{}, 2*maxConnections), make(chan struct{})
	inner := w.http.Handler
	w.http.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			entered <- struct{}{}
			<-leave
		}
		inner.ServeHTTP(rw, r)
	})
	return w, entered, leave
}

// TestRequestUnderWayIsNotDisturbed: room is made by those who do nothing, however many come, and a peer whose
// connections are all at work is told so at once, for nobody else has to wait behind it.
func TestRequestUnderWayIsNotDisturbed(t *testing.T) {
	w, entered, leave := blockingWeb(t)
	var scrapes sync.WaitGroup
	scrapes.Go(func() {
		if _, body := w.do("GET", "/metrics"); !strings.HasSuffix(body, "\n") || len(body) < 1000 {
			t.Errorf("a scrape under way got %d bytes", len(body))
		}
	})
	<-entered
	for range 4 * maxConnections {
		c, err := net.Dial("tcp", w.address)
		must(t, err)
		defer c.Close()
	}
	if response, _ := w.do("GET", "/healthz"); response.StatusCode != 200 {
		t.Errorf("behind silent ones: %d", response.StatusCode)
	}
	close(leave)
	scrapes.Wait()
}

// TestUnixPeersAreNotOnePeer: they have no addresses, so half of the slots is not their bound.
func TestUnixPeersAreNotOnePeer(t *testing.T) {
	w, entered, leave := blockingWeb(t)
	path := filepath.Join(t.TempDir(), "metrics.sock")
	l, err := net.Listen("unix", path)
	must(t, err)
	go func() { _ = w.Serve(l) }()
	var clients sync.WaitGroup
	for range maxConnections {
		clients.Go(func() {
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			askOn(t, c, "/metrics")
		})
	}
	for range maxConnections {
		<-entered
	}
	if w.box.m.httpRefused.Load() != 0 || w.box.m.httpEvicted.Load() != 0 {
		t.Error("a peer on a unix socket was turned away")
	}
	close(leave)
	clients.Wait()
}

// TestWhoHasToMakeRoom goes through the rule on a clock of its own.
func TestWhoHasToMakeRoom(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := newSlots(newMetrics(""))
	conn := func(address string) *slotConn {
		near, far := net.Pipe()
		t.Cleanup(func() { far.Close() })
		c := s.newConn(near)
		if address != "" {
			c.peer = peerOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		}
		return c
	}
	admit := func(address string, want admission) *slotConn {
		t.Helper()
		c := conn(address)
		now = now.Add(time.Millisecond)
		if got := s.admit(c, now); got != want {
			t.Errorf("a connection of %s: %d, want %d", address, got, want)
		}
		return c
	}
	gone := func(c *slotConn) bool { _, there := s.open[c]; return !there }
	var a, b []*slotConn
	for range maxPerPeer {
		a = append(a, admit("192.0.2.1:1", slotGiven))
		b = append(b, admit("[2001:db8::1]:1", slotGiven))
	}
	a[0].busy = true // and everybody else is idle
	admit("192.0.2.1:2", slotGiven)
	if gone(a[0]) || !gone(a[1]) || gone(b[0]) {
		t.Error("a full peer's next connection does not replace its idlest")
	}
	admit("192.0.2.2:1", slotGiven)
	if !gone(b[0]) || gone(a[0]) {
		t.Error("a new peer's connection does not replace the idlest of all")
	}
	for c := range s.open {
		c.busy, c.moved = true, now
	}
	admit("192.0.2.3:1", slotWait)
	admit("192.0.2.1:3", slotRefused)
	now = now.Add(stalledAfter)
	a[5].moved = now.Add(-2 * stalledAfter)
	admit("192.0.2.3:1", slotGiven)
	if !gone(a[5]) {
		t.Error("a stalled request holds its slot although all are taken")
	}
	a[6].busy = false
	admit("192.0.2.4:1", slotGiven)
	if !gone(a[6]) {
		t.Error("a request under way is disturbed although somebody is idle")
	}
	for name, pair := range map[string][2]string{
		"addresses of one /64":     {"[2001:db8::1]:1", "[2001:db8::ffff:2]:2"},
		"an address in both forms": {"192.0.2.1:1", "[::ffff:192.0.2.1]:2"},
		"zones":                    {"[fe80::1%eth0]:1", "[fe80::1%eth1]:1"},
	} {
		if !conn(pair[0]).shares(conn(pair[1])) {
			t.Errorf("%s are two peers", name)
		}
	}
	for _, pair := range [][2]string{{"192.0.2.1:1", "192.0.2.2:1"}, {"[2001:db8::]:1", "[2001:db8:0:1::]:1"}, {"", ""}} {
		if conn(pair[0]).shares(conn(pair[1])) {
			t.Errorf("%q are one peer", pair)
		}
	}
}

// TestNextClientWaitsWhileAllAreAtWork: nothing is cut off for it, and it gets the first slot that comes free.
func TestNextClientWaitsWhileAllAreAtWork(t *testing.T) {
	w := newWebTest(t, nil)
	busy := make([]*slotConn, maxConnections)
	for i := range busy {
		near, far := net.Pipe()
		defer far.Close()
		busy[i] = w.slots.newConn(near)
		if w.slots.admit(busy[i], time.Now().Add(time.Hour)) != slotGiven {
			t.Fatal("no slot")
		}
		w.slots.mu.Lock()
		busy[i].busy = true
		w.slots.mu.Unlock()
	}
	c, err := net.Dial("tcp", w.address)
	must(t, err)
	defer c.Close()
	_, err = fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	must(t, err)
	must(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !os.IsTimeout(err) {
		t.Errorf("there is no slot, and the client got %d bytes, %v", n, err)
	}
	busy[7].Close()
	must(t, c.SetReadDeadline(time.Now().Add(patience)))
	if response, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || response.StatusCode != 200 {
		t.Errorf("once there is a slot it got %v, %v", response, err)
	}
	for _, c := range busy {
		c.Close()
	}
}
