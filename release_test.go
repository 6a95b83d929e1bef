package main

import (
	"bytes"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReleaseRefuses what a person forgets, in a repository that has nothing but what is looked at.
func TestReleaseRefuses(t *testing.T) {
	needTool(t, "git")
	script, err := filepath.Abs(".ci/release")
	must(t, err)
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		out, err := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=x", "-c", "user.email=x"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v: %s", args, err, out)
		}
	}
	commit := func(changelog string) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(dir, "CHANGELOG.md"), []byte(changelog), 0o644))
		git("add", ".")
		git("commit", "-q", "--allow-empty", "-m", "x")
	}
	git("init", "-q")
	const whole = "# Changelog\n\n## Unreleased\n\n## 1.2.0 - 2026-11-25\n\n### Added\n- Something.\n\n## 1.1.0 - 2026-01-01\n- Older.\n"
	for _, c := range []struct{ version, changelog, want string }{
		{"", whole, "give one such as"},
		{"1.2.0", whole, "give one such as"},
		{"v1.2", whole, "give one such as"},
		{"v1.3.0", whole, "no heading"},
		{"v1.2.0", strings.Replace(whole, " - 2026-11-25", "", 1), "no heading"},
		{"v1.2.0", strings.Replace(whole, "- Something.\n", "", 1), "says nothing"},
		{"v1.2.0", strings.Replace(whole, "Unreleased\n", "Unreleased\n- Left.\n", 1), "under Unreleased"},
		{"v1.2.0", whole, "does not build"}, // there is no Makefile: it has come that far
	} {
		commit(c.changelog)
		cmd := exec.Command("sh", script, c.version)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte(c.want)) {
			t.Errorf("%q: %v %s, want %q", c.version, err, out, c.want)
		}
		if made, _ := filepath.Glob(filepath.Join(dir, "dist/*")); len(made) > 0 {
			t.Errorf("%q leaves %q", c.version, made)
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "CHANGELOG.md"), nil, 0o644))
	cmd := exec.Command("sh", script, "v1.2.0")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("not committed")) {
		t.Errorf("what is not committed: %v %s", err, out)
	}
}

// TestLicencesAreNamed: the package's copyright file has each module that is linked in.
func TestLicencesAreNamed(t *testing.T) {
	if testing.Short() {
		t.Skip("nothing is built with -short")
	}
	if os.Getenv("PORTSYNCD") != "" {
		t.Skip("it is the binary that this machine builds which says what is in it")
	}
	info, err := buildinfo.ReadFile(daemonProgram(t)[0])
	must(t, err)
	text, err := os.ReadFile("deploy/debian/copyright")
	must(t, err)
	if len(info.Deps) < 2 {
		t.Errorf("only %d modules are linked in", len(info.Deps))
	}
	for _, module := range info.Deps {
		name := strings.TrimSuffix(strings.TrimSuffix(module.Path, "/v9"), "/v2")
		if !bytes.Contains(text, []byte(name)) {
			t.Errorf("deploy/debian/copyright does not name %s", module.Path)
		}
	}
}
