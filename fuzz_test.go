package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Whatever is read from outside, but for link messages (netlink_test.go) and requests (fuzzweb_test.go): flags, configuration files, the flight recorder's file,
// certificates, the answers of a daemon. make fuzz gives each target a count of inputs, or FUZZTIME.

// oneLine fails where an error would not be one line of text, as every error of ours has to be.
func oneLine(t *testing.T, err error) {
	t.Helper()
	if err != nil && !isLine(err.Error()) {
		t.Errorf("an error that is not one line: %q", err)
	}
}

func isLine(text string) bool {
	return text != "" && utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
}

// printable fails where text would move a terminal's cursor.
func printable(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && !isLine(line) {
			t.Errorf("%q would be printed", line)
		}
	}
}

// memoryFile is a file that is on no disk.
func memoryFile(f *testing.F) (path string, write func(t *testing.T, text []byte)) {
	fd, err := unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC)
	must(f, err)
	file := os.NewFile(uintptr(fd), "fuzz")
	f.Cleanup(func() { file.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", fd), func(t *testing.T, text []byte) {
		must(t, file.Truncate(0))
		_, err := file.WriteAt(text, 0)
		must(t, err)
	}
}

// FuzzFlags takes a command line, an argument a line: it is taken, or there is a reason of one line.
func FuzzFlags(f *testing.F) {
	for _, text := range []string{"", "-web.listen-address\n127.0.0.1:9090\n-memory-limit=64MiB", "-db.global\nauto\n-observe",
		"-web.tls-allowed-names=a,b\n-web.tls-cert=c\n-web.tls-key=k\n-web.tls-client-ca=a", "-recorder.size\n2MiB\n-log.level\nDEBUG",
		"-standalone\n-links\nEthernet*,lo", "-old-interfaces\ndown\n-eoiu-timeout\n30s\n-reconcile-interval\n0", "-web.listen-address=unix:/run/x",
		"diff", "-version", "-netlink.receive-buffer=4GiB"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\n")
		o, err := parseOptions(args, io.Discard)
		if (o == nil) != (err != nil) {
			if o == nil || !strings.HasPrefix(err.Error(), "-") { // validate's
				t.Errorf("%q: %v, and %v", args, o, err)
			}
		}
		if strings.ContainsFunc(text, unicode.IsControl) && !isLine(strings.ReplaceAll(text, "\n", "")) {
			return // the shell of whoever typed that is to blame
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: an error that is not one line: %q", args, err)
		}
	})
}

// FuzzDBConfig: whatever is in database_config.json, it is taken whole, waited for, or refused in a line.
func FuzzDBConfig(f *testing.F) {
	for _, text := range []string{"", "{", "{}", "null", "[]",
		`{"INSTANCES": {"redis": {"hostname": "127.0.0.1", "port": 6379, "unix_socket_path": "/run/redis.sock"}, "other": {"hostname": "::1", "port": 6380}},
		"DATABASES": {"APPL_DB": {"id": 0, "separator": ":", "instance": "redis"}, "CONFIG_DB": {"id": 4, "separator": "|", "instance": "redis"},
		"STATE_DB": {"id": 6, "separator": "|", "instance": "other"}}, "VERSION": "1.0"}`,
		`{"INSTANCES": {"redis": {"port": 99999}}, "DATABASES": {"APPL_DB": {"id": -1, "separator": "", "instance": "gone\n"}}}`} {
		f.Add([]byte(text))
	}
	path, write := memoryFile(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		write(t, text)
		c, err := readDBConfig(path)
		if oneLine(t, err); err != nil {
			if c != nil || !errors.Is(err, errConfig) && !errors.Is(err, errNotJSON) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, and %v", c, err)
			}
			return
		}
		for _, name := range []string{"APPL_DB", "CONFIG_DB", "STATE_DB"} {
			a, err := c.address(name)
			if err != nil || a.separator == "" || a.id < 0 || a.address == "" || a.network == "tcp" && addressSyntax(a.address) != nil {
				t.Errorf("%s is at %+v, %v", name, a, err)
			}
		}
	})
}

