package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testRecorder is a recorder on a small file.
func testRecorder(t testing.TB, ports int) (*recorder, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "recorder")
	r := openRecorder(path, recordFixed+ports*portRing, newMetrics("test"), slog.New(slog.DiscardHandler))
	t.Cleanup(func() { r.close() })
	return r, path
}

// tookDown reads what a file has of a port, and of the daemon where the name is empty.
func tookDown(t testing.TB, path, port string) []happened {
	t.Helper()
	reader, file, err := openRecordReader(path)
	must(t, err)
	defer file.Close()
	all, err := reader.read(func(name string) bool { return name == port }, port == "", cutoff{}, 0)
	must(t, err)
	return all
}

func whats(all []happened) (words []string) {
	for _, h := range all {
		words = append(words, h.What)
	}
	return words
}

const (
	upRunning = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOWER_UP
	upOnly    = unix.IFF_UP
)

// TestCauses: what the kernel says, and what is said of it. Nothing is guessed.
func TestCauses(t *testing.T) {
	message := func(index int32, flags, mtu, down uint32) *linkMessage {
		return &linkMessage{index: index, flags: flags, mtu: mtu, hasCarrier: true, carrierUp: down, carrierDown: down}
	}
	first := message(5, upRunning, 1500, 1)
	for name, c := range map[string]struct {
		next   *linkMessage
		listed bool
		what   string
		missed uint32
	}{
		"admin":                 {message(5, 0, 1500, 2), false, "admin down", 0},
		"carrier":               {message(5, upOnly, 1500, 2), false, "carrier lost", 0},
		"more losses":           {message(5, upOnly, 1500, 5), false, "carrier lost", 3},
		"lost and back":         {message(5, upRunning, 1500, 3), false, "carrier back", 2},
		"dormant":               {message(5, unix.IFF_UP|unix.IFF_LOWER_UP, 1500, 1), false, "unknown", 0},
		"mtu":                   {message(5, upRunning, 9100, 1), false, "MTU changed", 0},
		"another interface":     {message(6, upRunning, 1500, 1), false, "created again", 0},
		"the same number again": {message(5, upRunning, 1500, 0), true, "found by a listing", 0},
		"listed otherwise":      {message(5, upOnly, 1500, 4), true, "found by a listing", 2},
		"the same":              {message(5, upRunning, 1500, 1), false, "", 0},
		"a loss is still to be": {message(5, unix.IFF_UP|unix.IFF_RUNNING, 1500, 2), false, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r, path := testRecorder(t, 2)
			p := &port{name: "Ethernet0"}
			r.link(p, first, false, time.Now())
			r.link(p, c.next, c.listed, time.Now())
			all := tookDown(t, path, "Ethernet0")
			if c.what == "" {
				if len(all) != 1 {
					t.Fatalf("recorded %v", whats(all))
				}
				return
			}
			if len(all) != 2 || all[0].What != "created" || all[1].What != c.what || all[1].Missed != c.missed {
				t.Errorf("recorded %+v", all)
			}
		})
	}
}

// TestLossThatIsAheadOfItsMessageCountsOnce: the count of losses has grown, and the state follows.
func TestLossThatIsAheadOfItsMessageCountsOnce(t *testing.T) {
	r, path := testRecorder(t, 2)
	p := &port{name: "Ethernet0"}
	for i, m := range []linkMessage{
		{flags: upRunning, mtu: 1500}, {flags: unix.IFF_UP | unix.IFF_RUNNING, mtu: 1500, carrierDown: 1},
		{flags: unix.IFF_UP | unix.IFF_RUNNING, mtu: 9100, carrierDown: 1}, {flags: upOnly, mtu: 9100, carrierDown: 1},
	} {
		m.index, m.hasCarrier = 5, true
		r.link(p, &m, false, time.Now().Add(time.Duration(i)))
	}
	all := tookDown(t, path, "Ethernet0")
	if got := whats(all); !slices.Equal(got, []string{"created", "MTU changed", "carrier lost"}) || losses(all) != 1 {
		t.Errorf("recorded %v, %d losses", got, losses(all))
	}
}

