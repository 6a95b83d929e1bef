package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// webTest is a server in this process, for what the real daemon cannot show.
type webTest struct {
	*server
	t       *testing.T
	address string
	log     *lockedBuffer
}

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newTestServer(m *metrics, h *health, log *slog.Logger, keep *keeper) *server {
	return newServer(newAPI(newBox(&unit{m: m, health: h}), false), log, keep, newSlots(m))
}

func newWebTest(t *testing.T, keep func(*metrics, *slog.Logger) *keeper) *webTest {
	out := new(lockedBuffer)
	log := slog.New(newLineLog(out, slog.LevelDebug))
	m := filledMetrics(16)
	h := new(health)
	h.turn(time.Now().Add(time.Hour), time.Time{})
	var k *keeper
	if keep != nil {
		k = keep(m, log)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &webTest{server: newTestServer(m, h, log, k), t: t, address: l.Addr().String(), log: out}
	done := make(chan error, 1)
	go func() { done <- w.Serve(l) }()
	t.Cleanup(func() {
		w.Drain()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *webTest) do(method, path string, header ...string) (*http.Response, string) {
	w.t.Helper()
	r, err := http.NewRequest(method, "http://"+w.address+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response, string(body)
}

func TestEndpoints(t *testing.T) {
	w := newWebTest(t, nil)
	response, body := w.do("GET", "/metrics")
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" ||
		response.Header.Get("Content-Length") != strconv.Itoa(len(body)) || !strings.HasSuffix(body, "\n") || !strings.Contains(body, `portsyncd_port_mtu_bytes{port="Ethernet60"} 1515`) {
		t.Errorf("GET /metrics: %v\n%s", response, body)
	}
	response, zipped := w.do("GET", "/metrics", "Accept-Encoding", "gzip, deflate")
	reader, err := gzip.NewReader(strings.NewReader(zipped))
	if err != nil {
		t.Fatal(err)
	}
	unzipped, err := io.ReadAll(reader)
	if err != nil || response.Header.Get("Content-Encoding") != "gzip" || len(zipped) > len(unzipped)/3 || !strings.Contains(string(unzipped), `{port="Ethernet60"} 1515`) {
		t.Errorf("zipped: %v, %d bytes for %d, %v", response.Header, len(zipped), len(unzipped), err)
	}
	if response, body := w.do("HEAD", "/metrics"); response.StatusCode != 200 || body != "" || response.ContentLength < 1000 {
		t.Errorf("HEAD /metrics: %v, %q", response, body)
	}
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/"} {
		if response, _ := w.do("POST", path); response.StatusCode != 405 || response.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s: %d, Allow %q", path, response.StatusCode, response.Header.Get("Allow"))
		}
	}
	if response, _ := w.do("GET", "/secret"); response.StatusCode != 404 {
		t.Errorf("GET /secret: %d", response.StatusCode)
	}
	response, page := w.do("GET", "/")
	for _, link := range regexp.MustCompile(`href="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if linked, _ := w.do("GET", link[1]); linked.StatusCode == 404 {
			t.Errorf("the landing page links %s, which is not there", link[1])
		}
	}
	if !strings.Contains(page, `href="/metrics"`) || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/html") {
		t.Errorf("the landing page is %s", page)
	}
}

func TestProbes(t *testing.T) {
	w := newWebTest(t, nil)
	check := func(path string, code int, words ...string) {
		t.Helper()
		response, body := w.do("GET", path)
		if response.StatusCode != code {
			t.Errorf("%s: %d %s", path, response.StatusCode, body)
		}
		for _, word := range words {
			if !strings.Contains(body, word) {
				t.Errorf("%s lacks %q: %s", path, word, body)
			}
		}
	}
	check("/healthz", 200, "ok")
	check("/readyz", 503, "first listing", "PortInitDone: not sent")
	w.box.health.listed.Store(true)
	s := w.box.m.newPort("Ethernet400", 0)
	s.pending.Set(1)
	w.box.m.showPending(s)
	check("/readyz", 503, "1 ports", "Ethernet400")
	s.pending.Set(0)
	w.box.health.initDone.Store(true)
	check("/readyz", 200, "ok")
	w.box.health.database(errors.New("connection refused"), nil, time.Now().Add(-time.Second))
	check("/readyz", 503, "redis: connection refused")
	w.box.health.database(nil, nil, time.Now())
	w.box.health.turn(time.Now(), time.Now().Add(-3*time.Second))
	check("/readyz", 503, "wait to be written")
	w.box.health.turn(time.Now(), time.Time{})
	check("/readyz", 200)
	w.box.health.turn(time.Now().Add(-time.Minute), time.Time{})
	check("/healthz", 503, "has not turned")
	check("/readyz", 503, "has not turned")
}

func TestPanicIsContained(t *testing.T) {
	w := newWebTest(t, nil)
	w.http.Handler = w.contain(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("test") }))
	if response, _ := w.do("GET", "/"); response.StatusCode != 500 {
		t.Errorf("status %d", response.StatusCode)
	}
	if w.box.m.httpPanics.Load() != 1 || !strings.Contains(w.log.String(), "panic=test") {
		t.Errorf("%d panics counted; the log is %s", w.box.m.httpPanics.Load(), w.log)
	}
}

// TestSlowClientsCostLittle: clients that never finish their headers, or send too many, hold a peer's share of the
// slots at most, and nothing else.
func TestSlowClientsCostLittle(t *testing.T) {
	w := newWebTest(t, nil)
	response := func(c net.Conn) int {
		_ = c.SetDeadline(time.Now().Add(patience))
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return 0
		}
		return r.StatusCode
	}
	dial := func() net.Conn {
		c, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := dial()
	defer c.Close()
	fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", 2*maxHeaderBytes))
	if code := response(c); code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("oversized headers: %d", code)
	}
	var slow []net.Conn
	for range 2 * maxConnections {
		c := dial()
		defer c.Close()
		fmt.Fprint(c, "GET /metrics HTTP/1.1\r\nHost: x\r\n") // and no more
		slow = append(slow, c)
	}
	must(t, switchtest.WaitFor(patience, "all of the peer's slots to be taken", func() bool {
		return w.box.m.httpConnections.Load() == maxPerPeer
	}))
	start := time.Now()
	if response, _ := w.do("GET", "/healthz"); response.StatusCode != 200 {
		t.Errorf("a client behind the slow ones got %d", response.StatusCode)
	}
	t.Logf("a client behind %d slow ones was served after %v", len(slow), time.Since(start).Round(time.Millisecond))
	if got := w.box.m.httpConnections.Load(); got > maxPerPeer {
		t.Errorf("%v connections", got)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestManyConnectionsLeaveNothingBehind opens and drops connections against the real daemon, during a storm: links are still synced, and
// neither memory nor descriptors stay.
func TestManyConnectionsLeaveNothingBehind(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.program = plainDaemon(t) // the race detector's memory would hide the daemon's own
	d, _ := s.start(8)
	resident := func() float64 {
		n, err := strconv.ParseFloat(s.metric(d, "process_resident_memory_bytes"), 64)
		s.must(err)
		return n
	}
	drop := func(n int) {
		for range n {
			c, err := net.Dial("tcp", d.Metrics)
			s.must(err)
			c.Close()
		}
	}
	drop(2000) // what a garbage-collected heap takes in any case
	memory, files := resident(), s.metric(d, "process_open_fds")
	storm := make(chan error, 1)
	go func() { storm <- s.Flap(50, portNames(8)...) }()
	drop(10000)
	s.must(<-storm)
	s.must(s.IP("link", "set", "Ethernet0", "mtu", "1400"))
	s.waitEntry("Ethernet0", fields("up", "up", 1400))
	s.waitMetric(d, "process_open_fds", files)
	if grown := resident() - memory; grown > 4<<20 {
		t.Errorf("memory grew by %v bytes", grown)
	}
}

func TestShutdownFinishesScrapes(t *testing.T) {
	w := newWebTest(t, nil)
	entered, leave := make(chan struct{}), make(chan struct{})
	inner := w.http.Handler
	w.http.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		close(entered)
		<-leave
		inner.ServeHTTP(rw, r)
	})
	got := make(chan string, 1)
	go func() {
		_, body := w.do("GET", "/metrics")
		got <- body
	}()
	<-entered
	drained := make(chan struct{})
	go func() { w.Drain(); close(drained) }()
	must(t, switchtest.WaitFor(patience, "the listener to close", func() bool {
		c, err := net.Dial("tcp", w.address)
		if err == nil {
			c.Close()
		}
		return err != nil
	}))
	close(leave)
	if body := <-got; !strings.HasSuffix(body, "\n") || len(body) < 1000 {
		t.Errorf("a scrape under way got %d bytes", len(body))
	}
	<-drained
}

// TestAnswersThatWaitDoNotHoldTheEnd: follow=1 is answered when the daemon ends.
func TestAnswersThatWaitDoNotHoldTheEnd(t *testing.T) {
	r, _ := testRecorder(t, 1)
	a := newAPI(newBox(&unit{m: newMetrics("test"), health: new(health), record: r}), true)
	s := newServer(a, discard(), nil, newSlots(a.box.m))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = s.Serve(l) }()
	asked := make(chan struct{}, 1)
	inner := s.http.Handler
	s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked <- struct{}{}; inner.ServeHTTP(w, r) })
	type reply struct {
		code int
		err  error
	}
	got := make(chan reply, 1)
	go func() {
		response, err := http.Get("http://" + l.Addr().String() + eventsPath + "?follow=1")
		if err != nil {
			got <- reply{err: err}
			return
		}
		_, err = io.ReadAll(response.Body)
		response.Body.Close()
		got <- reply{response.StatusCode, err}
	}()
	<-asked
	begun := time.Now()
	s.Drain()
	if answer := <-got; answer.code != http.StatusOK || answer.err != nil {
		t.Errorf("%+v", answer)
	}
	if took := time.Since(begun); took >= drainLimit {
		t.Errorf("the end took %v", took)
	}
}

func TestRefusalsAreRateLimited(t *testing.T) {
	out := new(lockedBuffer)
	now := time.Unix(1e9, 0)
	r := &refusals{m: newMetrics(""), log: slog.New(newLineLog(out, slog.LevelInfo)), now: func() time.Time { return now }}
	for range 100 {
		fmt.Fprintln(r, "http: TLS handshake error from [2001:db8::1]:4711: tls: client didn't provide a certificate")
	}
	now = now.Add(time.Second)
	fmt.Fprintln(r, "http: TLS handshake error from 192.0.2.1:4711: EOF")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != refusalsASec+1 || r.m.tlsRefused.Load() != 101 {
		t.Errorf("%d lines, %d counted:\n%s", len(lines), r.m.tlsRefused.Load(), out)
	}
	for i, want := range map[int]string{0: `peer=[2001:db8::1]:4711 reason="tls: client didn't provide a certificate"`, refusalsASec: fmt.Sprintf("peer=192.0.2.1:4711 reason=EOF lines_left_out=%d", 100-refusalsASec)} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d is %s, want %s", i, lines[i], want)
		}
	}
}

// --- TLS -------------------------------------------------------------------------------------------------------------------

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir, name string) *authority {
	a := &authority{t: t, dir: dir}
	a.cert, a.key = a.issue(name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue makes name.crt and name.key in the authority's folder. The first certificate signs itself.
func (a *authority) issue(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.Subject.String() == "" {
		template.Subject = pkix.Name{CommonName: name}
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	must(a.t, err)
	cert, err := x509.ParseCertificate(der)
	must(a.t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(a.t, err)
	must(a.t, os.WriteFile(filepath.Join(a.dir, name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	must(a.t, os.WriteFile(filepath.Join(a.dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	return cert, key
}

func serverTemplate() *x509.Certificate {
	return &x509.Certificate{DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
}

func clientTemplate(names ...string) *x509.Certificate {
	return &x509.Certificate{DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

// tlsDaemon is the real daemon with mutual TLS, and curl in front of it.
type tlsDaemon struct {
	*switchtest.Daemon
	t   *testing.T
	dir string
	ca  *authority
}

func newTLSDaemon(t *testing.T, flags ...string) *tlsDaemon {
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	ca.issue("server", serverTemplate())
	port, err := switchtest.FreePort()
	must(t, err)
	d := &tlsDaemon{t: t, dir: dir, ca: ca}
	program := daemonProgram(t)
	args := append(program[1:], "-standalone", "-log.output", "stderr", "-control.socket", "", "-recorder.file", "", "-web.listen-address",
		fmt.Sprintf("127.0.0.1:%d", port), "-web.tls-cert", filepath.Join(dir, "server.crt"), "-web.tls-key", filepath.Join(dir, "server.key"), "-web.tls-client-ca", filepath.Join(dir, "ca.crt"))
	d.Daemon, err = switchtest.StartProgram(program[0], append(args, flags...)...)
	must(t, err)
	d.Metrics = fmt.Sprintf("127.0.0.1:%d", port)
	t.Cleanup(func() {
		d.Stop()
		if t.Failed() {
			t.Log(d.Log())
		}
	})
	waitListening(t, d.Metrics)
	return d
}

// curl returns the status code, 0 if there was no answer.
func (d *tlsDaemon) curl(args ...string) int {
	d.t.Helper()
	cmd := exec.Command("curl", append([]string{"-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20"}, args...)...)
	out, _ := cmd.Output()
	code, err := strconv.Atoi(strings.TrimSpace(string(out)))
	must(d.t, err)
	return code
}

func (d *tlsDaemon) as(client string) []string {
	return []string{"--cacert", filepath.Join(d.dir, "ca.crt"), "--cert", filepath.Join(d.dir, client+".crt"), "--key", filepath.Join(d.dir, client+".key"),
		"https://" + d.Metrics + "/metrics"}
}

func TestWhoGetsIn(t *testing.T) {
	needTool(t, "curl")
	d := newTLSDaemon(t, "-web.tls-allowed-names", "prometheus.example.net,spiffe://net/prometheus,192.0.2.9,backup")
	spiffe, _ := url.Parse("spiffe://net/prometheus")
	d.ca.issue("right", clientTemplate("other.example.net", "Prometheus.example.net"))
	d.ca.issue("uri", &x509.Certificate{URIs: []*url.URL{spiffe}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	d.ca.issue("address", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(192, 0, 2, 9)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	d.ca.issue("backup", clientTemplate())
	d.ca.issue("elsewhere", clientTemplate("grafana.example.net"))
	expired := clientTemplate("prometheus.example.net")
	expired.NotBefore, expired.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	d.ca.issue("expired", expired)
	other := newAuthority(t, t.TempDir(), "ca")
	other.dir = d.dir
	other.issue("stranger", clientTemplate("prometheus.example.net"))
	for _, client := range []string{"right", "uri", "address", "backup"} {
		if code := d.curl(d.as(client)...); code != 200 {
			t.Errorf("%s: %d", client, code)
		}
	}
	for _, c := range []struct {
		what   string
		args   []string
		reason string
	}{
		{"no certificate", []string{"--cacert", filepath.Join(d.dir, "ca.crt"), "https://" + d.Metrics + "/metrics"}, "provide a certificate"},
		{"another CA", d.as("stranger"), "unknown authority"},
		{"expired", d.as("expired"), "expired"},
		{"another name", d.as("elsewhere"), "grafana.example.net"},
		{"TLS 1.2", append([]string{"--tls-max", "1.2"}, d.as("right")...), "version"},
		{"plain HTTP", []string{"http://" + d.Metrics + "/metrics"}, "HTTP request to an HTTPS server"},
	} {
		if code := d.curl(c.args...); code != 0 && code != 400 {
			t.Errorf("%s: %d", c.what, code)
		}
		must(t, switchtest.WaitFor(patience, "a log line about "+c.what, func() bool { return d.Logged("TLS client refused", "peer=127.0.0.1:", c.reason) == 1 }))
	}
}

// TestNoNameLetsNobodyIn: a certificate without a name is none of the allowed ones, blanks around those do not count,
// and a list with an empty name in it is an error.
func TestNoNameLetsNobodyIn(t *testing.T) {
	needTool(t, "curl")
	d := newTLSDaemon(t, "-web.tls-allowed-names", " prometheus.example.net , backup")
	nameless := clientTemplate()
	nameless.Subject = pkix.Name{Organization: []string{"Example"}}
	d.ca.issue("nameless", nameless)
	d.ca.issue("right", clientTemplate("prometheus.example.net"))
	if code := d.curl(d.as("right")...); code != 200 {
		t.Errorf("a name with blanks around it in the flag: %d", code)
	}
	if code := d.curl(d.as("nameless")...); code != 0 {
		t.Errorf("without a name: %d", code)
	}
	cert, _ := d.ca.issue("nobody", nameless)
	for _, allowed := range [][]string{{""}, {"a", ""}, {" "}} {
		files := tlsFiles{allowed: allowed}
		if err := files.verifyName(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}); err == nil {
			t.Errorf("a certificate without a name passes for one of %q", allowed)
		}
	}
	for _, list := range []string{"a,", ",a", "a,,b", " ", "a, "} {
		if err := new(tlsFiles).allow(list); err == nil || !strings.Contains(err.Error(), "-web.tls-allowed-names") {
			t.Errorf("-web.tls-allowed-names %q: %v", list, err)
		}
	}
}

func TestCertificatesAreReplaced(t *testing.T) {
	t.Parallel()
	needTool(t, "curl")
	d := newTLSDaemon(t)
	d.ca.issue("client", clientTemplate())
	serial := func() string {
		pair, err := tls.LoadX509KeyPair(filepath.Join(d.dir, "client.crt"), filepath.Join(d.dir, "client.key"))
		must(t, err)
		c, err := tls.Dial("tcp", d.Metrics, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}})
		must(t, err)
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	must(t, os.WriteFile(filepath.Join(d.dir, "server.crt"), []byte("half a fi"), 0o644))
	must(t, d.Signal(syscall.SIGHUP))
	must(t, switchtest.WaitFor(patience, "the broken file to be reported", func() bool {
		return d.Logged("level=ERROR", "keeping the old ones", "server.crt", "no PEM data") == 1
	}))
	if serial() != first {
		t.Error("a broken file replaced the certificate")
	}
	if code := d.curl(d.as("client")...); code != 200 {
		t.Errorf("with a broken file in place: %d", code)
	}
	out, _ := exec.Command("curl", append([]string{"-s"}, d.as("client")...)...).Output()
	if !strings.Contains(string(out), "\nportsyncd_tls_last_reload_successful 0\n") {
		t.Error("the failure does not show in the metrics")
	}
	d.ca.issue("server", serverTemplate())
	must(t, d.Signal(syscall.SIGHUP))
	must(t, switchtest.WaitFor(patience, "the new certificate", func() bool { return serial() != first }))
	second := serial()
	d.ca.issue("server", serverTemplate()) // and now without a signal
	must(t, switchtest.WaitFor(patience+3*certificateCheck, "the next one, by itself", func() bool { return serial() != second }))
	out, _ = exec.Command("curl", append([]string{"-s"}, d.as("client")...)...).Output()
	match := regexp.MustCompile(`portsyncd_tls_certificate_not_after_timestamp_seconds (\d+)\n`).FindSubmatch(out)
	if match == nil || !strings.Contains(string(out), "\nportsyncd_tls_last_reload_successful 1\n") {
		t.Fatalf("metrics about TLS are missing:\n%s", out)
	}
	if expiry, _ := strconv.ParseInt(string(match[1]), 10, 64); time.Until(time.Unix(expiry, 0)) > time.Hour || time.Until(time.Unix(expiry, 0)) < time.Minute {
		t.Errorf("the certificate expires at %d", expiry)
	}
}

// TestHalfOpenHandshakes: clients that connect and never shake hands are let go of.
func TestHalfOpenHandshakes(t *testing.T) {
	needTool(t, "curl")
	d := newTLSDaemon(t)
	d.ca.issue("client", clientTemplate())
	for range 2 * maxConnections {
		c, err := net.Dial("tcp", d.Metrics)
		must(t, err)
		defer c.Close()
	}
	start := time.Now()
	if code := d.curl(d.as("client")...); code != 200 {
		t.Errorf("a client behind the silent ones: %d", code)
	}
	t.Logf("served after %v", time.Since(start).Round(time.Millisecond))
}

func TestTLSFilesAreChecked(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	ca.issue("server", serverTemplate())
	ca.issue("another", serverTemplate())
	old := serverTemplate()
	old.NotBefore, old.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	ca.issue("old", old)
	early := serverTemplate()
	early.NotBefore = time.Now().Add(time.Minute)
	ca.issue("early", early)
	must(t, os.WriteFile(filepath.Join(dir, "text"), []byte("hello"), 0o644))
	newFiles := func(cert, key, clientCA string) tlsFiles {
		return tlsFiles{cert: filepath.Join(dir, cert), key: filepath.Join(dir, key), clientCA: filepath.Join(dir, clientCA)}
	}
	for name, c := range map[string]struct {
		files tlsFiles
		want  []string
	}{
		"right":             {newFiles("server.crt", "server.key", "ca.crt"), nil},
		"missing":           {newFiles("no.crt", "server.key", "ca.crt"), []string{"-web.tls-cert", "no.crt", "no such file"}},
		"folder":            {newFiles("server.crt", "", "ca.crt"), []string{"-web.tls-key", "directory"}},
		"not PEM":           {newFiles("text", "server.key", "ca.crt"), []string{"-web.tls-cert", "text", "no PEM"}},
		"key not PEM":       {newFiles("server.crt", "text", "ca.crt"), []string{"-web.tls-key", "text", "no PEM"}},
		"key as cert":       {newFiles("server.key", "server.key", "ca.crt"), []string{"-web.tls-cert", "server.key", "no certificate"}},
		"of another pair":   {newFiles("server.crt", "another.key", "ca.crt"), []string{"-web.tls-key", "another.key", "server.crt", "does not match"}},
		"expired":           {newFiles("old.crt", "old.key", "ca.crt"), []string{"-web.tls-cert", "old.crt", "expired at"}},
		"not yet":           {newFiles("early.crt", "early.key", "ca.crt"), []string{"-web.tls-cert", "early.crt", "not valid before"}},
		"CA without a cert": {newFiles("server.crt", "server.key", "ca.key"), []string{"-web.tls-client-ca", "ca.key", "no certificate"}},
		"CA expired":        {newFiles("server.crt", "server.key", "old.crt"), []string{"-web.tls-client-ca", "old.crt", "expired at"}},
	} {
		err := newKeeper(c.files, newMetrics(""), slog.New(slog.DiscardHandler)).Load(time.Now())
		if (err == nil) != (c.want == nil) || errors.Is(err, errConfig) || err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
		for _, word := range c.want {
			if err != nil && !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v does not name %s", name, err, word)
			}
		}
	}
	must(t, os.Chmod(filepath.Join(dir, "server.key"), 0o644))
	out := new(lockedBuffer)
	log := slog.New(newLineLog(out, slog.LevelInfo))
	open := newKeeper(newFiles("server.crt", "server.key", "ca.crt"), newMetrics(""), log)
	if err := open.Load(time.Now()); err != nil || !strings.Contains(out.String(), "chmod o=") {
		t.Errorf("an open key: %v; the log is %s", err, out)
	}
}

// --- Listening -----------------------------------------------------------------------------------------------------------------

func TestListeners(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "metrics.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	must(t, err)
	stale.SetUnlinkOnClose(false)
	stale.Close() // as a crash leaves it
	port, err := switchtest.FreePort()
	must(t, err)
	program := daemonProgram(t)
	d, err := switchtest.StartProgram(program[0], append(program[1:], "-standalone", "-log.output", "stderr", "-control.socket", "",
		"-web.listen-address", fmt.Sprintf("[::1]:%d", port), "-web.listen-address", fmt.Sprintf("0.0.0.0:%d", port), "-web.listen-address", "unix:"+socket)...)
	must(t, err)
	t.Cleanup(d.Stop)
	for _, c := range []struct{ network, address string }{{"tcp", fmt.Sprintf("[::1]:%d", port)}, {"tcp", fmt.Sprintf("127.0.0.1:%d", port)}, {"unix", socket}} {
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, c.network, c.address)
		}}}
		must(t, switchtest.WaitFor(patience, c.address+" to be ready", func() bool {
			response, err := client.Get("http://portsyncd/readyz")
			if err == nil {
				response.Body.Close()
			}
			return err == nil && response.StatusCode == 200
		}))
	}
	if d.Logged("level=WARN", "without TLS", "0.0.0.0") != 1 || d.Logged("without TLS") != 1 {
		t.Errorf("warnings about TLS are off:\n%s", d.Log())
	}
}

// lateListener has accepted a connection, and hands it out only when it is closed.
type lateListener struct {
	net.Listener
	accepted, closed chan struct{}
	once             sync.Once
}

func (l *lateListener) Accept() (net.Conn, error) {
	select {
	case <-l.accepted:
		return nil, net.ErrClosed
	default:
	}
	c, err := l.Listener.Accept()
	close(l.accepted)
	<-l.closed
	return c, err
}

func (l *lateListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// TestDrainWaitsForWhatWasAcceptedLast: a connection that was accepted just before the listener was closed is answered before the process ends.
func TestDrainWaitsForWhatWasAcceptedLast(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := &lateListener{Listener: inner, accepted: make(chan struct{}), closed: make(chan struct{})}
	s := newTestServer(newMetrics("test"), new(health), discard(), nil)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c, err := net.Dial("tcp", inner.Addr().String())
	must(t, err)
	defer c.Close()
	<-l.accepted
	drained := make(chan struct{})
	go func() { s.Drain(); close(drained) }()
	<-l.closed
	select {
	case <-drained:
		t.Error("it is drained before the request has come")
	case <-time.After(drainLimit / 4):
	}
	_, err = io.WriteString(c, "GET /healthz HTTP/1.0\r\n\r\n")
	must(t, err)
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.0 ") {
		t.Errorf("answered %q, %v", answer, err)
	}
	within(t, "draining", drainLimit+patience, func() { <-drained })
	must(t, <-served)
}

// TestSocketActivation hands a listening socket over as systemd does.
func TestSocketActivation(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	must(t, err)
	defer file.Close()
	program := daemonProgram(t)
	// the shell's process id is the daemon's, which replaces it
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh"}, append(program, "-standalone", "-log.output", "stderr")...)...)
	cmd.ExtraFiles = []*os.File{file}
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	response, err := (&http.Client{Timeout: patience}).Get("http://" + l.Addr().String() + "/metrics")
	must(t, err)
	response.Body.Close()
	if response.StatusCode != 200 {
		t.Errorf("status %d", response.StatusCode)
	}
}

// --- A real Prometheus ------------------------------------------------------------------------------------------------------------

// TestTLSDocument runs the commands of docs/tls.md as they are written, in a network namespace of its own, and then the queries of
// docs/metrics.md against the Prometheus that they started.
func TestTLSDocument(t *testing.T) {
	t.Parallel()
	needTool(t, "prometheus", "openssl", "curl")
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	s.must(s.IP("link", "set", "lo", "up"))
	s.must(s.AddPorts("Ethernet0", "Ethernet4"))
	text, err := os.ReadFile("docs/tls.md")
	s.must(err)
	script := "set -e\n"
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		script += block[1]
	}
	dir := t.TempDir()
	program := daemonProgram(t)
	wrapper := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\"\n", strings.Join(program, " "))
	s.must(os.WriteFile(filepath.Join(dir, "portsyncd"), []byte(wrapper), 0o755))
	cmd := exec.Command("ip", "netns", "exec", s.NetNS, "sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := new(lockedBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	s.must(cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	query := func(expr string) (values []string, err error) {
		text, err := exec.Command("ip", "netns", "exec", s.NetNS, "curl", "-s", "--data-urlencode", "query="+expr, "http://127.0.0.1:9090/api/v1/query").Output()
		if err != nil {
			return nil, err
		}
		var answer struct {
			Status, Error string
			Data          struct{ Result []struct{ Value [2]any } }
		}
		if err := json.Unmarshal(text, &answer); err != nil || answer.Status != "success" {
			return nil, fmt.Errorf("%v: %s", err, text)
		}
		for _, r := range answer.Data.Result {
			values = append(values, fmt.Sprint(r.Value[1]))
		}
		return values, nil
	}
	err = switchtest.WaitFor(2*patience, "Prometheus to have scraped the daemon", func() bool {
		values, err := query(`portsyncd_port_oper_up{port="Ethernet4"}`)
		return err == nil && len(values) == 1 && values[0] == "1"
	})
	if err != nil {
		t.Fatalf("%v; the commands of docs/tls.md printed:\n%s", err, out)
	}
	for expr, want := range map[string]string{`portsyncd_port_mtu_bytes{port="Ethernet0"}`: "1500", `up{job="portsyncd"}`: "1", `portsyncd_resyncs_total{reason="start"}`: "1"} {
		if got, err := query(expr); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%s is %v, %v; want %s", expr, got, err, want)
		}
	}
	documented, err := os.ReadFile("docs/metrics.md")
	s.must(err)
	queries := regexp.MustCompile("(?m)\\| `([^`|]+)` \\|$").FindAllStringSubmatch(string(documented), -1)
	if len(queries) < 40 {
		t.Errorf("only %d queries in docs/metrics.md", len(queries))
	}
	for _, q := range queries {
		if _, err := query(q[1]); err != nil {
			t.Errorf("%s: %v", q[1], err)
		}
	}
	s.must(switchtest.WaitFor(patience, "the refusals of section 5 to be logged", func() bool {
		return strings.Contains(out.String(), "provide a certificate") && strings.Contains(out.String(), "HTTP request to an HTTPS server")
	}))
}

// TestPromtoolLikesTheMetrics: the naming conventions, as promtool checks them.
func TestPromtoolLikesTheMetrics(t *testing.T) {
	needTool(t, "promtool")
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(string(filledMetrics(8).Append(nil)))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}

// TestConcurrentScrapes scrapes from many goroutines while a metric set is written to.
func TestConcurrentScrapes(t *testing.T) {
	w := newWebTest(t, nil)
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for j := range 25 {
				header := []string{}
				if (i+j)%2 == 0 {
					header = []string{"Accept-Encoding", "gzip"}
				}
				response, body := w.do("GET", "/metrics", header...)
				if strconv.Itoa(len(body)) != response.Header.Get("Content-Length") {
					t.Errorf("%d bytes, announced were %s", len(body), response.Header.Get("Content-Length"))
				}
				if len(header) == 0 && !strings.HasSuffix(body, "\n") {
					t.Error("cut off")
				}
			}
		})
	}
	for i := range 200 {
		s := w.box.m.newPort(fmt.Sprintf("Ethernet%d", 1000+i%7), 0)
		w.box.m.showLink(s)
		s.flaps.Inc()
		runtime.Gosched()
		w.box.m.hideLink(s)
	}
	clients.Wait()
}

// TestCAThatBecomesValid: one of two client CAs is not valid yet when the files are read; when it is, its clients get in.
func TestCAThatBecomesValid(t *testing.T) {
	dir, dir2 := t.TempDir(), t.TempDir()
	now := time.Now()
	old := func(c *x509.Certificate) *x509.Certificate {
		c.NotBefore, c.NotAfter = now.Add(-72*time.Hour), now.Add(72*time.Hour)
		return c
	}
	ca := &authority{t: t, dir: dir}
	ca.cert, ca.key = ca.issue("ca", old(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}))
	ca.issue("server", old(serverTemplate()))
	next := newAuthority(t, dir2, "ca") // valid since an hour
	next.issue("client", clientTemplate("prometheus"))
	a, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	must(t, err)
	b, err := os.ReadFile(filepath.Join(dir2, "ca.crt"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "both.crt"), append(a, b...), 0o644))
	files := tlsFiles{cert: filepath.Join(dir, "server.crt"), key: filepath.Join(dir, "server.key"), clientCA: filepath.Join(dir, "both.crt")}
	var k *keeper
	w := newWebTest(t, func(m *metrics, log *slog.Logger) *keeper {
		k = newKeeper(files, m, log)
		must(t, k.Load(now.Add(-48*time.Hour))) // the switch's clock is two days behind
		return k
	})
	k.reload(now, true) // it is right by now, and SIGHUP came
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir2, "client.crt"), filepath.Join(dir2, "client.key"))
	must(t, err)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true,
		Certificates: []tls.Certificate{pair}}}}
	response, err := client.Get("https://" + w.address + "/healthz")
	if err != nil {
		t.Fatalf("a client of the CA that is valid by now is refused: %v\n%s", err, w.log)
	}
	response.Body.Close()
}

// TestBundleCutOff: a file that is cut off, or garbled, in its second certificate is not usable (docs/tls.md, "a file is cut off").
func TestBundleCutOff(t *testing.T) {
	var whole []byte
	first := 0
	for range 2 {
		dir := t.TempDir()
		newAuthority(t, dir, "ca")
		ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
		must(t, err)
		first, whole = len(whole), append(whole, ca...)
	}
	if certs, err := parseCertificates(whole); err != nil || len(certs) != 2 {
		t.Fatalf("%d certificates, %v", len(certs), err)
	}
	for end := first + 20; end < len(whole)-1; end++ { // the last byte but one is the last dash
		if certs, err := parseCertificates(whole[:end]); err == nil {
			t.Errorf("%d bytes of %d count as a bundle of %d", end, len(whole), len(certs))
		}
	}
	whole[first+100] = '!'
	if certs, err := parseCertificates(whole); err == nil {
		t.Errorf("a bundle of 2, of which one is not readable, counts as one of %d", len(certs))
	}
}
