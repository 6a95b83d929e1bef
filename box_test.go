package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// A switch with several ASICs, looked after by one process: SONIC.md, "Several ASICs".

// testBox is one for one test.
type testBox struct {
	*switchtest.Box
	t     *testing.T
	asics []*testSwitch
	d     *switchtest.Daemon
}

// newBoxTest makes a box of n ASICs with ports, and starts its daemon.
func newBoxTest(t *testing.T, n, ports int, flags ...string) *testBox {
	t.Helper()
	newSwitch(t, switchtest.Options{KeepAwayDBs: true}) // says what is missing
	made, err := switchtest.NewBox(n, switchtest.Options{})
	must(t, err)
	t.Cleanup(made.Close)
	b := &testBox{Box: made, t: t}
	for _, sw := range made.ASICs {
		s := &testSwitch{Switch: sw, t: t}
		b.asics = append(b.asics, s)
		must(t, s.Configure(t.Context(), ports))
		s.orchagent(true)
	}
	b.d, err = made.StartDaemon(daemonProgram(t), flags...)
	must(t, err)
	b.asics[0].keep(b.d)
	return b
}

// up waits until all ports of an ASIC are up in STATE_DB.
func (b *testBox) up(s *testSwitch, ports int) {
	b.t.Helper()
	for _, p := range portNames(ports) {
		s.waitEntry(p, fields("up", "up", 1500))
	}
	s.waitMetric(b.d, `portsyncd_port_init_done{namespace="`+s.NetNS+`"}`, "1")
}

// get asks the daemon over its control socket.
func (b *testBox) get(path string, answer any) {
	b.t.Helper()
	text, err := askDaemon(b.d.Control, path, time.Now().Add(patience))
	must(b.t, err)
	must(b.t, json.Unmarshal(text, answer))
}

// probe is the answer of /healthz or /readyz.
func (b *testBox) probe(path string) (code int, body string) {
	b.t.Helper()
	response, err := http.Get("http://" + b.d.Metrics + path)
	must(b.t, err)
	defer response.Body.Close()
	var text bytes.Buffer
	_, err = text.ReadFrom(response.Body)
	must(b.t, err)
	return response.StatusCode, text.String()
}

