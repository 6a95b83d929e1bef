package main

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// recorder is the flight recorder: the last events of each port, and of the daemon, in memory that a file backs. What
// is in it outlives the process. It decides nothing, and nobody waits for it; nil records nothing.
type recorder struct {
	m      *metrics
	log    *slog.Logger
	path   string // empty: in memory only
	size   int    // bytes
	image  []byte
	memory bool                   // it ends with the process, whatever the path
	dead   atomic.Bool            // the image cannot be written any more,
	why    atomic.Pointer[string] // because of this
	again  time.Time              // when that is mended at the earliest
	rows   rows[recordRow]
	byName map[string]int // rings that have a name
	idle   []int          // rings of no port's, and then of ports that are gone, the longest first
	sorted bool           // those of ports were put into that order
	boot   byte           // of the machine, counted
	booted time.Duration  // the machine's clock when the process's
	opened time.Time      // was this

	mu   sync.Mutex    // of the file, which anybody may read, and of the daemon's ring: anybody writes there
	file *os.File      // nil: there is none
	own  uint32        // its newest number,
	at   time.Duration // and when that was

	changes atomic.Uint64 // grows with whatever is written
	moving  recordMove
}

// guard is for what touches the image: somebody may have cut the file short, and then a fault is an error like another.
// The recorder ends, and the daemon goes on. Use: defer r.guard(debug.SetPanicOnFault(true)).
func (r *recorder) guard(was bool) {
	if fault := recover(); faulted(was, fault) {
		r.fail(fmt.Sprint(fault))
		r.log.Error("the flight recorder fails, and is opened again", "err", fault, "remedy", "was its file cut short?")
	}
}

// fail notes that nothing can be recorded any more.
func (r *recorder) fail(why string) {
	r.why.Store(&why)
	r.dead.Store(true)
}

// failing is why nothing is recorded, for anybody; empty: it is.
func (r *recorder) failing() string {
	if !r.off() || r == nil {
		return ""
	}
	if why := r.why.Load(); why != nil {
		return *why
	}
	return "" // it ends
}

// off says that nothing is recorded.
func (r *recorder) off() bool { return r == nil || r.dead.Load() }

// waiting says that nothing is taken down so far.
func (r *recorder) waiting() bool { return r.moving.waits.Load() }

// laterLink and laterLanded are link's and landed's; what these are told of does not stay as it is.
func (r *recorder) laterLink(p *port, m linkMessage, listed bool, at time.Time) bool {
	m.name, m.kind = nil, nil
	return r.moving.later(func() { r.link(p, &m, listed, at) })
}

func (r *recorder) laterLanded(p *port, w *portWrite, now time.Time) bool {
	said := portWrite{set: w.set, ask: w.ask, outcome: w.outcome}
	return r.moving.later(func() { r.landed(p, &said, now) })
}

// machine is the machine's clock at a time of this process.
func (r *recorder) machine(at time.Time) time.Duration { return r.booted + at.Sub(r.opened) }

// row returns a port's row, with its ring if there is one for it.
func (r *recorder) row(p *port) *recordRow {
	row := r.rows.of(p)
	if row.looked {
		return row
	}
	ring, has := r.byName[p.name]
	switch {
	case has:
		r.idle = slices.DeleteFunc(r.idle, func(i int) bool { return i == ring })
	case len(r.idle) == 0 || !nameable(p.name):
		return row // one may be idle by the next time
	default:
		r.sortIdle()
		ring, r.idle = r.idle[0], r.idle[1:]
		delete(r.byName, ringName(ringOf(r.image, ring)))
		nameRing(ringOf(r.image, ring), p.name)
		r.byName[p.name] = ring
	}
	row.looked = true
	row.resume(ringOf(r.image, ring))
	if row.any {
		p.series.caused(row.last.cause)
	}
	return row
}

// sortIdle puts the rings that an image came with into order, once, before the first of them becomes another port's: at
// a start most are of ports that are there, and were not heard of yet.
func (r *recorder) sortIdle() {
	if r.sorted || ringName(ringOf(r.image, r.idle[0])) == "" {
		return
	}
	r.sorted = true
	last := make(map[int]portRecord, len(r.idle))
	for _, ring := range r.idle {
		var row recordRow
		row.recall(ringOf(r.image, ring))
		last[ring] = row.last
	}
	sort.SliceStable(r.idle, func(i, j int) bool {
		a, b := last[r.idle[i]], last[r.idle[j]]
		switch {
		case a.present != b.present:
			return b.present
		case a.boot != b.boot:
			return int8(a.boot-b.boot) < 0
		}
		return a.since < b.since
	})
}