// losses are all losses of carrier that are told of.
func losses(all []happened) (n int) {
	for _, h := range all {
		n += int(h.Missed)
		if h.Before != nil && h.Now != nil && h.Before.Oper == "up" && h.Now.Oper == "down" {
			n++
		}
	}
	return n
}

// TestHalfARecordIsNoRecord: a process that is killed as it writes leaves the rest readable, and the next goes on.
func TestHalfARecordIsNoRecord(t *testing.T) {
	r, path := testRecorder(t, 2)
	p := &port{name: "Ethernet0"}
	for i := range uint32(portEvents + 10) {
		r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: 1500 + i}, false, time.Now())
	}
	r.note(ownOverrun, "ENOBUFS", time.Now())
	b := eventAt(r.rows.of(p).ring, r.rows.of(p).last.number)
	b[30]++ // half of it is written
	r.close()
	if all := tookDown(t, path, "Ethernet0"); len(all) != portEvents-1 {
		t.Fatalf("%d records", len(all))
	}
	r = openRecorder(path, recordFixed+2*portRing, newMetrics("test"), slog.New(slog.DiscardHandler))
	defer r.close()
	r.link(p, &linkMessage{index: 5, flags: upOnly, mtu: 1500}, true, time.Now())
	all := tookDown(t, path, "Ethernet0")
	if len(all) != portEvents || all[len(all)-1].What != "found by a listing" {
		t.Errorf("%d records, the last ones %v", len(all), whats(all[len(all)-2:]))
	}
	for i := 1; i < len(all); i++ {
		if all[i].number != all[i-1].number+1 {
			t.Fatalf("record %d comes after %d", all[i].number, all[i-1].number)
		}
	}
	if own := whats(tookDown(t, path, "")); !slices.Equal(own, []string{"link messages lost"}) {
		t.Errorf("of the daemon: %v", own)
	}
}

// TestForeignFileIsSetAside, and one of another size; two daemons do not write to the same one.
func TestForeignFileIsSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "recorder")
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, bytes.Repeat([]byte("x"), recordFixed+portRing), 0o600))
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	r := openRecorder(path, recordFixed+portRing, newMetrics("test"), log)
	defer r.close()
	if kept, _ := os.ReadFile(path + ".aside"); !bytes.HasPrefix(kept, []byte("xxx")) || !strings.Contains(said.String(), "set aside") {
		t.Errorf("kept %d bytes; the log says %s", len(kept), &said)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != recordFixed+portRing {
		t.Errorf("%v %v", info, err)
	}
	said.Reset()
	second := openRecorder(path, recordFixed+portRing, newMetrics("test"), log)
	defer second.close()
	second.note(ownStarted, "second", time.Now())
	if own := tookDown(t, path, ""); len(own) > 0 || !strings.Contains(said.String(), "another daemon") {
		t.Errorf("the first one's file has %v, the log says %s", whats(own), &said)
	}
}

// TestRecorderThatIsCutShortIsOpenedAgain: health says so meanwhile, and what is known of a port is not forgotten.
func TestRecorderThatIsCutShortIsOpenedAgain(t *testing.T) {
	r, path := testRecorder(t, 2)
	h := &health{record: r}
	p := &port{name: "Ethernet0"}
	ports := func(each func(p *port)) { each(p) }
	r.link(p, &linkMessage{index: 5, flags: upRunning, hasCarrier: true}, false, time.Now())
	now := time.Now()
	if r.mend(now, false, ports) != nil {
		t.Fatal("it is mended, and works")
	}
	for down := range uint32(2) {
		must(t, os.Truncate(path, 0))
		r.link(p, &linkMessage{index: 5, flags: upOnly, hasCarrier: true, carrierDown: down + 1}, false, time.Now())
		if c := h.Checks(now, 0)[len(checkNames)-1]; c.name != "recorder" || c.level != degraded || c.reason == "" {
			t.Errorf("%+v", c)
		}
		open := r.mend(now, false, ports)
		if open == nil || r.mend(now, false, ports) != nil {
			t.Fatal("it is opened not at all, or twice")
		}
		r.note(ownHealth, "meanwhile", time.Now())
		if _, err := r.reader(); err == nil {
			t.Error("something can be read meanwhile")
		}
		open()
		r.mended()
		if c := h.Checks(now, 0)[len(checkNames)-1]; c.level != ok {
			t.Errorf("%+v", c)
		}
		r.note(ownHealth, "again", time.Now())
		r.link(p, &linkMessage{index: 5, flags: upRunning, hasCarrier: true, carrierDown: down + 1}, false, time.Now())
		all := tookDown(t, path, "Ethernet0")
		if own := tookDown(t, path, ""); len(all) != 1 || all[0].What != "carrier back" || len(own) != 1 || own[0].Text != "again" {
			t.Errorf("%v %v", all, own)
		}
		if r.failing(); r.mend(now, false, ports) != nil {
			t.Error("it is mended once more")
		}
		now = now.Add(mendPause)
	}
}

