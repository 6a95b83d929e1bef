package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestErrorsMoveNoCursor: they name ports, and an interface may have any name.
func TestErrorsMoveNoCursor(t *testing.T) {
	r, path := testRecorder(t, 1)
	r.link(&port{name: "Ethernet\x1b[2J"}, &linkMessage{index: 5}, false, time.Now())
	for name, args := range map[string][]string{
		"a port that is there": {"-recorder.file", path, "Ethernet4"},
		"an argument":          {"-recorder.file", filepath.Join(t.TempDir(), "a\x1b[2J")},
	} {
		var out, errs bytes.Buffer
		if code := runEvents(args, &out, &errs); code != exitUnsure || strings.Contains(errs.String(), "\x1b") {
			t.Errorf("%s: %d %q", name, code, &errs)
		}
	}
}
