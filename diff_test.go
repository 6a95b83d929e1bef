package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// diff runs the command on the switch.
func (s *testSwitch) diff(args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	program := daemonProgram(s.t)
	args = append(append(slices.Clone(program[1:]), "diff", "-db.config", s.ConfigFile, "-netns", s.NetNS), args...)
	cmd := exec.Command(program[0], args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), said.String()
}

// settled starts a switch on which all four sources agree.
func (s *testSwitch) settled(n int) *switchtest.Daemon {
	s.t.Helper()
	d, _ := s.start(n)
	for _, p := range portNames(n) {
		s.must(s.Config.HSet(s.t.Context(), s.ConfigKey("PORT", p), "mtu", "1500").Err())
		s.must(s.Appl.HSet(s.t.Context(), "PORT_TABLE:"+p, "oper_status", "up").Err())
	}
	return d
}

// TestDiffNamesEveryDisagreement: one fault a port, all found in one run, each by what disagrees, and nothing is written.
// The two of sonic-buildimage#22257 and #24689 are those of Ethernet8 and Ethernet12: oper_status and the kernel's.
func TestDiffNamesEveryDisagreement(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d := s.settled(12)
	if code, out, said := s.diff(); code != exitAgree || !strings.Contains(out, "agree about 12 ports") {
		t.Fatalf("exit code %d: %s%s", code, out, said)
	}
	s.must(d.Signal(syscall.SIGSTOP)) // it would mend some of it
	ctx := t.Context()
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "1400"))
	s.must(s.Appl.HSet(ctx, "PORT_TABLE:Ethernet8", "oper_status", "down").Err())
	s.must(s.IP("link", "set", "Ethernet12", "down"))
	s.must(s.State.HSet(ctx, s.StateKey("Ethernet12"), "netdev_oper_status", "down", "admin_status", "down").Err())
	s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", "Ethernet16"), "admin_status", "down").Err())
	s.must(s.Config.HDel(ctx, s.ConfigKey("PORT", "Ethernet20"), "mtu").Err())
	s.must(s.State.Del(ctx, s.StateKey("Ethernet24")).Err())
	s.must(s.Appl.Del(ctx, "PORT_TABLE:Ethernet28").Err())
	s.must(s.Config.Del(ctx, s.ConfigKey("PORT", "Ethernet32")).Err())
	s.must(s.IP("link", "del", "Ethernet36"))
	s.must(s.State.Del(ctx, s.StateKey("Ethernet40")).Err()) // its entry is another daemon's alone
	s.must(s.State.HSet(ctx, s.StateKey("Ethernet40"), "supported_speeds", "100000").Err())
	want := map[string][]string{
		"Ethernet4":  {"mtu STATE_DB kernel", "mtu CONFIG_DB kernel"},
		"Ethernet8":  {"oper APPL_DB kernel"},
		"Ethernet12": {"oper APPL_DB kernel", "admin CONFIG_DB kernel"},
		"Ethernet16": {"admin CONFIG_DB kernel"},
		"Ethernet20": {"mtu CONFIG_DB kernel"},
		"Ethernet24": {"presence STATE_DB kernel"},
		"Ethernet28": {"presence CONFIG_DB APPL_DB"},
		"Ethernet32": {"presence CONFIG_DB APPL_DB"},
		"Ethernet36": {"presence STATE_DB kernel", "presence APPL_DB kernel"},
		"Ethernet40": {"presence STATE_DB kernel"},
	}
	before := s.changes()
	code, out, said := s.diff("-json")
	if code != exitDiffer || said != "" {
		t.Fatalf("exit code %d: %s", code, said)
	}
	var r diffReport
	s.must(json.Unmarshal([]byte(out), &r))
	got := map[string][]string{}
	for _, p := range r.Ports {
		for _, d := range p.Differences {
			got[p.Port] = append(got[p.Port], d.About+" "+d.Between[0]+" "+d.Between[1])
		}
		if p.Since < settleTime.Seconds() {
			t.Errorf("%s: seen for %v s", p.Port, p.Since)
		}
	}
	if !maps.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if r.Checked != 12 || !slices.IsSortedFunc(r.Ports, func(a, b portDiff) int { return comparePorts(a.Port, b.Port) }) {
		t.Errorf("%d ports were checked; %s", r.Checked, out)
	}
	if after := s.changes(); after != before {
		t.Errorf("%s and then %s: something was written", before, after)
	}
	code, out, _ = s.diff("Ethernet0", "Ethernet8")
	for _, word := range []string{"Ethernet8 differs, for 2 s or longer", "oper: APPL_DB has down, the kernel up",
		"CONFIG_DB  admin up    oper -     mtu 1500 ", "1 of 2 ports differ"} {
		if code != exitDiffer || !strings.Contains(out, word) {
			t.Errorf("exit code %d, and no %q in:\n%s", code, word, out)
		}
	}
	if strings.Contains(out, "Ethernet4 ") {
		t.Errorf("ports that nobody asked for:\n%s", out)
	}
}