// endListing notes which interfaces have gone while no daemon ran, when a first listing has ended. known returns the
// port of a name, nil: there is none, and whether it has an interface.
func (r *recorder) endListing(known func(name string) (p *port, present bool), at time.Time) {
	if r.off() || r.waiting() && r.moving.later(func() { r.endListing(known, at) }) {
		return
	}
	for name, ring := range r.byName {
		p, present := known(name)
		switch {
		case present:
		case p != nil:
			r.gone(p, causeListed, at)
		default:
			r.goneUnknown(ring, at)
		}
	}
}

// goneUnknown is gone for a ring whose port nobody knows any more.
func (r *recorder) goneUnknown(ring int, at time.Time) {
	defer r.guard(debug.SetPanicOnFault(true))
	var row recordRow
	if row.recall(ringOf(r.image, ring)); row.any && row.last.present {
		r.leave(&row, causeListed, at)
	}
}

// add writes a record behind the last one.
func (r *recorder) add(row *recordRow, e *portRecord, at time.Time) {
	e.at, e.since = at, r.machine(at)
	e.number, e.boot = following(row.last.number), r.boot
	e.written, e.acknowledged = -1, -1
	e.put(eventAt(row.ring, e.number))
	row.last, row.any = *e, true
	r.m.recorded[e.cause].Inc()
	r.changes.Add(1)
}

// link takes a message, or a line of a listing, that tells the present state of a port's interface.
func (r *recorder) link(p *port, m *linkMessage, listed bool, at time.Time) {
	if r.off() || r.waiting() && r.laterLink(p, *m, listed, at) {
		return
	}
	defer r.guard(debug.SetPanicOnFault(true))
	row := r.row(p)
	if row.ring == nil {
		return
	}
	was := &row.last
	e := portRecord{index: m.index, now: stateOf(m), present: true, counted: m.hasCarrier,
		carrierUp: m.carrierUp, carrierDown: m.carrierDown}
	// an ifindex may be given again, and then the counts begin anew; in another boot it means nothing
	same := row.any && was.present && was.index == m.index && was.boot == r.boot &&
		!(e.counted && was.counted && e.carrierDown < was.carrierDown)
	if same {
		e.before = was.now
		if e.counted && was.counted {
			e.missed = m.carrierDown - was.carrierDown
		}
		if e.now.oper && e.missed > 0 && m.flags&unix.IFF_LOWER_UP == 0 { // what the last loss did is still to come
			e.missed--
			e.carrierDown--
		}
		if e.now == was.now && e.missed == 0 {
			return
		}
	}
	e.cause = causeOf(row.any, same, listed, was, &e, m.flags)
	if e.before.oper && !e.now.oper && e.missed > 0 {
		e.missed-- // this one
	}
	if e.now == e.before {
		e.outcome = outcomeSame
	}
	e.faults = row.early(&e, r.machine(at))
	r.add(row, &e, at)
	p.series.caused(e.cause)
}

// gone notes that a port has lost its interface.
func (r *recorder) gone(p *port, why cause, at time.Time) {
	if r.off() || r.waiting() && r.moving.later(func() { r.gone(p, why, at) }) {
		return
	}
	defer r.guard(debug.SetPanicOnFault(true))
	row := r.row(p)
	if row.ring == nil || !row.any || !row.last.present {
		return
	}
	r.leave(row, why, at)
	p.series.caused(why)
}

func (r *recorder) leave(row *recordRow, why cause, at time.Time) {
	r.add(row, &portRecord{index: row.last.index, before: row.last.now, counted: row.last.counted, cause: why,
		carrierUp: row.last.carrierUp, carrierDown: row.last.carrierDown}, at)
}

// ignored notes a message that looks like a deletion of the interface, and is none.
func (r *recorder) ignored(p *port, at time.Time) {
	if r.off() || r.waiting() && r.moving.later(func() { r.ignored(p, at) }) {
		return
	}
	defer r.guard(debug.SetPanicOnFault(true))
	row := r.row(p)
	if row.ring == nil || !row.any {
		return
	}
	e := row.last
	e.before, e.cause, e.outcome, e.missed, e.faults = e.now, causeUnknown, outcomeNoMessage, 0, 0
	r.add(row, &e, at)
}

