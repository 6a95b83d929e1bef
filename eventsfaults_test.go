package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What readers of the flight recorder make of odd names and moments.

// askEvents is one request about events, without a server.
func askEvents(t *testing.T, r *recorder, query string) (answer eventsAnswer, code int) {
	t.Helper()
	w := httptest.NewRecorder()
	a := newAPI(newBox(&unit{m: newMetrics("test"), health: new(health), record: r}), true)
	a.serveEvents(w, httptest.NewRequest(http.MethodGet, eventsPath+query, nil))
	if w.Code == http.StatusOK {
		must(t, json.Unmarshal(w.Body.Bytes(), &answer))
	}
	return answer, w.Code
}

// TestOddNamesAreAskedForAsTheyAreTold: by the name that the API and the metrics have, in a link that a browser follows.
func TestOddNamesAreAskedForAsTheyAreTold(t *testing.T) {
	r, path := testRecorder(t, 2)
	r.link(&port{name: "Ethernet\xff&%"}, &linkMessage{index: 5, flags: upRunning}, false, time.Now().Add(-time.Minute))
	r.link(&port{name: "Ethernet\x1b[2J", slot: 1}, &linkMessage{index: 6}, false, time.Now().Add(-time.Minute))
	name := readable("Ethernet\xff&%")
	if answer, code := askEvents(t, r, "?port="+url.QueryEscape(name)); code != http.StatusOK || len(answer.Events) != 1 ||
		answer.Events[0].Port != name {
		t.Errorf("%d %+v", code, answer)
	}
	var b bytes.Buffer
	writeCell(&b, &portAnswer{Port: name, Pending: true}, "x", "", "")
	_, rest, _ := strings.Cut(b.String(), `href="?`)
	query, _, _ := strings.Cut(rest, `"`)
	if values, err := url.ParseQuery(query); err != nil || values.Get("port") != name {
		t.Errorf("the link %s leads to %q", query, values)
	}
	var out, errs bytes.Buffer
	if runEvents([]string{"-recorder.file", path}, &out, &errs); strings.Contains(out.String(), "\x1b") {
		t.Errorf("a name moves the terminal's cursor: %q", &out)
	}
}

// followedLines is read while it is written.
type followedLines struct {
	sync.Mutex
	bytes.Buffer
}

func (b *followedLines) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.Write(p)
}

func (b *followedLines) lines() []string {
	b.Lock()
	defer b.Unlock()
	return strings.Split(strings.TrimSpace(b.String()), "\n")
}

// followed runs portsyncd events -follow until the test ends.
func followed(t *testing.T, path string) *followedLines {
	t.Helper()
	var out followedLines
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- showEvents(ctx, &eventsOptions{file: path, follow: true}, &out) }()
	t.Cleanup(func() {
		stop()
		must(t, <-ended)
	})
	return &out
}

// TestFollowWaitsForTheOutcome, but not for ever.
func TestFollowWaitsForTheOutcome(t *testing.T) {
	r, path := testRecorder(t, 1)
	p := &port{name: "Ethernet0"}
	out := followed(t, path)
	r.link(p, &linkMessage{index: 5, flags: upRunning}, false, time.Now())
	time.Sleep(2 * followInterval)
	r.sent(p, time.Now())
	r.landed(p, &portWrite{outcome: outcome{written: true}}, time.Now())
	r.link(p, &linkMessage{index: 5, flags: upOnly}, false, time.Now())
	if !eventually(func() bool { return len(out.lines()) == 2 }) {
		t.Fatalf("%q", out.lines())
	}
	if all := out.lines(); !strings.Contains(all[0], "written after") || !strings.Contains(all[1], "pending") {
		t.Errorf("%q", all)
	}
}

// TestFollowGoesOn in the file of the next daemon, and in a ring whose numbers begin anew.
func TestFollowGoesOn(t *testing.T) {
	r, path := testRecorder(t, 1)
	first, second := &port{name: "Ethernet0"}, &port{name: "Ethernet4", slot: 1}
	m := func(mtu uint32) *linkMessage { return &linkMessage{index: 5, flags: upRunning, mtu: mtu} }
	for i := range uint32(5) {
		r.link(first, m(i), false, time.Now().Add(-time.Minute))
	}
	out := followed(t, path)
	lines := func(n int) {
		t.Helper()
		if !eventually(func() bool { return len(out.lines()) == n }) {
			t.Fatalf("%d lines wanted: %q", n, out.lines())
		}
	}
	lines(5)
	r.forget(first)
	r.link(second, m(1), false, time.Now().Add(-10*time.Second))
	r.forget(second)
	r.link(first, m(1), false, time.Now().Add(-9*time.Second))
	lines(6) // the one between was overwritten
	must(t, os.Remove(path))
	r = openRecorder(path, recordFixed+portRing, newMetrics("test"), discard())
	defer r.close()
	r.link(first, m(2), false, time.Now().Add(-8*time.Second))
	lines(7)
}

