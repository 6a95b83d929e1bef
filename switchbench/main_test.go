package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// buildDaemon makes the daemon's binary, on a machine that can be a switch.
func buildDaemon(t *testing.T) (binary string) {
	t.Helper()
	if err := switchtest.Missing(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("in CI everything has to be tested: ", err)
		}
		t.Skip(err)
	}
	binary = filepath.Join(t.TempDir(), "portsyncd")
	if out, err := exec.Command("go", "build", "-o", binary, "..").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return binary
}

// readReport reads what -json wrote.
func readReport(t *testing.T, file string) (r report) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return r
}

// TestSwitchbench measures the daemon beside itself on four ports: every figure is there, and nothing is left wrong.
func TestSwitchbench(t *testing.T) {
	t.Parallel()
	binary, file := buildDaemon(t), filepath.Join(t.TempDir(), "figures.json")
	o := options{ports: 4, runs: 1, rounds: 2, changes: 8, idle: time.Second, limit: 30 * time.Second, quietTime: 200 * time.Millisecond}
	var table bytes.Buffer
	if err := run(t.Context(), o, [2]string{binary, binary + " -log.level DEBUG"}, file, &table); err != nil {
		t.Fatal(err)
	}
	r := readReport(t, file)
	if len(r.Daemons) != 2 {
		t.Fatalf("%d daemons were measured", len(r.Daemons))
	}
	for _, d := range r.Daemons {
		for _, f := range d.Runs[0] {
			switch {
			case f.Value == nil:
				t.Errorf("%s: %s never came", d.Command, f.Name)
			case strings.Contains(f.Name, "ports"):
				if *f.Value != 0 {
					t.Errorf("%s: %s: %v", d.Command, f.Name, *f.Value)
				}
			case strings.HasPrefix(f.Name, "last interface"): // a busy machine may have the bench itself hear of it late
			case *f.Value < 0 || *f.Value == 0 && !strings.Contains(f.Name, "idle"):
				t.Errorf("%s: %s is %v", d.Command, f.Name, *f.Value)
			}
			if !strings.Contains(table.String(), f.Name) {
				t.Errorf("the table lacks %s:\n%s", f.Name, &table)
			}
		}
	}
}

// TestLatencyIsNeverClipped: an event of an earlier change is not one of this change in no time, and what never came
// is not what came at the limit.
func TestLatencyIsNeverClipped(t *testing.T) {
	asked := time.Now()
	events := make(chan switchtest.KeyEvent, 2)
	events <- switchtest.KeyEvent{At: asked.Add(-time.Millisecond), Key: "early"}
	events <- switchtest.KeyEvent{At: asked.Add(70 * time.Microsecond), Key: "this"}
	always := func(switchtest.KeyEvent) bool { return true }
	if got := follow(asked, time.Minute, events, always); got != 70*time.Microsecond {
		t.Errorf("the latency is %v", got)
	}
	b := new(bench)
	lost := follow(asked, time.Millisecond, events, always)
	b.noteLatency("one change", []time.Duration{lost, 80 * time.Microsecond, 90 * time.Microsecond})
	if p50, most := b.figures[0].Value, b.figures[2].Value; p50 == nil || *p50 != 90 || most != nil {
		t.Errorf("p50 is %v, max %v, want 90 and never", p50, most)
	}
}

// TestBoxIsMeasured measures both ways of looking after a box of two ASICs: every figure is there, and nothing is left wrong, but by
// processes inside a namespace that was made again: they hear nothing.
func TestBoxIsMeasured(t *testing.T) {
	t.Parallel()
	binary := buildDaemon(t)
	o := options{asics: 2, ports: 4, runs: 1, rounds: 1, changes: 4, idle: time.Second, limit: 15 * time.Second, quietTime: 200 * time.Millisecond}
	var table bytes.Buffer
	if err := runBox(t.Context(), o, []string{binary}, nil, &table); err != nil {
		t.Fatal(err)
	}
	text := table.String()
	for _, want := range []string{"2 ASICs of 4 ports", "PortConfigDone", "anonymous memory", "a Redis is killed: ports left wrong", "a namespace is made again: its end to all right", "B is 2 × "} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q:\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		lost, wrong := strings.Count(line, "never"), strings.Contains(line, "left wrong")
		if strings.Contains(line, "made again") {
			if strings.Contains(line, "its end") && (lost != 1 || !strings.HasSuffix(strings.TrimSpace(line), "never")) || wrong && strings.Count(line, " 0.00") != 1 {
				t.Error(line)
			}
		} else if lost > 0 || wrong && strings.Count(line, " 0.00") != 2 {
			t.Error(line)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := options{ports: 4, runs: 1, rounds: 1, changes: 1, idle: time.Second, limit: time.Second}
	for flag, spoil := range map[string]func(o *options){
		"-ports": func(o *options) { o.ports = 1 }, "-runs": func(o *options) { o.runs = 0 }, "-idle": func(o *options) { o.idle = 0 },
		"-asics": func(o *options) { o.asics = 17 }, "-rest": func(o *options) { o.restAfter = -1 },
		"-settle": func(o *options) { o.quietTime = -1 }, "-scraped": func(o *options) { o.scraped, o.rates = 30, []rate{30} },
	} {
		o := good
		spoil(&o)
		if err := o.validate(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
	if err := good.validate(); err != nil {
		t.Error(err)
	}
}
