package main

import (
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRecorderFileThatIsRemovedIsMadeAgain: portsyncd events finds what was recorded before, and since, whatever somebody has put in its place.
func TestRecorderFileThatIsRemovedIsMadeAgain(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"removed":  func(string) error { return nil },
		"replaced": func(path string) error { return os.WriteFile(path, []byte("something else"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			r, path := testRecorder(t, 2)
			var said strings.Builder
			r.log = slog.New(slog.NewTextHandler(&said, nil))
			p, now := &port{name: "Ethernet0"}, time.Now()
			r.note(ownStarted, "", now)
			r.link(p, &linkMessage{index: 5, flags: upRunning}, false, now)
			must(t, os.Remove(path))
			must(t, replace(path))
			open := r.mend(now, false, noPorts)
			if open == nil {
				t.Fatal("nobody sees that it is gone")
			}
			r.link(p, &linkMessage{index: 5, flags: upOnly}, false, now) // meanwhile
			open()
			r.mended()
			r.link(p, &linkMessage{index: 5, flags: upRunning}, false, now)
			r.note(ownHealth, "", now)
			if got := whats(tookDown(t, path, "Ethernet0")); !slices.Equal(got, []string{"created", "carrier lost", "carrier back"}) {
				t.Errorf("the file has %v", got)
			}
			if got := whats(tookDown(t, path, "")); !slices.Equal(got, []string{"started", "health"}) {
				t.Errorf("of the daemon it has %v", got)
			}
			if r.mend(now.Add(time.Hour), false, noPorts) != nil || strings.Count(said.String(), "has its file") != 1 {
				t.Errorf("it is made once more, or the log says %s", &said)
			}
		})
	}
}

// TestFileOfAnotherRecorderIsLeftAlone, which has taken the place of one that was removed: it is had when that one ends, with what that one recorded.
func TestFileOfAnotherRecorderIsLeftAlone(t *testing.T) {
	r, path := testRecorder(t, 2)
	now := time.Now()
	r.note(ownStarted, "", now)
	must(t, os.Remove(path))
	other := openRecorder(path, r.size, newMetrics("test"), discard())
	other.note(ownStarted, "", now)
	other.note(ownOverrun, "", now)
	for range 2 {
		r.mend(now, false, noPorts)()
		r.mended()
		now = now.Add(mendPause)
	}
	r.note(ownHealth, "", now)
	other.close()
	r.mend(now, false, noPorts)()
	r.mended()
	r.note(ownBack, "", now)
	if got := whats(tookDown(t, path, "")); !slices.Equal(got, []string{"started", "link messages lost", "databases back"}) {
		t.Errorf("the file has %v", got)
	}
}