// changes is how often the server's data was changed.
func (s *testSwitch) changes() string {
	text, err := s.State.Info(s.t.Context(), "persistence").Result()
	s.must(err)
	_, rest, _ := strings.Cut(text, "rdb_changes_since_last_save:")
	count, _, _ := strings.Cut(rest, "\r\n")
	return count + " changes"
}

// TestDiffWaitsForChangesUnderWay: a difference of less than two seconds is none.
func TestDiffWaitsForChangesUnderWay(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.settled(2)
	key := "PORT_TABLE:Ethernet4"
	s.must(s.Appl.HSet(t.Context(), key, "oper_status", "down").Err())
	mended := make(chan error, 1)
	time.AfterFunc(settleTime/2, func() { mended <- s.Appl.HSet(t.Context(), key, "oper_status", "up").Err() })
	code, out, said := s.diff()
	s.must(<-mended)
	if code != exitAgree {
		t.Errorf("exit code %d: %s%s", code, out, said)
	}
}

// TestDiffLeftOver: an old interface, which portsyncd has noted, is called by its name. Nobody says so of the others.
func TestDiffLeftOver(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.must(s.AddPorts("Ethernet0"))
	s.must(s.Configure(t.Context(), 2))
	o := s.orchagent(false)
	s.daemon()
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	code, out, said := s.diff()
	if code != exitDiffer || !strings.Contains(out, "is a left-over of the switch software's previous run") ||
		!strings.Contains(out, "orchagent was told of the port, and there is no interface") {
		t.Errorf("exit code %d: %s%s", code, out, said)
	}
}

// TestDiffCannotTell: what it needs is missing or does not answer. It says which, soon, and how to go on.
func TestDiffCannotTell(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.settled(2)
	fails := func(what string, words []string, args ...string) {
		t.Helper()
		begun := time.Now()
		code, out, said := s.diff(args...)
		if took := time.Since(begun); code != exitUnsure || out != "" || took > patience/2 {
			t.Errorf("%s: exit code %d after %v: %s", what, code, took, out)
		}
		for _, word := range words {
			if !strings.Contains(said, word) {
				t.Errorf("%s: no %q in %q", what, word, said)
			}
		}
	}
	fails("an unknown port", []string{`no port "Ethernet400"`, "CONFIG_DB's PORT table"}, "Ethernet0", "Ethernet400")
	fails("an unknown flag", []string{"-jsn", "Usage"}, "-jsn")
	fails("a flag after a port", []string{"flag -json after a port"}, "Ethernet0", "-json")
	fails("no configuration", []string{"-db.config", "/nowhere.json"}, "-db.config", "/nowhere.json")
	fails("no namespace", []string{"-netns nowhere"}, "-netns", "nowhere")
	s.must(s.Config.Set(t.Context(), configReady, "0", 0).Err())
	fails("CONFIG_DB is being loaded", []string{configReady})
	s.must(s.Config.Set(t.Context(), configReady, "1", 0).Err())
	s.must(s.Redis[0].Process().Signal(syscall.SIGSTOP))
	fails("Redis hangs", []string{"CONFIG_DB", "timeout"})
	s.must(s.Redis[0].Process().Signal(syscall.SIGCONT))
	s.must(s.Redis[0].Process().Kill())
	s.waitFor("Redis to be gone", func() bool { return s.State.Ping(t.Context()).Err() != nil })
	fails("Redis is down", []string{"CONFIG_DB", s.Redis[0].Socket})
}

// TestDiffOfHeldLinks: it says what holds it up, and ends when the kernel lets go of its thread. The lock on links is the whole
// machine's, so nothing runs beside.
func TestDiffOfHeldLinks(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.settled(2)
	release := s.holdLinks(t)
	program := daemonProgram(t)
	cmd := exec.Command(program[0], append(slices.Clone(program[1:]), "diff", "-db.config", s.ConfigFile, "-netns", s.NetNS)...)
	said, err := cmd.StderrPipe()
	s.must(err)
	begun := time.Now()
	s.must(cmd.Start())
	line, _ := bufio.NewReader(said).ReadString('\n')
	if took := time.Since(begun); !strings.Contains(line, "rtnl") || took > patience/2 {
		t.Errorf("after %v: %q", took, line)
	}
	release()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitUnsure {
		t.Errorf("exit code %d", code)
	}
}

// TestDiffNeverSaysLonger than it has seen a difference.
func TestDiffNeverSaysLonger(t *testing.T) {
	lasting := func() []portDiff {
		return []portDiff{{Port: "Ethernet0", Differences: []difference{{About: "mtu"}}}}
	}
	r := diffReport{Checked: 1, Ports: lasting()}
	r.keep(lasting(), 2960*time.Millisecond)
	var out strings.Builder
	must(t, r.print(new(diffOptions), &out))
	if r.Ports[0].Since != 2.9 || !strings.Contains(out.String(), "for 2 s or longer") {
		t.Errorf("%v s: %s", r.Ports[0].Since, &out)
	}
}