func TestBoxOfFourASICs(t *testing.T) {
	t.Parallel()
	const ports = 4
	b := newBoxTest(t, 4, ports)
	for _, s := range b.asics {
		b.up(s, ports)
	}
	one, port := b.asics[1], switchtest.PortName(2)
	must(t, one.SetCable(false, port))
	one.waitEntry(port, fields("down", "up", 1500))
	for _, s := range b.asics { // the others' port of the same name is another one
		want := "1"
		if s == one {
			want = "0"
		}
		s.waitMetric(b.d, `portsyncd_port_oper_up{namespace="`+s.NetNS+`",port="`+port+`"}`, want)
	}
	text := one.scrape(b.d)
	for _, f := range newMetrics("").families {
		if n := strings.Count(text, "# TYPE "+f.name+" "); n != 1 {
			t.Errorf("%s has %d TYPE lines", f.name, n)
		}
		name := f.name
		if f.kind == histogramKind {
			name += "_bucket"
		}
		labelled, plain := strings.Contains(text, "\n"+name+`{namespace="`), strings.Contains(text, "\n"+name+" ")
		if f.ofProcess() == labelled || !f.ofProcess() && plain {
			t.Errorf("%s: of the process: %v, labelled: %v, without a label: %v", f.name, f.ofProcess(), labelled, plain)
		}
	}
	if code, body := b.probe("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz answers %d %s", code, body)
	}
	var status statusAnswer
	b.get(statusPath, &status)
	if status.Verdict != "ok" || status.Ports.Present != 4*ports || len(status.Namespaces) != 4 ||
		!slices.ContainsFunc(status.Worst, func(w worstAnswer) bool { return w.Namespace == one.NetNS && w.Port == port }) {
		t.Errorf("the status is %+v", status)
	}
	documented, err := os.ReadFile("docs/api.md")
	must(t, err)
	for path, wanted := range map[string][]string{
		statusPath: {"reasons[].namespace", "worst[].namespace", "namespaces[].verdict", "namespaces[].port_config_done",
			"namespaces[].port_init_done", "namespaces[].databases_connected", "namespaces[].ports",
			"namespaces[].namespace"},
		portsPath: {"ports[].namespace"}, eventsPath: {"events[].namespace"}} {
		var answer any
		b.get(path, &answer)
		got := map[string]bool{"reasons[].namespace": true} // nothing is wrong here
		fieldsIn(answer, "", got)
		for _, field := range wanted {
			if !got[field] || !strings.Contains(string(documented), "`"+field+"`") {
				t.Errorf("%s is not in the answer under %s, or not in docs/api.md", field, path)
			}
		}
	}
	var lost []happened
	one.waitFor("the event", func() bool { // it is kept back for a moment
		var answer eventsAnswer
		b.get(eventsPath+"?port="+port, &answer)
		lost = slices.DeleteFunc(answer.Events, func(h happened) bool { return h.What != causeCarrierLost.String() })
		return len(lost) > 0
	})
	if len(lost) != 1 || lost[0].Namespace != one.NetNS {
		t.Errorf("these lost their carrier: %+v", lost)
	}
	var out, errs bytes.Buffer
	if code := runEvents([]string{"-recorder.file", b.Recorder(), "-json", port}, &out, &errs); code != exitOK ||
		!strings.Contains(out.String(), `"namespace":"`+one.NetNS+`"`) {
		t.Errorf("portsyncd events: %d %s%s", code, &out, &errs)
	}
	out.Reset()
	if runDiff([]string{"-db.global", b.GlobalFile}, &out, &errs); !strings.Contains(out.String(), "about 16 ports") &&
		!strings.Contains(out.String(), "of 16 ports") {
		t.Errorf("portsyncd diff: %s%s", &out, &errs)
	}
	watcher, err := b.StartDaemon(daemonProgram(t), "-observe", "-recorder.file", "")
	must(t, err)
	one.keep(watcher)
	one.waitFor("the observer to see who writes", func() bool {
		text, err := askDaemon(watcher.Control, statusPath, time.Now().Add(patience))
		var status statusAnswer
		return err == nil && json.Unmarshal(text, &status) == nil && len(status.Namespaces) == 4 &&
			len(status.Writers) == 1 && status.Writers[0].PID == b.d.PID()
	})
	started := time.Now()
	must(t, b.d.Signal(syscall.SIGTERM))
	if code, err := b.d.Wait(patience); err != nil || code != exitOK {
		t.Errorf("it ends with %d, %v", code, err)
	}
	t.Logf("ended after %v", time.Since(started).Round(time.Millisecond))
}

