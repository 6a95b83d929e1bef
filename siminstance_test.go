package main

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Two or three instances on the simulated switch: hand-overs, kills and SIGSTOP at any step. The lock's folder is the simulator's, and lives as long
// as the switch.

// instanceHarm is what happens beside the usual, by how often it comes.
var instanceHarm = map[string]int{"handover": 12, "killone": 8, "termone": 4, "pauseone": 6, "unlink": 3, "killwriting": 2, "hangover": 2, "coldstart": 1, "stop": 1, "hang": 1,
	"lost": 2, "cut": 2, "refused": 1, "condition": 1, "cutwatch": 1, "flushappl": 1, "vandal": 1, "empty": 1, "outlive": 1}

var instanceKinds = weigh(func() map[string]int {
	usual := maps.Clone(dull)
	delete(usual, "visitor") // is looked at while it happens, and whoever writes may be stopped
	return usual
}(), instanceHarm)

// newInstanceScenario is what a seed stands for with two or three instances.
func newInstanceScenario(seed uint64) scenario {
	s := newScenario(seed)
	dice := rand.New(rand.NewPCG(seed, 2))
	s.setup.what = []string{"two", "two", "three"}[dice.IntN(3)]
	few := instanceKinds
	if dice.IntN(2) == 0 {
		few = []string{"handover", []string{"killone", "termone", "pauseone", "unlink", "killwriting", "hangover"}[dice.IntN(6)]}
		for range 2 + dice.IntN(4) {
			few = append(few, instanceKinds[dice.IntN(len(instanceKinds))])
		}
	}
	for i := range s.events {
		s.events[i].what = few[dice.IntN(len(few))]
	}
	return s
}

// simInode is a file of the folder: its text outlives names and processes.
type simInode struct {
	text    []byte
	at      time.Time
	holder  *simFile // of its lock
	claimed *simFile
}

// simFolder is the folder of the instances' lock.
type simFolder struct {
	w      *world
	files  map[string]*simInode
	opened []*simFile
}

// simFile is an open file of a daemon.
type simFile struct {
	*simInode
	folder *simFolder
	d      *simDaemon
}

// daemonFolder is the folder as one daemon sees it.
type daemonFolder struct {
	*simFolder
	d *simDaemon
}

func newSimFolder(w *world) *simFolder { return &simFolder{w: w, files: map[string]*simInode{}} }

func (f daemonFolder) open(path string) (lockFile, error) {
	if f.files[path] == nil {
		f.files[path] = &simInode{at: f.w.clock()}
	}
	file := &simFile{f.files[path], f.simFolder, f.d}
	f.opened = append(f.opened, file)
	return file, nil
}

func (f daemonFolder) look(path string) (text []byte, at time.Time, err error) {
	inode := f.files[path]
	if inode == nil {
		return nil, at, errSimAway
	}
	return slices.Clone(inode.text), inode.at, nil
}

func (f daemonFolder) put(path string, text []byte) error {
	f.files[path] = &simInode{text: text, at: f.w.clock()}
	return nil
}

func (f daemonFolder) remove(path string) { delete(f.files, path) }

func (f daemonFolder) claimed(path string) (at time.Time, is bool) {
	inode := f.files[path]
	if inode == nil {
		return at, false
	}
	return inode.at, inode.claimed != nil
}

func (f daemonFolder) starting(path string) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(f.files)) {
		if strings.HasPrefix(name, path) {
			all = append(all, name)
		}
	}
	return all
}

func (f *simFile) lock(wait bool) error {
	for f.holder != nil && f.holder != f {
		if !wait {
			return errTaken
		}
		w := f.folder.w
		w.sleep(pause{until: w.now.Add(time.Hour), ready: func() bool { return f.holder == nil }})
	}
	f.holder = f
	w := f.folder.w
	w.say("daemon %d has the lock", f.d.number)
	if f.d.instance.writing.Load() { // somebody had removed its file
		w.daemon, w.m = f.d, f.d.m
	}
	return nil
}

