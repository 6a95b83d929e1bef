package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// build makes a program of this repository.
func build(t *testing.T, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// TestDemo runs what `make run` and `make run ASICS=2` run, looks at it with the commands that it prints, and ends it.
func TestDemo(t *testing.T) {
	if err := switchtest.Missing(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("in CI everything has to be tested: ", err)
		}
		t.Skip(err)
	}
	demo, daemon := build(t, "."), build(t, "..")
	t.Run("switch", func(t *testing.T) {
		t.Parallel()
		lookAt(t, demo, daemon, `portsyncd_port_oper_up{port="Ethernet28"} 1`)
	})
	t.Run("box", func(t *testing.T) {
		t.Parallel()
		lookAt(t, demo, daemon, `",port="Ethernet28"} 1`, "-asics", "2")
	})
}

// lookAt runs the demo until it shows a port that is up, tries the commands that it prints for this program, and sees that it leaves nothing behind.
func lookAt(t *testing.T, program, daemon, want string, flags ...string) {
	port, err := switchtest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := new(locked)
	demo := exec.CommandContext(ctx, program, append(flags, "-portsyncd", daemon, "-listen", fmt.Sprintf("127.0.0.1:%d", port), "-ports", "8", "-for", "5s")...)
	demo.Stdout, demo.Stderr = out, out
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	err = switchtest.WaitFor(30*time.Second, "the demo's metrics", func() bool {
		text, err := exec.Command("curl", "-sf", fmt.Sprintf("http://127.0.0.1:%d/metrics", port)).Output()
		return err == nil && strings.Contains(string(text), want)
	})
	if err == nil {
		err = switchtest.WaitFor(10*time.Second, "the demo's words", func() bool { return strings.Contains(out.String(), "Ctrl-C ends") })
	}
	if err != nil {
		t.Error(err)
	}
	var namespace string
	for line := range strings.Lines(out.String()) {
		fields := strings.Fields(line)
		if strings.HasPrefix(line, "  ip -n ") {
			namespace = fields[2]
		}
		if strings.HasPrefix(line, "  ./portsyncd ") {
			said, err := exec.Command(daemon, fields[1:]...).CombinedOutput()
			if ended := new(exec.ExitError); err != nil && (!errors.As(err, &ended) || ended.ExitCode() > 1) {
				t.Errorf("%s: %v: %s", line, err, said)
			}
		}
	}
	if err := demo.Wait(); err != nil {
		t.Errorf("%v; it printed:\n%s", err, out)
	}
	left, err := exec.Command("ip", "netns", "list").Output()
	if err != nil || namespace == "" || strings.Contains(string(left), namespace) {
		t.Errorf("namespace %q is left behind (%v); the demo printed:\n%s", namespace, err, out)
	}
}

// locked is what is printed, to be read meanwhile.
type locked struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestDemoRefuses holds what cannot be made.
func TestDemoRefuses(t *testing.T) {
	for _, bad := range [][2]int{{-1, 8}, {17, 8}, {0, 0}, {2, 513}} {
		if err := check(bad[0], bad[1]); err == nil {
			t.Errorf("%d ASICs with %d ports are made", bad[0], bad[1])
		}
	}
}

// TestDemoWaitsForAllPorts, whichever comes last.
func TestDemoWaitsForAllPorts(t *testing.T) {
	if err := switchtest.Missing(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("in CI everything has to be tested: ", err)
		}
		t.Skip(err)
	}
	sw, err := switchtest.New(switchtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sw.Close()
	d, err := switchtest.StartProgram("sleep", "60")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Stop()
	up := func(port string) error {
		if err := sw.AddPorts(port); err != nil {
			return err
		}
		return sw.State.HSet(t.Context(), sw.StateKey(port), "netdev_oper_status", "up").Err()
	}
	if err := up("Ethernet4"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- comeUp(t.Context(), d, sw, 2) }()
	select {
	case err := <-ended:
		t.Fatal("it does not wait for the first port: ", err)
	case <-time.After(300 * time.Millisecond): // what does not happen has no event
	}
	if err := up("Ethernet0"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
