package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portsyncd/internal/switchtest"
)

// status runs the command against a daemon's socket.
func statusOf(t testing.TB, socket string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	program := daemonProgram(t)
	cmd := exec.Command(program[0], append(append(slices.Clone(program[1:]), "status", "-control.socket", socket), args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), said.String()
}

// statusOf asks until the daemon answers: a machine that has much else to do does not make it do so in time.
func (s *testSwitch) statusOf(d *switchtest.Daemon, args ...string) (code int, out string) {
	s.t.Helper()
	var said string
	err := switchtest.WaitFor(patience, "an answer", func() bool {
		code, out, said = statusOf(s.t, d.Control, args...)
		return code != exitUnsure
	})
	if err != nil {
		s.t.Fatalf("%v: %s", err, said)
	}
	return code, out
}

// waitStatus waits until the status has all of the words, and returns it with its exit code.
func (s *testSwitch) waitStatus(d *switchtest.Daemon, words ...string) (code int, out string) {
	s.t.Helper()
	var said string
	err := switchtest.WaitFor(patience, "the status", func() bool {
		code, out, said = statusOf(s.t, d.Control)
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(out, w) })
	})
	if err != nil {
		s.t.Fatalf("%v: no %q in\n%s%s", err, words, out, said)
	}
	if strings.Contains(out, "\x1b") {
		s.t.Errorf("colours where there is no terminal: %q", out)
	}
	if n := strings.Count(out, "\n"); n > statusLines {
		s.t.Errorf("it has %d lines:\n%s", n, out)
	}
	return code, out
}