// FuzzDBGlobal: the same for database_global.json. The name of a namespace is part of paths.
func FuzzDBGlobal(f *testing.F) {
	for _, text := range []string{"", "{", `{"INCLUDES": []}`, `{"INCLUDES": [{"include": "../../redis/sonic-db/database_config.json"},
		{"namespace": "asic10", "include": "../../redis10/sonic-db/database_config.json"}, {"namespace": "asic2", "include": "/redis2/database_config.json"},
		{"container_name": "dpu0", "include": "../../redisdpu0/database_config.json"}], "VERSION": "1.0"}`, `{"INCLUDES": [{"namespace": "../etc", "include": "x"}]}`,
		"{\"INCLUDES\": [\n{\"namespace\": 7}\n]}", `{"INCLUDES": [{"namespace": "asic0", "include": "x"}, {"namespace": "asic0", "include": "y"}]}`} {
		f.Add([]byte(text))
	}
	path, write := memoryFile(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		write(t, text)
		all, err := readDBGlobal(path)
		if oneLine(t, err); err != nil {
			if all != nil || !errors.Is(err, errConfig) && !errors.Is(err, errNotJSON) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, and %v", all, err)
			}
			return
		}
		for i, n := range all {
			if n.name == "" || filepath.Base(n.name) != n.name || n.name == ".." || n.name == "." || !filepath.IsAbs(n.dbConfig) ||
				slices.ContainsFunc(all[:i], func(o namespaceConfig) bool { return o.name == n.name }) {
				t.Errorf("%q, %q of %q", n.name, n.dbConfig, text)
			}
		}
	})
}

// recorderSeed is the image of a recorder in which something happened, and the recorder's memory.
func recorderSeed(f *testing.F) (file *os.File, image, seed []byte) {
	file, image, err := recordInMemory(recordFixed + 2*portRing)
	must(f, err)
	r := newRecorder(file, image, newMetrics("test"), slog.New(slog.DiscardHandler), "boot", time.Now())
	for i := range 5 {
		r.link(&port{name: "Ethernet0"}, &linkMessage{index: 5, flags: uint32(i % 2 * upRunning), mtu: 1500}, false, time.Now())
	}
	r.link(&port{name: "Ethernet4"}, &linkMessage{index: 6, flags: upRunning, mtu: 9100, hasCarrier: true, carrierUp: 1}, true, time.Now())
	r.note(ownStarted, "portsyncd test", time.Now())
	return file, image, slices.Clone(image)
}

// bend writes pieces of a patch, each with three bytes of its place and one of its length before it, over an image.
func bend(image, patch []byte) {
	for len(patch) > 4 {
		at, n := (int(patch[0])|int(patch[1])<<8|int(patch[2])<<16)%len(image), int(patch[3])
		piece := patch[4:min(len(patch), 4+n)]
		copy(image[at:], piece)
		patch = patch[4+len(piece):]
	}
}

// sealAll makes checksums right, so that what is behind them is looked at.
func sealAll(image []byte) {
	putHead(image)
	for record := range slices.Chunk(image[recordHead:recordFixed], ownEvent) {
		seal(record)
	}
	for ring := range slices.Chunk(image[recordFixed:], portRing) {
		seal(ring[:ringHead])
		for record := range slices.Chunk(ring[ringHead:], portEvent) {
			seal(record)
		}
	}
}

