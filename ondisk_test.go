package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