// TestStatus takes a switch through what an operator asks about.
func TestStatus(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(4)
	if code, out := s.waitStatus(d, "ok\n", "PortInitDone   sent", "databases      answer", "4 present: 4 up"); code != exitOK {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	s.must(s.SetCable(false, "Ethernet8"))
	code, out := s.waitStatus(d, "4 present: 3 up, 1 down", "Ethernet8  Eth3  down  2")
	if code != exitOK || strings.Contains(out, "Ethernet4") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	for range flapMemory {
		s.must(s.SetCable(true, "Ethernet4"))
		s.waitEntry("Ethernet4", fields("up", "up", 1500))
		s.must(s.SetCable(false, "Ethernet4"))
		s.waitEntry("Ethernet4", fields("down", "up", 1500))
	}
	s.waitStatus(d, "Ethernet4  Eth2  flapping  2")
	code, out = s.statusOf(d, "-ports")
	if code != exitOK || strings.Count(out, "\n") != 5 || !regexp.MustCompile(`Ethernet8 +Eth3 +up +down +1500 +\S+Z +1 +1 +carrier lost\n`).MatchString(out) {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	s.must(s.Redis[0].Process().Kill())
	_, out = s.waitStatus(d, "degraded\n  redis: ", "databases      do not answer")
	begun := time.Now()
	if code, _ = s.statusOf(d); code != exitNotWell {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	t.Logf("answered in %v without Redis", time.Since(begun))
}

// TestStatusOfADaemonThatIsStopped: it takes no answer for one, soon, and names the process.
func TestStatusOfADaemonThatIsStopped(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	d := s.daemon("-standalone", "-links", "lo")
	s.waitStatus(d, "none: -standalone")
	s.must(d.Signal(syscall.SIGSTOP))
	begun := time.Now()
	code, out, said := statusOf(t, d.Control)
	if took := time.Since(begun); code != exitUnsure || out != "" || took > patience/2 ||
		!strings.Contains(said, fmt.Sprintf("kill -CONT %d", d.PID())) {
		t.Errorf("exit code %d after %v: %s%s", code, took, out, said)
	}
	s.must(d.Signal(syscall.SIGCONT))
	s.waitStatus(d, "ok\n")
}

// TestStatusOfManyPorts: a screen is enough however many ports there are.
func TestStatusOfManyPorts(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 512))
	s.orchagent(false)
	d := s.daemon()
	code, _ := s.waitStatus(d, "degraded\n  port_init_done: PortInitDone waits for the interfaces of 512 ports",
		"PortInitDone   waits for Ethernet0, Ethernet4, Ethernet8, Ethernet12 and 508 more", "512 pending",
		"Ethernet0   Eth1   pending", "more ports to look at")
	if code != exitNotWell {
		t.Errorf("exit code %d", code)
	}
	if code, out := s.statusOf(d, "-ports"); code != exitNotWell || strings.Count(out, "\n") != 513 {
		t.Errorf("exit code %d, and:\n%s", code, out)
	}
}

// TestStatusCannotTell: one line says what is missing, and how to go on.
func TestStatusCannotTell(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	must(t, err)
	l.SetUnlinkOnClose(false)
	l.Close()
	for what, c := range map[string]struct {
		socket string
		args   []string
		want   []string
	}{
		"no socket":  {filepath.Join(dir, "none.sock"), nil, []string{"none.sock", "-control.socket"}},
		"no daemon":  {stale, nil, []string{"stale.sock", "-control.socket"}},
		"argument":   {stale, []string{"Ethernet0"}, []string{`"Ethernet0"`, "-ports"}},
		"wrong flag": {stale, []string{"-prots"}, []string{"-prots", "Usage"}},
	} {
		code, out, said := statusOf(t, c.socket, c.args...)
		if code != exitUnsure || out != "" || c.args == nil && strings.Count(said, "\n") != 1 {
			t.Errorf("%s: exit code %d: %s%s", what, code, out, said)
		}
		for _, word := range c.want {
			if !strings.Contains(said, word) {
				t.Errorf("%s: no %q in %s", what, word, said)
			}
		}
	}
	if said := unreachable("/s", &net.OpError{Err: os.NewSyscallError("connect", syscall.EACCES)}).Error(); !strings.Contains(said, "sudo") {
		t.Error(said)
	}
	if code, _, said := statusOf(t, "", "-h"); code != exitOK || !strings.Contains(said, "Usage: portsyncd status") {
		t.Errorf("-h: exit code %d: %s", code, said)
	}
}

// TestStatusWatch prints again and again, until it is interrupted.
func TestStatusWatch(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	d := s.daemon("-standalone", "-links", "lo")
	s.waitStatus(d, "ok\n")
	program := daemonProgram(t)
	w, err := switchtest.StartProgram(program[0], append(slices.Clone(program[1:]), "status", "-control.socket", d.Control, "-watch")...)
	s.must(err)
	t.Cleanup(w.Stop)
	s.waitFor("a second page", func() bool { return strings.Count(w.Log(), "ok\n") > 1 })
	s.must(w.Signal(syscall.SIGINT))
	if code, err := w.Wait(patience); err != nil || code != exitOK {
		t.Errorf("exit code %d, %v", code, err)
	}
}

// TestWatchFitsIntoTheTerminal: the verdict, in the first line, stays in sight.
func TestWatchFitsIntoTheTerminal(t *testing.T) {
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	defer ours.Close()
	must(t, unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	must(t, err)
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	defer terminal.Close()
	must(t, unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 5, Col: 20}))
	for lines, want := range map[int]string{
		4: "1\n2\n3\n4\n", 5: "1\n2\n3\n2 more lines\n", 9: "1\n2\n3\n6 more lines\n",
	} {
		page := ""
		for i := range lines {
			page += fmt.Sprintf("%d\n", i+1)
		}
		must(t, newScreen(terminal).show(page, true))
		buf := make([]byte, 4096)
		n, err := ours.Read(buf)
		must(t, err)
		want = "\x1b[?7l\x1b[H" + strings.ReplaceAll(want, "\n", "\x1b[K\r\n") + "\x1b[J\x1b[?7h"
		if got := string(buf[:n]); got != want {
			t.Errorf("%d lines: %q, want %q", lines, got, want)
		}
	}
}