func (f *simFile) claim() error {
	if f.simInode.claimed != nil {
		return errTaken
	}
	f.simInode.claimed = f
	return nil
}

func (f *simFile) behind(path string) bool { return f.folder.files[path] == f.simInode }

func (f *simFile) write(text []byte) error {
	f.text, f.at = text, f.folder.w.clock()
	return nil
}

func (f *simFile) touch() { f.at = f.folder.w.clock() }

func (f *simFile) Close() error {
	if f.holder == f {
		f.holder = nil
		if w := f.folder.w; w.daemon == f.d && !f.folder.hasLock(f.d) { // it may have closed the one before
			w.daemon = nil
		}
	}
	if f.simInode.claimed == f {
		f.simInode.claimed = nil
	}
	f.folder.opened = slices.DeleteFunc(f.folder.opened, func(o *simFile) bool { return o == f })
	return nil
}

// hasLock says that a daemon holds the lock behind the name.
func (f *simFolder) hasLock(d *simDaemon) bool {
	inode := f.files["lock/"+appName+lockSuffix]
	return inode != nil && inode.holder != nil && inode.holder.d == d
}

// simTools is what an instance takes turns with here.
func (w *world) simTools(d *simDaemon) instanceTools {
	return instanceTools{
		connect: func(slow func()) (*sonicDB, string, error) { return w.connect(d, d.m, slow), "lock", nil },
		dress: func(as database) database {
			var real *sonicDB
			switch as := as.(type) {
			case *sonicDB:
				real = as
			case *observedDB:
				real = as.sonicDB
			}
			w.suit(real)
			return &simDB{as, real.filter, real.closed.Load, w, d}
		},
		run: func(ctx context.Context, s *syncer) error {
			if !s.options.observe {
				w.begins(d)
			}
			w.widen(s)
			var failed error
			ended := false
			s.launch(ctx, func(err error) { failed, ended = err, true })
			w.sleep(pause{until: w.now.Add(24 * time.Hour), ready: func() bool { return ended }})
			d.filter = nil
			return failed
		},
		spawn:     func(f func()) { w.spawn("waiting", d.number, f) },
		sleep:     func(t time.Duration) { w.sleep(pause{until: w.now.Add(t)}) },
		now:       w.clock,
		clock:     func() time.Duration { return w.now.Sub(simEpoch) },
		strangers: func() []otherDaemon { return nil },
		unmark:    func() {},
		busy:      func() {},
		boot:      "boot",
	}
}

// startInstance starts one as the n-th.
func (w *world) startInstance(n int) {
	w.daemons++
	d := &simDaemon{number: w.daemons, ctx: newSimContext(), socket: w.kernel.subscribe(16 + w.dice.IntN(200)), began: w.now, m: newMetrics("sim")}
	w.metrics = append(w.metrics, d.m)
	w.crew[n] = d
	d.socket.forbidden = func(l *simLink) {
		w.onlyOld(l)
		if !w.folder.hasLock(d) {
			w.fail("daemon %d sets %s down without the lock", d.number, l.name)
		}
	}
	w.say("daemon %d starts, as instance %d", d.number, n)
	quiet := slog.New(slog.DiscardHandler)
	lock := newWriterLock(lockHolder{Instance: string(rune('a' + n)), PID: d.number}, w.clock)
	lock.files, lock.flag = daemonFolder{w.folder, d}, "lock"
	lock.pause = func(until func() bool) {
		if d.ended || w.over { // it is being killed, and waits for nothing
			panic(killed{})
		}
		w.sleep(pause{until: w.now.Add(time.Hour), ready: until})
	}
	d.instance = &instance{instanceTools: w.simTools(d), m: d.m, health: new(health), log: quiet, lock: lock}
	d.instance.standby.Store(true)
	d.socket.may = d.instance.may
	rules := syncOptions{old: "auto", reconcile: w.reconcile, eoiu: 2 * time.Second, feature: w.feature,
		spawn:  func(f func()) { w.spawn("errand", d.number, f) },
		end:    func() { panic(killed{}) },
		random: func(n int64) int64 { return w.dice.Int64N(n) }}
	w.spawn("daemon", d.number, func() {
		err := d.instance.run(d.ctx, d.socket, rules)
		w.say("the daemon ends: %v", err)
		d.err, d.ended = err, true
		if err != nil {
			w.fail("instance %d ends: %v", n, err)
		}
	})
}

