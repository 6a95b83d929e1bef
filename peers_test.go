package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// What instances tell each other.

// instances asks a daemon for all that it knows, by name.
func (s *testSwitch) instances(d *switchtest.Daemon) map[string]instanceAnswer {
	s.t.Helper()
	all := map[string]instanceAnswer{}
	for _, a := range s.statusAnswer(d).Instances {
		all[a.Instance] = a
	}
	return all
}

// TestInstancesTellEachOther: each shows all, on every way, and who ends is forgotten, but not who is killed.
func TestInstancesTellEachOther(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	writer, _ := s.start(2, "-instance", "a")
	standby := s.standby("-instance", `b"ä`)
	for _, d := range []*switchtest.Daemon{writer, standby} {
		s.waitFor("both to be known", func() bool {
			all := s.instances(d)
			a, b := all["a"], all[`b"ä`]
			return len(all) == 2 && a.Up && a.Role == roleWriter && a.Health == "ok" && a.Ready && a.PID > 0 && a.Version == "devel" &&
				b.Up && b.Role == roleStandby && b.Ready
		})
		s.waitStatus(d, "instance       a: writer, ok, version devel\n", `instance       b"ä: standby, ok, version devel`)
		if code, text := ask(t, d, "GET", "/readyz"); code != 200 || !strings.Contains(text, "\ninstance a: writer, ok, version devel\n") {
			t.Errorf("/readyz: %d %s", code, text)
		}
		if _, text := ask(t, d, "GET", "/"); !strings.Contains(text, "<li><b>b&#34;ä</b>: standby, ok, version devel</li>") {
			t.Errorf("the page has no instances:\n%s", text)
		}
		for series, want := range map[string]string{`portsyncd_instance_up{instance="a"}`: "1", `portsyncd_instance_up{instance="b\"ä"}`: "1",
			`portsyncd_instance_writer{instance="a"}`: "1", `portsyncd_instance_writer{instance="b\"ä"}`: "0"} {
			s.waitMetric(d, series, want)
		}
	}
	row := s.State.HGetAll(t.Context(), "PORTSYNCD_INSTANCE_TABLE|a").Val()
	if got := slices.Sorted(maps.Keys(row)); strings.Join(got, " ") != "health heartbeat namespaces pid ready reason role version" {
		t.Errorf("its row has %q", got)
	}
	if code, out := s.handover(writer); code != exitOK {
		t.Fatal(code, out)
	}
	s.waitMetric(writer, `portsyncd_instance_writer{instance="b\"ä"}`, "1")
	s.waitMetric(writer, `portsyncd_instance_writer{instance="a"}`, "0")
	s.must(s.State.FlushDB(t.Context()).Err()) // nobody is forgotten for longer than a beat
	s.waitFor("both to be known again", func() bool { return len(s.instances(writer)) == 2 && len(s.instances(standby)) == 2 })
	s.must(writer.Signal(syscall.SIGTERM))
	_, err := writer.Wait(patience)
	s.must(err)
	if n := s.State.Exists(t.Context(), "PORTSYNCD_INSTANCE_TABLE|a").Val(); n != 0 {
		t.Error("the row of one that has ended is still there")
	}
	s.waitFor("it to be forgotten", func() bool { return len(s.instances(standby)) == 1 })
	third := s.standby("-instance", "c")
	s.waitFor("the third", func() bool { return s.instances(third)[`b"ä`].Role == roleWriter && s.instances(third)["c"].Up })
	s.must(standby.Signal(syscall.SIGKILL))
	s.waitRole(third, roleWriter)
	s.waitStatus(third, `instance       b"ä: has not been heard of since `)
	s.waitMetric(third, `portsyncd_instance_up{instance="b\"ä"}`, "0")
	s.waitMetric(third, `portsyncd_instance_writer{instance="c"}`, "1")
}