// TestDifferences is what cannot be had on this kernel, and what is no difference.
func TestDifferences(t *testing.T) {
	whole := func(change func(s *sides)) *sides {
		s := &sides{Kernel: &side{Ifindex: 7, Admin: "up", Oper: "up", MTU: "9100"},
			State: &side{State: "ok", Admin: "up", Oper: "up", MTU: "9100"},
			Appl:  &side{Admin: "up", Oper: "up", MTU: "9100"}, Config: &side{Admin: "up"}}
		change(s)
		return s
	}
	for what, c := range map[string]struct {
		change func(s *sides)
		want   []string
	}{
		"agreement":                      {func(*sides) {}, nil},
		"orchagent has said nothing yet": {func(s *sides) { s.Appl.Oper = "" }, nil},
		"orchagent's other words for down": {func(s *sides) { s.Appl.Oper, s.Kernel.Oper, s.State.Oper = "not_present", "down", "down" },
			nil},
		"not present, and yet running":          {func(s *sides) { s.Appl.Oper = "not_present" }, []string{"oper APPL_DB"}},
		"a LAG's member has the LAG's MTU":      {func(s *sides) { s.Kernel.MTU, s.State.MTU, s.Kernel.inLAG = "1500", "1500", true }, nil},
		"nobody's MTU":                          {func(s *sides) { s.Kernel.MTU, s.State.MTU = "1500", "1500" }, []string{"mtu CONFIG_DB"}},
		"CONFIG_DB without admin_status: down":  {func(s *sides) { s.Config.Admin = "" }, []string{"admin CONFIG_DB"}},
		"an interface that is no port any more": {func(s *sides) { s.Appl, s.Config, s.Kernel.Oper = nil, nil, "down" }, nil},
		"an interface that never was one":       {func(s *sides) { *s = sides{Kernel: s.Kernel} }, nil},
		"portmgrd waits for STATE_DB": {func(s *sides) { s.State, s.Kernel.Admin = nil, "down" },
			[]string{"presence STATE_DB"}},
		"only configured": {func(s *sides) { *s = sides{Config: s.Config} }, []string{"presence CONFIG_DB"}},
	} {
		var got []string
		for _, d := range whole(c.change).differences() {
			got = append(got, d.About+" "+d.Between[0])
			if d.Says == "" || d.Do == "" {
				t.Errorf("%s: nothing is said: %+v", what, d)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}

// BenchmarkDiff is portsyncd diff as a whole process, without a difference.
func BenchmarkDiff(b *testing.B) {
	for _, n := range []int{32, 512} {
		b.Run(fmt.Sprint(n, " ports"), func(b *testing.B) {
			s := newSwitch(b, switchtest.Options{})
			s.settled(n)
			for b.Loop() {
				if code, out, said := s.diff(); code != exitAgree {
					b.Fatalf("exit code %d: %s%s", code, out, said)
				}
			}
		})
	}
}

// TestDiffInAStorm: interfaces that come and go while it lists them make no difference.
func TestDiffInAStorm(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.settled(16)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	storm := make(chan error, 1)
	go func() {
		var lines []string
		for i := range 50 {
			lines = append(lines, fmt.Sprintf("link add s%d type veth peer name t%d", i, i), fmt.Sprintf("link del s%d", i))
		}
		for ctx.Err() == nil {
			if err := s.Batch(s.NetNS, lines...); err != nil {
				storm <- err
				return
			}
		}
		storm <- nil
	}()
	for range 5 {
		if code, out, said := s.diff(); code != exitAgree {
			t.Errorf("exit code %d: %s%s", code, out, said)
		}
	}
	stop()
	s.must(<-storm)
}

// TestNamesInJSON: docs/api.md: names of ports that are not UTF-8 are written as in the metrics.
func TestNamesInJSON(t *testing.T) {
	u := &unit{m: newMetrics("test"), health: new(health)}
	u.health.differ.tell(operDisagrees, []disagreement{{"Ethernet\xff", "x", time.Now().Add(-time.Minute)}})
	text, err := json.Marshal(newAPI(newBox(u), false).status(time.Now()))
	must(t, err)
	if !strings.Contains(string(text), `"port":"Ethernet/ff"`) {
		t.Errorf("%s", regexp.MustCompile(`"differs":\[[^]]*\]`).Find(text))
	}
	report := &diffReport{Ports: []portDiff{}}
	report.take(map[string]*sides{"Ethernet\xff": {State: &side{State: "ok"}}}, nil)
	text, err = json.Marshal(report)
	must(t, err)
	if !strings.Contains(string(text), `"port":"Ethernet/ff"`) {
		t.Errorf("%s", text)
	}
}

// TestDiffOfNoNamespaces: with -db.global whose file is not there yet, 503 says why.
func TestDiffOfNoNamespaces(t *testing.T) {
	b := newSeveral(newProcessMetrics("test"), new(health))
	w := httptest.NewRecorder()
	newAPI(b, false).serveDiff(w, httptest.NewRequest("GET", diffPath, nil))
	if strings.Contains(w.Body.String(), `"error": ""`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