// repaired notes that a comparison has put an entry right: found is what it was, as its four fields. One without an
// interface is deleted.
func (r *recorder) repaired(p *port, why cause, found string, at time.Time) {
	if r.off() || r.waiting() && r.moving.later(func() { r.repaired(p, why, found, at) }) {
		return
	}
	defer r.guard(debug.SetPanicOnFault(true))
	row := r.row(p)
	if row.ring == nil {
		return
	}
	e := row.last
	e.missed, e.faults, e.cause, e.before = 0, 0, why, e.now
	if words := strings.Fields(found); len(words) == 4 {
		mtu, _ := strconv.ParseUint(words[3], 10, 32)
		e.before = portState{oper: words[1] == "up", admin: words[2] == "up", mtu: uint32(mtu)}
	} else if why == causeRepaired {
		e.before = portState{}
	}
	if e.outcome = outcomeWritten; !e.present {
		e.outcome = outcomeDeleted
	}
	last, any := row.last, row.any
	r.add(row, &e, at)
	last.number = row.last.number
	row.last, row.any = last, any // of the link it says nothing
}

// sent notes that a port's latest state is on its way to the databases.
func (r *recorder) sent(p *port, now time.Time) {
	if r.off() || r.waiting() && r.moving.later(func() { r.sent(p, now) }) {
		return
	}
	if row := r.rows.of(p); row.ring != nil {
		row.sent, row.sentWall = row.last.number, now
	}
}

// landed notes what came of it.
func (r *recorder) landed(p *port, w *portWrite, now time.Time) {
	if r.off() || r.waiting() && r.laterLanded(p, w, now) {
		return
	}
	row := r.rows.of(p)
	if row.ring == nil || row.sent == row.settled {
		return
	}
	defer r.guard(debug.SetPanicOnFault(true))
	outcome := outcomeSame
	switch {
	case w.err != nil:
		outcome = outcomeFailed
	case w.written:
		outcome = outcomeWritten
	case w.ask && !w.exists && w.set:
		outcome = outcomeAbsent
	case w.deleted:
		outcome = outcomeDeleted
	}
	r.settle(row, outcome, outcomeMerged, row.sentWall, now)
}

// dismissed notes that nothing is written of a port so far: its interface is a left-over.
func (r *recorder) dismissed(p *port) {
	if r.off() || r.waiting() && r.moving.later(func() { r.dismissed(p) }) {
		return
	}
	if row := r.rows.of(p); row.ring != nil {
		defer r.guard(debug.SetPanicOnFault(true))
		row.sent = row.last.number
		r.settle(row, outcomeLeftOver, outcomeLeftOver, time.Time{}, time.Time{})
	}
}

// settle writes the outcome of what was sent at a time, and of what went before that and was not.
func (r *recorder) settle(row *recordRow, outcome, before outcomeKind, sent, now time.Time) {
	first := row.settled + 1
	if row.sent-first >= portEvents {
		first = row.sent - portEvents + 1
	}
	for n := first; n != row.sent+1; n++ {
		b := eventAt(row.ring, n)
		e, whole := takePortRecord(b)
		if !whole || e.number != n || !e.unsettled() {
			continue
		}
		e.outcome = outcome
		if n != row.sent && outcome.final() {
			e.outcome = before
		}
		if e.written, e.acknowledged = -1, -1; !sent.IsZero() && e.boot == r.boot {
			e.written = r.machine(sent) - e.since
			if outcome != outcomeFailed {
				e.acknowledged = r.machine(now) - e.since
			}
		}
		e.put(b)
	}
	if outcome.final() {
		row.settled = row.sent
	}
	r.changes.Add(1)
}

// settled notes that a port's latest state is written nowhere: there are no databases.
func (r *recorder) settled(p *port, now time.Time) {
	r.sent(p, now)
	r.landed(p, &portWrite{}, now)
}

// note records something that happened to the daemon. Anybody may call it.
func (r *recorder) note(kind ownKind, words string, at time.Time) {
	if r.off() || r.waiting() && r.moving.later(func() { r.note(kind, words, at) }) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.off() || r.file == nil { // by now
		return
	}
	defer r.guard(debug.SetPanicOnFault(true))
	r.own = following(r.own)
	r.at = max(r.at, r.machine(at)) // whoever took the time first may come last
	e := ownRecord{at: at, since: r.at, boot: r.boot, number: r.own, kind: kind, text: words}
	e.put(ownAt(r.image, r.own))
	r.changes.Add(1)
}

// forget drops what is known of a port. Its ring stays, until another port needs one.
func (r *recorder) forget(p *port) {
	if r == nil || r.waiting() && r.moving.later(func() { r.forget(p) }) {
		return
	}
	if r.rows.of(p).ring != nil {
		r.idle = append(r.idle, r.byName[p.name])
	}
	r.rows.drop(p)
}
