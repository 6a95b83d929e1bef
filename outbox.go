package main

import (
	"log/slog"
	"time"
)

// outbox is what has yet to be written to STATE_DB: the ports whose entries may differ from what they should be, what
// is in flight, and since when each change is known. It remembers what was acknowledged, so that the same state is not
// written twice, and forgets it where it is in doubt.
type outbox struct {
	m    *metrics
	log  *slog.Logger
	now  func() time.Time
	rows rows[outRow]

	dirty, flying []*port
	partly        bool    // the last flush left ports out, of which nothing was heard
	resting       []*port // a database refused their keys: dirty again at restUntil
	restUntil     time.Time
	refusal       error // what it said last
	work          flush // the one in flight, or the last one
	pace          pace
}

// outRow is a port's entry.
type outRow struct {
	present bool      // the port has an interface, and its entry is to hold
	target  portState // this
	held    portState // what STATE_DB holds,
	known   bool      // if that is known
	del     deletion  // owed, before anything else
	askOper bool      // the next write asks what orchagent says
	inAppl  bool      // APPL_DB has the port; false means unknown, and asked at the next write
	// times that known or inAppl became doubtful: an answer to what was asked before does not count then
	doubts uint32

	dirty, inFlight, resting bool
	heard                    bool      // the loop before heard of it last
	refused                  bool      // and the log says so
	owed                     bool      // a deletion, if APPL_DB does not have the port
	dirtyAt                  int64     // the instant since which
	waiting, sent            mail      // link messages without a durable outcome yet: not sent, and in flight
	last                     int64     // the instant of the last message
	sentAt                   int64     // dirtyAt of what is in flight, or was refused
	doubtsSent               uint32    // doubts when it was sent
	write                    portWrite // what is, or was, in flight
}

// mail is link messages of one port.
type mail struct {
	n      uint64
	failed uint64 // of these, already counted as failed
	since  int64  // the instant when the first was received
}

// refusalRest is how long a key that was refused rests before it is tried again.
const refusalRest = time.Second

// aim sets what a port's entry is to hold.
func (o *outbox) aim(p *port, state portState) {
	row := o.rows.of(p)
	row.present, row.target = true, state
	o.touch(p)
}

// drop notes that a port's interface was seen to go: its entry is to be deleted, whatever it holds.
func (o *outbox) drop(p *port) {
	row := o.rows.of(p)
	row.present, row.del = false, delCertain
	o.markDirty(p)
}

// dismiss is for a port whose interface turned out to be a left-over: neither an entry nor a deletion is owed. It
// returns how many messages of it were waiting.
func (o *outbox) dismiss(p *port) uint64 {
	row := o.rows.of(p)
	n := row.waiting.n
	row.present, row.del, row.waiting = false, delNone, mail{}
	return n
}

// suspect is for a port that has an entry, and neither an interface nor a deletion under way: the entry is stale if it
// is ours.
func (o *outbox) suspect(p *port) {
	if row := o.rows.of(p); !row.present && row.del == delNone && !row.inFlight {
		row.del = delIfOurs
		o.markDirty(p)
	}
}

// note accounts for a link message of a port: processed now if nothing has to be written, else when the write is
// durable.
func (o *outbox) note(p *port, at time.Time) {
	row := o.rows.of(p)
	if !row.dirty && !row.resting {
		o.processed(mail{n: 1, since: instant(at)})
		return
	}
	row.last = instant(at)
	if row.waiting.n == 0 {
		row.waiting.since = row.last
	}
	row.waiting.n++
}

// touch marks a port dirty unless the databases are known to agree with the kernel. While it is being written they are
// not.
func (o *outbox) touch(p *port) {
	if row := o.rows.of(p); row.inFlight || !o.inStep(row) {
		o.markDirty(p)
	}
}

// inStep says that a port needs no write: its last acknowledged state is the wanted one.
func (o *outbox) inStep(row *outRow) bool {
	return row.del == delNone && (!row.present || row.known && row.held == row.target)
}

func (o *outbox) markDirty(p *port) {
	if row := o.rows.of(p); !row.dirty && !row.resting {
		row.dirty, row.dirtyAt = true, instant(o.now())
		o.dirty = append(o.dirty, p)
	}
}

// doubt forgets what is known of a port: its entry is compared with what it should be, and APPL_DB asked. It tells
// whether the entry was believed to be right.
func (o *outbox) doubt(p *port) (wasRight bool) {
	row := o.rows.of(p)
	wasRight = row.known && !row.inFlight && o.inStep(row)
	row.known, row.inAppl = false, false
	row.doubts++
	o.touch(p)
	return wasRight
}

// inspect is doubt that also asks what orchagent says of the port.
func (o *outbox) inspect(p *port) (wasRight bool) {
	o.rows.of(p).askOper = true
	return o.doubt(p)
}

