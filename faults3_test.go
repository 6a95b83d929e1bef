package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// What a third reading has found.

// TestStatusOfABusyBoxIsAScreen: a dozen reasons, several ASICs and more instances than are shown leave room for the ports.
func TestStatusOfABusyBoxIsAScreen(t *testing.T) {
	for _, role := range []string{roleWriter, roleStandby, roleObserver} {
		for instances := range 8 {
			s := statusAnswer{Verdict: "degraded", Time: "2026-11-24T22:58:03Z", Started: "2026-11-24T22:57:55Z", Role: role}
			for i := range 12 {
				name := fmt.Sprint("asic", i)
				s.Namespaces = append(s.Namespaces, namespaceAnswer{Namespace: name})
				s.Reasons = append(s.Reasons, reasonAnswer{name, "redis", "degraded", "connection refused"})
				s.Worst = append(s.Worst, worstAnswer{name, "Ethernet0", "Eth1", whyDown, &s.Time, "it has no carrier"})
			}
			for i := range instances {
				s.Instances = append(s.Instances, instanceAnswer{Instance: fmt.Sprint("i", i), Up: true, Role: roleStandby, Health: "ok"})
			}
			text := s.text(false)
			if strings.Count(text, "\n") > statusLines || !strings.Contains(text, "asic0  Ethernet0") || !strings.Contains(text, "more ports to look at") {
				t.Errorf("%s, %d instances:\n%s", role, instances, text)
			}
			if more := strings.Contains(text, "more: portsyncd status -json"); strings.Count(text, "\ninstance ") < instances && !more {
				t.Errorf("%s: of %d instances some are not told of:\n%s", role, instances, text)
			}
		}
	}
}

// TestDiffPrintsNoControlCharacters, as status does not: what databases hold moves no terminal's cursor.
func TestDiffPrintsNoControlCharacters(t *testing.T) {
	r := &diffReport{Checked: 1, Unsure: []unsureAnswer{{"asic0", "read: \x1b[2J"}}, Ports: []portDiff{{Port: "Ethernet\x1b[2J", Sides: sides{Config: &side{MTU: "9\x1b]0;me\a"}},
		Differences: []difference{{Says: "mtu: CONFIG_DB has 9\x1b[31m", Do: "set it\n"}}}}}
	var b bytes.Buffer
	must(t, r.print(new(diffOptions), &b))
	printable(t, b.String())
	if lines := strings.Count(b.String(), "\n"); lines != 10 {
		t.Errorf("%d lines:\n%s", lines, b.String())
	}
}

// TestLoopThatIsHeldIsTheOnlyOne: of namespaces that leave the list, those whose loops have ended make room at once, whatever one of them does.
func TestLoopThatIsHeldIsTheOnlyOne(t *testing.T) {
	s := newQuietSeveral(t, "")
	for i := range 21 {
		r := &runningUnit{namespaceConfig: namespaceConfig{name: fmt.Sprint("asic", i)}, cancel: func() {}, over: make(chan struct{}), published: &unit{}}
		if s.running[r.name] = r; i > 0 {
			close(r.over)
		}
	}
	held := s.running["asic0"]
	s.leave(t.Context(), nil)
	if len(s.running) != 1 || held.published != nil {
		t.Errorf("one loop is held, and %d count as held", len(s.running))
	}
	close(held.over)
	if s.leave(t.Context(), nil); len(s.running) != 0 {
		t.Error("a loop that has ended since is not forgotten")
	}
}

// TestLevelOfOneOfSeveralThatMakesNoSense is told of, and the others' level counts.
func TestLevelOfOneOfSeveralThatMakesNoSense(t *testing.T) {
	s := newQuietSeveral(t, "")
	var said bytes.Buffer
	s.log.Logger, s.log.fixedLevel = slog.New(slog.NewTextHandler(&said, nil)), false
	s.follow("asic0")(logSettings{"INFO", "STDERR"})
	s.follow("asic1")(logSettings{"LOUD", "STDERR"})
	if text := said.String(); !strings.Contains(text, "LOUD") || !strings.Contains(text, "namespace=asic1") || s.log.level.Level() != slog.LevelInfo {
		t.Errorf("the level is %v, and the log says %q", s.log.level.Level(), text)
	}
}

// TestOpeningLinksThatFailsLeavesNothingOpen: it is tried again and again.
func TestOpeningLinksThatFailsLeavesNothingOpen(t *testing.T) {
	open := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(all)
	}
	before := open()
	for range 20 {
		k := &kernelLinks{event: -1, timer: -1, linkSockets: linkSockets{sub: -1, req: -1}} // EPOLL_CTL_ADD fails, as for want of memory
		if k.openPoll() == nil {
			t.Fatal("it did not fail")
		}
		k.Close()
	}
	if more := open() - before; more > 2 { // of a test that runs beside
		t.Errorf("20 tries leave %d descriptors open", more)
	}
}