// begins is where an instance begins to write.
func (w *world) begins(d *simDaemon) {
	if d.publishing = false; !w.folder.hasLock(d) { // somebody has removed its file: it will find out
		return
	}
	w.daemon, w.m = d, d.m
	clear(w.unheard)
	for name, at := range w.goneAt { // whoever wrote before may not have come to that
		if w.now.Sub(at) < 30*time.Second {
			w.goneUntold[name] = true
		}
	}
	row, _ := w.server.hash(simState, "PORTSYNCD_START_TABLE|old_interfaces", false)
	w.goesAlong = d.instance.handed != nil && row == nil
	if w.lost && row == nil && !w.goesAlong { // databases that are lost in the moment in which whoever wrote dies cannot be told from a cold start
		w.excused = true
	}
	w.m.warmStart.Set(0)
	if w.cold(w.warm()) && len(d.socket.queue) > 0 { // an interface that it was not told of yet may be taken for old, or not
		w.excused = true
	}
	w.markOld()
	w.say("daemon %d begins to write", d.number)
}

func (w *world) startAll() {
	for n := range w.crew {
		if w.crew[n] == nil {
			w.startInstance(n)
		}
	}
}

// killInstance ends one as kill -9 does.
func (w *world) killInstance(n int) {
	d := w.crew[n]
	if d == nil {
		return
	}
	w.say("daemon %d is killed", d.number)
	w.crew[n] = nil
	d.ended, d.filter = true, nil
	delete(w.stopped, d.number)
	w.kernel.unsubscribe(d.socket)
	w.drop(func(st *strand) bool { return st.owner == d.number })
	for _, f := range slices.Clone(w.folder.opened) {
		if f.d == d {
			f.Close()
		}
	}
	if w.daemon == d {
		w.daemon = nil
	}
}

func (w *world) killAll() {
	for n := range w.crew {
		w.killInstance(n)
	}
}

// orphaned is what a killed daemon has sent, and the server has not carried out yet: entries of ports are written a little later, by then perhaps
// after the next one has read them.
func (w *world) orphaned(db int, commands []redis.Cmder) {
	if len(commands) == 0 || w.over || w.dice.IntN(2) == 0 || db != simState {
		return
	}
	starts := w.coldStarts
	w.spawn("orphan", 0, func() {
		w.nap(50 * time.Millisecond)
		if starts != w.coldStarts { // what takes a second has come to an end before the databases were flushed
			return
		}
		for _, c := range commands {
			args := c.Args()
			if port, ofPort := strings.CutPrefix(wordsOf(args)[1], "PORT_TABLE|"); ofPort && (args[0] == "hset") && !w.server.down {
				w.say("what was sent by one that is killed arrives: %s", port)
				w.doubtful = true
				who := w.server.watch
				w.server.watch = nil
				(&simConn{simServer: w.server, db: db}).do(db, args)
				w.server.watch = who
			}
		}
	})
}

