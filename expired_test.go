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
	time.Sleep(time.Until(brief.NotAfter.Add(3 * certificateCheck)))
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"))
	must(t, err)
	client := newClient(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}})
	response, err := client.Get("https://" + d.Metrics + "/metrics")
	must(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	web, loaded := sample(string(text), `portsyncd_health_check{check="web"}`), sample(string(text), "portsyncd_tls_last_reload_successful")
	if said := d.Logged("expired"); web == "1" && loaded == "1" && said == 0 {
		t.Errorf("%v after the server's certificate expired the check web is %s, portsyncd_tls_last_reload_successful %s, and the log has no line about it",
			time.Since(brief.NotAfter).Round(time.Second), web, loaded)
	}
}
