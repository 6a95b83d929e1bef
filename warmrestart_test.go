package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// Warm restarts, and ports that come and go, on real databases and real links.

// writes collects the keys that anybody writes, by keyspace events.
type writes struct {
	mu   sync.Mutex
	keys map[string]int // "STATE Ethernet0" and "APPL Ethernet0"
}

func (s *testSwitch) watchWrites() *writes {
	s.t.Helper()
	w := &writes{keys: map[string]int{}}
	state, appl := fmt.Sprintf("__keyspace@%d__:PORT_TABLE|", s.StateID), fmt.Sprintf("__keyspace@%d__:PORT_TABLE:", s.ApplID)
	sub := s.State.PSubscribe(s.t.Context(), state+"*", appl+"*")
	for range 2 {
		if _, err := sub.Receive(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
	}
	s.t.Cleanup(func() { sub.Close() })
	go func() {
		for m := range sub.Channel() {
			w.mu.Lock()
			if port, found := strings.CutPrefix(m.Channel, state); found {
				w.keys["STATE "+port]++
			} else {
				w.keys["APPL "+strings.TrimPrefix(m.Channel, appl)]++
			}
			w.mu.Unlock()
		}
	}()
	return w
}

// touched lists what was written so far.
func (w *writes) touched() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.keys))
}

// askWarm asks for a warm restart as warm-reboot and its relatives do; kind is system or swss.
func (s *testSwitch) askWarm(kind string) {
	s.t.Helper()
	s.must(s.State.HSet(context.Background(), s.StateRow("WARM_RESTART_ENABLE_TABLE", kind), "enable", "true").Err())
	s.must(s.State.HDel(context.Background(), s.StateRow("WARM_RESTART_TABLE", appName), "state").Err())
}

func (s *testSwitch) StateRow(table, row string) string { return table + "|" + row }

func (s *testSwitch) warmField(field string) string {
	return s.State.HGet(context.Background(), s.StateRow("WARM_RESTART_TABLE", appName), field).Val()
}

func (s *testSwitch) waitReconciled() {
	s.t.Helper()
	start := time.Now()
	s.waitFor("reconciled", func() bool { return s.warmField("state") == "reconciled" })
	s.t.Logf("reconciled after %v", time.Since(start).Round(time.Millisecond))
}

func TestWarmRestartWritesNothing(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	const n = 256
	d, _ := s.start(n)
	if got := s.warmField("state") + " " + s.warmField("restore_count"); got != "disabled 0" {
		t.Errorf("after a cold start state and restore_count are %s", got)
	}
	d.Stop()
	s.askWarm("swss")
	before := s.kernel()
	w := s.watchWrites()
	d = s.daemon()
	s.waitReconciled()
	s.waitMetric(d, `portsyncd_warm_restart_state{state="reconciled"}`, "1")
	s.waitMetric(d, `portsyncd_warm_restart_entries_total{outcome="kept"}`, strconv.Itoa(n))
	s.waitFor("PortInitDone to be popped", func() bool { return len(w.touched()) > 0 })
	if got := w.touched(); !slices.Equal(got, []string{"APPL PortInitDone"}) {
		t.Errorf("written were %v", got)
	}
	if got := s.warmField("restore_count"); got != "1" {
		t.Errorf("restore_count is %s", got)
	}
	after := s.kernel()
	for name, l := range before {
		if !slices.Equal(l.Flags, after[name].Flags) {
			t.Errorf("%s was %v and is %v", name, l.Flags, after[name].Flags)
		}
	}
	if s.metric(d, "portsyncd_eoiu_reached") != "1" || s.metric(d, "portsyncd_warm_start") != "1" {
		t.Error("the metrics do not show EOIU and the warm start")
	}
}

