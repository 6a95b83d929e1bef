package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"portsyncd/internal/switchtest"
)

// What a takeover puts off, so that the first port is written soon, and does not lose.

// standbyRecorder is a recorder in memory, which takes over the file of one that has just left it, or has not.
func standbyRecorder(t *testing.T, path string, log *slog.Logger) *recorder {
	t.Helper()
	r := openRecorder("", recordFixed+4*portRing, newMetrics("test"), log)
	t.Cleanup(r.close)
	r.follow(path, func(time.Duration) {})
	return r
}

func noPorts(func(p *port)) {}

// TestRecorderGoesOnInTheFileOfTheOneBefore: what happens until it is open is taken down as if it had been, and of nothing else.
func TestRecorderGoesOnInTheFileOfTheOneBefore(t *testing.T) {
	before, path := testRecorder(t, 4)
	p := &port{name: "Ethernet0", series: newPortSeries("Ethernet0", "", 0)}
	other := &port{name: "Ethernet4", slot: 1, series: newPortSeries("Ethernet4", "", 0)}
	now := time.Now()
	before.link(p, &linkMessage{index: 5, flags: upRunning, mtu: 1500, hasCarrier: true}, false, now)
	before.note(ownLock, "released", now)
	var said strings.Builder
	r := standbyRecorder(t, path, slog.New(slog.NewTextHandler(&said, nil)))
	r.note(ownLock, "taken over", now.Add(time.Millisecond))
	m := &linkMessage{index: 5, flags: upOnly, mtu: 1500, hasCarrier: true, carrierDown: 1}
	r.link(p, m, false, now.Add(2*time.Millisecond))
	m.index = 77 // the parser's, which is used again
	r.sent(p, now.Add(3*time.Millisecond))
	w := portWrite{set: true, outcome: outcome{written: true}}
	r.landed(p, &w, now.Add(4*time.Millisecond))
	w.outcome = outcome{}
	r.link(other, &linkMessage{index: 6, flags: upRunning, mtu: 1500}, false, now.Add(5*time.Millisecond))
	if open := r.mend(now, true, noPorts); open == nil || r.mend(now, true, noPorts) != nil {
		t.Fatal("the file is opened not at all, or twice")
	} else {
		before.intoMemory()
		open()
	}
	if all := tookDown(t, path, "Ethernet0"); len(all) != 1 {
		t.Errorf("before the loop goes on with the file it has %v", whats(all))
	}
	r.mended()
	r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: 1500, hasCarrier: true, carrierUp: 1, carrierDown: 1}, false, now.Add(6*time.Millisecond))
	if got := whats(tookDown(t, path, "Ethernet0")); !slices.Equal(got, []string{"created", "carrier lost", "carrier back"}) {
		t.Errorf("the port's events are %v", got)
	}
	if all := tookDown(t, path, "Ethernet0"); all[1].Outcome != "written" || all[1].Ifindex != 5 || !all[1].Time.Equal(now.Add(2*time.Millisecond).Round(0)) {
		t.Errorf("the one in between is %+v", all[1])
	}
	if own := whats(tookDown(t, path, "")); !slices.Equal(own[len(own)-2:], []string{"lock", "lock"}) {
		t.Errorf("the daemon's are %v", own)
	}
	if got := whats(tookDown(t, path, "Ethernet4")); !slices.Equal(got, []string{"created"}) {
		t.Errorf("the other port's events are %v", got)
	}
	if r.mend(now.Add(time.Hour), true, noPorts) != nil || said.Len() > 0 {
		t.Errorf("it is opened once more; the log says %s", &said)
	}
}

// TestRecorderWhoseFileIsNotLeft stays in memory, with what happened meanwhile, and says so.
func TestRecorderWhoseFileIsNotLeft(t *testing.T) {
	_, path := testRecorder(t, 4) // which somebody keeps
	var said strings.Builder
	r := standbyRecorder(t, path, slog.New(slog.NewTextHandler(&said, nil)))
	p := &port{name: "Ethernet0", series: newPortSeries("Ethernet0", "", 0)}
	r.link(p, &linkMessage{index: 5, flags: upRunning}, false, time.Now())
	r.mend(time.Now(), true, noPorts)()
	r.mended()
	reader, err := r.reader()
	must(t, err)
	all, err := reader.read(func(name string) bool { return name == "Ethernet0" }, false, cutoff{}, 0)
	must(t, err)
	if len(all) != 1 || !strings.Contains(said.String(), "in memory until it can have its file") {
		t.Errorf("in memory are %v, the log says %q", whats(all), &said)
	}
}