// TestOneASICsTroubleIsItsOwn hurts one namespace after the other, while the rest changes and is published.
func TestOneASICsTroubleIsItsOwn(t *testing.T) {
	t.Parallel()
	const ports = 4
	b := newBoxTest(t, 3, ports)
	for _, s := range b.asics {
		b.up(s, ports)
	}
	hurt, well := b.asics[0], b.asics[1:]
	troubles := []struct {
		what       string
		begin, end func()
		check      string // of the one that is hurt
	}{
		{"its Redis is killed", func() { hurt.Redis[0].Stop() }, func() {
			must(t, hurt.StartRedis())
			must(t, hurt.Configure(t.Context(), ports))
			hurt.orchagent(false)
		}, "redis"},
		{"its Redis hangs", func() { must(t, hurt.Redis[0].Process().Signal(syscall.SIGSTOP)) },
			func() { must(t, hurt.Redis[0].Process().Signal(syscall.SIGCONT)) }, "redis"},
		{"its namespace is made again", func() { must(t, hurt.DropNetNS()) }, func() {
			indexes := map[string]int{}
			for i, p := range portNames(ports) {
				indexes[p] = 100 + i
			}
			must(t, hurt.MakeNetNS(indexes))
		}, "netlink"},
	}
	cable := true
	for _, trouble := range troubles {
		trouble.begin()
		cable = !cable
		must(t, hurt.SetCable(cable, portNames(ports)...))
		for _, s := range well {
			must(t, s.SetCable(cable, switchtest.PortName(0)))
			s.waitEntry(switchtest.PortName(0), fields(upDown(cable), "up", 1500))
		}
		series := fmt.Sprintf(`portsyncd_health_check{namespace="%s",check="%s"}`, hurt.NetNS, trouble.check)
		hurt.waitMetric(b.d, series, "0.5")
		if got := hurt.metric(b.d, "portsyncd_health_status"); got != "0.5" {
			t.Errorf("%s: the process's health is %s", trouble.what, got)
		}
		code, body := b.probe("/readyz")
		lines := strings.Split(strings.TrimSpace(body), "\n")
		if code != http.StatusServiceUnavailable || slices.ContainsFunc(lines, func(l string) bool {
			return !strings.HasPrefix(l, hurt.NetNS+": ")
		}) {
			t.Errorf("%s: /readyz answers %d %s", trouble.what, code, body)
		}
		var out, errs bytes.Buffer
		if code := runDiff([]string{"-db.global", b.GlobalFile}, &out, &errs); trouble.check == "redis" && (code != exitUnsure ||
			!strings.Contains(out.String(), hurt.NetNS+" could not be looked at: ") ||
			!strings.Contains(out.String(), fmt.Sprintf(" %d ports", len(well)*ports))) {
			t.Errorf("%s: portsyncd diff: %d %s%s", trouble.what, code, &out, &errs)
		}
		if code, body := b.probe("/healthz"); code != http.StatusOK {
			t.Errorf("%s: /healthz answers %d %s", trouble.what, code, body)
		}
		trouble.end()
		oper := upDown(cable)
		if trouble.check == "netlink" { // the new interfaces' cables are plugged in
			oper = "up"
		}
		for _, p := range portNames(ports) {
			hurt.waitEntry(p, fields(oper, "up", 1500))
		}
		hurt.waitMetric(b.d, series, "1")
	}
	if n := b.d.Logged("msg=\"listening to link messages\""); n != len(b.asics) {
		t.Errorf("%d loops were begun for %d namespaces", n, len(b.asics))
	}
}

// TestNamespacesComeAndGo: the file is followed, one that is broken changes nothing, and whatever a namespace lacks it
// waits for alone.
func TestNamespacesComeAndGo(t *testing.T) {
	t.Parallel()
	const ports = 2
	b := newBoxTest(t, 3, ports)
	for _, s := range b.asics {
		b.up(s, ports)
	}
	first, second, third := b.asics[0], b.asics[1], b.asics[2]
	present := func(s *testSwitch) func() bool {
		return func() bool { return strings.Contains(first.scrape(b.d), `namespace="`+s.NetNS+`"`) }
	}
	must(t, b.List(first.Switch, second.Switch))
	first.waitFor("the third to go", func() bool { return !present(third)() })
	must(t, os.WriteFile(b.GlobalFile, []byte(`{"INCLUDES": [`), 0o644))
	first.waitMetric(b.d, `portsyncd_health_check{check="netlink"}`, "0.5")
	if code, body := b.probe("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, b.GlobalFile) {
		t.Errorf("/readyz answers %d %s", code, body)
	}
	if !present(second)() {
		t.Error("a broken file ends a namespace")
	}
	must(t, os.Remove(second.ConfigFile)) // it was read, and is not looked at again
	must(t, os.Rename(third.ConfigFile, third.ConfigFile+".away"))
	must(t, b.List(first.Switch, second.Switch, third.Switch))
	first.waitFor("the third to be back", present(third))
	first.waitMetric(b.d, `portsyncd_health_check{namespace="`+third.NetNS+`",check="redis"}`, "0.5")
	must(t, first.SetCable(false, switchtest.PortName(1)))
	first.waitEntry(switchtest.PortName(1), fields("down", "up", 1500))
	must(t, third.SetCable(false, switchtest.PortName(1)))
	must(t, os.Rename(third.ConfigFile+".away", third.ConfigFile))
	third.waitEntry(switchtest.PortName(1), fields("down", "up", 1500))
	b.up(first, 1)
}

