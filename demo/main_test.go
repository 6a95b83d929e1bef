package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// TestDemo runs what `make run` runs, looks at it with the commands that it prints, and ends it with Ctrl-C.
func TestDemo(t *testing.T) {
	if err := switchtest.Missing(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("in CI everything has to be tested: ", err)
		}
		t.Skip(err)
	}
	port, err := switchtest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out strings.Builder
	demo := exec.CommandContext(ctx, build(t, "."), "-portsyncd", build(t, ".."), "-listen", fmt.Sprintf("127.0.0.1:%d", port), "-ports", "8", "-for", "5s")
	demo.Stdout, demo.Stderr = &out, &out
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	err = switchtest.WaitFor(30*time.Second, "the demo's metrics", func() bool {
		text, err := exec.Command("curl", "-sf", fmt.Sprintf("http://127.0.0.1:%d/metrics", port)).Output()
		return err == nil && strings.Contains(string(text), `portsyncd_port_oper_up{port="Ethernet28"} 1`)
	})
	if err != nil {
		t.Error(err)
	}
	if err := demo.Wait(); err != nil {
		t.Errorf("%v; it printed:\n%s", err, out.String())
	}
	var namespace string
	for line := range strings.Lines(out.String()) {
		if command, found := strings.CutPrefix(strings.TrimSpace(line), "ip -n "); found {
			namespace = strings.Fields(command)[0]
		}
	}
	left, err := exec.Command("ip", "netns", "list").Output()
	if err != nil || namespace == "" || strings.Contains(string(left), namespace) {
		t.Errorf("namespace %q is left behind (%v); the demo printed:\n%s", namespace, err, out.String())
	}
}
