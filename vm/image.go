//go:build vm

package vm

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// image returns the folder of a system to boot. It is made once: what is not the script's doing is Debian's.
func image(cache, arch, suite, mirror string) (dir string, made bool, err error) {
	script, err := os.ReadFile("image.sh")
	if err != nil {
		return "", false, err
	}
	sum := sha256.Sum256(script)
	dir = filepath.Join(cache, fmt.Sprintf("%s-%s-%x", suite, arch, sum[:4]))
	if _, err := os.Stat(filepath.Join(dir, "disk.img")); err == nil {
		return dir, false, nil
	}
	making := dir + ".making"
	if err := os.RemoveAll(making); err != nil {
		return "", false, err
	}
	if err := os.MkdirAll(making, 0o755); err != nil {
		return "", false, err
	}
	cmd := exec.Command("sh", "image.sh", arch, suite, making, mirror)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", false, fmt.Errorf("making the image %s: %w", making, err)
	}
	return dir, true, os.Rename(making, dir)
}