// boxOfOne makes a box with one ASIC, without a daemon.
func boxOfOne(t *testing.T) (*switchtest.Box, *testSwitch) {
	t.Helper()
	newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	made, err := switchtest.NewBox(1, switchtest.Options{})
	must(t, err)
	t.Cleanup(made.Close)
	return made, &testSwitch{Switch: made.ASICs[0], t: t}
}

// TestFabricASICHasNoUnit: nothing is written to its databases, and it is in no answer.
func TestFabricASICHasNoUnit(t *testing.T) {
	t.Parallel()
	newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	made, err := switchtest.NewBox(2, switchtest.Options{})
	must(t, err)
	t.Cleanup(made.Close)
	fabric, front := &testSwitch{Switch: made.ASICs[0], t: t}, &testSwitch{Switch: made.ASICs[1], t: t}
	must(t, fabric.Config.HSet(t.Context(), fabric.ConfigKey("DEVICE_METADATA", "localhost"), "switch_type", "fabric").Err())
	must(t, fabric.Configure(t.Context(), 1))
	must(t, front.Configure(t.Context(), 2))
	front.orchagent(true)
	d, err := made.StartDaemon(daemonProgram(t))
	must(t, err)
	front.keep(d)
	b := &testBox{Box: made, t: t, d: d}
	b.up(front, 2)
	front.waitFor("the fabric ASIC to be left out", func() bool {
		return !strings.Contains(front.scrape(d), fabric.NetNS) && d.Logged("is not looked after", fabric.NetNS) == 1
	})
	if code, body := b.probe("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz answers %d %s", code, body)
	}
	for _, keys := range [][]string{fabric.Appl.Keys(t.Context(), "*").Val(), fabric.State.Keys(t.Context(), "*").Val()} {
		if len(keys) > 0 {
			t.Errorf("the fabric ASIC's databases have %v", keys)
		}
	}
}

// TestLostLinesOfABoxAreCounted: there is one log, and its count is among what the process has once.
func TestLostLinesOfABoxAreCounted(t *testing.T) {
	t.Parallel()
	newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	made, err := switchtest.NewBox(2, switchtest.Options{KeepAwayDBs: true})
	must(t, err)
	t.Cleanup(made.Close)
	reader, writer := newPipe(t)
	d, err := made.StartDaemonOn(writer, daemonProgram(t))
	must(t, err)
	t.Cleanup(d.Stop)
	must(t, writer.Close()) // the daemon's copy is the only one
	if !bufio.NewScanner(reader).Scan() {
		t.Fatal("the daemon logs nothing")
	}
	must(t, reader.Close())
	s := &testSwitch{Switch: made.ASICs[0], t: t}
	s.waitFor("the lost lines to be counted", func() bool {
		n := s.metric(d, "portsyncd_log_lines_dropped_total")
		return n != "" && n != "0"
	})
}

// newQuietSeveral is the namespaces of a file, without a process around them.
func newQuietSeveral(t *testing.T, file string) *several {
	t.Helper()
	m := newProcessMetrics("test")
	log, err := newLogControl("stderr", slog.LevelError+100, true, true, &m.logDropped)
	must(t, err)
	d := &daemon{options: &options{recordSize: recordFixed + portRing, buffer: 1 << 16}, log: log, m: m,
		health: &health{bell: new(bell), begun: make(chan struct{})}}
	return d.several(file)
}