func TestWarmRestartWritesTheDifferences(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	const n = 32
	d, _ := s.start(n)
	ctx := t.Context()
	d.Stop()
	s.askWarm("system")
	names := portNames(n)
	want := []string{}
	for _, p := range names[:5] {
		s.must(s.IP("link", "set", p, "mtu", "1400"))
		want = append(want, "STATE "+p)
	}
	for _, p := range names[5:7] {
		s.must(s.IP("link", "del", p))
		s.must(s.Config.Del(ctx, s.ConfigKey("PORT", p)).Err())
		want = append(want, "STATE "+p)
	}
	s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", "Ethernet400"), "lanes", "401").Err())
	s.must(s.Appl.HSet(ctx, "PORT_TABLE:Ethernet400", "lanes", "401").Err())
	s.must(s.AddPorts("Ethernet400"))
	want = append(want, "STATE Ethernet400", "APPL PortInitDone")
	slices.Sort(want)
	s.waitFor("the carriers to be up", func() bool {
		return !slices.ContainsFunc(slices.Collect(maps.Values(s.kernel())), func(l kernelLink) bool { return l.oper() != "up" })
	})
	w := s.watchWrites()
	d = s.daemon()
	s.waitReconciled()
	s.waitAgreement("after the warm restart")
	if got := w.touched(); !slices.Equal(slices.DeleteFunc(got, func(k string) bool { return k == "APPL PortConfigDone" }), want) {
		t.Errorf("written were %v, want %v", got, want)
	}
	for outcome, count := range map[string]string{"kept": "25", "repaired": "5", "removed": "2"} {
		if got := s.metric(d, fmt.Sprintf("portsyncd_warm_restart_entries_total{outcome=%q}", outcome)); got != count {
			t.Errorf("%s entries: %s, want %s", outcome, got, count)
		}
	}
}

// TestSystemWarmReboot starts on a new kernel without interfaces, and on entries as the reboot script leaves them.
func TestSystemWarmReboot(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, o := s.start(8)
	ctx := t.Context()
	d.Stop()
	popped := len(o.Popped())
	names := portNames(8)
	for _, p := range names {
		s.must(s.IP("link", "del", p))
		s.must(s.State.Del(ctx, s.StateKey(p)).Err())
		s.must(s.State.HSet(ctx, s.StateKey(p), "host_tx_ready", "true").Err())
	}
	s.askWarm("system")
	w := s.watchWrites()
	d = s.daemon("-reconcile-interval", "1s")
	s.waitFor("restored", func() bool { return s.warmField("state") == "restored" })
	s.waitMetric(d, `portsyncd_resyncs_total{reason="reconcile"}`, "1") // a comparison, too, leaves them alone
	if got := w.touched(); len(got) != 0 {
		t.Errorf("written before any interface exists: %v", got)
	}
	s.must(s.AddPorts(names[:7]...))
	want := fields("up", "up", 1500)
	want["host_tx_ready"] = "true"
	for _, p := range names[:7] {
		s.waitEntry(p, want)
	}
	if state := s.warmField("state"); state != "restored" || len(o.Popped()) != popped {
		t.Errorf("with one port missing the state is %s, announced is %v", state, o.Popped()[popped:])
	}
	s.must(s.AddPorts(names[7]))
	s.waitReconciled()
	s.waitEntry(names[7], want)
	if got := o.Popped()[popped:]; !slices.Equal(got, []string{"PortInitDone"}) {
		t.Errorf("announced is %v", got)
	}
}

func TestWarmRestartWithoutACount(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 2))
	s.askWarm("swss")
	o := s.orchagent(true)
	d := s.daemon()
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil && o.Signal("PortConfigDone") != nil })
	s.waitMetric(d, "portsyncd_warm_start", "0")
	if got := s.warmField("state") + " " + s.warmField("restore_count"); got != "disabled 0" {
		t.Errorf("state and restore_count are %s", got)
	}
}