// TestRecorderOfALoopThatEnded: a file that comes too late is nobody's, and the next one can have it.
func TestRecorderOfALoopThatEnded(t *testing.T) {
	before, path := testRecorder(t, 4)
	before.intoMemory()
	r := standbyRecorder(t, path, slog.New(slog.DiscardHandler))
	p := &port{name: "Ethernet0", series: newPortSeries("Ethernet0", "", 0)}
	r.link(p, &linkMessage{index: 5, flags: upRunning}, false, time.Now())
	open := r.mend(time.Now(), true, noPorts)
	r.endLoop()
	open()
	if r.waiting() {
		t.Error("it still waits for its file")
	}
	if _, image, _, err := openRecord(path, len(r.image)); err != nil || image == nil {
		t.Errorf("the file is still held: %v", err)
	}
	again := standbyRecorder(t, path+"2", slog.New(slog.DiscardHandler))
	again.note(ownLock, "taken over", time.Now())
	again.mend(time.Now(), true, noPorts)()
	again.endLoop() // it came in time, and the loop did not
	if own := whats(tookDown(t, path+"2", "")); !slices.Equal(own, []string{"lock"}) {
		t.Errorf("the file has %v", own)
	}
}

// TestRecorderWhoseFileIsLeftLate has it then: whoever left it was stopped amid that.
func TestRecorderWhoseFileIsLeftLate(t *testing.T) {
	before, path := testRecorder(t, 4)
	r := standbyRecorder(t, path, slog.New(slog.DiscardHandler))
	now := time.Now()
	r.mend(now, true, noPorts)()
	r.mended()
	for range 2 { // in vain, and again
		now = now.Add(mendPause)
		r.mend(now, false, noPorts)()
		r.mended()
		if r.mend(now, true, noPorts) != nil {
			t.Error("it is opened without a pause")
		}
	}
	now = now.Add(mendPause)
	r.fail("no memory") // meanwhile
	r.mend(now, false, noPorts)()
	r.mended()
	before.intoMemory()
	now = now.Add(time.Minute)
	if open := r.mend(now, false, noPorts); open == nil {
		t.Fatal("the file is not tried any more")
	} else {
		open()
	}
	r.mended()
	p := &port{name: "Ethernet0", series: newPortSeries("Ethernet0", "", 0)}
	r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: 1500}, false, now)
	if got := tookDown(t, path, "Ethernet0"); len(got) != 1 {
		t.Errorf("the file has %v of a port, the recorder fails: %q", whats(got), r.failing())
	}
	if r.mend(now.Add(time.Hour), true, noPorts) != nil {
		t.Error("it is opened once more")
	}
}

// TestRecorderThatComesBackInVain says nothing: the writer has the file.
func TestRecorderThatComesBackInVain(t *testing.T) {
	_, path := testRecorder(t, 4)
	var said strings.Builder
	r := openRecorder("", recordFixed+4*portRing, newMetrics("test"), slog.New(slog.NewTextHandler(&said, nil)))
	defer r.close()
	said.Reset()
	r.intoMemory()
	r.comeBack(path)
	if said.Len() > 0 || r.failing() != "" {
		t.Errorf("it says %q, and fails: %q", &said, r.failing())
	}
}

// TestFailingRecorderForgetsThePortsOfTheLoopBefore: the next one numbers its ports anew, and their rings are in memory that is no more.
func TestFailingRecorderForgetsThePortsOfTheLoopBefore(t *testing.T) {
	for _, over := range []bool{false, true} {
		r, path := testRecorder(t, 8)
		r.path = path
		named := func(name string, slot int) *port {
			return &port{name: name, slot: slot, series: newPortSeries(name, "", 0)}
		}
		now := time.Now()
		r.link(named("Ethernet0", 0), &linkMessage{index: 5, flags: upRunning, mtu: 1500}, false, now)
		r.link(named("Ethernet4", 1), &linkMessage{index: 6, flags: upRunning, mtu: 1500}, false, now)
		r.fail("somebody cut it short")
		if r.endLoop(); over {
			r.follow(path, func(time.Duration) {})
		} else {
			r.intoMemory()
		}
		present := named("Ethernet8", 0)
		r.mend(now.Add(time.Hour), false, func(each func(*port)) { each(present) })()
		r.mended()
		r.link(named("Ethernet12", 1), &linkMessage{index: 9, flags: upRunning, mtu: 1500}, false, now.Add(2*time.Hour))
		reader, err := r.reader()
		must(t, err)
		all, err := reader.read(func(name string) bool { return name == "Ethernet12" }, false, cutoff{}, 0)
		must(t, err)
		if len(all) != 1 || r.failing() != "" {
			t.Errorf("taking over: %v; Ethernet12 has %v, failing %q", over, whats(all), r.failing())
		}
		r.close()
	}
}