// appl takes what is heard of a port's entry in APPL_DB. A port that enters it after its link message is published now.
func (o *outbox) appl(p *port, exists bool) {
	row := o.rows.of(p)
	row.inAppl = exists
	row.doubts++
	o.touch(p)
}

// askAgain makes a port's existence in APPL_DB unknown, and has it asked for if something is to be written.
func (o *outbox) askAgain(p *port) {
	row := o.rows.of(p)
	row.inAppl = false
	row.doubts++
	o.touch(p)
}

// baseline takes an entry that was found as what STATE_DB holds.
func (o *outbox) baseline(p *port, held portState) {
	row := o.rows.of(p)
	row.held, row.known = held, true
}

// confirmNone begins the list of confirm anew.
func (o *outbox) confirmNone() { o.work.confirm = o.work.confirm[:0] }

// confirm adds a port to those that the next flush counts in APPL_DB, if it is believed to be there.
func (o *outbox) confirm(p *port) {
	if row := o.rows.of(p); row.inAppl {
		row.write.port = p.name
		o.work.confirm = append(o.work.confirm, &row.write)
	}
}

// forget drops a port that is idle.
func (o *outbox) forget(p *port) { o.rows.drop(p) }

// idle says that a port has nothing waiting or in flight.
func (o *outbox) idle(p *port) bool {
	row := o.rows.of(p)
	return !row.dirty && !row.inFlight && !row.resting
}

// written says that nothing is waiting or in flight but what was refused.
func (o *outbox) written() bool { return len(o.dirty)+len(o.flying) == 0 }

// settled says that nothing is waiting or in flight at all.
func (o *outbox) settled() bool { return len(o.dirty)+len(o.flying)+len(o.resting) == 0 }

// unwritten is how many ports are not written yet.
func (o *outbox) unwritten() int { return len(o.dirty) + len(o.flying) + len(o.resting) }

// oldest is since when a port waits to be written, to within the time of one flush, zero: none does.
func (o *outbox) oldest() time.Time {
	var at int64
	if len(o.dirty) > 0 { // in the order in which they became so
		at = o.rows.of(o.dirty[0]).dirtyAt
	}
	for _, ports := range [][]*port{o.flying, o.resting} {
		for _, p := range ports[:min(1, len(ports))] {
			if row := o.rows.of(p); at == 0 || row.sentAt < at {
				at = row.sentAt
			}
		}
	}
	return instantTime(at)
}

// wake makes the ports dirty whose keys were refused, when their rest is over, and returns how long it lasts.
func (o *outbox) wake(now time.Time) time.Duration {
	if len(o.resting) == 0 {
		return beatInterval
	}
	if wait := o.restUntil.Sub(now); wait > 0 {
		return wait
	}
	for _, p := range o.resting {
		row := o.rows.of(p)
		row.resting = false
		o.markDirty(p)
		row.dirtyAt = row.sentAt
	}
	o.resting = o.resting[:0]
	return 0
}

// asks says that ports wait to be counted in APPL_DB.
func (o *outbox) asks() bool { return len(o.work.confirm) > 0 }

// pause is how long the next flush has to wait for the sake of pace.
func (o *outbox) pause(now time.Time) time.Duration { return o.pace.wait(now) }

// waiting says that there are ports to be written.
func (o *outbox) waiting() bool { return len(o.dirty) > 0 }

// refused is why a database refused a port's key, nil: none is refused.
func (o *outbox) refused() error { return o.refusal }

// hurry notes that a port was heard of, in the loop before, when nobody may have written any more.
func (o *outbox) hurry(p *port) { o.rows.of(p).heard = true }

// heardSince says that there was a message of a port after a time, and that nobody was seen to have written it.
func (o *outbox) heardSince(p *port, at time.Time) bool {
	row := o.rows.of(p)
	return row.last > instant(at) && (row.waiting.n > 0 || row.inFlight || row.write.differs != "")
}

// choose takes the ports of the next flush. Where there are many, those of which something was heard go first, and the
// others, which are only compared, with the next one. An observer's are never many.
func (o *outbox) choose() (chosen []*port) {
	few := len(o.dirty) <= compareBatch
	if few || o.partly && !o.pace.observes() {
		chosen, o.dirty, o.partly = o.dirty, o.flying[:0], false
		return chosen
	}
	o.partly = true
	chosen, rest := o.flying[:0], o.dirty[:0]
	for i, p := range o.dirty {
		row := o.rows.of(p)
		first := row.heard || row.waiting.n > 0
		if o.pace.observes() {
			first = i < compareBatch
		}
		if first {
			chosen = append(chosen, p)
		} else {
			rest = append(rest, p)
		}
	}
	if o.dirty = rest; len(chosen) == 0 {
		chosen, o.dirty, o.partly = o.dirty, chosen, false
	}
	return chosen
}

// leaveNone has the next flush be of all ports.
func (o *outbox) leaveNone() { o.partly = true }

