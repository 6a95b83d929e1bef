package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// What happened in a boot before, where the recorder's file outlives it: in a swss container it is on the container's own disk.

// rebooted is a recorder that goes on in another boot of the machine, after one that had been up for much longer.
func rebooted(t *testing.T, ports int) (r *recorder, path string) {
	t.Helper()
	r, path = testRecorder(t, ports)
	r.booted += 1000 * time.Hour
	return r, path
}

func (r *recorder) boot2(t *testing.T) *recorder {
	t.Helper()
	return newRecorder(r.file, r.image, r.m, r.log, "another boot", time.Now())
}

// TestFollowTellsOfABootBeforeOnce: its times are later than those of now, and nothing of it is new.
func TestFollowTellsOfABootBeforeOnce(t *testing.T) {
	r, path := rebooted(t, 1)
	p := &port{name: "Ethernet0"}
	message := func(mtu uint32) *linkMessage { return &linkMessage{index: 5, flags: upRunning, mtu: mtu} }
	for i := range uint32(5) {
		r.link(p, message(1500+i), false, time.Now().Add(-time.Minute))
	}
	r = r.boot2(t)
	at := time.Now().Add(-30 * time.Second)
	r.link(p, message(9100), true, at)
	r.sent(p, at)
	r.landed(p, &portWrite{outcome: outcome{written: true}}, at)
	out := followed(t, path)
	r.link(p, message(9000), false, time.Now().Add(-10*time.Second))
	if !eventually(func() bool { return strings.Contains(fmt.Sprint(out.lines()), "MTU 9000") }) {
		t.Fatalf("%q", out.lines())
	}
	time.Sleep(3 * followInterval)
	if n := len(out.lines()); n != 7 {
		t.Errorf("%d lines of 7 events: %q", n, out.lines())
	}
}

// TestTimeBetweenTwoBootsIsNotKnown, also where the clock of the next one is ahead of that of the one before.
func TestTimeBetweenTwoBootsIsNotKnown(t *testing.T) {
	r, path := testRecorder(t, 1)
	r.booted = 0
	r.note(ownStarted, "before", time.Now())
	r.boot2(t).note(ownStarted, "since", time.Now())
	var out bytes.Buffer
	must(t, showEvents(context.Background(), &eventsOptions{file: path}, &out))
	if strings.Contains(out.String(), "+") {
		t.Errorf("%s", &out)
	}
}

// TestPortThatWentInABootBeforeIsToldOnce: the next of its last event is no time of this boot.
func TestPortThatWentInABootBeforeIsToldOnce(t *testing.T) {
	r, _ := rebooted(t, 1)
	p := &port{name: "Ethernet0"}
	r.link(p, &linkMessage{index: 5, flags: upRunning}, false, time.Now())
	r.gone(p, causeDeleted, time.Now())
	r = r.boot2(t)
	r.note(ownStarted, "since", time.Now().Add(-time.Minute))
	answer, _ := askEvents(t, r, "?port=Ethernet0")
	if len(answer.Events) != 2 {
		t.Fatalf("%+v", answer)
	}
	if again, _ := askEvents(t, r, fmt.Sprintf("?port=Ethernet0&after=%d", answer.Next)); len(again.Events) > 0 {
		t.Errorf("again: %+v", again)
	}
	r.link(p, &linkMessage{index: 6, flags: upOnly}, false, time.Now().Add(-10*time.Second))
	if next, _ := askEvents(t, r, fmt.Sprintf("?port=Ethernet0&after=%d", answer.Next)); len(next.Events) != 1 {
		t.Errorf("what came after it: %+v", next)
	}
}