// TestNotesWhileTheRecorderGoesIntoMemory are taken down in the one or the other, and no fault.
func TestNotesWhileTheRecorderGoesIntoMemory(t *testing.T) {
	r, path := testRecorder(t, 400)
	var said atomic.Int32
	r.log = slog.New(lineCounter{slog.DiscardHandler, &said})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				r.note(ownHealth, "degraded", time.Now())
			}
		}
	}()
	for range 100 {
		r.intoMemory()
		r.comeBack(path)
	}
	close(stop)
	<-done
	if n := said.Load(); n > 0 {
		t.Errorf("the log has %d lines", n)
	}
}

// TestFileOfTheOneBeforeWaitsForTheFirstWrite, or for a second.
func TestFileOfTheOneBeforeWaitsForTheFirstWrite(t *testing.T) {
	for _, wrote := range []bool{false, true} {
		before, path := testRecorder(t, 4)
		before.intoMemory()
		r := standbyRecorder(t, path, slog.New(slog.DiscardHandler))
		now := time.Now()
		if r.mend(now, false, noPorts) != nil || r.mend(now.Add(moveBy/2), false, noPorts) != nil {
			t.Error("it is opened before anything is written")
		}
		if !wrote {
			now = now.Add(moveBy)
		}
		if r.mend(now, wrote, noPorts) == nil {
			t.Errorf("written: %v, and it is not opened", wrote)
		}
	}
}

// TestRecorderRemembersOnlySoMuch: then nothing of it is taken down, and the next message tells what was missed.
func TestRecorderRemembersOnlySoMuch(t *testing.T) {
	before, path := testRecorder(t, 4)
	p := &port{name: "Ethernet0", series: newPortSeries("Ethernet0", "", 0)}
	before.link(p, &linkMessage{index: 5, flags: upRunning, hasCarrier: true}, false, time.Now())
	before.intoMemory()
	var said strings.Builder
	r := standbyRecorder(t, path, slog.New(slog.NewTextHandler(&said, nil)))
	for i := range uint32(queueMost + 1) {
		r.link(p, &linkMessage{index: 5, flags: upRunning, hasCarrier: true, carrierDown: i, carrierUp: i}, false, time.Now())
	}
	r.mend(time.Now(), true, noPorts)()
	r.mended()
	r.link(p, &linkMessage{index: 5, flags: upRunning, hasCarrier: true, carrierDown: 9000, carrierUp: 9000}, false, time.Now())
	all := tookDown(t, path, "Ethernet0")
	if len(all) != 2 || all[1].Missed != 9000 || !strings.Contains(said.String(), "lacks what happened") {
		t.Errorf("%d events, the last %+v; the log says %q", len(all), all[len(all)-1], &said)
	}
}

// TestWhatWasHeardOfGoesFirst, where many ports are only compared; and nobody is left out for long, or at the end.
func TestWhatWasHeardOfGoesFirst(t *testing.T) {
	many := func(idly bool) (*outbox, []*port) {
		o := &outbox{m: newMetrics("test"), log: slog.New(slog.DiscardHandler), now: time.Now, pace: newPace(idly)}
		var ports []*port
		for i := range 2*compareBatch + 10 {
			p := &port{name: fmt.Sprint("Ethernet", i), slot: i}
			ports = append(ports, p)
			o.aim(p, portState{mtu: 1500})
		}
		return o, ports
	}
	names := func(f *flush) (names []string) {
		for _, w := range f.writes {
			names = append(names, w.port)
		}
		return names
	}
	o, ports := many(false)
	o.hurry(ports[7])
	o.note(ports[200], time.Now())
	if got := names(o.send(time.Now())); !slices.Equal(got, []string{"Ethernet7", "Ethernet200"}) {
		t.Errorf("first come %v", got)
	}
	o.landed(time.Now())
	o.note(ports[9], time.Now())
	if got := names(o.send(time.Now())); len(got) != len(ports)-2 || got[0] != "Ethernet0" {
		t.Errorf("then come %d ports", len(got))
	}
	o.landed(time.Now())
	o, ports = many(false)
	if got := names(o.send(time.Now())); len(got) != len(ports) {
		t.Errorf("where nothing was heard come %d ports", len(got))
	}
	o, ports = many(false)
	o.hurry(ports[7])
	o.leaveNone()
	if got := names(o.send(time.Now())); len(got) != len(ports) {
		t.Errorf("at the end come %d ports", len(got))
	}
	o, ports = many(true)
	for left := len(ports); left > 0; left -= compareBatch {
		got := names(o.send(time.Now()))
		if want := min(left, compareBatch); len(got) != want || got[0] != ports[len(ports)-left].name {
			t.Errorf("of %d ports an observer looks at %d", left, len(got))
		}
		o.flying = o.flying[:0]
	}
}

