package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// Clients that do not get in any more, and are in.

// clientOf is a client with a certificate, whose connection is kept. It returns what a request came to, and whether that went over a connection of before.
func (d *tlsDaemon) clientOf(dir, name string) func() (status int, kept bool, err error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
	must(d.t, err)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}}}
	return func() (status int, kept bool, err error) {
		trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { kept = c.Reused }}
		r, err := http.NewRequestWithContext(httptrace.WithClientTrace(d.t.Context(), trace), http.MethodGet, "https://"+d.Metrics+"/metrics", nil)
		must(d.t, err)
		response, err := client.Do(r)
		if err != nil {
			return 0, kept, err
		}
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body)
		return response.StatusCode, kept, err
	}
}

// TestCAThatIsTakenOutEndsItsConnections: SECURITY.md, "a client's certificate is good until it expires, or its CA or name is taken out". Who asks more often
// than every 20 s would otherwise stay in for good.
func TestCAThatIsTakenOutEndsItsConnections(t *testing.T) {
	t.Parallel()
	d := newTLSDaemon(t)
	d.ca.issue("client", clientTemplate())
	ask := d.clientOf(d.dir, "client")
	if status, _, err := ask(); status != http.StatusOK {
		t.Fatal(status, err)
	}
	other := newAuthority(t, t.TempDir(), "ca")
	text, err := os.ReadFile(filepath.Join(other.dir, "ca.crt"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(d.dir, "ca.crt"), text, 0o644))
	must(t, d.Signal(syscall.SIGHUP))
	must(t, switchtest.WaitFor(patience, "the new CA", func() bool { return d.Logged("TLS files taken up") == 1 }))
	if status, _, err := d.clientOf(d.dir, "client")(); err == nil {
		t.Fatalf("a new connection of the old CA's client gets in: %d", status)
	}
	for end := time.Now().Add(25 * time.Second); ; time.Sleep(5 * time.Second) {
		status, kept, err := ask()
		if err != nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("25 s after its CA was taken out a client is still answered: %d, over a connection of before: %t", status, kept)
		}
	}
}

// TestCertificateThatExpiresEndsItsConnection: the same promise.
func TestCertificateThatExpiresEndsItsConnection(t *testing.T) {
	t.Parallel()
	d := newTLSDaemon(t)
	brief := clientTemplate()
	brief.NotAfter = time.Now().Add(6 * time.Second).Truncate(time.Second)
	d.ca.issue("brief", brief)
	ask := d.clientOf(d.dir, "brief")
	if status, _, err := ask(); status != http.StatusOK {
		t.Fatal(status, err)
	}
	time.Sleep(time.Until(brief.NotAfter.Add(2 * time.Second)))
	if _, _, err := d.clientOf(d.dir, "brief")(); err == nil {
		t.Fatal("an expired certificate gets in")
	}
	for end := time.Now().Add(25 * time.Second); ; time.Sleep(5 * time.Second) {
		status, kept, err := ask()
		if err != nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v after its certificate expired a client is still answered: %d, over a connection of before: %t",
				time.Since(brief.NotAfter).Round(time.Second), status, kept)
		}
	}
}
