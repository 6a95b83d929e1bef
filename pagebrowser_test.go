//go:build browser

package main

import (
	"bytes"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"portsyncd/internal/switchtest"
)

// The page as a browser shows it: make page, and no other command, for a Chromium is 300 MB.

var (
	pageBrowser = flag.String("page.browser", "chromium", "the Chromium that TestPageInABrowser looks with")
	pageShots   = flag.String("page.shots", "", "where its pictures go; empty: a temporary directory")
)

// browse runs the browser without a window. What it prints is the page after the script has run for a while.
func browse(t *testing.T, args ...string) string {
	t.Helper()
	all := append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr",
		"--user-data-dir=" + t.TempDir()}, args...)
	cmd := exec.Command(*pageBrowser, all...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", *pageBrowser, args, err, &said)
	}
	if strings.Contains(said.String(), "Content Security Policy") {
		t.Errorf("the policy stops something:\n%s", &said)
	}
	return string(out)
}

// compact makes a picture of few colours of one of millions, a fifth of its size.
func compact(t *testing.T, name string) {
	t.Helper()
	file, err := os.Open(name)
	must(t, err)
	shot, err := png.Decode(file)
	file.Close()
	must(t, err)
	count := map[color.RGBA]int{}
	bounds := shot.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			count[color.RGBAModel.Convert(shot.At(x, y)).(color.RGBA)]++
		}
	}
	if len(count) < 8 {
		t.Errorf("%s is empty", name)
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int {
		if count[a] != count[b] {
			return count[b] - count[a]
		}
		return bytes.Compare([]byte{a.R, a.G, a.B}, []byte{b.R, b.G, b.B})
	})
	var palette color.Palette
	for _, c := range colours[:min(32, len(colours))] {
		palette = append(palette, c)
	}
	few := image.NewPaletted(bounds, palette)
	draw.Draw(few, bounds, shot, bounds.Min, draw.Src)
	var out bytes.Buffer
	must(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, few))
	must(t, os.WriteFile(name, out.Bytes(), 0o644))
}

// pageThatChanges is a way to the page on which Ethernet0 goes down before it is answered for the second time.
func (s *testSwitch) pageThatChanges(d *switchtest.Daemon) string {
	var asked atomic.Int32
	way := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: d.Metrics})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" && asked.Add(1) == 2 {
			_ = s.SetCable(false, "Ethernet0")
			eventually(func() bool { return s.metric(d, `portsyncd_port_oper_up{port="Ethernet0"}`) == "0" })
		}
		way.ServeHTTP(w, r)
	}))
	s.t.Cleanup(server.Close)
	return server.URL
}

// TestPageInABrowser: make page. At 8, 64 and 512 ports, narrow and wide, in both colours, it looks as the pictures show,
// nothing overflows sideways, the policy stops nothing, and a port that goes down is shown without anybody's doing.
func TestPageInABrowser(t *testing.T) {
	shots := *pageShots
	if shots == "" {
		shots = t.TempDir()
	}
	for _, n := range []int{8, 64, 512} {
		t.Run(fmt.Sprintf("%d ports", n), func(t *testing.T) {
			s := newSwitch(t, switchtest.Options{})
			d, _ := s.start(n)
			s.must(s.SetCable(false, "Ethernet4"))
			s.must(s.IP("link", "set", "Ethernet12", "down"))
			eventually(func() bool { return s.metric(d, `portsyncd_port_admin_up{port="Ethernet12"}`) == "0" })
			page := "http://" + d.Metrics + "/"
			for _, view := range []struct{ name, size, dark string }{
				{"wide", "1100,800", ""}, {"narrow", "400,800", ""}, {"dark", "1100,800", "--force-dark-mode"},
			} {
				shot := filepath.Join(shots, fmt.Sprintf("page-%d-%s.png", n, view.name))
				args := []string{"--window-size=" + view.size, "--screenshot=" + shot, page}
				if view.dark != "" {
					args = append([]string{view.dark, "--blink-settings=preferredColorScheme=0"}, args...)
				}
				browse(t, args...)
				compact(t, shot)
			}
			behind := s.pageThatChanges(d) // a port goes down when the page is asked for again
			text := browse(t, "--virtual-time-budget=9000", "--dump-dom", behind)
			for _, words := range []string{`aria-label="Ethernet4 (Eth2): down"`, `aria-label="Ethernet0 (Eth1): down"`} {
				if !strings.Contains(text, words) {
					t.Errorf("no %s", words)
				}
			}
		})
	}
}

// TestPageInABrowserOverMutualTLS: make page. A browser with a certificate that the daemon's CA has signed shows the page,
// and its policy stops nothing; one without sees nothing.
func TestPageInABrowserOverMutualTLS(t *testing.T) {
	needTool(t, "certutil", "pk12util", "openssl", "unshare")
	d := newTLSDaemon(t, "-links", "lo")
	d.ca.issue("operator", clientTemplate("operator.example.net"))
	home := t.TempDir()
	store := "sql:" + filepath.Join(home, ".pki", "nssdb")
	at := func(name string) string { return filepath.Join(d.dir, name) }
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	must(t, os.MkdirAll(filepath.Join(home, ".pki", "nssdb"), 0o700))
	run("certutil", "-N", "--empty-password", "-d", store)
	run("certutil", "-A", "-d", store, "-n", "ca", "-t", "C,,", "-i", at("ca.crt"))
	page := "https://" + strings.Replace(d.Metrics, "127.0.0.1", "localhost", 1) + "/"
	etc := filepath.Join(home, "etc")
	policies := filepath.Join(etc, "policies", "managed")
	must(t, os.MkdirAll(policies, 0o755))
	must(t, os.WriteFile(filepath.Join(policies, "portsyncd.json"),
		[]byte(`{"AutoSelectCertificateForUrls": ["{\"pattern\":\"https://localhost\",\"filter\":{}}"]}`), 0o644))
	browse := func() string {
		t.Helper()
		// policies are read from one place only; nothing is left there
		cmd := exec.Command("unshare", "--mount", "sh", "-c",
			`mount --bind "$1" /etc/chromium && shift && exec "$@"`, "sh", etc, *pageBrowser,
			"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
			"--user-data-dir="+t.TempDir(), "--virtual-time-budget=9000", "--dump-dom", page)
		cmd.Env = append(os.Environ(), "HOME="+home)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, &said)
		}
		if strings.Contains(said.String(), "Content Security Policy") {
			t.Errorf("the policy stops something:\n%s", &said)
		}
		return string(out)
	}
	if text := browse(); strings.Contains(text, "portsyncd <span") {
		t.Errorf("a browser without a certificate is let in:\n%s", text)
	}
	run("openssl", "pkcs12", "-export", "-passout", "pass:", "-name", "operator", "-in", at("operator.crt"), "-inkey",
		at("operator.key"), "-out", at("operator.p12"))
	run("pk12util", "-i", at("operator.p12"), "-d", store, "-W", "", "-K", "")
	text := browse()
	for _, words := range []string{`portsyncd <span class="verdict ok">ok</span>`, `aria-label="lo: up"`} {
		if !strings.Contains(text, words) {
			t.Errorf("no %s in\n%s", words, text)
		}
	}
}