// TestNamespacesComeAndGoWhileOthersArePublished: the list changes, and at the same time a namespace whose loop has ended
// is published anew. The race detector judges.
func TestNamespacesComeAndGoWhileOthersArePublished(t *testing.T) {
	file := filepath.Join(t.TempDir(), "database_global.json")
	s := newQuietSeveral(t, file)
	ctx, stop := context.WithCancel(t.Context())
	published := make(chan struct{})
	go func() {
		defer close(published)
		for ctx.Err() == nil {
			s.publish()
		}
	}()
	for round := range 20 {
		text := fmt.Sprintf(`{"INCLUDES": [{"namespace": "portsyncd-none-%d", "include": "x"}, {"namespace": "portsyncd-none", "include": "x"}]}`,
			round%3)
		must(t, os.WriteFile(file, []byte(text), 0o644))
		must(t, s.look(ctx))
		if got := len(s.box.units()); got != 2 {
			t.Errorf("round %d: %d namespaces are published", round, got)
		}
	}
	stop()
	<-published
	s.ended.Wait()
}

// TestNamespaceThatTheKernelHoldsHoldsNoOther: a loop that does not end is no reason to look after nothing else.
func TestNamespaceThatTheKernelHoldsHoldsNoOther(t *testing.T) {
	file := filepath.Join(t.TempDir(), "database_global.json")
	s := newQuietSeveral(t, file)
	ctx, stop := context.WithCancel(t.Context())
	held := &runningUnit{namespaceConfig: namespaceConfig{"held", "x"}, cancel: func() {}, over: make(chan struct{}),
		published: &unit{namespace: "held"}}
	s.running["held"] = held
	must(t, os.WriteFile(file, []byte(`{"INCLUDES": [{"namespace": "portsyncd-none", "include": "x"}]}`), 0o644))
	must(t, s.look(ctx))
	if units := s.box.units(); len(units) != 1 || units[0].namespace != "portsyncd-none" {
		t.Errorf("%d namespaces are published", len(units))
	}
	must(t, os.WriteFile(file, []byte(`{"INCLUDES": [{"namespace": "held", "include": "y"}]}`), 0o644))
	must(t, s.look(ctx))
	if s.running["held"] != held {
		t.Error("a namespace is begun again while its loop goes on")
	}
	close(held.over)
	must(t, s.look(ctx))
	if s.running["held"] == held || len(s.box.units()) != 1 {
		t.Error("a namespace is not begun again when its loop has ended")
	}
	stop()
	s.ended.Wait()
}

// TestLogOfANamespaceThatIsGone decides nothing any more.
func TestLogOfANamespaceThatIsGone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "database_global.json")
	s := newQuietSeveral(t, file)
	ctx, stop := context.WithCancel(t.Context())
	list := func(names ...string) {
		var entries []string
		for _, name := range names {
			entries = append(entries, fmt.Sprintf(`{"namespace": %q, "include": "x"}`, name))
		}
		must(t, os.WriteFile(file, []byte(`{"INCLUDES": [`+strings.Join(entries, ",")+`]}`), 0o644))
		must(t, s.look(ctx))
	}
	list("portsyncd-none", "portsyncd-none-1")
	s.log.fixedLevel = false
	s.follow("portsyncd-none")(logSettings{"ERROR", "STDERR"})
	s.follow("portsyncd-none-1")(logSettings{"DEBUG", "STDERR"})
	if got := s.log.level.Level(); got != slog.LevelDebug {
		t.Errorf("the level is %v", got)
	}
	list("portsyncd-none")
	if got := s.log.level.Level(); got != slog.LevelError {
		t.Errorf("the level is %v, of a namespace that is gone", got)
	}
	stop()
	s.ended.Wait()
}

