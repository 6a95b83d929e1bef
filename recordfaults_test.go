package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// What a file, a name and an end at the wrong moment can do to the flight recorder.

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// reopened is the recorder of the next daemon.
func reopened(t *testing.T, r *recorder, path string, ports int) *recorder {
	t.Helper()
	r.close()
	r = openRecorder(path, recordFixed+ports*portRing, newMetrics("test"), discard())
	t.Cleanup(func() { r.close() })
	return r
}

// TestWhatIsNoFileStaysWhereItIs: -recorder.file /dev/null renames no device.
func TestWhatIsNoFileStaysWhereItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	must(t, unix.Mkfifo(path, 0o600))
	var said bytes.Buffer
	r := openRecorder(path, recordFixed+portRing, newMetrics("test"), slog.New(slog.NewTextHandler(&said, nil)))
	defer r.close()
	if info, err := os.Lstat(path); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("%v %v", info, err)
	}
	if !strings.Contains(said.String(), "in memory only") {
		t.Errorf("the log says %s", &said)
	}
}

// TestFileThatIsCutShortAsItIsOpenedEndsNobody: its first look at the image is a fault.
func TestFileThatIsCutShortAsItIsOpenedEndsNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "recorder")
	file, image, _, err := openRecord(path, recordFixed+portRing)
	must(t, err)
	must(t, os.Truncate(path, 0))
	r := newRecorder(file, image, newMetrics("test"), slog.New(slog.DiscardHandler), "another boot", time.Now())
	defer r.close()
	r.note(ownStarted, "", time.Now())
	r.link(&port{name: "Ethernet0"}, &linkMessage{index: 5, flags: upRunning}, false, time.Now())
	if !r.off() {
		t.Error("it records")
	}
}

// TestWhatWasNeverWrittenIsNotLookedAt: each page of it would have to be made. What was written is found, wherever.
func TestWhatWasNeverWrittenIsNotLookedAt(t *testing.T) {
	const ports = 100
	size := recordFixed + ports*portRing
	file, image, err := recordInMemory(size)
	must(t, err)
	r := newRecorder(file, image, newMetrics("test"), slog.New(slog.DiscardHandler), "boot", time.Now())
	defer r.close()
	if end := dataEnd(file, size); end > recordHead+os.Getpagesize() {
		t.Errorf("a fresh recorder of %d bytes was looked at up to %d", size, end)
	}
	for _, ring := range []int{ports - 1, 3, 0} {
		name := fmt.Sprintf("Ethernet%d", ring)
		nameRing(ringOf(image, ring), name)
		r.settleIn(file, image, "boot")
		if at, found := r.byName[name]; !found || at != ring || len(r.idle) != ports {
			t.Errorf("%s is in ring %d (%v), want %d; %d rings are to be had", name, at, found, ring, len(r.idle))
		}
	}
}

// TestNewPortTakesTheRingOfOneThatIsGone: after a restart too, when none has been listed yet.
func TestNewPortTakesTheRingOfOneThatIsGone(t *testing.T) {
	r, path := testRecorder(t, 3)
	for i, name := range []string{"Ethernet0", "Ethernet4", "Ethernet8"} {
		r.link(&port{name: name, slot: i}, &linkMessage{index: int32(i + 1), flags: upRunning}, false, time.Now())
	}
	r.gone(&port{name: "Ethernet8", slot: 2}, causeDeleted, time.Now())
	r.gone(&port{name: "Ethernet4", slot: 1}, causeDeleted, time.Now().Add(time.Second))
	r = reopened(t, r, path, 3)
	r.link(&port{name: "Ethernet12"}, &linkMessage{index: 9, flags: upRunning}, true, time.Now())
	if len(tookDown(t, path, "Ethernet0")) != 1 || len(tookDown(t, path, "Ethernet4")) != 2 ||
		len(tookDown(t, path, "Ethernet8")) != 0 {
		t.Error("the ring of a port that is there, or of the one that went last, was taken")
	}
}

// TestPortWithoutARingGetsTheNextOneThatIsIdle.
func TestPortWithoutARingGetsTheNextOneThatIsIdle(t *testing.T) {
	r, path := testRecorder(t, 1)
	first, second := &port{name: "Ethernet0"}, &port{name: "Ethernet4", slot: 1}
	r.link(first, &linkMessage{index: 1, flags: upRunning}, false, time.Now())
	r.link(second, &linkMessage{index: 2, flags: upRunning}, false, time.Now())
	r.gone(first, causeDeleted, time.Now())
	r.forget(first)
	r.link(second, &linkMessage{index: 2, flags: upOnly}, false, time.Now())
	if all := tookDown(t, path, "Ethernet4"); len(all) != 1 {
		t.Errorf("recorded %v", whats(all))
	}
}