// TestSingleDaemonHasNoRow, nor has an observer.
func TestSingleDaemonHasNoRow(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(1)
	watcher := s.observer("-instance", "x")
	before := s.statusAnswer(d).Time
	s.waitFor("two beats", func() bool {
		at, _ := time.Parse(time.RFC3339, before)
		now, _ := time.Parse(time.RFC3339, s.statusAnswer(d).Time)
		return now.Sub(at) > 2*beatInterval
	})
	if keys := s.State.Keys(t.Context(), "PORTSYNCD_INSTANCE*").Val(); len(keys) > 0 {
		t.Errorf("STATE_DB has %q", keys)
	}
	for _, d := range []*switchtest.Daemon{d, watcher} {
		if text := s.scrape(d); strings.Contains(text, "\nportsyncd_instance_") {
			t.Error("there are series of instances")
		}
		text, err := askDaemon(d.Control, statusPath, time.Now().Add(patience))
		s.must(err)
		var answer map[string]any
		s.must(json.Unmarshal(text, &answer))
		if _, has := answer["instances"]; has {
			t.Error("there are instances")
		}
	}
}

// TestPeersGrowOld by the reader's own clock, whatever theirs says, and the freshest word of several databases counts.
func TestPeersGrowOld(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	b := newPeerBook(newProcessMetrics(""), "me")
	ups := func() (names []string) {
		for _, r := range b.all() {
			if r.up(now) {
				names = append(names, r.name)
			}
		}
		return names
	}
	row := func(name, heartbeat string, namespaces ...string) peer {
		return readPeer(name, (&peer{role: roleWriter, namespaces: namespaces, heartbeat: heartbeat}).fields())
	}
	b.take("asic0", []peer{row("a", "2026-11-25T12:00:00Z", "asic0"), row("old", "2026-11-25T11:59:00Z", "asic1"), row("odd", "noon")}, now)
	if got := ups(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("up are %q", got)
	}
	now = now.Add(10 * time.Second)
	b.take("asic0", []peer{row("a", "2026-11-25T12:00:00Z", "asic0"), row("old", "2026-11-25T11:00:00Z", "asic1")}, now)
	b.take("asic1", []peer{row("a", "2026-11-25T12:00:05Z", "asic0", "asic1")}, now)
	now = now.Add(6 * time.Second)
	if got := ups(); !slices.Equal(got, []string{"a", "old"}) { // its clock is an hour late, and it goes
		t.Errorf("up are %q", got)
	}
	text := string(b.m.instanceWriter.appendSamples(nil, "w", ""))
	if want := `w{instance="a",namespace="asic0"} 1
w{instance="a",namespace="asic1"} 1
w{instance="old",namespace="asic0"} 0
w{instance="old",namespace="asic1"} 1
`; text != want {
		t.Errorf("the series are\n%s", text)
	}
	now = now.Add(peerStale)
	b.miss(now)
	if got := ups(); len(got) > 0 {
		t.Errorf("up are %q", got)
	}
	b.take("asic0", nil, now)
	b.take("asic1", nil, now)
	if text = string(b.m.instanceWriter.appendSamples(nil, "w", "")) + string(b.m.instanceUp.appendSamples(nil, "u", "")); text != "" {
		t.Errorf("series are left:\n%s", text)
	}
}

// TestSeriesOfANamespaceThatIsGone: nobody writes to it, and no alert may be fired for that.
func TestSeriesOfANamespaceThatIsGone(t *testing.T) {
	s := &several{daemon: &daemon{box: newSeveral(newProcessMetrics("test"), new(health))}, running: map[string]*runningUnit{}, now: time.Now}
	s.box.book = newPeerBook(s.box.m, "a")
	now := time.Now()
	row := func(namespaces ...string) []peer {
		return []peer{readPeer("a", (&peer{role: roleWriter, namespaces: namespaces, heartbeat: utc(now)}).fields())}
	}
	fabric := &runningUnit{published: &unit{namespace: "asic1"}}
	s.running["asic0"] = &runningUnit{published: &unit{namespace: "asic0"}}
	s.running["asic1"] = fabric
	s.publish()
	s.box.book.take("asic0", row("asic0"), now)
	s.box.book.take("asic1", row("asic0"), now) // its CONFIG_DB is still being loaded
	s.hide(fabric)                              // and says now that it is a fabric ASIC's
	s.publish()
	now = now.Add(beatInterval)
	s.box.book.take("asic0", row("asic0"), now)
	if text := string(s.box.m.instanceWriter.appendSamples(nil, "portsyncd_instance_writer", "")); strings.Contains(text, "asic1") {
		t.Errorf("nobody looks after asic1, and PortsyncdNotOneWriter fires for ever for\n%s", text)
	}
}