// TestEventsOfABoxOneOfWhoseFilesIsBroken: the others' are told.
func TestEventsOfABoxOneOfWhoseFilesIsBroken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "recorder")
	for i, namespace := range []string{"asic0", "asic1"} {
		m := newMetrics("test")
		r := openRecorder(recorderOf(path, namespace), recordFixed+portRing, m, discard())
		r.link(&port{name: fmt.Sprintf("Ethernet%d", i)}, &linkMessage{index: 5, flags: upRunning}, false, time.Now().Add(-time.Minute))
		r.close()
	}
	files, err := openRecords(path)
	must(t, err)
	defer files.close()
	must(t, os.Truncate(recorderOf(path, "asic1"), 4096))
	all, _, err := files.read(nil, cutoff{})
	if err != nil || !slices.ContainsFunc(all, func(h happened) bool { return h.Port == "Ethernet0" && h.Namespace == "asic0" }) {
		t.Errorf("%+v, %v", all, err)
	}
	var out, errs bytes.Buffer
	if runEvents([]string{"-recorder.file", path}, &out, &errs); !strings.Contains(out.String(), " asic0 Ethernet0 ") {
		t.Errorf("whose port it is does not show: %s%s", &out, &errs)
	}
	out.Reset()
	must(t, os.Truncate(recorderOf(path, "asic0"), 4096))
	if _, _, err := files.read(nil, cutoff{}); err == nil || !strings.Contains(err.Error(), "recorder.asic") {
		t.Errorf("nothing can be read, and the error is %v", err)
	}
	if err := files.know([]string{"Ethernet0"}); err == nil {
		t.Error("a port of which nothing can be read is known")
	}
	t.Chdir(t.TempDir())
	must(t, os.WriteFile(".recorder", nil, 0o644))
	if code := runEvents([]string{"-recorder.file", ""}, &out, &errs); code != exitUnsure {
		t.Errorf("without a file: %d %s%s", code, &out, &errs)
	}
}

// TestReadDBGlobal holds what may be in database_global.json: what is wrong is said with file and place.
func TestReadDBGlobal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "database_global.json")
	for _, c := range []struct {
		text, want string
		kind       error
	}{
		{`{"INCLUDES": [{"include": "../../redis/c.json"}, {"namespace": "asic10", "include": "/r10/c.json"},
			{"container_name": "dpu0", "include": "x"}, {"namespace": "asic2", "include": "../r2/c.json"}]}`,
			"[{asic2 " + filepath.Join(filepath.Dir(filepath.Dir(path)), "r2/c.json") + "} {asic10 /r10/c.json}]", nil},
		{"{\"INCLUDES\": [\n{\"namespace\": \"asic0\", \"include\": \"x\"},\n,]}", path + ":3: ", errNotJSON},
		{`{"INCLUDES": [{"namespace": 5}]}`, path + ":1: ", errConfig},
		{`{"INCLUDES": [{"namespace": "asic0"}]}`, `INCLUDES[0]: "asic0" has no include`, errConfig},
		{`{"INCLUDES": [{"namespace": "../x", "include": "y"}]}`, `INCLUDES[0]: "../x" is no name`, errConfig},
		{`{"INCLUDES": [{"namespace": "a", "include": "y"}, {"namespace": "a", "include": "z"}]}`,
			`INCLUDES[1]: "a" is there twice`, errConfig},
		{`{"INCLUDES": [{"include": "y"}]}`, "lists no namespaces", errNoNamespaces},
		{`{}`, "lists no namespaces", errNoNamespaces},
	} {
		must(t, os.WriteFile(path, []byte(c.text), 0o644))
		got, err := readDBGlobal(path)
		if c.kind == nil && (err != nil || fmt.Sprint(got) != c.want) {
			t.Errorf("%s: %v, %v; want %s", c.text, got, err, c.want)
		} else if c.kind != nil && (!errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", c.text, err, c.want)
		}
	}
	if _, err := readDBGlobal(path + ".missing"); !errors.Is(err, errNoDBConfig) || !strings.Contains(err.Error(), path) {
		t.Errorf("a missing file: %v", err)
	}
}

