package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRemedyForARecorderOnADiskIsAnotherPlace: in a swss container the usual one is on the container's own disk.
func TestRemedyForARecorderOnADiskIsAnotherPlace(t *testing.T) {
	dir, err := os.MkdirTemp(".", "on-disk-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	var said strings.Builder
	place := openPlace(filepath.Join(dir, "recorder"), recordFixed+portRing, slog.New(slog.NewTextHandler(&said, nil)))
	defer place.close()
	if inMemory(place.file) {
		t.Skip("this folder is on no disk")
	}
	if text := said.String(); !strings.Contains(text, "on a disk") || strings.Contains(text, defaultRecorderFile) {
		t.Errorf("the log says %s", text)
	}
}

// TestRecorderOnAFullDiskLeavesNoFile: a reader would take an empty one for a broken one.
func TestRecorderOnAFullDiskLeavesNoFile(t *testing.T) {
	needRoot(t, "only root mounts")
	dir := t.TempDir()
	must(t, unix.Mount("none", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	var said strings.Builder
	place := openPlace(filepath.Join(dir, "recorder"), 1<<20, slog.New(slog.NewTextHandler(&said, nil)))
	defer place.close()
	if text := said.String(); !place.memory || !strings.Contains(text, "no space left") || !strings.Contains(text, "with room for it") {
		t.Errorf("in memory %v, and the log says %s", place.memory, text)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("there is %v: %v", left, err)
	}
}
