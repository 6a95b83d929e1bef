package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portsyncd/internal/switchtest"
)

// newTaken is an address on which somebody listens already.
func newTaken(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// waiting waits until the daemon has said that something about its metrics does not work, and why, once as an error and
// then as a health that is degraded, and sees to it that it goes on.
func waiting(t *testing.T, d *switchtest.Daemon, why ...string) {
	t.Helper()
	reported(t, d, why...)
	must(t, switchtest.WaitFor(patience, "health to be degraded", func() bool {
		return d.Logged(append(why, "health is degraded", "web: ")...) > 0
	}))
}

// reported is the error alone: a health that was told a moment before it is told again only seconds later, when a
// trouble that mends itself may be over.
func reported(t *testing.T, d *switchtest.Daemon, why ...string) {
	t.Helper()
	must(t, switchtest.WaitFor(patience, "the trouble to be reported", func() bool {
		return d.Logged(append(why, "level=ERROR", "not served")...) == 1 || !d.Running()
	}))
	if !d.Running() {
		t.Fatalf("trouble with the metrics ended the daemon:\n%s", d.Log())
	}
}

// listed waits until a daemon of which lo is the only port has listed its links.
func listed(t *testing.T, d *switchtest.Daemon) {
	t.Helper()
	must(t, switchtest.WaitFor(patience, "links to be listed", func() bool {
		return d.Logged("interface appeared", "port=lo") == 1
	}))
}

// served waits until the daemon has said once that it works, and asks it.
func served(t *testing.T, d *switchtest.Daemon, get func() error) {
	t.Helper()
	must(t, switchtest.WaitFor(patience, "the metrics to be served", func() bool { return get() == nil }))
	must(t, switchtest.WaitFor(patience, "the log to say so", func() bool { return d.Logged("has what it lacked") == 1 }))
	if got := d.Logged("level=ERROR"); got != 1 {
		t.Errorf("the trouble was reported %d times", got)
	}
	must(t, d.Signal(syscall.SIGTERM))
	if code, err := d.Wait(patience); err != nil || code != exitOK {
		t.Errorf("exit code %d, %v", code, err)
	}
}

// newClient makes a client that connects anew for every request; config is nil for plain HTTP.
func newClient(config *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

func getFrom(client *http.Client, url string) func() error {
	return func() error {
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body)
		return err
	}
}

// TestTakenAddressIsWaitedFor: a port or a socket that another program has does not end the daemon, and serves when
// that one has let go, at the latest after SIGHUP.
func TestTakenAddressIsWaitedFor(t *testing.T) {
	t.Parallel()
	t.Run("port", func(t *testing.T) {
		taken := newTaken(t)
		d := startStandalone(t, "-links", "lo", "-web.listen-address", taken.Addr().String())
		waiting(t, d, "-web.listen-address "+taken.Addr().String(), "address already in use")
		listed(t, d)
		taken.Close()
		must(t, d.Signal(syscall.SIGHUP))
		served(t, d, getFrom(newClient(nil), "http://"+taken.Addr().String()+"/metrics"))
	})
	t.Run("live unix socket", func(t *testing.T) {
		path, leave := newFullSocket(t)
		d := startStandalone(t, "-web.listen-address", "unix:"+path)
		waiting(t, d, "-web.listen-address unix:"+path, "address already in use")
		leave()
		client := newClient(nil)
		client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		served(t, d, getFrom(client, "http://portsyncd/metrics"))
	})
}

// TestTakenDefaultPortIsWaitedFor: two daemons without a flag about it; the second serves when the first has ended.
func TestTakenDefaultPortIsWaitedFor(t *testing.T) {
	t.Parallel()
	needTool(t, "curl")
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	s.must(s.IP("link", "set", "lo", "up"))
	start := func() *switchtest.Daemon {
		d, err := s.StartInside(append(daemonProgram(t), "-standalone", "-links", "lo", "-log.output", "stderr", "-control.socket", "")...)
		s.must(err)
		t.Cleanup(d.Stop)
		return d
	}
	get := func() error {
		return exec.Command("ip", "netns", "exec", s.NetNS, "curl", "-sf", "http://127.0.0.1:9090/metrics").Run()
	}
	first := start()
	s.waitFor("the first daemon to serve", func() bool { return get() == nil })
	second := start()
	waiting(t, second, "-web.listen-address 0.0.0.0:9090", "address already in use")
	first.Stop()
	served(t, second, get)
}

// TestHostThatDoesNotResolveIsWaitedFor, until /etc/hosts has it.
func TestHostThatDoesNotResolveIsWaitedFor(t *testing.T) {
	t.Parallel()
	needTool(t, "curl")
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	s.must(s.IP("link", "set", "lo", "up"))
	hosts := filepath.Join(t.TempDir(), "hosts")
	s.must(os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"), 0o644))
	s.must(s.Inside(func() error { return unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, "") }))
	d, err := s.StartInside(append(daemonProgram(t), "-standalone", "-links", "lo", "-log.output", "stderr",
		"-web.listen-address", "switch1.invalid:9100")...)
	s.must(err)
	t.Cleanup(d.Stop)
	listed(t, d)
	waiting(t, d, "-web.listen-address switch1.invalid:9100", "lookup switch1.invalid")
	s.must(os.WriteFile(hosts, []byte("127.0.0.1 localhost switch1.invalid\n"), 0o644))
	served(t, d, func() error {
		return exec.Command("ip", "netns", "exec", s.NetNS, "curl", "-sf", "http://127.0.0.1:9100/metrics").Run()
	})
}

// TestTLSFilesAreWaitedFor: files that are missing, broken, expired or not valid yet do not end the daemon, and until
// they are good nothing is served, in plain neither.
func TestTLSFilesAreWaitedFor(t *testing.T) {
	t.Parallel()
	issue := func(ca *authority) { ca.issue("server", serverTemplate()) }
	expired, early := serverTemplate(), serverTemplate()
	expired.NotBefore, expired.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	for name, c := range map[string]struct {
		spoil func(ca *authority, dir string)
		why   []string
		mend  func(ca *authority) // nil: it mends itself
	}{
		"missing": {
			func(_ *authority, dir string) { must(t, os.Remove(filepath.Join(dir, "server.key"))) },
			[]string{"-web.tls-key", "no such file"}, issue,
		},
		"broken": {
			func(_ *authority, dir string) {
				must(t, os.WriteFile(filepath.Join(dir, "server.crt"), []byte("half a fi"), 0o644))
			},
			[]string{"-web.tls-cert", "no PEM data"}, issue,
		},
		"expired": {
			func(ca *authority, _ string) { ca.issue("server", expired) },
			[]string{"-web.tls-cert", "expired at"}, issue,
		},
		"not valid yet": {func(ca *authority, _ string) {
			early.NotBefore = time.Now().Add(8 * time.Second)
			ca.issue("server", early)
		}, []string{"-web.tls-cert", "not valid before"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			ca := newAuthority(t, dir, "ca")
			ca.issue("server", serverTemplate())
			c.spoil(ca, dir)
			port, err := switchtest.FreePort()
			must(t, err)
			address := fmt.Sprintf("127.0.0.1:%d", port)
			d := startStandalone(t, "-links", "lo", "-web.listen-address", address,
				"-web.tls-cert", filepath.Join(dir, "server.crt"), "-web.tls-key", filepath.Join(dir, "server.key"),
				"-web.tls-client-ca", filepath.Join(dir, "ca.crt"))
			if reported(t, d, c.why...); c.mend != nil {
				waiting(t, d, c.why...)
			}
			listed(t, d)
			plain := newClient(nil)
			if err := getFrom(plain, "http://"+address+"/metrics")(); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("without usable TLS files somebody listens: %v", err)
			}
			if c.mend != nil {
				c.mend(ca)
				must(t, d.Signal(syscall.SIGHUP))
			}
			config := (&tlsDaemon{t: t, dir: dir, ca: ca}).clientConfig()
			served(t, d, func() error {
				if response, err := plain.Get("http://" + address + "/metrics"); err == nil {
					if response.Body.Close(); response.StatusCode == http.StatusOK {
						t.Error("metrics were served in plain")
					}
				}
				return getFrom(newClient(config), "https://"+address+"/metrics")()
			})
		})
	}
}