// TestRecorderThatIsCutShortEndsAlone: somebody truncates the file, and a write to the mapping is a fault.
func TestRecorderThatIsCutShortEndsAlone(t *testing.T) {
	r, path := testRecorder(t, 2)
	must(t, os.Truncate(path, 0))
	r.note(ownStarted, "", time.Now())
	p := &port{name: "Ethernet0"}
	r.link(p, &linkMessage{index: 5, flags: upRunning}, false, time.Now())
	r.gone(p, causeDeleted, time.Now())
	if !r.off() {
		t.Error("it goes on recording")
	}
}

// TestRingsAreGivenToPortsThatAreThere: the ring of a port that is gone is another one's when there is no other.
func TestRingsAreGivenToPortsThatAreThere(t *testing.T) {
	r, path := testRecorder(t, 2)
	ports := make([]*port, 4)
	for i := range ports {
		ports[i] = &port{name: portName(i), slot: i}
	}
	m := &linkMessage{index: 5, flags: upRunning}
	for i, p := range ports[:3] { // the third one has none
		m.index = int32(i + 1)
		r.link(p, m, false, time.Now())
	}
	r.forget(ports[0])
	r.link(ports[3], m, false, time.Now())
	reader, file, err := openRecordReader(path)
	must(t, err)
	defer file.Close()
	names, err := reader.ports()
	must(t, err)
	if !slices.Equal(names, []string{"Ethernet4", "Ethernet12"}) {
		t.Errorf("rings of %v", names)
	}
}

// TestRecordingAllocatesNothing, however many messages come.
func TestRecordingAllocatesNothing(t *testing.T) {
	r, _ := testRecorder(t, 2)
	p := &port{name: "Ethernet0"}
	m := &linkMessage{index: 5, flags: upRunning, hasCarrier: true}
	at, w := time.Now(), &portWrite{outcome: outcome{written: true}}
	r.link(p, m, false, at)
	if n := testing.AllocsPerRun(1000, func() {
		m.flags ^= unix.IFF_RUNNING
		r.link(p, m, false, at)
		r.sent(p, at)
		r.landed(p, w, at)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkRecord is one event, from its message to what came of it.
func BenchmarkRecord(b *testing.B) {
	r, _ := testRecorder(b, 2)
	p := &port{name: "Ethernet0"}
	m := &linkMessage{index: 5, flags: upRunning, hasCarrier: true}
	at, w := time.Now(), &portWrite{outcome: outcome{written: true}}
	b.Run("event", func(b *testing.B) {
		for b.Loop() {
			m.flags ^= unix.IFF_RUNNING
			r.link(p, m, false, at)
		}
	})
	b.Run("outcome", func(b *testing.B) {
		for b.Loop() {
			m.flags ^= unix.IFF_RUNNING
			r.link(p, m, false, at)
			r.sent(p, at)
			r.landed(p, w, at)
		}
	})
	b.Run("nothing new", func(b *testing.B) {
		for b.Loop() {
			r.link(p, m, false, at)
		}
	})
}

// eventsOf runs portsyncd events -json on the switch's recorder.
func (s *testSwitch) eventsOf(args ...string) (all []happened) {
	s.t.Helper()
	out, err := exec.Command(s.program[0], append(append(slices.Clone(s.program[1:]), "events", "-json", "-recorder.file",
		s.Recorder()), args...)...).Output()
	s.must(err)
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var h happened
		s.must(decoder.Decode(&h))
		all = append(all, h)
	}
	return all
}

// eventually says whether something holds within some seconds.
func eventually(holds func() bool) bool {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if holds() {
			return true
		}
	}
	return false
}

// TestEventsSaysWhatIsWrong: one line, that names what it is about.
func TestEventsSaysWhatIsWrong(t *testing.T) {
	_, path := testRecorder(t, 2)
	foreign := filepath.Join(t.TempDir(), "foreign")
	must(t, os.WriteFile(foreign, []byte("something"), 0o600))
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"-recorder.file", path, "Ethernet7"}, []string{"Ethernet7"}},
		{[]string{"-recorder.file", path, "-since", "-1h"}, []string{"-since", "-1h"}},
		{[]string{"-recorder.file", path + "x"}, []string{path + "x", "-recorder.file"}},
		{[]string{"-recorder.file", foreign}, []string{foreign, "not a flight recorder"}},
	} {
		var out, err bytes.Buffer
		if code := runEvents(c.args, &out, &err); code != exitUsage {
			t.Errorf("%v: exit code %d", c.args, code)
		}
		for _, word := range c.says {
			if !strings.Contains(err.String(), word) {
				t.Errorf("%v: %q does not say %q", c.args, err.String(), word)
			}
		}
		if strings.Count(err.String(), "\n") != 1 {
			t.Errorf("%v: %q is not one line", c.args, err.String())
		}
	}
}