// TestRouseEndsPause, before it and amid it, and a wake-up does not.
func TestRouseEndsPause(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	k := s.openLinks()
	start := time.Now()
	k.Rouse()
	k.Pause(patience)
	go k.Rouse()
	k.Pause(patience)
	if waited := time.Since(start); waited >= patience {
		t.Errorf("it is paused for %v", waited)
	}
	start = time.Now()
	k.Wake()
	k.Pause(20 * time.Millisecond)
	if waited := time.Since(start); waited < 20*time.Millisecond {
		t.Errorf("a pause of 20 ms ended after %v", waited)
	}
}

// TestTakeoverDoesNotReadAllEntries, where PortInitDone says all that they would; they are compared afterwards.
func TestTakeoverDoesNotReadAllEntries(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, m := s.openDB()
	ports := []portConfig{{name: "Ethernet0"}, {name: "Ethernet4"}}
	s.must(s.State.HSet(t.Context(), "PORT_TABLE|Ethernet0", "state", "ok", "netdev_oper_status", "up", "admin_status", "up", "mtu", "1500").Err())
	look := func() (startFacts, uint64) {
		before := m.redisCommands.Load()
		f, err := d.LookBack(t.Context(), ports)
		s.must(err)
		return f, m.redisCommands.Load() - before
	}
	d.handOver()
	look() // which counts the start
	f, all := look()
	if len(f.held) != 1 || f.initDone {
		t.Errorf("without PortInitDone it finds %+v", f)
	}
	s.must(s.Appl.HSet(t.Context(), "PORT_TABLE:PortInitDone", "lanes", "0").Err())
	if f, n := look(); len(f.held) != 0 || !f.initDone || all-n != 1 { // that read all entries
		t.Errorf("it sends %d commands, of %d, and finds %+v", n, all, f)
	}
	d.follows = false
	if f, _ := look(); len(f.held) != 1 {
		t.Errorf("a start of its own finds %+v", f)
	}
}

// TestManyPortsAreAskedForTogether, and one by one where not all of them are there.
func TestManyPortsAreAskedForTogether(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, m := s.openDB()
	ask := func() (there []string, commands uint64) {
		f := new(flush)
		for i := range 2 * askedSingly {
			f.writes = append(f.writes, &portWrite{port: switchtest.PortName(i), set: true, ask: true})
		}
		before := m.redisCommands.Load()
		s.must(d.askAppl(t.Context(), f))
		for _, w := range f.writes {
			if w.exists {
				there = append(there, w.port)
			}
		}
		return there, m.redisCommands.Load() - before
	}
	for i := range 2 * askedSingly {
		s.must(s.Appl.HSet(t.Context(), "PORT_TABLE:"+switchtest.PortName(i), "lanes", "0").Err())
	}
	if there, n := ask(); len(there) != 2*askedSingly || n != 1 {
		t.Errorf("%d are there, after %d commands", len(there), n)
	}
	s.must(s.Appl.Del(t.Context(), "PORT_TABLE:"+switchtest.PortName(3)).Err())
	if there, n := ask(); len(there) != 2*askedSingly-1 || slices.Contains(there, switchtest.PortName(3)) || n != 1+2*askedSingly {
		t.Errorf("there are %v, after %d commands", there, n)
	}
	s.must(s.Appl.FlushDB(t.Context()).Err())
	if there, _ := ask(); len(there) != 0 {
		t.Errorf("there are %v", there)
	}
}

// TestConnectionsAreHandedOn to the next loop, which is told of slow calls instead of the one before.
func TestConnectionsAreHandedOn(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, m := s.openDB()
	onlyRead(d)
	if _, err := d.LookBack(t.Context(), nil); err == nil || !strings.Contains(err.Error(), errObserves.Error()) {
		t.Fatalf("it counts the start: %v", err)
	}
	told := 0
	next := d.handOn(func() { told++ })
	_, err := next.LookBack(t.Context(), nil)
	s.must(err)
	if next.conns != d.conns || m.redisReconnects.Load() != 0 {
		t.Errorf("it has connections of its own, or %d were made anew", m.redisReconnects.Load())
	}
	before := told // a call may have been slow
	next.slow()
	d.slow()
	if told != before+2 {
		t.Errorf("it is told %d times of 2 slow calls", told-before)
	}
}

