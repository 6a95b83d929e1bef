//go:build vm

package vm

import (
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	arch   = flag.String("vm.arch", "", "boot a machine of this CPU and run its tests: amd64 or arm64")
	suite  = flag.String("vm.suite", "bookworm", "Debian's suite")
	mirror = flag.String("vm.mirror", "http://deb.debian.org/debian", "Debian's mirror")
	cache  = flag.String("vm.cache", "../.cache/vm", "folder for the systems, which are made once")
	only   = flag.String("vm.run", "", "run only the guest's tests that match; PowerCut: the power cut alone")
	e2e    = flag.String("vm.e2e", "TestColdStart", "which end-to-end tests to run there")
	record = flag.Bool("vm.record", false, "keep what the guest's kernel sent in testdata/")
	keep   = flag.String("vm.keep", "", "folder for disks and consoles, kept; empty: a temporary one")
)

// TestBooted boots a machine, shows its tests as its own, takes its power away amid a storm and boots it again.
func TestBooted(t *testing.T) {
	p, known := platforms[*arch]
	if !known {
		t.Fatalf("-vm.arch: %q is neither amd64 nor arm64", *arch)
	}
	top, err := filepath.Abs("..")
	must(t, err)
	must(t, os.MkdirAll(*cache, 0o755))
	begun := time.Now()
	folder, err := filepath.Abs(*cache)
	must(t, err)
	system, made, err := image(folder, p.debian, *suite, *mirror)
	must(t, err)
	say("Debian %s for %s in %s, made now: %v (%v)", *suite, p.debian, system, made, since(begun))
	begun = time.Now()
	dir := *keep
	if dir == "" {
		dir = t.TempDir()
	}
	must(t, os.MkdirAll(dir, 0o755))
	disk, err := payload(p, dir, top, *only, *e2e)
	must(t, err)
	m, err := newMachine(p, system, dir, disk)
	must(t, err)
	say("payload built (%v); the machine runs under %s", since(begun), m.accel)
	cut := m.relay(t, "tests", top)
	if cut {
		m.relay(t, "powercut", top)
	}
	if !cut && *only == "" && !t.Failed() {
		t.Error("the power was not cut")
	}
}

// relay boots the machine and makes subtests of the tests that it reports. It returns whether the guest asked for its
// power to be cut.
func (m *machine) relay(t *testing.T, phase, top string) (cut bool) {
	begun := time.Now()
	b, err := m.boot(t.Context(), phase)
	must(t, err)
	group, done, ran := "", false, 0
	for line, open := b.next(); open; line, open = b.next() {
		news, isNews := strings.CutPrefix(line, "== ")
		word, rest, _ := strings.Cut(news, " ")
		name, begins := starts(line)
		switch {
		case begins:
			ran++
			t.Run(group+"/"+name, func(t *testing.T) { cut = m.one(t, name, b) || cut })
		case !isNews:
			fmt.Fprintln(t.Output(), line)
		case word == "group":
			group = rest
		case word == "exit" && rest != "0":
			t.Errorf("the tests of %s ended with exit code %s", group, rest)
		case word == "exit":
		case word == "file":
			m.keepFile(t, rest, top)
		case word == "done":
			done = true
		default:
			say("%s", news)
		}
	}
	_ = b.off()
	say("phase %s: %d tests in %v", phase, ran, since(begun))
	if !done && !cut {
		t.Fatalf("the machine went off before its tests had ended; the end of its console:\n%s", tail(m.consoleFile()))
	}
	return cut
}

// starts says whether a line is a test's first. One that is parallel pauses, and goes on when the others have ended; the
// guest lets them go on one at a time.
func starts(line string) (name string, starts bool) {
	for _, first := range []string{"=== RUN   ", "=== CONT  "} {
		if name, starts = strings.CutPrefix(line, first); starts && !strings.Contains(name, "/") {
			return name, true
		}
	}
	return "", false
}

// one is one test of the guest.
func (m *machine) one(t *testing.T, name string, b *booted) (cut bool) {
	for line, open := b.next(); open; line, open = b.next() {
		switch {
		case strings.HasPrefix(line, "--- PASS: "+name+" "):
			return cut
		case strings.HasPrefix(line, "--- SKIP: "+name+" "):
			t.SkipNow()
		case strings.HasPrefix(line, "--- FAIL: "+name+" "):
			t.FailNow()
		case line == "=== PAUSE "+name:
			t.Skip("goes on when the others have ended")
		case line == "== cut the power":
			b.cut()
			return true
		default:
			fmt.Fprintln(t.Output(), line)
			if strings.HasPrefix(line, "== exit ") {
				t.Fatal("the test binary ended within this test")
			}
		}
	}
	t.Fatalf("the machine went off within this test; the end of its console:\n%s", tail(m.consoleFile()))
	return cut
}

// keepFile takes a recording home.
func (m *machine) keepFile(t *testing.T, news, top string) {
	name, text, _ := strings.Cut(news, " ")
	content, err := base64.StdEncoding.DecodeString(text)
	must(t, err)
	say("the guest's kernel sent %d bytes of %s", len(content), name)
	if *record && filepath.Base(name) == name {
		must(t, os.WriteFile(filepath.Join(top, "testdata", name), content, 0o644))
	}
}

func say(format string, args ...any) { fmt.Printf("vm: "+format+"\n", args...) }

func since(begun time.Time) time.Duration { return time.Since(begun).Round(100 * time.Millisecond) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tail is the end of a file, without what moves a terminal's cursor.
func tail(path string) string {
	text, _ := os.ReadFile(path)
	lines := strings.Split(strings.ReplaceAll(string(text), "\x1b", ""), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}
