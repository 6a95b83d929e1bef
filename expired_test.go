package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// A certificate that expires while it is served.

// TestServersCertificateThatExpires while it is in use is told of: every client that looks turns away. At the start the same file is a trouble that health
// names (docs/health.md, `web`: "the TLS files are not usable").
func TestServersCertificateThatExpires(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	brief := serverTemplate()
	brief.NotAfter = time.Now().Add(5 * time.Second).Truncate(time.Second)
	ca.issue("server", brief)
	ca.issue("client", clientTemplate())
	port, err := switchtest.FreePort()
	must(t, err)
	d := &tlsDaemon{t: t, dir: dir, ca: ca}
	d.Daemon = startStandalone(t, "-links", "lo", "-web.listen-address", fmt.Sprintf("127.0.0.1:%d", port), "-web.tls-cert", filepath.Join(dir, "server.crt"),
		"-web.tls-key", filepath.Join(dir, "server.key"), "-web.tls-client-ca", filepath.Join(dir, "ca.crt"))
	d.Metrics = fmt.Sprintf("127.0.0.1:%d", port)
	waitListening(t, d.Metrics)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"))
	must(t, err)
	client := newClient(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}})
	web := func() string {
		response, err := client.Get("https://" + d.Metrics + "/metrics")
		must(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		must(t, err)
		return sample(string(text), `portsyncd_health_check{check="web"}`)
	}
	if said := web(); said != "1" && time.Now().Before(brief.NotAfter) {
		t.Fatalf("before it expires the check web is %s", said)
	}
	must(t, switchtest.WaitFor(time.Until(brief.NotAfter.Add(3*certificateCheck)), "the check web", func() bool { return web() == "0.5" }))
	must(t, switchtest.WaitFor(patience, "the log", func() bool { return d.Logged("are not served as the flags say", "-web.tls-cert", "expired") == 1 }))
}