// TestStatusPrintsNoControlCharacters: what comes from the kernel and from CONFIG_DB moves no terminal's cursor.
func TestStatusPrintsNoControlCharacters(t *testing.T) {
	s := &statusAnswer{Verdict: "failed", Worst: []worstAnswer{{Port: "Ethernet0", Alias: "\x1b[2Jme\n", Why: whyDown}}}
	if text := s.text(false); strings.ContainsAny(text, "\x1b") || strings.Count(text, "\n") != 9 {
		t.Errorf("%q", text)
	}
	if text := s.text(true); !strings.HasPrefix(text, "\x1b[31mfailed\x1b[0m\n") {
		t.Errorf("%q", text)
	}
}

// ask is a request to a daemon's API over TCP.
func ask(t testing.TB, d *switchtest.Daemon, method, path string) (code int, body string) {
	t.Helper()
	request, err := http.NewRequest(method, "http://"+d.Metrics+path, nil)
	must(t, err)
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	return response.StatusCode, string(text)
}

// fieldsIn is the names of all fields of a JSON value, as docs/api.md writes them.
func fieldsIn(v any, prefix string, found map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			found[prefix+name] = true
			fieldsIn(value, prefix+name+".", found)
		}
	case []any:
		for _, value := range v {
			fieldsIn(value, strings.TrimSuffix(prefix, ".")+"[].", found)
		}
	}
}

// TestAPIHasTheDocumentedFields, and no others, in the answers of a daemon that has something of everything to tell.
func TestAPIHasTheDocumentedFields(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 2))
	o := s.orchagent(false)
	d := s.daemon("-instance", "a")
	s.waitServed(d)
	s.waitFor("the instances", func() bool { return len(s.instances(d)) == 1 })
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	s.must(s.AddPorts("Ethernet0"))
	s.waitEntry("Ethernet0", fields("up", "up", 1500))
	s.must(s.SetCable(false, "Ethernet0"))
	s.waitEntry("Ethernet0", fields("down", "up", 1500))
	s.must(s.Appl.HSet(t.Context(), "PORT_TABLE:Ethernet0", "oper_status", "up").Err())
	s.must(s.State.HSet(t.Context(), "PORT_OPERR_TABLE|Ethernet0", "oper_error_status", "1").Err())
	s.waitFor("the fault", func() bool { _, body := ask(t, d, "GET", eventsPath); return strings.Contains(body, "mac_local_fault") })
	text, err := os.ReadFile("docs/api.md")
	s.must(err)
	for _, path := range []string{statusPath, portsPath, diffPath, eventsPath} {
		_, section, found := strings.Cut(string(text), "## `"+path+"`")
		section, _, _ = strings.Cut(section, "\n## ")
		documented := map[string]bool{}
		for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1) {
			documented[row[1]] = true
		}
		code, body := ask(t, d, "GET", path)
		var answer any
		if err := json.Unmarshal([]byte(body), &answer); err != nil || code != http.StatusOK {
			t.Fatalf("%s: %d, %v:\n%s", path, code, err, body)
		}
		got := map[string]bool{}
		fieldsIn(answer, "", got)
		if !found || !maps.Equal(got, documented) {
			t.Errorf("%s has\n%q, documented are\n%q", path, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(documented)))
		}
	}
}

// TestAPIRefuses what it does not know, and says what.
func TestAPIRefuses(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(3)
	for _, c := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", portsPath + "?port=Ethernet0&port=Ethernet8", http.StatusOK, `"Ethernet8"`},
		{"GET", portsPath + "?port=Ethernet0&port=Ethernet9", http.StatusNotFound, `no port \"Ethernet9\"`},
		{"GET", diffPath + "?port=Ethernet9", http.StatusNotFound, `no port \"Ethernet9\"`},
		{"GET", diffPath + "?port=Ethernet4", http.StatusOK, `"checked": 1`},
		{"GET", eventsPath + "?port=Ethernet4&since=1h&follow=1", http.StatusOK, `"what": "created"`},
		{"GET", eventsPath + "?port=Ethernet9", http.StatusNotFound, `no port \"Ethernet9\"`},
		{"GET", eventsPath + "?since=soon", http.StatusBadRequest, "since="},
		{"GET", eventsPath + "?after=soon", http.StatusBadRequest, "after="},
		{"GET", "/?port=Ethernet9", http.StatusNotFound, "Ethernet9"},
		{"HEAD", statusPath, http.StatusOK, ""},
		{"POST", statusPath, http.StatusMethodNotAllowed, ""},
		{"DELETE", portsPath, http.StatusMethodNotAllowed, ""},
		{"GET", "/api/v1/nothing", http.StatusNotFound, ""},
	} {
		if code, body := ask(t, d, c.method, c.path); code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d\n%s", c.method, c.path, code, body)
		}
	}
	before := s.metric(d, "process_open_fds")
	for range 5 {
		ask(t, d, "GET", diffPath+"?port=Ethernet4")
	}
	s.waitMetric(d, "process_open_fds", before) // a diff leaves nothing behind
}

