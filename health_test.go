package main

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHealthTable(t *testing.T) {
	now := time.Unix(1e9, 0)
	ago := func(d time.Duration) int64 { return instant(now.Add(-d)) }
	for name, c := range map[string]struct {
		set   func(h *health)
		check string
		want  level
		words string
	}{
		"all is well":             {func(h *health) {}, "", ok, ""},
		"not listed yet":          {func(h *health) { h.listed.Store(false) }, "netlink", degraded, "first listing"},
		"subscription dead":       {func(h *health) { h.linksEnded.Store(true) }, "netlink", failed, "dead"},
		"overrun being recovered": {func(h *health) { h.resync.Store(true); h.resyncAt.Store(ago(time.Second)) }, "overrun", degraded, "lost"},
		"overrun for long":        {func(h *health) { h.resync.Store(true); h.resyncAt.Store(ago(time.Minute)) }, "overrun", failed, "lost"},
		"databases away":          {func(h *health) { h.database(errors.New("connection refused"), nil, now.Add(-time.Second)) }, "redis", degraded, "connection refused"},
		"databases away for long": {func(h *health) { h.database(errors.New("LOADING"), nil, now.Add(-time.Minute)) }, "redis", failed, "LOADING"},
		"a short queue":           {func(h *health) { h.turn(now, now.Add(-time.Second)) }, "", ok, ""},
		"the queue does not move": {func(h *health) { h.turn(now, now.Add(-3*time.Second)) }, "queue", degraded, "wait to be written since 2001-09-09T01:46:37Z"},
		"entries were wrong":      {func(h *health) { h.repaired.Store(2) }, "reconcile", degraded, "2 entries"},
		"ports differ": {func(h *health) {
			h.differ.tell(operDisagrees, []disagreement{{"Ethernet4", "b", now.Add(-time.Hour)}, {"Ethernet0", "a", now.Add(-time.Minute)}})
		}, "differs", degraded, "2 ports differ, the first is Ethernet4, since 2001-09-09T00:46:40Z: b"},
		"a fight":              {func(h *health) { h.fighting("Ethernet8", 2) }, "reconcile", degraded, "entries of Ethernet8 and 1 more:"},
		"a fight that is over": {func(h *health) { h.fighting("Ethernet8", 2); h.fighting("", 0) }, "", ok, ""},
		"stuck":                {func(h *health) { h.turn(now.Add(-11*time.Second), time.Time{}) }, "loop", failed, "11s"},
		"too much memory":      {func(h *health) { h.memoryLimit = 1 << 20 }, "memory", degraded, "2.0 MiB are in use, -memory-limit is 1.0 MiB"},
		"metrics not served":   {func(h *health) { why := "taken"; h.web.Store(&why) }, "web", degraded, "taken"},
		"metrics served again": {func(h *health) { h.web.Store(new(string)) }, "", ok, ""},
	} {
		h := new(health)
		h.listed.Store(true)
		h.turn(now, time.Time{})
		c.set(h)
		for _, got := range h.Checks(now, 2<<20) {
			want := ok
			if got.name == c.check {
				want = c.want
			}
			if got.level != want || got.level != ok && !strings.Contains(got.reason, c.words) || got.level == ok && got.reason != "" {
				t.Errorf("%s: %s is %v (%s), want %v", name, got.name, got.level, got.reason, want)
			}
		}
	}
}

