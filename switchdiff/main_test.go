package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// TestHistoryIsReadAsPrinted: what a difference prints can be played again.
func TestHistoryIsReadAsPrinted(t *testing.T) {
	for seed := range uint64(50) {
		text := newHistory(seed, 100).String()
		h, err := parseHistory("# a difference\n\n" + text)
		if err != nil || h.String() != text {
			t.Fatalf("seed %d: %v, read as\n%s", seed, err, h)
		}
	}
	if _, err := parseHistory(`config SET "x`); err == nil {
		t.Error("half a word is taken for one")
	}
}

// TestDaemonThatIsNotThereIsNamed: two that are not there would agree about everything.
func TestDaemonThatIsNotThereIsNamed(t *testing.T) {
	for want, daemons := range map[string][2]string{"-vs": {"/nowhere/portsyncd", "/bin/true"}, "-daemon": {"/bin/true", " "}} {
		if err := (options{daemons: daemons}).validate(); err == nil || !strings.HasPrefix(err.Error(), want+": ") {
			t.Errorf("%q: %v", daemons, err)
		}
	}
}

// TestSwitchdiff plays histories to the daemon beside itself, which never differs, and finds one that was started with
// another idea of old interfaces.
func TestSwitchdiff(t *testing.T) {
	t.Parallel()
	if err := switchtest.Missing(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("in CI everything has to be tested: ", err)
		}
		t.Skip(err)
	}
	binary := filepath.Join(t.TempDir(), "portsyncd")
	if out, err := exec.Command("go", "build", "-o", binary, "..").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	o := options{daemons: [2]string{binary, binary}, settle: 25 * time.Millisecond, limit: 10 * time.Second}
	for seed := range uint64(2) {
		found, err := o.play(t.Context(), newHistory(seed, 10))
		if err != nil || len(found.differs) > 0 {
			t.Errorf("seed %d: %v\n%s", seed, err, found)
		}
	}
	o.daemons[1], o.limit = binary+" -old-interfaces adopt", 2*time.Second
	old, err := parseHistory("config HSET PORT|Ethernet0 lanes 1\ncable Ethernet0 far0\nstart\nconsume\n")
	if err != nil {
		t.Fatal(err)
	}
	if found, err := o.play(t.Context(), old); err != nil || len(found.differs) == 0 {
		t.Errorf("an interface that one of them takes for old makes no difference: %v", err)
	}
	// without the other one, because the daemon alone is started again: it takes for old what only it thinks is
	o.daemons[1] = binary + " -old-interfaces down"
	alone, err := parseHistory("config HSET PORT|Ethernet0 lanes 1\nstart\nconsume\ncable Ethernet0 far0\n" +
		"near link set Ethernet0 up\nstop\nstart\n")
	if err != nil {
		t.Fatal(err)
	}
	found, err := o.play(t.Context(), alone)
	if err != nil || found.explained[stays] != 1 ||
		!strings.Contains(found.String(), "state PORT_TABLE|Ethernet0, which should be as the kernel has it") {
		t.Errorf("a daemon that sets its ports down when it alone is started again: %v, %v\n%s", err, found.explained, found)
	}
	o.daemons[1] = "/nowhere/portsyncd"
	if err := o.many(t.Context(), 0, 1, 1); err == nil || !strings.Contains(err.Error(), "1 that could not be played") {
		t.Errorf("a history that could not be played: %v", err)
	}
}