// disturb is what happens to instances.
func (w *world) disturb(h happening) {
	if len(w.crew) == 0 {
		return
	}
	n := h.a % len(w.crew)
	d := w.crew[n]
	switch {
	case h.what == "killwriting":
		w.killWriting(portName(h.a))
	case h.what == "hangover":
		w.handOverAmidAHang(portName(h.a), 100*time.Millisecond*time.Duration(8+2*h.b))
	case h.what == "unlink":
		w.unlink(n)
	case h.what == "handover":
		if d := w.daemon; d != nil && !w.stopped[d.number] {
			_, err := d.instance.askHandOver([]string{"", "a", "b"}[h.b%3])
			w.say("daemon %d is asked to hand over: %v", d.number, err)
		}
	case d == nil:
	case h.what == "killone":
		w.killInstance(n)
		w.restart(n, time.Duration(h.b)*300*time.Millisecond)
	case h.what == "termone":
		w.say("SIGTERM for daemon %d", d.number)
		d.ctx.cancel()
		d.socket.Rouse()
		begun, still := w.now, d.still
		for until := begun; !d.ended && !w.stopped[d.number]; { // as long as it was stopped it had no time
			if until = begun.Add(5*time.Second + d.still - still); !w.now.Before(until) {
				break
			}
			w.sleep(pause{until: until, ready: func() bool { return d.ended }})
		}
		if !d.ended && !w.stopped[d.number] {
			w.fail("daemon %d does not end", d.number)
		}
		if w.crew[n] == d {
			w.killInstance(n)
		}
		w.restart(n, time.Duration(h.b)*300*time.Millisecond)
	case h.what == "pauseone":
		w.say("daemon %d is stopped", d.number)
		d.stoppedAt = w.now
		w.stopped[d.number] = true
		w.spawn("shell", 0, func() {
			w.nap([]time.Duration{time.Millisecond, 100 * time.Millisecond, time.Second, 20 * time.Second}[h.b%4])
			w.goOn(d)
		})
	}
}

// restart is what a supervisor does with one that has ended.
func (w *world) restart(n int, most time.Duration) {
	w.spawn("supervisor", 0, func() {
		w.nap(most)
		for w.rewriting {
			w.nap(10 * time.Millisecond)
		}
		if w.crew[n] == nil {
			w.startInstance(n)
		}
	})
}

// written says that an entry of a port is to be expected in STATE_DB soon: whoever writes can.
func (w *world) written(name string) bool {
	d, s, l := w.daemon, w.server, w.kernel.named(name)
	return d != nil && d.publishing && !w.stopped[d.number] && l != nil && !l.old && !s.down && !s.hangs && s.condition == "" &&
		len(s.faults) == 0 && s.command(simAppl, "exists", []string{"PORT_TABLE:" + name}) == int64(1)
}

// killWriting kills whoever writes amid a port's entry, and the port changes again: what was sent arrives late, perhaps after the next one has read the
// entry. That one sees it soon.
func (w *world) killWriting(name string) {
	if !w.written(name) {
		return
	}
	n, l := slices.Index(w.crew, w.daemon), w.kernel.named(name)
	w.kernel.setMTU(l, uint32(3000+w.steps%1000))
	w.sleep(pause{until: w.now.Add(100 * time.Millisecond), ready: func() bool { return w.server.writes == w.daemon }})
	if n < 0 || w.crew[n] == nil || w.crew[n] != w.daemon || w.kernel.links[l.index] != l {
		return
	}
	w.killInstance(n)
	w.restart(n, time.Second)
	mtu := uint32(4000 + w.steps%1000)
	w.kernel.setMTU(l, mtu)
	w.sleep(pause{until: w.now.Add(3 * time.Second), ready: func() bool { return w.written(name) }})
	d := w.daemon
	w.sleep(pause{until: w.now.Add(settleTime + time.Second)})
	entry, _ := w.server.hash(simState, "PORT_TABLE|"+name, false)
	if d != nil && d == w.daemon && w.written(name) && w.kernel.links[l.index] == l && entry["mtu"] != strconv.Itoa(int(mtu)) {
		w.fail("%s is still what one had sent that was killed: %v", name, entry)
	}
}