// TestSettingTheClockChangesNoHealth: a switch boots with a wrong clock, and NTP sets it hours forward or back.
// Nothing has lasted longer or shorter for that.
func TestSettingTheClockChangesNoHealth(t *testing.T) {
	start := time.Now()
	for name, c := range map[string]struct {
		begin func(h *health)
		check string
		after map[time.Duration]level
	}{
		"all is well": {func(*health) {}, "loop",
			map[time.Duration]level{time.Second: ok, stuckAfter + time.Second: failed}},
		"an outage": {func(h *health) { h.database(errors.New("connection refused"), nil, start) }, "redis",
			map[time.Duration]level{time.Second: degraded, failedAfter + time.Second: failed}},
		"a queue": {func(h *health) { h.turn(start, start) }, "queue",
			map[time.Duration]level{
				time.Second: ok, behindAfter + time.Second: degraded, failedAfter + time.Second: failed}},
		"an overrun": {func(h *health) { h.resync.Store(true); since(&h.resyncAt, true, start) }, "overrun",
			map[time.Duration]level{time.Second: degraded, failedAfter + time.Second: failed}},
	} {
		for after, want := range c.after {
			for _, step := range []time.Duration{0, time.Hour, -time.Hour, 40 * 365 * 24 * time.Hour} {
				h := new(health)
				h.listed.Store(true)
				h.turn(start, time.Time{})
				c.begin(h)
				for _, got := range h.Checks(stepWall(start.Add(after), step), 0) {
					if got.name == c.check && got.level != want {
						t.Errorf("%s for %v, the clock set by %v: %s is %v (%s), want %v",
							name, after, step, got.name, got.level, got.reason, want)
					}
				}
			}
		}
	}
}

// TestReasonsHaveTheClockOnTheWall: a person compares them with other logs.
func TestReasonsHaveTheClockOnTheWall(t *testing.T) {
	h, start := new(health), time.Now()
	h.turn(start, start)
	now := stepWall(start.Add(5*time.Second), time.Hour)
	want := "since " + now.Round(0).Add(-5*time.Second).UTC().Format(time.RFC3339)
	for _, c := range h.Checks(now, 0) {
		if c.name == "queue" && !strings.Contains(c.reason, want) {
			t.Errorf("the reason is %q, want %q", c.reason, want)
		}
	}
}

func TestHealthChangesAreOneLine(t *testing.T) {
	out := new(lockedBuffer)
	log := slog.New(newLineLog(out, slog.LevelInfo))
	m, h, now := newMetrics(""), new(health), time.Unix(1e9, 0)
	h.listed.Store(true)
	step := func(score float64, lines int) {
		t.Helper()
		now = now.Add(time.Second)
		h.turn(now, time.Time{})
		h.Update(now, m, log)
		_, worst := h.Update(now, m, log)
		if got := strings.Count(out.String(), "\n"); got != lines || worst.score() != score {
			t.Errorf("score %v, want %v; %d lines, want %d:\n%s", worst.score(), score, got, lines, out)
		}
	}
	step(1, 1)
	step(1, 1)
	h.database(errors.New("connection refused"), nil, now)
	step(0.5, 2)
	step(0.5, 2)
	for range 30 {
		now = now.Add(time.Second)
	}
	step(0, 3)
	h.database(nil, nil, now)
	step(1, 4)
	if !strings.Contains(out.String(), `level=WARN msg="health is degraded" checks="redis: connection refused"`) {
		t.Errorf("the log is %s", out)
	}
	if redis := m.healthChecks[2].Load(); redis != 1 {
		t.Errorf("portsyncd_health_check of redis is %v", redis)
	}
}

// newWatchdog is one on a bench: it ticks by hand and its exit is caught.
func newWatchdog(t *testing.T) (w *watchdog, exited *int, out *lockedBuffer) {
	exited, out = new(int), new(lockedBuffer)
	w = &watchdog{box: newBox(&unit{m: newMetrics(""), health: new(health)}), log: slog.New(newLineLog(out, slog.LevelDebug)),
		flush: func(time.Duration) {}, notify: new(notifier),
		exit: func() { *exited = exitFailed }}
	w.box.health.listed.Store(true)
	return w, exited, out
}

func TestStuckLoopEndsTheDaemon(t *testing.T) {
	w, exited, out := newWatchdog(t)
	now := time.Unix(1e9, 0)
	for range 5 {
		now = now.Add(time.Second)
		w.box.health.turn(now, time.Time{})
		w.tick(now, time.Second)
	}
	now = now.Add(time.Hour) // the process was stopped, and the watchdog with it
	w.tick(now, time.Second)
	if *exited != 0 {
		t.Fatal("a stopped process is taken for a stuck loop")
	}
	for range 10 {
		now = now.Add(time.Second)
		w.tick(now, time.Second)
	}
	if *exited != exitFailed {
		t.Fatal("a stuck loop goes unnoticed")
	}
	if text := out.String(); !strings.Contains(text, "level=CRIT msg=\"the loop is stuck") || !strings.Contains(text, "TestStuckLoopEndsTheDaemon") {
		t.Errorf("the goroutines are not in the log:\n%s", text)
	}
}

