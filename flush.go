package main

import (
	"context"
	"math/rand/v2"
	"time"
)

// The dirty set and how it gets written: events waiting for their outcome, pacing, one flush at a time.

const (
	flushBurst = 8                    // so many changes are flushed at once each,
	flushGap   = 4 * time.Millisecond // a storm of them at this distance
	maxRecords = 1024                 // beyond it a port's events share a record and its time
)

// events are link messages of one port in one read, not durable yet.
type events struct {
	port   *port
	at     time.Time
	n      uint64
	failed bool // already counted as failed
}

// touch marks a port dirty unless the databases are known to agree with the kernel. While it is being written they are not.
func (s *syncer) touch(p *port) {
	if p.inFlight || !s.inStep(p) {
		s.markDirty(p)
	}
}

// inStep says that a port needs no write: its last acknowledged state is its present one.
func (s *syncer) inStep(p *port) bool {
	return !p.removed && (p.index == 0 || p.known && p.held == p.link)
}

func (s *syncer) markDirty(p *port) {
	if !p.dirty {
		p.dirty = true
		s.dirty = append(s.dirty, p)
	}
}

// noteEvent accounts for a link message of a port: processed now if nothing has to be written, else when the write is durable.
func (s *syncer) noteEvent(p *port) {
	s.touch(p)
	if !p.dirty {
		s.processed(s.at, 1)
		return
	}
	if i := p.record; i < len(s.records) && s.records[i].port == p && (s.records[i].at.Equal(s.at) || len(s.records) >= maxRecords) {
		s.records[i].n++
		return
	}
	p.record = len(s.records)
	s.records = append(s.records, events{port: p, at: s.at, n: 1})
}

func (s *syncer) processed(at time.Time, n uint64) {
	s.m.eventsProcessed.Add(n)
	s.m.eventLatency.ObserveN(s.now().Sub(at), n)
}

// settle ends everything pending where there is nothing to write to.
func (s *syncer) settle() {
	for _, p := range s.dirty {
		p.dirty, p.removed = false, false
		p.held, p.known = p.link, true
		s.forget(p)
	}
	s.dirty = s.dirty[:0]
	for _, e := range s.records {
		s.processed(e.at, e.n)
	}
	s.records = s.records[:0]
	s.m.queueDepth.Set(0)
}

// forget drops a port that is neither configured nor in the kernel, keeping its flap count for its return.
func (s *syncer) forget(p *port) {
	if p.configured || p.index != 0 || p.dirty || p.inFlight {
		return
	}
	delete(s.ports, p.name)
	if flaps := p.series.flaps.Load(); flaps > 0 && len(s.goneFlaps) < goneFlapsMax {
		s.goneFlaps[p.name] = flaps
	}
}

// advanceFlush starts a flush if one is due and returns how long none is.
func (s *syncer) advanceFlush(now time.Time) time.Duration {
	wait := untilBeat(now)
	if !s.config.events {
		if !now.Before(s.nextCheck) {
			s.nextCheck = now.Add(checkInterval)
			s.checkAppl()
			s.look = true
		}
		wait = min(wait, s.nextCheck.Sub(now))
	}
	wait = min(wait, s.advanceReconcile(now))
	signal := s.owesInitDone()
	s.advanceWarm()
	extra := s.warm.wanted != "" || len(s.batch.confirm) > 0 || len(s.audits) > 0 || s.auditList || s.checkSignals
	if len(s.dirty) == 0 && !signal && !extra {
		return wait
	}
	if pause := s.pace.wait(now); pause > 0 && !signal {
		return min(wait, pause)
	}
	s.takeAudits()
	s.pace.take(now)
	s.startFlush(signal)
	return wait
}

// owesInitDone says that PortInitDone is to be sent: every configured port's interface was seen, and it is not sent yet.
func (s *syncer) owesInitDone() bool { return !s.initDone && (s.unseen == 0 || s.initOnce) }

// checkAppl is the view of APPL_DB when its server sends no events: ports believed to be there are counted, and those that
// have an interface and were not found are asked for again.
func (s *syncer) checkAppl() {
	s.batch.confirm = s.batch.confirm[:0]
	for _, p := range s.ports {
		if p.inAppl {
			s.batch.confirm = append(s.batch.confirm, &p.write)
		}
		s.touch(p)
	}
}