// TestBreakout makes four ports of one and one of four, three times, while others flap, and then restarts warm.
func TestBreakout(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, o := s.start(4)
	ctx := t.Context()
	lanes := []string{"Ethernet0", "Ethernet1", "Ethernet2", "Ethernet3"}
	storm := make(chan error, 1)
	quit := make(chan struct{})
	go func() {
		var err error
		for err == nil {
			select {
			case <-quit:
				storm <- err
				return
			default:
				err = s.Flap(1, "Ethernet8", "Ethernet12")
			}
		}
		storm <- err
	}()
	// what CONFIG_DB's writer, portmgrd and orchagent do between them
	set := func(ports []string, speed string) {
		for _, p := range ports {
			s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", p), "lanes", "1", "speed", speed).Err())
			s.must(s.Appl.HSet(ctx, "PORT_TABLE:"+p, "lanes", "1", "speed", speed).Err())
		}
		s.must(s.AddPorts(ports...))
	}
	unset := func(ports []string) {
		for _, p := range ports {
			s.must(s.Config.Del(ctx, s.ConfigKey("PORT", p)).Err())
			s.must(s.Appl.Del(ctx, "PORT_TABLE:"+p).Err())
			s.must(s.IP("link", "del", p))
		}
	}
	counted := func(ports int) {
		t.Helper()
		s.waitFor(fmt.Sprintf("count=%d", ports), func() bool { return o.Signal("PortConfigDone")["count"] == strconv.Itoa(ports) })
		s.waitMetric(d, "portsyncd_ports_configured", strconv.Itoa(ports))
		s.waitMetric(d, "portsyncd_ports_present", strconv.Itoa(ports))
	}
	for range 3 {
		unset(lanes[:1])
		set(lanes, "25000")
		counted(7)
		for _, p := range lanes {
			s.waitEntry(p, fields("up", "up", 1500))
		}
		unset(lanes)
		set(lanes[:1], "100000")
		counted(4)
		s.waitEntry("Ethernet0", fields("up", "up", 1500))
		for _, p := range lanes[1:] {
			s.waitEntry(p, nil)
			if got := s.metric(d, fmt.Sprintf("portsyncd_port_oper_up{port=%q}", p)); got != "" {
				t.Errorf("%s is gone and has series", p)
			}
		}
	}
	close(quit)
	s.must(<-storm)
	s.waitAgreement("after the breakouts")
	d.Stop()
	s.askWarm("swss")
	s.daemon()
	s.waitReconciled()
	keys, err := s.Appl.Keys(ctx, "PORT_TABLE:Ethernet*").Result()
	s.must(err)
	if got := s.Appl.HGet(ctx, "PORT_TABLE:PortConfigDone", "count").Val(); got != strconv.Itoa(len(keys)) {
		t.Errorf("count=%s for %d ports in PORT_TABLE", got, len(keys))
	}
}

// TestPortWithoutInterface: it holds PortInitDone back and is named; when CONFIG_DB drops it PortInitDone comes at once.
func TestPortWithoutInterface(t *testing.T) {
	for name, o := range map[string]switchtest.Options{"keyspace events": {}, "no keyspace events": {NoEvents: true}} {
		t.Run(name, func(t *testing.T) {
			s := newSwitch(t, o)
			s.must(s.Configure(t.Context(), 2))
			agent := s.orchagent(false)
			d := s.daemon()
			s.waitFor("PortConfigDone", func() bool { return agent.Signal("PortConfigDone") != nil })
			s.must(s.AddPorts("Ethernet0"))
			s.must(s.Config.HSet(t.Context(), s.ConfigKey("PORT", "Ethernet96"), "lanes", "97").Err())
			s.waitMetric(d, `portsyncd_port_pending{port="Ethernet96"}`, "1") // added before PortInitDone, it holds it back, too
			s.waitEntry("Ethernet0", fields("up", "up", 1500))
			response, err := http.Get("http://" + d.Metrics + "/readyz")
			s.must(err)
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode != 503 || !strings.Contains(string(body), "2 ports have no interface yet: Ethernet4 Ethernet96") {
				t.Errorf("/readyz says %d %s", response.StatusCode, body)
			}
			s.must(s.Config.Del(t.Context(), s.ConfigKey("PORT", "Ethernet4"), s.ConfigKey("PORT", "Ethernet96")).Err())
			s.waitFor("PortInitDone", func() bool { return agent.Signal("PortInitDone") != nil })
			s.waitFor("the new count", func() bool { return agent.Signal("PortConfigDone")["count"] == "1" })
			s.waitMetric(d, `portsyncd_port_pending{port="Ethernet4"}`, "")
		})
	}
}

func TestWaitsForConfigDB(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Config.Set(t.Context(), configReady, "0", 0).Err())
	o := s.orchagent(true)
	d := s.daemon()
	s.waitFor("the daemon to wait", func() bool { return d.Logged("msg=waiting", configReady) == 1 })
	s.must(s.Configure(t.Context(), 3))
	s.must(s.Config.Set(t.Context(), configReady, "1", 0).Err())
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	if got := o.Signal("PortConfigDone")["count"]; got != "3" {
		t.Errorf("PortConfigDone count=%s", got)
	}
}