// send makes a flush of the dirty ports' latest state. The caller adds what else it wants of it.
func (o *outbox) send(now time.Time) *flush {
	o.pace.take(now)
	o.work.writes = o.work.writes[:0]
	o.flying = o.choose()
	for _, p := range o.flying {
		row := o.rows.of(p)
		w := &row.write
		w.port, w.state, w.del = p.name, row.target, row.del
		w.set = row.present && !o.inStep(row)
		w.ask = w.set && !row.inAppl
		w.check = w.set && !row.known && w.del == delNone
		row.dirty, row.heard, row.inFlight, row.del, row.doubtsSent = false, false, true, delNone, row.doubts
		w.oper, row.askOper = row.askOper && row.present, false
		row.sentAt = row.dirtyAt
		row.sent, row.waiting = row.waiting, mail{}
		o.work.writes = append(o.work.writes, w)
	}
	return &o.work
}

// underWay calls each for every port that is in flight.
func (o *outbox) underWay(each func(p *port)) {
	for _, p := range o.flying {
		each(p)
	}
}

// landed takes in what came of the flush, and returns the ports that were in it, until the next one is sent: what is
// acknowledged is remembered, what is not is dirty again, and what was refused rests.
func (o *outbox) landed(now time.Time) []*port {
	if len(o.resting) == 0 {
		o.refusal = nil
	}
	for _, p := range o.flying {
		row := o.rows.of(p)
		row.inFlight = false
		if row.write.err != nil {
			o.bounced(p, row, now)
			continue
		}
		o.acknowledged(p, row)
	}
	o.confirmNone()
	landed := o.flying
	o.flying = o.flying[:0]
	return landed
}

// bounced is for a write without an acknowledgement: it may have happened or not.
func (o *outbox) bounced(p *port, row *outRow, now time.Time) {
	o.m.eventsFailed.Add(row.sent.n - row.sent.failed)
	row.waiting = mail{n: row.sent.n + row.waiting.n, failed: row.sent.n, since: earlier(row.sent, row.waiting)}
	row.sent = mail{}
	row.known, row.inAppl = false, false
	if !row.write.set { // else what is there may be the new interface's, with what others have written of it
		row.del = max(row.del, min(row.write.del, delIfOurs))
	} else if row.write.del != delNone {
		row.owed = true
	}
	if unavailable(row.write.err) {
		o.markDirty(p)
		row.dirtyAt = row.sentAt
		return
	}
	o.refusal = row.write.err
	if !row.refused {
		row.refused = true
		o.log.Warn("a database refuses a port's entry, trying again; the other ports do not wait for it",
			"port", p.name, "err", row.write.err,
			"remedy", "look at the key's type, and delete it if it is no hash")
	}
	if len(o.resting) == 0 {
		o.restUntil = now.Add(refusalRest)
	}
	if row.dirty { // it changed meanwhile
		o.dirty = without(o.dirty, p)
		row.dirty = false
	}
	row.resting = true
	o.resting = append(o.resting, p)
}

// acknowledged is for a write that was carried out.
func (o *outbox) acknowledged(p *port, row *outRow) {
	o.processed(row.sent)
	row.sent, row.refused = mail{}, false
	w := &row.write
	current := row.doubts == row.doubtsSent
	switch {
	case w.written || w.same:
		row.held, row.known = w.state, current
	case w.del != delNone || w.set:
		row.known = false
	}
	if w.ask && current {
		row.inAppl = w.exists
	}
	if row.owed && (w.set || w.del != delNone) {
		row.owed = false
		if w.del == delNone && w.ask && !w.exists { // nothing is published: what is there is the old interface's
			row.del = max(row.del, delIfOurs)
			o.markDirty(p)
		}
	}
	if row.present && (w.exists || !w.ask || !current) {
		o.touch(p) // the link may have changed meanwhile, and back to what was held before
	}
}

// result is the last write of a port and what came of it.
func (o *outbox) result(p *port) *portWrite { return &o.rows.of(p).write }

func (o *outbox) processed(m mail) {
	if m.n > 0 {
		o.m.eventsProcessed.Add(m.n)
		o.m.eventLatency.ObserveN(time.Duration(instant(o.now())-m.since), m.n)
	}
}

// settle ends everything that waits, where there is nothing to write to. It returns the ports that were dirty.
func (o *outbox) settle() []*port {
	for _, p := range o.dirty {
		row := o.rows.of(p)
		row.dirty, row.del = false, delNone
		row.held, row.known = row.target, true
		o.processed(row.waiting)
		row.waiting = mail{}
	}
	settled := o.dirty
	o.dirty = o.dirty[:0]
	return settled
}

// earlier is when the first message of two mails was received.
func earlier(a, b mail) int64 {
	if a.n == 0 || b.n > 0 && b.since < a.since {
		return b.since
	}
	return a.since
}