// startFlush hands every dirty port's latest state to the databases.
func (s *syncer) startFlush(signal bool) {
	s.batch.writes, s.batch.initDone = s.batch.writes[:0], signal
	s.batch.list, s.batch.signals, s.batch.warm = s.auditList, s.checkSignals, s.warm.wanted
	for _, p := range s.dirty {
		p.dirty, p.inFlight = false, true
		w := &p.write
		w.state, w.del, w.stale = p.link, p.removed, p.stale
		w.set = p.index != 0 && !s.inStep(p)
		w.ask = w.set && !p.inAppl
		w.check = w.set && !p.known && !w.del
		p.askedAt = p.vanished
		p.removed, p.stale = false, false
		s.batch.writes = append(s.batch.writes, w)
	}
	s.flying, s.dirty = s.dirty, s.flying[:0]
	s.inFlight, s.records = s.records, s.inFlight[:0]
	s.do(func(ctx context.Context) error { return s.db.Flush(ctx, &s.batch) }, s.flushed)
}

// flushed takes in what came of a flush: what is acknowledged is remembered, what is not is dirty again.
func (s *syncer) flushed(err error) {
	for _, p := range s.flying {
		p.inFlight = false
		s.wrote(p, &p.write)
	}
	if s.batch.missing {
		for _, p := range s.ports {
			p.inAppl = false
		}
	}
	s.batch.confirm, s.batch.missing = s.batch.confirm[:0], false
	s.resolve()
	for _, p := range s.flying {
		s.forget(p)
	}
	s.flying = s.flying[:0]
	if err != nil {
		return
	}
	if s.batch.warm == s.warm.wanted {
		s.warm.wanted = ""
	}
	if s.batch.initDone && !s.initDone {
		s.initDone = true
		s.m.portInitDone.Set(1)
		s.status.initDone.Store(true)
		s.notice("PortInitDone sent")
	}
	s.audited()
}

// wrote takes in the outcome of one port's write.
func (s *syncer) wrote(p *port, w *portWrite) {
	switch {
	case w.err != nil: // it may have happened or not
		p.known, p.inAppl, p.audited = false, false, false
		if w.del {
			p.removed, p.stale = true, true
		}
		s.markDirty(p)
		return
	case w.written || w.same:
		p.held, p.known = w.state, true
	case w.del || w.set:
		p.known = false
	}
	switch {
	case !s.warm.counted:
	case w.written && p.baseline:
		p.baseline = false
		s.m.warmRepaired.Inc()
	case w.del && !w.written:
		s.m.warmGone.Inc()
	}
	s.judgeAudit(p, w)
	if w.ask {
		p.inAppl = w.exists && p.vanished == p.askedAt
		p.missing = p.missing || !w.exists
	}
	if p.index != 0 && (w.exists || !w.ask) {
		s.touch(p) // the link may have changed meanwhile, and back to what was held before
	}
}

// resolve ends the events of a flush: processed, or failed and waiting for the next one.
func (s *syncer) resolve() {
	var again []events
	for _, e := range s.inFlight {
		switch {
		case e.port.write.err == nil:
			s.processed(e.at, e.n)
			continue
		case !e.failed:
			s.m.eventsFailed.Add(e.n)
			e.failed = true
		}
		again = append(again, e)
	}
	s.inFlight = s.inFlight[:0]
	if len(again) > 0 {
		s.records = mergeEvents(append(again, s.records...))
		for i := range s.records {
			s.records[i].port.record = i
		}
	}
}

// mergeEvents bounds the records kept through an outage: beyond maxRecords, those of a port share the oldest one's time.
func mergeEvents(records []events) []events {
	if len(records) <= maxRecords {
		return records
	}
	type key struct {
		port   *port
		failed bool
	}
	first := make(map[key]int)
	kept := records[:0]
	for _, e := range records {
		if i, ok := first[key{e.port, e.failed}]; ok {
			kept[i].n += e.n
			continue
		}
		first[key{e.port, e.failed}] = len(kept)
		kept = append(kept, e)
	}
	return kept
}

// pace is a token bucket: flushBurst flushes at once, one more every flushGap. The zero value is full.
type pace struct{ full time.Time } // when the bucket is full again

// wait returns how long the next flush has to wait.
func (p *pace) wait(now time.Time) time.Duration {
	return max(0, p.full.Add(-(flushBurst-1)*flushGap).Sub(now))
}

func (p *pace) take(now time.Time) {
	if p.full.Before(now) {
		p.full = now
	}
	p.full = p.full.Add(flushGap)
}

// The pauses between tries: a second at most, so that all is right within two of a database's return.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = time.Second
)

// backoff gives growing pauses, with jitter so that many daemons do not come back in step.
type backoff struct{ tries int }

func (b *backoff) next() time.Duration {
	pause := min(firstPause<<min(b.tries, 10), lastPause)
	b.tries++
	return pause - time.Duration(rand.Int64N(int64(pause/4)))
}

func (b *backoff) sleep(ctx context.Context) {
	select {
	case <-time.After(b.next()):
	case <-ctx.Done():
	}
}