// handOverAmidAHang: a port changes while Redis hangs, and whoever writes is asked to hand over.
func (w *world) handOverAmidAHang(name string, hangs time.Duration) {
	if !w.written(name) {
		return
	}
	w.say("Redis hangs for %v", hangs)
	w.server.hangs = true
	w.kernel.setMTU(w.kernel.named(name), uint32(3000+w.steps%1000))
	w.nap(2 * time.Millisecond)
	if d := w.daemon; d != nil && !w.stopped[d.number] {
		_, err := d.instance.askHandOver("")
		w.say("daemon %d is asked to hand over: %v", d.number, err)
	}
	w.sleep(pause{until: w.now.Add(hangs)})
	w.server.hangs = false
}

// unlink is somebody's hand: the lock's file goes, and an instance that starts then takes another one. Nobody is amid a round trip, for between a
// look and what follows from it nothing helps.
func (w *world) unlink(n int) {
	amid := func() bool {
		return slices.ContainsFunc(w.alive(), func(d *simDaemon) bool { return d.instance.lock.inside > 0 })
	}
	w.sleep(pause{until: w.now.Add(10 * time.Second), ready: func() bool { return !amid() }})
	if d := w.daemon; amid() || d == nil || !d.publishing || !w.signal(portConfigDone) { // before that two could mean different interfaces by the old ones
		return
	}
	w.say("the lock's file is removed")
	delete(w.folder.files, "lock/"+appName+lockSuffix)
	w.silent, w.again, w.unlinked = true, true, true // whoever waits for the old one is late, and whoever had it knows nothing of what the other one sent
	w.killInstance(n)
	if !w.rewriting {
		w.startInstance(n)
	}
}

// allowed: nobody but who holds the lock changes anything.
func (w *world) allowed(who *simDaemon, db int, name string, args []string) bool {
	words := []any{name}
	for _, a := range args {
		words = append(words, a)
	}
	if onlyReads(words) {
		if name == "eval" && args[0] == string(scanKeys) && who == w.daemon {
			who.publishing = true
		}
		return false
	}
	if !w.folder.hasLock(who) {
		w.fail("daemon %d writes without the lock: %s %q", who.number, name, args[0])
	}
	return true
}

// goOn is SIGCONT.
func (w *world) goOn(d *simDaemon) {
	if w.stopped[d.number] {
		d.still += w.now.Sub(d.stoppedAt)
		w.say("daemon %d goes on", d.number)
		delete(w.stopped, d.number)
	}
}

// healCrew has every instance run again, and one of them write.
func (w *world) healCrew() bool {
	for _, d := range w.crew {
		if d != nil {
			w.goOn(d)
		}
	}
	clear(w.stopped)
	w.startAll()
	writes := func() bool { return w.daemon != nil && w.folder.hasLock(w.daemon) }
	w.sleep(pause{until: w.now.Add(20 * time.Second), ready: writes})
	if !writes() {
		w.fail("nobody writes")
		return false
	}
	for _, d := range w.crew {
		if d.ended {
			w.fail("daemon %d has ended: %v", d.number, d.err)
			return false
		}
		d.socket.dumpFault, d.socket.torn = "", 0
	}
	return true
}

// checkCrew: one writes, and the others could.
func (w *world) checkCrew() {
	for n, d := range w.crew {
		role := d.instance.role()
		switch ready := d.instance.ready.has("lock", string(rune('a'+n))); {
		case (role == roleWriter) != (d == w.daemon) || (role == roleWriter) != w.folder.hasLock(d):
			w.fail("daemon %d is %s, daemon %d writes", d.number, role, w.daemon.number)
		case role == roleStandby && !ready:
			w.fail("daemon %d stands by, and could not take over", d.number)
		}
	}
}

// TestKilledWritersCommandsArriveLate in the simulation: without them it would not try what a takeover finds then.
func TestKilledWritersCommandsArriveLate(t *testing.T) {
	arrived := 0
	for seed := uint64(1); arrived == 0 && seed <= 150; seed++ {
		_, history, _ := newInstanceScenario(seed).run(true)
		arrived += strings.Count(history, "what was sent by one that is killed arrives")
	}
	if arrived == 0 {
		t.Error("nothing that a killed daemon has sent arrives after its end")
	}
}