// TestHandshakeFailsWithoutCertificates: even if something listened before there are any.
func TestHandshakeFailsWithoutCertificates(t *testing.T) {
	w := newWebTest(t, func(m *metrics, log *slog.Logger) *keeper {
		return newKeeper(tlsFiles{cert: "c", key: "k", clientCA: "a"}, m, log)
	})
	if c, err := tls.Dial("tcp", w.address, &tls.Config{InsecureSkipVerify: true}); err == nil {
		c.Close()
		t.Error("a handshake succeeded")
	}
	if response, _ := w.do("GET", "/metrics"); response.StatusCode != http.StatusBadRequest {
		t.Errorf("a plain request got %d", response.StatusCode)
	}
}

// TestBadSystemdDescriptorsAreReported: they do not end the daemon, and are left alone: their numbers become those of
// its own files. What is named beside them is served.
func TestBadSystemdDescriptorsAreReported(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.program = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=9 exec "$@" 3</dev/null`, "sh"}, daemonProgram(t)...)
	d, _ := s.start(2)
	s.waitMetric(d, `portsyncd_health_check{check="web"}`, "0.5")
	for fd := listenFDsStart; fd < listenFDsStart+9; fd++ {
		if d.Logged("level=ERROR", "not served", fmt.Sprintf("err=\"descriptor %d handed over by systemd", fd)) != 1 {
			t.Errorf("descriptor %d was not reported once", fd)
		}
	}
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "1400"))
	s.waitEntry("Ethernet4", fields("up", "up", 1400))
	response, err := http.Get("http://" + d.Metrics + "/readyz")
	s.must(err)
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("/readyz is %d: the switch can rely on what is published", response.StatusCode)
	}
}

// TestOneListenerServesWhileAnotherWaits, and says so.
func TestOneListenerServesWhileAnotherWaits(t *testing.T) {
	t.Parallel()
	taken := newTaken(t)
	d := newStandalone(t, "-web.listen-address", taken.Addr().String(), "-links", "lo")
	client := newClient(nil)
	web := func() string {
		response, err := client.Get("http://" + d.Metrics + "/metrics")
		must(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		must(t, err)
		return sample(string(text), `portsyncd_health_check{check="web"}`)
	}
	waiting(t, d, "-web.listen-address "+taken.Addr().String(), "address already in use")
	must(t, switchtest.WaitFor(patience, "health to show it", func() bool { return web() == "0.5" }))
	must(t, switchtest.WaitFor(patience, "/readyz to be 200 nevertheless", func() bool {
		response, err := client.Get("http://" + d.Metrics + "/readyz")
		must(t, err)
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	}))
	taken.Close()
	must(t, d.Signal(syscall.SIGHUP))
	must(t, switchtest.WaitFor(patience, "health to be well again", func() bool { return web() == "1" }))
	served(t, d, getFrom(client, "http://"+taken.Addr().String()+"/metrics"))
}

// TestPortSyncDoesNotWaitForTheWeb: with everything about the metrics wrong at once, a switch comes up and stays in
// step.
func TestPortSyncDoesNotWaitForTheWeb(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(4,
		"-web.listen-address", newTaken(t).Addr().String(), "-web.listen-address", "no-such-host.invalid:9090",
		"-web.tls-cert", "nowhere.crt", "-web.tls-key", "nowhere.key", "-web.tls-client-ca", "nowhere.crt")
	waiting(t, d, "-web.tls-cert", "nowhere.crt")
	s.must(s.SetCable(false, "Ethernet4"))
	s.waitEntry("Ethernet4", fields("down", "up", 1500))
	s.must(d.Signal(syscall.SIGHUP)) // and still
	s.must(s.SetCable(true, "Ethernet4"))
	s.waitEntry("Ethernet4", fields("up", "up", 1500))
	s.must(d.Signal(syscall.SIGTERM))
	if code, err := d.Wait(patience); err != nil || code != exitOK {
		t.Errorf("exit code %d, %v", code, err)
	}
}

// newBenchWeb is a web on a bench: its pauses go to the test, and end when the test says so.
func newBenchWeb(t *testing.T) (w *web, pauses chan time.Duration, over chan time.Time, out *lockedBuffer) {
	out, pauses, over = new(lockedBuffer), make(chan time.Duration, 1), make(chan time.Time)
	log := slog.New(newLineLog(out, slog.LevelInfo))
	h := &health{begun: make(chan struct{})}
	w = &web{server: newTestServer(newMetrics(""), h, log, nil), health: h, log: log, troubles: make(map[string]string),
		after: func(d time.Duration) <-chan time.Time { pauses <- d; return over }}
	t.Cleanup(w.server.Drain)
	return w, pauses, over, out
}

// TestFirstListingIsAskedForBeforeTheServer: nothing is opened before the loop has turned; but if the kernel does not
// take its request for a second, somebody has to be there to say so.
func TestFirstListingIsAskedForBeforeTheServer(t *testing.T) {
	for name, begin := range map[string]func(w *web, over chan time.Time){
		"the loop has turned":      func(w *web, _ chan time.Time) { w.health.turn(time.Now(), time.Time{}) },
		"the kernel does not take": func(_ *web, over chan time.Time) { over <- time.Time{} },
	} {
		t.Run(name, func(t *testing.T) {
			w, pauses, over, _ := newBenchWeb(t)
			opened := make(chan struct{}, 1)
			w.doors = []door{{"a door", func(context.Context) (net.Listener, error) {
				opened <- struct{}{}
				return net.Listen("tcp", "127.0.0.1:0")
			}}}
			go w.run(t.Context())
			if grace := <-pauses; grace != listingGrace {
				t.Errorf("it waits %v for the listing", grace)
			}
			select {
			case <-opened:
				t.Fatal("it listens before the links are")
			default:
			}
			begin(w, over)
			<-opened
		})
	}
}

// TestPausesGrowAndSIGHUPEndsThem: to ten seconds at most, however long it takes; and one line says it, whatever the
// reasons are.
func TestPausesGrowAndSIGHUPEndsThem(t *testing.T) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // this process is not to die of it
	w, pauses, over, out := newBenchWeb(t)
	tries, fail := 0, true
	done := make(chan bool)
	go func() {
		done <- w.until(t.Context(), "it", func(works func()) error {
			if tries++; fail {
				return fmt.Errorf("reason %d", tries)
			}
			return nil
		})
	}()
	var seen []time.Duration
	for range 9 {
		seen = append(seen, <-pauses)
		over <- time.Time{}
	}
	if seen[0] != firstRetry || seen[3] != 8*firstRetry || !slices.IsSorted(seen) || seen[8] != 10*time.Second {
		t.Errorf("the pauses are %v", seen)
	}
	<-pauses
	if why := w.health.web.Load(); why == nil || *why != "reason 10" {
		t.Errorf("health has not the last reason")
	}
	must(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	if again := <-pauses; again != firstRetry {
		t.Errorf("after SIGHUP the next pause is %v", again)
	}
	fail = false
	over <- time.Time{}
	if !<-done || tries != 12 || *w.health.web.Load() != "" {
		t.Errorf("after %d tries health says %q", tries, *w.health.web.Load())
	}
	text := out.String()
	if strings.Count(text, "\n") != 2 || !strings.Contains(text, "reason 1") || !strings.Contains(text, "it lacked") {
		t.Errorf("the log is:\n%s", text)
	}
}

// TestListenerThatFailsIsOpenedAgain: a door that worked and then fails is in trouble like one that never did.
func TestListenerThatFailsIsOpenedAgain(t *testing.T) {
	w, pauses, over, out := newBenchWeb(t)
	opened := make(chan net.Listener)
	go w.until(t.Context(), "a door", func(works func()) error {
		return w.serve(t.Context(), &door{"a door", func(context.Context) (net.Listener, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				opened <- l
			}
			return l, err
		}}, w.server, works)
	})
	(<-opened).Close()
	if pause := <-pauses; pause != firstRetry {
		t.Errorf("after a pause of %v", pause)
	}
	if why := w.health.web.Load(); why == nil || !strings.Contains(*why, "closed") {
		t.Error("health does not say that the listener failed")
	}
	over <- time.Time{}
	l := <-opened
	must(t, switchtest.WaitFor(patience, "the metrics to be served again", func() bool {
		err := getFrom(newClient(nil), "http://"+l.Addr().String()+"/metrics")()
		return err == nil && strings.Contains(out.String(), "has what it lacked")
	}))
}