// TestLogLevelFromConfigDB changes level and output as an operator does.
func TestLogLevelFromConfigDB(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]switchtest.Options{"keyspace events": {}, "no keyspace events": {NoEvents: true}} {
		t.Run(name, func(t *testing.T) {
			s := newSwitch(t, o)
			s.must(s.AddPorts("Ethernet0"))
			program := daemonProgram(t)
			port, err := switchtest.FreePort()
			s.must(err)
			d, err := switchtest.StartProgram(program[0], append(program[1:], "-db.config", s.ConfigFile, "-netns", s.NetNS,
				"-control.socket", "", "-web.listen-address", fmt.Sprintf("127.0.0.1:%d", port), "-log.output", "stderr", "-recorder.file", "")...)
			s.must(err)
			t.Cleanup(d.Stop)
			row := s.ConfigKey("LOGGER", "portsyncd")
			s.waitFor("the defaults to be written", func() bool {
				return maps.Equal(s.Config.HGetAll(t.Context(), row).Val(), map[string]string{"LOGLEVEL": "NOTICE", "LOGOUTPUT": "SYSLOG"})
			})
			mtu := 1400
			logged := func() int { // a change that is of level INFO, and then whether it is in the log
				mtu++
				s.must(s.IP("link", "set", "Ethernet0", "mtu", strconv.Itoa(mtu)))
				return d.Logged("level=DEBUG", "link message")
			}
			s.must(s.IP("link", "del", "Ethernet0")) // it was old
			s.must(s.AddPorts("Ethernet0"))
			if logged() != 0 {
				t.Error("DEBUG lines at level NOTICE")
			}
			s.must(s.Config.HSet(t.Context(), row, "LOGLEVEL", "DEBUG").Err())
			s.waitFor("DEBUG lines", func() bool { return logged() > 0 })
			s.must(s.Config.HSet(t.Context(), row, "LOGLEVEL", "LOUD").Err())
			s.waitFor("the bad level to be reported", func() bool { return d.Logged("level=ERROR", "LOGLEVEL", "LOUD", "using NOTICE") == 1 })
			before := logged()
			for range 5 {
				logged()
			}
			s.waitFor("the last message to be handled", func() bool {
				response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
				s.must(err)
				defer response.Body.Close()
				text, _ := io.ReadAll(response.Body)
				return sample(string(text), `portsyncd_port_mtu_bytes{port="Ethernet0"}`) == strconv.Itoa(mtu)
			})
			if got := d.Logged("level=DEBUG", "link message"); got != before {
				t.Errorf("%d DEBUG lines more after the level is NOTICE again", got-before)
			}
		})
	}
}

// --- On the bench ---------------------------------------------------------------------------------------------------------------

// TestFirstDumpThatDoesNotEnd is asked for again after the timeout, and nothing is begun or deleted before one ends.
func TestFirstDumpThatDoesNotEnd(t *testing.T) {
	b := newBench(t, "Ethernet0")
	b.db.facts = startFacts{warm: true, signals: signals{count: 1}, events: true, held: map[string]portState{"Ethernet0": {true, true, 1500}}}
	b.db.config.eoiu = 10 * time.Second
	b.db.state["Ethernet0"] = portState{true, true, 1500}
	b.turn()
	b.clock = b.clock.Add(9 * time.Second)
	b.turn()
	if b.source.dumps != 1 {
		t.Error("asked again before the time")
	}
	b.clock = b.clock.Add(2 * time.Second)
	b.turn()
	b.turn()
	if b.source.dumps != 2 || b.start.running() {
		t.Errorf("%d dumps, state %v", b.source.dumps, b.start.state)
	}
	if got := b.status.Checks(b.clock, 0)[0]; got.level != degraded {
		t.Errorf("health says %v", got)
	}
	b.want("nothing is written before the end of the initial update")
	b.dumpDone(false, nil)
	b.settleDown()
	b.want("and then the entry is stale", "DEL Ethernet0")
	if b.m.eoiuSeconds.Load() < 11 || b.m.warmGone.Load() != 1 {
		t.Errorf("EOIU after %v s, %d removed", b.m.eoiuSeconds.Load(), b.m.warmGone.Load())
	}
}