// TestNamesThatNoInterfaceHasGetNoRing: STATE_DB's entries may have any name, and two of them the same beginning.
func TestNamesThatNoInterfaceHasGetNoRing(t *testing.T) {
	r, path := testRecorder(t, 2)
	for i, name := range []string{"Ethernet0123456789", "Ethernet01234567", "Ethernet0\x00x"} {
		r.repaired(&port{name: name, slot: i}, causeRepaired, "ok up up 9100", time.Now())
	}
	reader, file, err := openRecordReader(path)
	must(t, err)
	defer file.Close()
	if names, err := reader.ports(); err != nil || len(names) > 0 {
		t.Errorf("rings of %v %v", names, err)
	}
}

// TestRepairOfAPortWithoutAnInterface: its entry was deleted, and the interface that comes is its first.
func TestRepairOfAPortWithoutAnInterface(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		r, path := testRecorder(t, 1)
		p := &port{name: "Ethernet0"}
		r.repaired(p, causeRepaired, "ok up up 9100", time.Now())
		if restarted {
			r = reopened(t, r, path, 1)
		}
		r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: 9100}, false, time.Now())
		all := tookDown(t, path, "Ethernet0")
		if !slices.Equal(whats(all), []string{"repaired", "created"}) || all[0].Outcome != "deleted" ||
			all[0].state() != "no interface (STATE_DB had admin up, oper up, MTU 9100) - deleted" {
			t.Errorf("restarted %v: %v: %s", restarted, whats(all), all[0].state())
		}
	}
}

// TestPublishedLateTellsOfNoChange: the interface is as it was.
func TestPublishedLateTellsOfNoChange(t *testing.T) {
	r, path := testRecorder(t, 1)
	p := &port{name: "Ethernet0"}
	r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: 1500}, false, time.Now())
	r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: 9100}, false, time.Now())
	r.repaired(p, causeLate, "", time.Now())
	all := tookDown(t, path, "Ethernet0")
	if text := all[2].state(); strings.Contains(text, "1500") {
		t.Error(text)
	}
}

// TestLeftOver: it is not gone, and nothing of it is owed to STATE_DB.
func TestLeftOver(t *testing.T) {
	r, path := testRecorder(t, 1)
	p := &port{name: "Ethernet0"}
	r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: 9100}, true, time.Now())
	r.gone(p, causeLeftOver, time.Now())
	r.dismissed(p)
	all := tookDown(t, path, "Ethernet0")
	for _, h := range all {
		if h.Outcome == "pending" || strings.Contains(h.state(), "is gone") {
			t.Errorf("%s: %s", h.What, h.state())
		}
	}
}

// TestWhatWasPendingWhenADaemonEndedIsSettledByTheNext.
func TestWhatWasPendingWhenADaemonEndedIsSettledByTheNext(t *testing.T) {
	r, path := testRecorder(t, 1)
	p := &port{name: "Ethernet0"}
	r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: 9100}, false, time.Now())
	r.link(p, &linkMessage{index: 5, flags: upOnly, mtu: 9100}, false, time.Now())
	r = reopened(t, r, path, 1)
	r.link(p, &linkMessage{index: 5, flags: upOnly, mtu: 9100}, true, time.Now())
	r.sent(p, time.Now())
	r.landed(p, &portWrite{outcome: outcome{written: true}}, time.Now())
	all := tookDown(t, path, "Ethernet0")
	if len(all) != 2 || all[0].Outcome != "written with a later one" || all[1].Outcome != "written" {
		t.Errorf("%+v", all)
	}
}

// TestAnotherBootHasOtherInterfaces: an ifindex of the boot before says nothing, nor do its counts.
func TestAnotherBootHasOtherInterfaces(t *testing.T) {
	r, path := testRecorder(t, 1)
	p := &port{name: "Ethernet0"}
	r.link(p, &linkMessage{index: 5, flags: upRunning, hasCarrier: true}, false, time.Now())
	r = newRecorder(nil, r.image, r.m, slog.New(slog.DiscardHandler), "another boot", time.Now())
	r.link(p, &linkMessage{index: 5, flags: upRunning, hasCarrier: true, carrierDown: 7}, true, time.Now())
	all := tookDown(t, path, "Ethernet0")
	if len(all) != 2 || all[1].Missed != 0 || all[1].Before != nil {
		t.Errorf("%+v", all)
	}
}