// TestSystemdIsTold listens where systemd would.
func TestSystemdIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "4000000")
	t.Setenv("WATCHDOG_PID", "")
	w, exited, _ := newWatchdog(t)
	w.notify = openNotifier()
	defer w.notify.conn.Close()
	if os.Getenv("NOTIFY_SOCKET") != "" || w.notify.every != 2*time.Second {
		t.Errorf("environment not taken: %+v", w.notify)
	}
	buf := make([]byte, 4096)
	heard := func() (messages []string) {
		for {
			must(t, systemd.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
			n, err := systemd.Read(buf)
			if err != nil {
				return messages
			}
			messages = append(messages, string(buf[:n]))
		}
	}
	now := time.Unix(1e9, 0)
	turn := func(turns bool) []string {
		now = now.Add(time.Second)
		if turns {
			w.box.health.turn(now, time.Time{})
		}
		w.tick(now, time.Second)
		return heard()
	}
	w.box.health.listed.Store(false)
	if got := strings.Join(turn(true), "|"); strings.Contains(got, "READY") {
		t.Errorf("ready before the links are listed: %s", got)
	}
	w.box.health.listed.Store(true)
	if got := strings.Join(turn(true), "|"); !strings.Contains(got, "READY=1") || !strings.Contains(got, "STATUS=ok") {
		t.Errorf("told was %s", got)
	}
	pings := 0
	for range 8 {
		for _, message := range turn(true) {
			if message == "WATCHDOG=1" {
				pings++
			}
		}
	}
	if pings != 8 {
		t.Errorf("%d pings in 8 ticks", pings)
	}
	var last []string
	for range 10 {
		last = turn(false)
	}
	if *exited == 0 || strings.Contains(strings.Join(last, "|"), "WATCHDOG=1") {
		t.Errorf("a stuck loop is reported as alive: %v", last)
	}
	if !strings.Contains(strings.Join(last, "|")+w.status, "loop") && now.Sub(time.Unix(1e9, 0)) < stuckAfter {
		t.Errorf("status is %s", w.status)
	}
}

// TestBell: beats of several loops in the same moment are heard once, the next ones again, and a bell that nobody hears holds up nobody.
func TestBell(t *testing.T) {
	t.Parallel()
	b, at, heard := new(bell), time.Now(), 0
	b.ring(at)
	b.hear(func(time.Time) { heard++ })
	for round := range 3 {
		for range 8 {
			b.ring(at)
			at = at.Add(time.Millisecond)
		}
		if heard != round+1 {
			t.Errorf("heard %d times by round %d", heard, round)
		}
		at = at.Add(shortBeat)
	}
	var none *bell
	none.ring(at)
}

// TestReadyzSaysWhatAStartWaitsFor: it is CONFIG_DB, and that is said to whoever asks, not once in the log alone.
func TestReadyzSaysWhatAStartWaitsFor(t *testing.T) {
	b := newBench(t, "Ethernet0")
	b.db.broken = errConfigLoading
	b.turn()
	b.dumpDone(false, nil)
	b.turn()
	var wrong []string
	for _, c := range b.status.Checks(b.clock, 0) {
		if c.level != ok {
			wrong = append(wrong, c.name)
		}
	}
	says := b.status.Ready(b.clock, nil)
	t.Logf("checks that are not ok: %q; redis_connected %v, port_config_done %v; /readyz: %q", wrong, b.m.redisConnected.Load(),
		b.m.portConfigDone.Load(), says)
	if !strings.Contains(strings.Join(says, " "), "CONFIG_DB") {
		t.Errorf("/readyz does not say that CONFIG_DB is being loaded: %q", says)
	}
}