// TestTakeoverCountsNoReconnect: no connection was lost.
func TestTakeoverCountsNoReconnect(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, m := s.openDB()
	watch := func(d *sonicDB) {
		ctx, cancel := context.WithCancel(t.Context())
		up, done := make(chan bool, 9), make(chan struct{})
		go func() {
			d.Watch(ctx, watcher{appl: func(applChange) {}, config: func(bool) {}, connected: func(on bool, _ error) { up <- on }})
			close(done)
		}()
		<-up
		cancel()
		<-done
	}
	watch(d)
	watch(d.handOn(func() {}))
	if n := m.redisReconnects.Load(); n != 0 {
		t.Errorf("%d reconnects", n)
	}
}

// TestWhatDiffersGoesFirst: the standby saw that the writer had not written it.
func TestWhatDiffersGoesFirst(t *testing.T) {
	o := &outbox{m: newMetrics("test"), log: slog.New(slog.DiscardHandler), now: time.Now, pace: newPace(true)}
	now := time.Now()
	for i, differs := range []string{"oper: STATE_DB has down, right is up", ""} {
		p := &port{name: fmt.Sprint("Ethernet", i), slot: i}
		o.aim(p, portState{mtu: 1500})
		o.note(p, now)
		f := o.send(now)
		f.begin()
		if !o.heardSince(p, now.Add(-unwrittenTime)) {
			t.Error("what is under way does not go first")
		}
		f.writes[0].differs, f.writes[0].exists, f.writes[0].same = differs, true, true
		o.landed(now.Add(time.Millisecond))
		if got := o.heardSince(p, now.Add(-unwrittenTime)); got != (differs != "") {
			t.Errorf("differs %q: goes first %v", differs, got)
		}
		if o.heardSince(p, now) {
			t.Error("what was heard of before goes first")
		}
	}
}

// TestTurnThatEndsBeforeItConnects leaves no connections behind: a hand-over may be asked for at any time.
func TestTurnThatEndsBeforeItConnects(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Config.HSet(t.Context(), "PORT|Ethernet0", "lanes", "0").Err())
	s.must(s.Config.Set(t.Context(), "CONFIG_DB_INITIALIZED", "1", 0).Err())
	m := newMetrics("test")
	lock := testLock("a")
	lock.flag = t.TempDir()
	i := &instance{m: m, health: new(health), log: slog.New(slog.DiscardHandler), lock: lock}
	i.instanceTools = newInstanceTools(&dbConfigFile{path: s.ConfigFile, now: time.Now}, lock, m, &daemonFinder{}, func() {}, func() {})
	i.strangers = func() []otherDaemon { return nil }
	var made []*sonicDB
	connect := i.connect
	i.connect = func(slow func()) (*sonicDB, string, error) {
		d, folder, err := connect(slow)
		made = append(made, d)
		return d, folder, err
	}
	i.instanceTools.run = func(ctx context.Context, l *syncer) error {
		if l.options.observe { // although nobody has the lock: until it has looked at CONFIG_DB again
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			defer cancel()
			quiet := 0 // the loop's: so often in a row it knew CONFIG_DB, with a subscription that may ask for another look
			go func() {
				for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
					stands := s.Config.PubSubNumPat(ctx).Val() > 0
					l.post(func() {
						if quiet++; !stands || l.knownConfig() == nil {
							quiet = 0
						} else if quiet == 50 {
							cancel()
						}
					})
				}
			}()
			return l.Run(ctx)
		}
		i.mu.Lock()
		end := i.endTurn // as a hand-over does
		i.mu.Unlock()
		end()
		return l.Run(ctx)
	}
	i.standby.Store(true)
	i.source, i.rules, i.ready.lock = s.openLinks(), syncOptions{old: "auto", reconcile: time.Minute, eoiu: time.Second}, lock
	i.taken = make(chan error, 1)
	for range 3 {
		s.must(i.stand(t.Context(), false))
		if i.kept.Load() == nil {
			t.Fatal("nothing is kept")
		}
		s.must(i.write(t.Context()))
	}
	i.keep(nil)
	for n, d := range made {
		if err := pipeline(t.Context(), m, d.conns.state, []redis.Cmder{redis.NewCmd(t.Context(), "ping")}); err == nil {
			t.Errorf("the connections of turn %d are still open when all is over", n)
		}
	}
}