// TestLogOfSeveralCONFIGDBs: the most talkative decides the level, the first the output.
func TestLogOfSeveralCONFIGDBs(t *testing.T) {
	for _, c := range []struct {
		of   map[string]logSettings
		want logSettings
	}{
		{map[string]logSettings{"asic0": {"NOTICE", "SYSLOG"}}, logSettings{"NOTICE", "SYSLOG"}},
		{map[string]logSettings{"asic10": {"DEBUG", "STDERR"}, "asic2": {"WARN", "SYSLOG"}}, logSettings{"DEBUG", "SYSLOG"}},
		{map[string]logSettings{"asic0": {"LOUD", "SYSLOG"}, "asic1": {"ERROR", "STDOUT"}}, logSettings{"ERROR", "SYSLOG"}},
		{map[string]logSettings{"asic0": {"INFO", "STDOUT"}, "asic1": {"LOUD", "SYSLOG"}}, logSettings{"INFO", "STDOUT"}},
	} {
		if got := joinLogs(c.of); got != c.want {
			t.Errorf("%v: %v, want %v", c.of, got, c.want)
		}
	}
}

// TestTogether: one namespace's failure is no more than degraded, until all have failed.
func TestTogether(t *testing.T) {
	for _, c := range []struct {
		of   []level
		want level
	}{{nil, ok}, {[]level{ok, ok}, ok}, {[]level{ok, failed}, degraded}, {[]level{degraded, failed}, degraded},
		{[]level{failed, failed}, failed}, {[]level{degraded, ok}, degraded}} {
		if got := together(c.of); got != c.want {
			t.Errorf("%v is %v, want %v", c.of, got, c.want)
		}
	}
}

// TestUnitsShareNothing plays switches beside each other in one process: what happens to one never changes another's
// history.
func TestUnitsShareNothing(t *testing.T) {
	const units = 8
	alone := make([]string, units)
	for i := range alone {
		_, alone[i], _ = newScenario(uint64(1000 + i)).run(true)
		if !strings.Contains(alone[i], "orchagent") {
			t.Fatalf("nothing happened:\n%s", alone[i])
		}
	}
	var all sync.WaitGroup
	for i := range alone {
		all.Go(func() {
			if _, together, _ := newScenario(uint64(1000 + i)).run(true); together != alone[i] {
				t.Errorf("beside others unit %d does this:\n%s\nalone:\n%s", i, together, alone[i])
			}
		})
	}
	all.Wait()
}

// TestHealthOfABoxDoesNotFlicker: a scrape beside a beat does not find the box well while a namespace is not.
func TestHealthOfABoxDoesNotFlicker(t *testing.T) {
	b := newSeveral(newProcessMetrics("test"), new(health))
	var units []*unit
	for n := range 4 { // their first listing is not complete
		namespace := fmt.Sprintf("asic%d", n)
		units = append(units, &unit{namespace: namespace, m: newUnitMetrics(b.m, namespace), health: new(health), log: discard()})
	}
	b.put(units)
	b.Update(time.Now(), discard())
	if got := b.m.health.Load(); got != 0.5 {
		t.Fatal(got)
	}
	stop := make(chan struct{})
	var beats sync.WaitGroup
	beats.Go(func() {
		defer close(stop)
		for range 2000 {
			b.Update(time.Now(), discard())
		}
	})
	defer beats.Wait()
	for {
		select {
		case <-stop:
			return
		default:
		}
		if got := b.m.health.Load(); got != 0.5 {
			t.Fatalf("portsyncd_health_status is %v for a moment, and all namespaces are degraded", got)
		}
	}
}