// FuzzRecorderFile: whatever the file holds, also with right checksums, it is told in lines, and the daemon goes on recording to it.
func FuzzRecorderFile(f *testing.F) {
	file, image, seed := recorderSeed(f)
	piece := func(at int, bytes ...byte) []byte {
		return append([]byte{byte(at), byte(at >> 8), byte(at >> 16), byte(len(bytes))}, bytes...)
	}
	f.Add([]byte{}, true)
	f.Add([]byte{0, 0, 0, 4, 1, 2, 3, 4}, false)
	f.Add([]byte{4, 16, 0, 4, 255, 255, 255, 255, 0, 16, 1, 20, 'E', 't', 'h', 0x1b, '[', '2', 'J'}, true)
	f.Add(piece(recordFixed, bytes.Repeat([]byte{255}, 200)...), true)
	for _, ring := range []struct{ at, size, last int }{{recordFixed + ringHead, portEvent, portEvents - 1}, {recordHead, ownEvent, ownEvents - 1}} {
		patch := append(piece(ring.at, make([]byte, 200)...), piece(ring.at+200, make([]byte, 200)...)...)
		f.Add(append(patch, piece(ring.at+ring.last*ring.size+4, 255, 255, 255, 255)...), true) // only the highest number
	}
	log, m := slog.New(slog.DiscardHandler), newMetrics("test")
	f.Fuzz(func(t *testing.T, patch []byte, sealed bool) {
		copy(image, seed)
		if bend(image, patch); sealed {
			sealAll(image)
		}
		tell := func(kinds ...bool) (text string) {
			reader, err := newRecordReader(file)
			if err != nil {
				return ""
			}
			_, err = reader.ports()
			must(t, err)
			all, err := reader.read(func(string) bool { return true }, true, cutoff{}, 0)
			must(t, err)
			for _, asJSON := range kinds {
				var out bytes.Buffer
				p := eventPrinter{w: bufio.NewWriter(&out), json: asJSON, told: map[[2]string]toldEvent{}}
				must(t, p.print(all))
				must(t, p.end(reader.torn))
				if !asJSON {
					printable(t, out.String())
					continue
				}
				for line := range bytes.Lines(out.Bytes()) {
					if !json.Valid(line) {
						t.Errorf("no JSON: %q", line)
					}
				}
			}
			for i := range all { // numbers that contradict their times: the printer takes some for told
				text += all[i].line() + "\n"
			}
			final(all, machineClock(), arrivalTime)
			return text
		}
		tell(false, true)
		if !whole(image) {
			return
		}
		r := newRecorder(file, image, m, log, "another boot", time.Now())
		p := &port{name: "Ethernet0"}
		r.link(p, &linkMessage{index: 7, flags: upRunning, mtu: 4567}, false, time.Now())
		r.sent(p, time.Now())
		r.landed(p, &portWrite{set: true, outcome: outcome{written: true}}, time.Now())
		r.endListing(func(string) (*port, bool) { return nil, false }, time.Now())
		r.note(ownStarted, "goes on", time.Now())
		text := tell(false)
		for _, want := range []string{"MTU 4567", "goes on"} {
			if !strings.Contains(text, want) {
				t.Errorf("what is recorded next is not told: %q", want)
			}
		}
	})
}

// FuzzStatusAnswer: whatever answers on the control socket, status is a screen of lines, or an error of one.
func FuzzStatusAnswer(f *testing.F) {
	var s statusAnswer
	s.Verdict, s.Time, s.Started, s.Version = "degraded", "2026-11-24T22:58:03Z", "2026-11-24T22:57:55Z", "v1"
	s.Reasons = []reasonAnswer{{"asic0", "redis", "degraded", "read: \x1b[2J"}}
	s.Worst = []worstAnswer{{"asic0", "Ethernet0", "Eth1", "down", &s.Time, "it has no carrier"}}
	s.Writers, s.Role = []otherDaemon{{PID: 5}}, roleObserver
	s.Namespaces, s.WaitingFor = []namespaceAnswer{{Namespace: "asic0"}}, []string{"Ethernet4"}
	s.Instances = []instanceAnswer{{Instance: "a", Up: true, Role: roleStandby, Health: "degraded"}}
	status, err := json.Marshal(s)
	must(f, err)
	up, mtu := "up", 1500
	ports, err := json.Marshal(portsAnswer{[]portAnswer{{Port: "Ethernet0", Present: true, Admin: &up, Oper: &up, MTU: &mtu}, {Port: "Ethernet4"}}})
	must(f, err)
	f.Add(status, ports, byte(0), byte(0), byte(0))
	f.Add(status, ports, byte(30), byte(30), byte(0)) // a box of many ASICs whose Redis is down
	f.Add(status, ports, byte(30), byte(30), byte(5)) // and several instances
	f.Add(bytes.Replace(status, []byte(`"role":"observer"`), []byte(`"role":"standby"`), 1), ports, byte(12), byte(1), byte(3))
	f.Add(status, []byte(`{"ports": [{"port": "Ethernet0", "present": true}]}`), byte(1), byte(1), byte(1))
	f.Add([]byte(`{}`), []byte(`null`), byte(0), byte(0), byte(0))
	f.Fuzz(func(t *testing.T, status, ports []byte, reasons, worst, instances byte) {
		var s statusAnswer
		var p portsAnswer
		if json.Unmarshal(status, &s) != nil {
			return
		}
		if err := p.take(ports); err != nil {
			oneLine(t, err)
			return
		}
		if len(s.Reasons) > 0 {
			s.Reasons = append(s.Reasons, slices.Repeat(s.Reasons[:1], int(reasons))...)
		}
		if len(s.Worst) > 0 {
			s.Worst = append(s.Worst, slices.Repeat(s.Worst[:1], int(worst))...)
		}
		if len(s.Instances) > 0 {
			s.Instances = append(s.Instances, slices.Repeat(s.Instances[:1], int(instances))...)
		}
		text := s.text(false)
		printable(t, text)
		if n := strings.Count(text, "\n"); n > statusLines {
			t.Errorf("%d lines:\n%s", n, text)
		}
		text = s.portList(p.Ports, false)
		if printable(t, text); strings.Count(text, "\n") != len(p.Ports)+1 {
			t.Errorf("of %d ports:\n%s", len(p.Ports), text)
		}
	})
}

