//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Versions of the two packages: the second is an upgrade of the first.
const (
	firstVersion  = "v1.0.0-vm"
	secondVersion = "v2.0.0-vm"
)

// payload makes the disk with what the guest runs: tests, daemons and packages, built for it from this source.
func payload(p platform, dir, top, only, e2e string) (disk string, err error) {
	root := filepath.Join(dir, "payload")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	build := func(goarch, version, out string) error {
		return goTool(top, goarch, "build", "-tags", "nethttpomithttp2", "-trimpath", "-buildvcs=false",
			"-ldflags", "-s -w -buildid= -X main.version="+version, "-o", out, ".")
	}
	native := filepath.Join(dir, "portsyncd-here") // its -help is the man page's list of flags
	if err := build("", firstVersion, native); err != nil {
		return "", err
	}
	for _, version := range []string{firstVersion, secondVersion} {
		binary := filepath.Join(root, "portsyncd-"+version)
		if err := build(p.goarch, version, binary); err != nil {
			return "", err
		}
		if err := run("sh", filepath.Join(top, "deploy/debian/build.sh"), binary, p.debian, version, root, native); err != nil {
			return "", err
		}
	}
	if p.goarch == "arm64" {
		if err := build("arm", firstVersion, filepath.Join(root, "portsyncd-arm7")); err != nil {
			return "", err
		}
		if err := goTool(top, "arm", "test", "-c", "-tags", "vm", "-ldflags", "-s -w", "-o", filepath.Join(root, "portsyncd-arm7.test"), "."); err != nil {
			return "", err
		}
	}
	for name, pkg := range map[string]string{"portsyncd.test": ".", "guest.test": "./vm/guest"} {
		if err := goTool(top, p.goarch, "test", "-c", "-tags", "vm", "-ldflags", "-s -w", "-o", filepath.Join(root, name), pkg); err != nil {
			return "", err
		}
	}
	for _, folder := range []string{"testdata", "deploy", "docs"} {
		if err := run("cp", "-r", filepath.Join(top, folder), root); err != nil {
			return "", err
		}
	}
	if err := run("cp", "run.sh", filepath.Join(root, "run")); err != nil {
		return "", err
	}
	for name, text := range map[string]string{"only": only, "e2e": e2e} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	disk = filepath.Join(dir, "payload.img")
	if err := run("truncate", "-s", "256M", disk); err != nil {
		return "", err
	}
	return disk, run("mkfs.ext4", "-q", "-F", "-L", "payload", "-d", root, disk)
}

// goTool runs go for a CPU, in a folder.
func goTool(dir, goarch string, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+goarch, "GOARM=7", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s for %s: %w\n%s", args[0], goarch, err, out)
	}
	return nil
}