// TestHalfEventsAreCountedInEveryRing.
func TestHalfEventsAreCountedInEveryRing(t *testing.T) {
	r, path := testRecorder(t, 2)
	p := &port{name: "Ethernet0"}
	for i := range uint32(3) {
		r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: i}, false, time.Now())
	}
	eventAt(r.rows.of(p).ring, 2)[30]++
	r.note(ownStarted, "", time.Now())
	var out, errs bytes.Buffer
	if code := runEvents([]string{"-recorder.file", path}, &out, &errs); code != exitOK ||
		!strings.Contains(out.String(), "1 events are only half written") {
		t.Errorf("%d %s%s", code, &out, &errs)
	}
}

// TestFileWithoutAHeadIsBegunAnew: a daemon was killed when the file had its space, and no head yet.
func TestFileWithoutAHeadIsBegunAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "recorder")
	must(t, os.WriteFile(path, make([]byte, recordFixed+portRing), 0o640))
	r := openRecorder(path, recordFixed+portRing, newMetrics("test"), slog.New(slog.DiscardHandler))
	defer r.close()
	r.note(ownStarted, "", time.Now())
	if own := whats(tookDown(t, path, "")); len(own) != 1 {
		t.Errorf("recorded %v", own)
	}
	if _, err := os.Stat(path + ".aside"); err == nil {
		t.Error("it is set aside")
	}
}

// TestTextIsNotCutWithinACharacter: what happened to the daemon is told in as many words as there is room for.
func TestTextIsNotCutWithinACharacter(t *testing.T) {
	r, path := testRecorder(t, 1)
	r.note(ownHealth, strings.Repeat("ä", ownText)+"x", time.Now())
	r.note(ownHealth, "a"+strings.Repeat("ä", ownText), time.Now())
	for _, h := range tookDown(t, path, "") {
		if !utf8.ValidString(h.Text) || len(h.Text) < ownText-1 {
			t.Errorf("%d bytes: %q", len(h.Text), h.Text)
		}
	}
}

// TestPublishedWhenAPPLDBHasIt: what is said of an event is not that APPL_DB did not have the port, once it does.
func TestPublishedWhenAPPLDBHasIt(t *testing.T) {
	r, path := testRecorder(t, 1)
	p := &port{name: "Ethernet0"}
	land := func(o outcome) {
		r.sent(p, time.Now())
		r.landed(p, &portWrite{ask: true, set: true, outcome: o}, time.Now())
	}
	for i := range uint32(2) {
		r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: i}, false, time.Now())
		land(outcome{})
	}
	says := func(want ...string) {
		t.Helper()
		for i, h := range tookDown(t, path, "Ethernet0") {
			if h.Outcome != want[i] {
				t.Errorf("event %d: %s, want %s", i, h.Outcome, want[i])
			}
		}
	}
	says("not in APPL_DB", "not in APPL_DB")
	r = reopened(t, r, path, 1) // by another daemon
	r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: 1}, true, time.Now())
	land(outcome{exists: true, written: true})
	says("written with a later one", "written")
}

// TestTwoRingsOfOneName, of a file that is broken: the second is nobody's, and no two ports get one ring.
func TestTwoRingsOfOneName(t *testing.T) {
	r, path := testRecorder(t, 2)
	for i := range 2 {
		nameRing(ringOf(r.image, i), "Ethernet0")
	}
	r = reopened(t, r, path, 2)
	ports := make([]*port, 3)
	for i := range ports {
		name := fmt.Sprint("Ethernet", 4*i)
		ports[i] = &port{name: name, slot: i, series: newPortSeries(name, "", 0)}
	}
	hear := func(i int) {
		r.link(ports[i], &linkMessage{index: int32(5 + i), flags: upRunning, mtu: 1500}, false, time.Now())
	}
	hear(0)
	hear(1)
	r.forget(ports[0])
	hear(2)
	if a, b := r.rows.of(ports[1]).ring, r.rows.of(ports[2]).ring; a == nil || b == nil || &a[0] == &b[0] {
		t.Error("two ports have one ring, or one has none")
	}
}