// FuzzTLSFiles: whatever the three files hold, it is a reason of one line that names one of them, or mutual TLS 1.3.
func FuzzTLSFiles(f *testing.F) {
	dir := f.TempDir()
	var t testing.T // whoever issues has one
	a := newAuthority(&t, dir, "ca")
	a.issue("server", serverTemplate())
	a.issue("expired", &x509.Certificate{NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0), Subject: pkix.Name{CommonName: "old\nold"}})
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(dir, name))
		must(f, err)
		return text
	}
	cert, key, ca, expired := read("server.crt"), read("server.key"), read("ca.crt"), read("expired.crt")
	f.Add(cert, key, ca)
	f.Add(expired, key, ca)
	f.Add(cert, key, append(slices.Clone(expired), ca...))
	f.Add(slices.Concat(cert, ca), key, expired)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), key, []byte{})
	files := tlsFiles{cert: "a.crt", key: "a.key", clientCA: "ca.crt"}
	f.Fuzz(func(t *testing.T, cert, key, ca []byte) {
		now := time.Now()
		c, notAfter, err := files.config(&pemFiles{cert, key, ca}, now)
		if oneLine(t, err); err != nil {
			if c != nil || !strings.Contains(err.Error(), "-web.tls-") {
				t.Errorf("%v, and %v", c, err)
			}
			return
		}
		if c.MinVersion != tls.VersionTLS13 || c.ClientAuth != tls.RequireAndVerifyClientCert || c.ClientCAs == nil || c.ClientCAs.Equal(x509.NewCertPool()) ||
			now.After(notAfter) || len(c.Certificates) != 1 {
			t.Errorf("%+v until %v", c, notAfter)
		}
	})
}

// sameName is how names of hosts are compared: a letter of another alphabet is never one of this.
func sameName(a, b string) bool {
	letter := func(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] && (!letter(a[i]) || a[i]|0x20 != b[i]|0x20) {
			return false
		}
	}
	return len(a) == len(b)
}

// FuzzTLSNames: a client is let in for a name that it has and the list has, and for nothing else.
func FuzzTLSNames(f *testing.F) {
	f.Add("prometheus", "a.example.net", "spiffe://net/prometheus", []byte{192, 0, 2, 9}, "prometheus, backup")
	f.Add("", "", "", []byte{}, ",")
	f.Add("Backup", "", "", []byte{}, "backup")
	f.Add("\u212aube", "", "", []byte{}, "kube")
	f.Add(" ", "", "spiffe://net/Admin", []byte{}, "spiffe://net/admin")
	f.Add("", "\x9b", "", []byte{}, "\x9a")
	f.Fuzz(func(t *testing.T, cn, dns, uri string, ip []byte, list string) {
		var files tlsFiles
		if err := files.allow(list); err != nil {
			if !strings.Contains(err.Error(), "-web.tls-allowed-names") || list == "" {
				t.Error(err)
			}
			return
		}
		c := &x509.Certificate{Subject: pkix.Name{CommonName: cn}}
		names := []string{cn, dns}
		if dns != "" {
			c.DNSNames = []string{dns}
		}
		if len(ip) == net.IPv4len || len(ip) == net.IPv6len {
			c.IPAddresses = []net.IP{ip}
			names = append(names, net.IP(ip).String())
		}
		exact := ""
		if u, err := url.Parse(uri); err == nil && uri != "" {
			c.URIs, exact = []*url.URL{u}, u.String()
		}
		want := list == "" // then all that the CA has signed
		for _, allowed := range strings.Split(list, ",") {
			allowed = strings.TrimSpace(allowed)
			want = want || allowed != "" && (allowed == exact || slices.ContainsFunc(names, func(n string) bool { return sameName(n, allowed) }))
		}
		err := files.verifyName(tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}})
		if oneLine(t, err); (err == nil) != want {
			t.Errorf("%q, %q, %q, %v for one of %q: %v", cn, dns, uri, ip, list, err)
		}
	})
}
