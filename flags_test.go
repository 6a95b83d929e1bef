package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestHelpAndFlagsListTheSame: what -h of the binary prints against the table of docs/flags.md. Several flags may share a row.
func TestHelpAndFlagsListTheSame(t *testing.T) {
	program := daemonProgram(t)
	help := sh(t, program[0], append(slices.Clone(program[1:]), "-h")...)
	var own []string
	for _, flag := range regexp.MustCompile(`(?m)^  (-[a-z.-]+)`).FindAllStringSubmatch(help, -1) {
		own = append(own, flag[1])
	}
	text, err := os.ReadFile("docs/flags.md")
	must(t, err)
	_, section, _ := strings.Cut(string(text), "\n## Flags\n")
	section, _, found := strings.Cut(section, "\n## ")
	if !found || len(own) < 15 {
		t.Fatalf("no section about flags in docs/flags.md, or no flags in:\n%s", help)
	}
	documented := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| (`-[^|]*(?:\\\\\\|[^|]*)*)\\|").FindAllStringSubmatch(section, -1) {
		for _, flag := range regexp.MustCompile("`(-[a-z.-]+)").FindAllStringSubmatch(row[1], -1) {
			if documented[flag[1]] {
				t.Errorf("%s has two rows", flag[1])
			}
			documented[flag[1]] = true
		}
	}
	slices.Sort(own)
	if got := slices.Sorted(maps.Keys(documented)); !slices.Equal(got, own) {
		t.Errorf("docs/flags.md has %q, -h has %q", got, own)
	}
}

// TestVersionAndHelpNeedNothingButTheBinary: a static one alone in an empty root, without /proc or anything else.
func TestVersionAndHelpNeedNothingButTheBinary(t *testing.T) {
	switch {
	case testing.Short():
		t.Skip("nothing is built with -short")
	case os.Getenv("PORTSYNCD") != "":
		t.Skip("an emulator is not alone")
	case os.Geteuid() != 0 && os.Getenv("CI") == "":
		t.Skip("only root may change the root")
	}
	root := t.TempDir()
	build := exec.Command("go", "build", "-tags=nethttpomithttp2", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -X main.version=v1.2.3",
		"-o", filepath.Join(root, "portsyncd"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for flag, want := range map[string]string{"-version": "portsyncd v1.2.3 go", "-h": "-web.listen-address", "-help": "-version"} {
		cmd := exec.Command("/portsyncd", flag)
		cmd.SysProcAttr, cmd.Dir, cmd.Env = &syscall.SysProcAttr{Chroot: root}, "/", []string{}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s in an empty root: %v\n%s", flag, err, out)
		}
	}
}