// TestAPIDiffWhileLinksAreHeld: a diff that the kernel holds is the only one until it lets go, and leaves nothing behind.
// The status comes meanwhile.
func TestAPIDiffWhileLinksAreHeld(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(2)
	ask(t, d, "GET", diffPath+"?port=Ethernet4")
	before := s.metric(d, "process_open_fds")
	release := s.holdLinks(t)
	for _, want := range []string{"rtnl", "another diff"} {
		if code, body := ask(t, d, "GET", diffPath); code != http.StatusServiceUnavailable || !strings.Contains(body, want) {
			t.Errorf("%d, want %s:\n%s", code, want, body)
		}
	}
	s.waitStatus(d, "PortInitDone   sent")
	release()
	s.waitFor("a diff", func() bool {
		code, _ := ask(t, d, "GET", diffPath+"?port=Ethernet4")
		return code == http.StatusOK
	})
	s.waitMetric(d, "process_open_fds", before)
}

// TestFlapsOfAnHour: to within five minutes, exact whatever the number, and whenever the clock began.
func TestFlapsOfAnHour(t *testing.T) {
	s, at := newMetrics("").newPort("Ethernet0", 7), time.Now().Add(7*time.Hour)
	s.flapped(2, at)
	s.flapped(70000, at.Add(30*time.Minute))
	for _, c := range []struct {
		after time.Duration
		want  uint64
	}{{0, 2}, {30 * time.Minute, 70002}, {60 * time.Minute, 70002}, {65 * time.Minute, 70000}, {90 * time.Minute, 70000},
		{95 * time.Minute, 0}, {1000 * time.Hour, 0}} {
		if got := s.flapsLastHour(at.Add(c.after)); got != c.want {
			t.Errorf("%v later: %d, want %d", c.after, got, c.want)
		}
	}
	s.flapped(1, at.Add(65*time.Minute)) // the place of the first one
	if got := s.flapsLastHour(at.Add(65 * time.Minute)); got != 70001 {
		t.Errorf("%d", got)
	}
	if n := testing.AllocsPerRun(100, func() { s.flapped(1, at) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestPortThatIsNewDoesNotFlap, however short the daemon runs, and whatever the wall's clock says.
func TestPortThatIsNewDoesNotFlap(t *testing.T) {
	s := newMetrics("").newPort("Ethernet0", 0)
	if s.flapping(time.Now()) {
		t.Error("it never lost its carrier, and is flapping")
	}
	s.flapped(flapMemory, time.Now().Add(-2*flapWindow))
	if s.flapping(time.Now()) {
		t.Error("that was long ago")
	}
}

// TestFlapping: three losses of carrier within five minutes, however they are told of.
func TestFlapping(t *testing.T) {
	s, at := newMetrics("").newPort("Ethernet0", 7), time.Unix(1e9, 0)
	for _, c := range []struct {
		flaps uint64
		after time.Duration
		want  bool
	}{{0, 0, false}, {1, 0, false}, {1, flapWindow + time.Second, false}, {1, 0, false}, {1, time.Minute, true}, {0, flapWindow, false}, {3, 0, true}} {
		at = at.Add(c.after)
		if s.flapped(c.flaps, at); s.flapping(at) != c.want {
			t.Errorf("after %+v: %v", c, !c.want)
		}
	}
	if n := s.flaps.Load(); n != 14 {
		t.Errorf("%d flaps", n)
	}
}