// TestEventsAsText: what people read.
func TestEventsAsText(t *testing.T) {
	r, path := testRecorder(t, 2)
	p := &port{name: "Ethernet0"}
	at := time.Now()
	r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: 9100, hasCarrier: true}, false, at)
	r.link(p, &linkMessage{index: 5, flags: upOnly, mtu: 9100, hasCarrier: true, carrierDown: 4}, false, at.Add(time.Second))
	r.sent(p, at.Add(time.Second))
	r.landed(p, &portWrite{outcome: outcome{written: true}}, at.Add(time.Second+500*time.Microsecond))
	var out, errs bytes.Buffer
	if code := runEvents([]string{"-recorder.file", path}, &out, &errs); code != exitOK {
		t.Fatal(errs.String())
	}
	for _, words := range []string{"created", "(ifindex 5)", "+1s", "carrier lost", "oper down", "written after 500µs",
		"3 more losses of carrier in between", fmt.Sprint(at.Local().Format("2006-01-02 15:04:05"))} {
		if !strings.Contains(out.String(), words) {
			t.Errorf("no %q in\n%s", words, &out)
		}
	}
}

// TestSinceAfterTheClockWasSet: the switch booted with a clock of years ago, and NTP has set it since; what happened a minute ago is younger than an hour.
func TestSinceAfterTheClockWasSet(t *testing.T) {
	const years = 6 * 365 * 24 * time.Hour
	for name, wrong := range map[string]time.Duration{"behind": -years, "ahead": years} {
		r, path := testRecorder(t, 2)
		age := time.Minute
		if name == "ahead" {
			age = 2 * time.Hour
		}
		r.booted -= wrong // the machine's clock does not go with the other one
		if machineClock() < 3*time.Hour && name == "ahead" {
			age = machineClock() / 2 // a machine that has booted lately
		}
		r.link(&port{name: "Ethernet0"}, &linkMessage{index: 5, flags: upRunning, mtu: 9100}, false, time.Now().Add(wrong-age))
		var out, errs bytes.Buffer
		since := "1h"
		if name == "ahead" {
			since = (age / 2).String()
		}
		if code := runEvents([]string{"-recorder.file", path, "-since", since}, &out, &errs); code != exitOK {
			t.Fatal(errs.String())
		}
		if got := strings.Contains(out.String(), "Ethernet0"); got != (name == "behind") {
			t.Errorf("the clock was %s; of what happened %v ago, -since %s prints:\n%s", name, age, since, &out)
		}
	}
}