// TestNextLeavesNothingOut: what was received at the same time, or before, may come into the file after what was told.
func TestNextLeavesNothingOut(t *testing.T) {
	r, _ := testRecorder(t, 2)
	at := time.Now()
	told := map[string]int{}
	after := int64(0)
	ask := func(follow string) {
		answer, _ := askEvents(t, r, fmt.Sprintf("?after=%d%s", after, follow))
		after = answer.Next
		for _, h := range answer.Events {
			told[h.Port]++
		}
	}
	link := func(name string, slot int, at time.Time) {
		p := &port{name: name, slot: slot}
		r.link(p, &linkMessage{index: int32(slot + 1), flags: upRunning}, false, at)
		r.sent(p, at)
		r.landed(p, &portWrite{outcome: outcome{written: true}}, at)
	}
	link("Ethernet4", 1, at)
	ask("")
	link("Ethernet0", 0, at)
	ask("&follow=1")
	ask("")
	if told["Ethernet0"] != 1 || told["Ethernet4"] != 1 {
		t.Errorf("told %v", told)
	}
}

// TestNextOfAnotherBootIsNoTime of this one, and what happened before it is not told again and again.
func TestNextOfAnotherBootIsNoTime(t *testing.T) {
	r, _ := testRecorder(t, 1)
	r.booted += 1000 * time.Hour
	r.note(ownStarted, "before", time.Now())
	r = newRecorder(r.file, r.image, r.m, r.log, "another boot", time.Now())
	r.note(ownStarted, "since", time.Now().Add(-time.Minute))
	answer, _ := askEvents(t, r, fmt.Sprintf("?after=%d", machineClock()+1000*time.Hour))
	if len(answer.Events) != 2 {
		t.Errorf("%+v", answer)
	}
	if again, _ := askEvents(t, r, fmt.Sprintf("?after=%d", answer.Next)); len(again.Events) > 0 {
		t.Errorf("again: %+v", again)
	}
}

// TestAskingForAPortManyTimesCostsNoMore: 16 KiB of request name it a thousand times.
func TestAskingForAPortManyTimesCostsNoMore(t *testing.T) {
	r, _ := testRecorder(t, 523)
	r.link(&port{name: "Ethernet0"}, &linkMessage{index: 5, flags: upRunning}, false, time.Now().Add(-time.Minute))
	begun := time.Now()
	if answer, code := askEvents(t, r, "?"+strings.Repeat("port=Ethernet0&", 1000)); code != http.StatusOK || len(answer.Events) != 1 {
		t.Errorf("%d %+v", code, answer)
	}
	if took := time.Since(begun); took > 200*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

// TestNotesOfTheDaemonAreInOrder, whoever took the time first.
func TestNotesOfTheDaemonAreInOrder(t *testing.T) {
	r, path := testRecorder(t, 1)
	r.note(ownHealth, "first", time.Now())
	r.note(ownListed, "second", time.Now().Add(-time.Second))
	if got := whats(tookDown(t, path, "")); !slices.Equal(got, []string{"health", "links listed"}) {
		t.Errorf("%v", got)
	}
}

// TestFolderThatIsAPipeKeepsNobodyWaiting.
func TestFolderThatIsAPipeKeepsNobodyWaiting(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "pipe")
	must(t, unix.Mkfifo(folder, 0o600))
	ended := make(chan error, 1)
	go func() {
		_, err := listenControl(t.Context(), filepath.Join(folder, "control.sock"))
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it listens")
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits")
	}
}

// TestEventsOfOneMomentAreToldTogether: whoever asks for what came after one of them would not hear of the others.
func TestEventsOfOneMomentAreToldTogether(t *testing.T) {
	r, _ := testRecorder(t, 2)
	at, written := time.Now().Add(-pendingTime/2), &portWrite{set: true, outcome: outcome{written: true}}
	p, q := &port{name: "Ethernet0", series: newPortSeries("Ethernet0", "", 0)}, &port{name: "Ethernet4", slot: 1, series: newPortSeries("Ethernet4", "", 0)}
	for i, p := range []*port{p, q} {
		r.link(p, &linkMessage{index: int32(5 + i), flags: upRunning, mtu: 1500}, false, at)
		r.sent(p, at)
	}
	told := func(after int64) (ports []string, next int64) {
		answer, _ := askEvents(t, r, fmt.Sprint("?after=", after))
		for _, e := range answer.Events {
			ports = append(ports, e.Port)
		}
		return ports, answer.Next
	}
	r.landed(p, written, at.Add(time.Millisecond)) // the other one is pending
	first, next := told(0)
	r.landed(q, written, time.Now())
	second, _ := told(next)
	if all := append(first, second...); !slices.Equal(all, []string{"Ethernet0", "Ethernet4"}) {
		t.Errorf("who follows hears of %v", all)
	}
}

// TestRecordersByAnotherPath: a path is the same file however it is written, and its namespaces have the same names.
func TestRecordersByAnotherPath(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	openRecorder(recorderOf(filepath.Join(dir, "recorder"), "asic0"), recordFixed+portRing, newMetrics("test"), discard()).close()
	for _, path := range []string{"recorder", "./recorder", dir + "//recorder", dir + "/../" + filepath.Base(dir) + "/recorder"} {
		t.Run(strings.ReplaceAll(strings.ReplaceAll(path, dir, "DIR"), "/", "|"), func(t *testing.T) {
			files, err := openRecords(path)
			must(t, err)
			defer files.close()
			if len(files) == 0 || files[0].namespace != "asic0" {
				t.Errorf("%d files, and the namespace of the first is not asic0: %q", len(files), namesOfRecords(files))
			}
		})
	}
}

func namesOfRecords(files recordFiles) (names []string) {
	for _, o := range files {
		names = append(names, o.namespace)
	}
	return names
}
