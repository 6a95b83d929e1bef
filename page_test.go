package main

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"portsyncd/internal/switchtest"
)

// pageOf gets the page.
func pageOf(t *testing.T, d *switchtest.Daemon, query string) (header http.Header, body string) {
	t.Helper()
	response, err := http.Get("http://" + d.Metrics + "/" + query)
	must(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", response.Status, text)
	}
	return response.Header, string(text)
}

// TestPageIsWholeWithoutAScript: each port with its state in words, the verdict, the events, and a policy that lets the
// browser run what is in the page, and load nothing.
func TestPageIsWholeWithoutAScript(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(4)
	s.must(s.SetCable(false, "Ethernet0"))
	s.must(s.IP("link", "set", "Ethernet4", "down"))
	s.must(s.Config.HSet(t.Context(), s.ConfigKey("PORT", "Ethernet40"), "lanes", "41", "alias", "<b>&", "speed", "1").Err())
	want := []string{`aria-label="Ethernet0 (Eth1): down"`, `aria-label="Ethernet4 (Eth2): admin down"`,
		`aria-label="Ethernet8 (Eth3): up"`, `aria-label="Ethernet40 (&lt;b&gt;&amp;): pending"`, ">ok</span>",
		"carrier lost", "admin down", "PortInitDone sent"}
	var header http.Header
	var body string
	if !eventually(func() bool {
		header, body = pageOf(t, d, "")
		for _, words := range want {
			if !strings.Contains(body, words) {
				return false
			}
		}
		return true
	}) {
		t.Fatalf("want %q in\n%s", want, body)
	}
	policy := header.Get("Content-Security-Policy")
	for _, tag := range []string{"style", "script"} {
		text := regexp.MustCompile("(?s)<" + tag + ">(.*)</" + tag + ">").FindStringSubmatch(body)[1]
		sum := sha256.Sum256([]byte(text))
		if hash := base64.StdEncoding.EncodeToString(sum[:]); !strings.Contains(policy, tag+"-src 'sha256-"+hash+"'") {
			t.Errorf("the policy does not allow the page's %s: %s", tag, policy)
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %s", policy)
	}
	if elsewhere := regexp.MustCompile(`(?i)(src=|@import|url\(|href="(https?:)?//)`).FindString(body); elsewhere != "" {
		t.Errorf("something is loaded from elsewhere: %s", elsewhere)
	}
	_, body = pageOf(t, d, "?port=Ethernet0")
	if !strings.Contains(body, "Events of Ethernet0") || !strings.Contains(body, `aria-current="true"`) ||
		strings.Contains(body, "<td>Ethernet4</td>") {
		t.Errorf("the page of one port:\n%s", body)
	}
}

// TestPageIsSmall: 16 KiB is what it may take of the binary.
func TestPageIsSmall(t *testing.T) {
	if len(pageHTML) > 16<<10 {
		t.Errorf("%d bytes", len(pageHTML))
	}
}