// TestFabricASICThatIsNoneAnyMore: CONFIG_DB is corrected, and its ports are announced. Until then nobody hands anything over, for nothing is written.
func TestFabricASICThatIsNoneAnyMore(t *testing.T) {
	t.Parallel()
	made, a := boxOfOne(t)
	says := func(field, value string) {
		must(t, a.Config.HSet(t.Context(), a.ConfigKey("DEVICE_METADATA", "localhost"), field, value).Err())
	}
	says("switch_type", "fabric")
	must(t, a.Configure(t.Context(), 2))
	o := a.orchagent(true)
	s := newQuietSeveral(t, made.GlobalFile)
	said := new(lockedBuffer)
	s.log.Logger, s.options.reconcile, s.unmark, s.pace = slog.New(slog.NewTextHandler(said, nil)), time.Minute, func() {}, new(heapPace)
	s.options.old, s.options.eoiu = "auto", time.Minute
	looks := make(chan bool)
	s.fabric = func(ctx context.Context) {
		select {
		case <-looks:
		case <-ctx.Done():
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer func() { stop(); s.ended.Wait() }()
	must(t, s.look(ctx))
	looks <- true                                // it has been found to be one
	must(t, a.Config.FlushDB(t.Context()).Err()) // config reload
	looks <- true
	says("switch_type", "fabric")
	must(t, a.Configure(t.Context(), 2))
	looks <- true
	if text := said.String(); strings.Count(text, "is not looked after") != 1 || strings.Contains(text, "handing over") || len(s.box.units()) != 0 {
		t.Errorf("%d namespaces are published, and the log says:\n%s", len(s.box.units()), text)
	}
	says("switch_type", "npu")
	a.waitFor("PortConfigDone", func() bool {
		select {
		case looks <- true:
		default:
		}
		return o.Signal("PortConfigDone") != nil
	})
	if len(s.box.units()) != 1 || !strings.Contains(said.String(), "is not fabric any more") {
		t.Errorf("%d namespaces are published, and the log says:\n%s", len(s.box.units()), said)
	}
}

// and does not wait for a namespace that is there.
func TestUnitThatEntersNamespaces(t *testing.T) {
	needTool(t, "systemd-analyze", "setpriv", "unshare")
	t.Parallel()
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	must(t, os.Chmod(s.Dir, 0o755))
	unit := filepath.Join(s.Dir, filepath.Base(unitFile))
	must(t, os.MkdirAll(unit+".d", 0o755))
	for from, to := range map[string]string{unitFile: unit, "deploy/systemd/netns.conf": unit + ".d/netns.conf", plainDaemon(t)[0]: s.Dir + "/portsyncd"} {
		text, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(to, text, 0o755))
	}
	safe := sh(t, "systemd-analyze", "security", "--offline=true", "--threshold=30", unit)
	for _, want := range []string{"\u2717 RestrictNamespaces=~net ", "\u2713 RestrictNamespaces=~user ", "\u2713 RestrictNamespaces=~mnt ", "\u2717 CapabilityBoundingSet=~CAP_SYS_ADMIN ",
		"\u2717 CapabilityBoundingSet=~CAP_SYS_PTRACE ", "\u2713 CapabilityBoundingSet=~CAP_SYS_MODULE ", "\u2713 ProtectProc= "} {
		if !strings.Contains(safe, want) {
			t.Errorf("systemd does not say %s", want)
		}
	}
	container := exec.Command("unshare", "-n", "sh", "-c", "echo; exec sleep 60")
	out, err := container.StdoutPipe()
	must(t, err)
	must(t, container.Start())
	t.Cleanup(func() { _ = container.Process.Kill(); _ = container.Wait() })
	_, err = out.Read(make([]byte, 1)) // it is in its namespace
	must(t, err)
	name := filepath.Join(s.Dir, "asic0")
	must(t, os.Symlink(fmt.Sprintf("/proc/%d/ns/net", container.Process.Pid), name))
	for _, c := range []struct{ caps, proc, want string }{
		{",+sys_admin,+sys_ptrace", "mount -t proc -o hidepid=invisible proc /proc", "listening to link messages"},
		{",+sys_admin", "mount -t proc -o hidepid=invisible proc /proc", "hidden from this one; to enter a container's takes CAP_SYS_ADMIN and CAP_SYS_PTRACE"},
		{",+sys_admin", "true", "permission denied; to enter a container's takes CAP_SYS_ADMIN and CAP_SYS_PTRACE"},
		{",+sys_ptrace", "true", "operation not permitted; to enter a container's takes CAP_SYS_ADMIN and CAP_SYS_PTRACE"},
	} {
		d, err := switchtest.StartProgram("unshare", "-m", "sh", "-c", c.proc+` && exec setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set="$0" --inh-caps="$0" --ambient-caps="$0" "$@"`,
			"-all,+net_admin"+c.caps, s.Dir+"/portsyncd", "-standalone", "-netns", name, "-log.output", "stderr", "-web.listen-address", "", "-control.socket", "", "-recorder.file", "")
		must(t, err)
		if switchtest.WaitFor(patience, c.want, func() bool { return strings.Contains(d.Log(), c.want) }) != nil || strings.Contains(d.Log(), "not there yet") {
			t.Errorf("with net_admin%s and %s it says:\n%s", c.caps, c.proc, d.Log())
		}
		d.Stop()
	}
}

// TestOneStuckLoopOfABox ends nothing: the others would be hurt. Whoever is woken by the alert reads so, and what to do.
func TestOneStuckLoopOfABox(t *testing.T) {
	b := newSeveral(newProcessMetrics("test"), new(health))
	var units []*unit
	for _, n := range []string{"asic0", "asic1"} {
		units = append(units, &unit{namespace: n, m: newUnitMetrics(b.m, n), health: new(health), log: discard()})
	}
	b.put(units)
	ended, now := false, time.Now()
	w := &watchdog{box: b, log: discard(), flush: func(time.Duration) {}, notify: new(notifier), exit: func() { ended = true }}
	units[0].health.turn(now, time.Time{})
	for i := range 60 {
		at := now.Add(time.Duration(i) * time.Second)
		units[1].health.turn(at, time.Time{})
		w.tick(at, time.Second)
	}
	last := now.Add(time.Minute)
	if ended || len(b.Alive(last)) > 0 || len(units[0].health.Alive(last)) == 0 || units[0].m.health.Load() != failed.score() {
		t.Errorf("ended: %t, /healthz: %v, of asic0: %v", ended, b.Alive(last), units[0].health.Alive(last))
	}
	for range stuckAfter / time.Second {
		w.tick(last, time.Second)
	}
	if !ended {
		t.Error("all loops are stuck, and the process goes on")
	}
	doc, err := os.ReadFile("docs/health.md")
	must(t, err)
	rules, err := os.ReadFile("deploy/prometheus/portsyncd.rules.yml")
	must(t, err)
	_, watchdogs, _ := strings.Cut(string(doc), "## Watchdogs")
	watchdogs, _, _ = strings.Cut(watchdogs, "\n## ")
	_, alert, _ := strings.Cut(string(rules), "alert: PortsyncdStuck")
	alert, _, _ = strings.Cut(alert, "- alert:")
	for where, text := range map[string]string{"docs/health.md": watchdogs, "the alert": alert} {
		if !strings.Contains(text, "-db.global") || !strings.Contains(text, "kill -QUIT") {
			t.Errorf("%s does not say what to do about one stuck loop of several", where)
		}
	}
}

// TestSwitchLabel relabels targets as Prometheus does with scrape.yml's rules, in order: a host goes by its name, and an address is a name as a whole.
func TestSwitchLabel(t *testing.T) {
	text, err := os.ReadFile("deploy/prometheus/scrape.yml")
	must(t, err)
	rules := regexp.MustCompile(`(?m)regex: '(.*)'\n +target_label: switch$`).FindAllStringSubmatch(string(text), -1)
	for address, want := range map[string]string{"leaf1.example.net:9090": "leaf1", "leaf1": "leaf1", "leaf-10.a:443": "leaf-10", "10.example.net:9090": "10",
		"10.0.0.1:9090": "10.0.0.1", "192.0.2.17": "192.0.2.17", "[2001:db8::1]:9090": "[2001:db8::1]", "[fe80::1%eth0]:9090": "[fe80::1%eth0]"} {
		label := ""
		for _, r := range rules {
			if m := regexp.MustCompile("^(?s:" + r[1] + ")$").FindStringSubmatch(address); m != nil {
				label = m[1]
			}
		}
		if label != want {
			t.Errorf("%s is switch=%q, want %q", address, label, want)
		}
	}
}

// TestPauseForANamespaceIsDocumented: how often one that is gone is looked for.
func TestPauseForANamespaceIsDocumented(t *testing.T) {
	for _, file := range []string{"docs/several-asics.md", "docs/health.md"} {
		text, err := os.ReadFile(file)
		must(t, err)
		if want := fmt.Sprint("looked for every ", netNSPause.Milliseconds(), " ms"); !strings.Contains(string(text), want) {
			t.Errorf("%s does not say that a namespace is %s", file, want)
		}
	}
}

// TestTimesFollowTheClock: a switch without a battery boots in 1970, and NTP sets the clock later. What was before then was not 50 years ago, and nothing jitters.
func TestTimesFollowTheClock(t *testing.T) {
	const by = 50 * 365 * 24 * time.Hour
	u := &unit{m: newMetrics("test"), health: new(health)}
	p, now := u.m.process, time.Now()
	started := p.Started(now)
	if age := now.Sub(seconds(started)); age < 0 || age > time.Hour {
		t.Errorf("the process started %v ago", age)
	}
	for range 200 {
		if p.Read(); p.started.Load() != started {
			t.Fatalf("it started at %v, and then at %v", started, p.started.Load())
		}
	}
	series := u.m.newPort("Ethernet0", 0)
	series.show(true, false, 1500, now)
	u.m.showLink(series)
	at := series.lastChange.Load()
	if text := string(series.lastChange.appendSamples(nil, "at", "")); text != "at "+string(appendFloat(nil, at))+"\n" {
		t.Errorf("it changed at %v, and the metrics say %q", at, text)
	}
	later := stepWall(now.Add(2*time.Second), by)
	if on := series.lastChange.On(later); math.Abs(on-at-by.Seconds()) > 0.01 {
		t.Errorf("it changed at %v, and after the clock was set at %v", at, on)
	}
	if c := carriedOf(&port{series: series}, portState{}, later); math.Abs(c.Changed-at-by.Seconds()) > 0.01 {
		t.Errorf("it changed at %v, and the next turn is told %v", at, c.Changed)
	}
	if text := u.status(later, true).text(false); strings.Count(text, "s ago)") != 2 || regexp.MustCompile(`\d{4}h`).MatchString(text) {
		t.Errorf("two seconds later:\n%s", text)
	}
	if p.Read(); math.Abs(p.started.Load()-started) > 0.1 {
		t.Errorf("the clock is set back, and it started at %v instead of %v", p.started.Load(), started)
	}
}

// TestStartAfterYearsOfUptime: nanoseconds times ticks a second are too many for 64 bits after three years.
func TestStartAfterYearsOfUptime(t *testing.T) {
	const years = 9 * 365 * 24 * time.Hour
	stat := fmt.Sprintf("7 (a) b) S%s %d 0", strings.Repeat(" 1", 18), int64(years.Seconds()*clockTicks))
	if at := startTicks([]byte(stat)); at != years {
		t.Errorf("it started %v after the boot, want %v", at, years)
	}
}

// TestSocketThatIsRemovedIsMadeAgain, the operator's and the metrics', and the log says what happened.
func TestSocketThatIsRemovedIsMadeAgain(t *testing.T) {
	t.Parallel()
	control, metrics := filepath.Join(t.TempDir(), "control.sock"), filepath.Join(t.TempDir(), "metrics.sock")
	d := startStandalone(t, "-links", "lo", "-web.listen-address", "unix:"+metrics, "-control.socket", control)
	for flag, socket := range map[string]string{"-control.socket": control, "-web.listen-address": metrics} {
		answers(t, socket)
		must(t, os.Remove(socket))
		answers(t, socket)
		must(t, switchtest.WaitFor(patience, "the log to say that it was made again", func() bool {
			return d.Logged("has what it lacked", flag) == 1
		}))
		if d.Logged("are not served", "somebody has removed it", flag) != 1 {
			t.Errorf("it says:\n%s", d.Log())
		}
	}
}

// TestFileInPlaceOfTheControlSocket: it is noticed, and stays: nobody's socket is removed but ours.
func TestFileInPlaceOfTheControlSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	socket, err := listenControl(t.Context(), path)
	must(t, err)
	defer socket.Close()
	ended := make(chan error)
	go func() { _, err := socket.Accept(); ended <- err }()
	socket.look()
	select {
	case err := <-ended:
		t.Fatal("it ends although its file is there: ", err)
	default:
	}
	must(t, os.Remove(path))
	other, err := net.Listen("unix", path)
	must(t, err)
	defer other.Close()
	socket.look()
	socket.look()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "put another file in its place") {
		t.Errorf("it ends with %v", err)
	}
	must(t, switchtest.WaitFor(patience, "the socket to be closed", func() bool { return errors.Is(socket.Close(), net.ErrClosed) }))
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("the other one's is not there any more: %v", err)
	} else {
		c.Close()
	}
}
