package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// The syncer: what the kernel says of its links on one side, what the databases hold on the other, and the set of
// ports where the two may differ. It is level-triggered: a link message marks its port dirty, and a flush writes each
// dirty port's latest state. Start, resync, retry and recovery are all the same: mark and flush.

// stopLimit is how long the last flush may take when the daemon stops.
const stopLimit = 900 * time.Millisecond

// syncer keeps one set of ports in step: the loop around a mirror. Everything it needs is handed to it; it has no
// global state.
type syncer struct {
	mirror

	nextBeat time.Time
	inbox    chan func()
	ended    chan struct{} // closed when the loop has ended
	stopBy   time.Time     // when the daemon stops at the latest; zero: it goes on
	lastSent bool          // the flush before the end
}

func newSyncer(o syncOptions, source linkSource, openDB openDatabase, m *metrics, status *health, log *slog.Logger,
	now func() time.Time) *syncer {
	s := &syncer{inbox: make(chan func(), 64), ended: make(chan struct{})}
	s.mirror = newMirror(o, source, openDB, m, status, log, now, s.post)
	return s
}

// Run takes links in and writes them out until ctx ends, and then flushes what is pending, for at most a second. It
// returns an error only when it cannot go on: errConfig, or a link source that is dead.
func (s *syncer) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.source.Rouse)
	defer stop()
	ended := make(chan error, 1)
	s.launch(ctx, func(err error) { ended <- err })
	return <-ended
}

// launch has the loop run beside the caller, and ended called with its error when it has ended.
func (s *syncer) launch(ctx context.Context, ended func(error)) {
	cancel := s.open(ctx)
	s.m.netlinkConnected.Set(1)
	run := func() {
		err := s.loop(ctx) // on one goroutine at a time, but not always on the same
		s.m.netlinkConnected.Set(0)
		cancel()
		close(s.ended)
		ended(err)
	}
	s.courier.relayed(func() { s.beside(run) })
	s.beside(run)
}

// loop turns until ctx ends, and then writes what is pending.
func (s *syncer) loop(ctx context.Context) error {
	for ctx.Err() == nil && s.failure == nil {
		if err := s.turn(); err != nil {
			return err
		}
	}
	if s.failure != nil {
		return s.failure
	}
	return s.finish()
}

// open is what comes before the first turn.
func (s *syncer) open(ctx context.Context) (cancel context.CancelFunc) {
	s.work, cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.wake()
	s.retell(s.options.retold.links)
	return cancel
}

// turn is one round of the loop: take in, write out, wait.
func (s *syncer) turn() error {
	s.heard = false
	more, err := s.takeIn()
	if err != nil {
		return err
	}
	now := s.now()
	wait := s.advance(now, more)
	pause := s.outbox.pause(now)
	switch {
	case more || wait == 0:
		return nil
	case pause > 0 && (pause <= longGap || s.heard) && s.start.running() && !s.courier.failing(flushErrand):
		s.source.Pause(min(wait, pause, longGap)) // let messages gather in the kernel: none is written before
		return nil
	}
	return s.source.Wait(wait)
}

// takeIn handles what waits: link messages, then what other goroutines posted.
func (s *syncer) takeIn() (more bool, err error) {
	more, err = s.source.Receive(s)
	if err != nil {
		s.m.netlinkConnected.Set(0)
		s.status.linksEnded.Store(true)
		return false, fmt.Errorf("read link messages: %w", err)
	}
	for {
		select {
		case fn := <-s.inbox:
			fn()
		default:
			return more, nil
		}
	}
}

// post hands fn to the loop. Any goroutine but the loop's own may call it.
func (s *syncer) post(fn func()) {
	select {
	case <-s.ended: // the source may be another loop's by now, which this is nothing to
		return
	default:
	}
	select {
	case s.inbox <- fn:
		s.source.Wake()
	case <-s.ended:
	}
}

// advance starts whatever is due and returns how long there is nothing more to start. A listing is not begun while
// messages wait (more): after an overrun those are older than what was lost, and must not pass for news that is newer
// than the listing.
func (s *syncer) advance(now time.Time, more bool) time.Duration {
	beats := !now.Before(s.nextBeat)
	wait := min(s.beat(now), s.advanceHome(now))
	if s.listing.isDue(now) {
		s.home(now)
	}
	if s.away == nil {
		wait = min(wait, s.advanceListing(now, more))
	}
	s.m.queueDepth.Set(float64(s.outbox.unwritten()))
	s.status.turn(now, s.outbox.oldest())
	if beats {
		s.status.beat(now)
	}
	if s.openDB == nil {
		s.settle()
		return wait
	}
	if s.retelling && s.start.in(listingLinks) && !more {
		s.judgeRetold(now)
	}
	if s.start.in(deciding) {
		s.decide()
	}
	if !more && s.start.in(announcing, reannouncing) {
		s.start.bare(s.links.all, s.present)
	}
	if s.start.running() {
		return min(wait, s.advanceConfig(now), s.advanceFlush(now))
	}
	return min(wait, s.advanceStart(now))
}

// beat carries out what happens at every beat, and returns how long it is to the next one.
func (s *syncer) beat(now time.Time) time.Duration {
	if now.Before(s.nextBeat) {
		return s.nextBeat.Sub(now)
	}
	wait := untilBeat(now)
	s.nextBeat = now.Add(wait)
	s.home(now)
	if s.bare() { // the switch software may be starting again, and have flushed APPL_DB, of which no event tells
		s.compare.askSignals()
	}
	if s.options.beat != nil {
		s.failure = errors.Join(s.failure, s.options.beat())
	}
	if s.watching {
		s.db.Nudge()
	}
	s.mendRecorder(now, false)
	return wait
}

// advanceStart does what the start's state asks for.
func (s *syncer) advanceStart(now time.Time) time.Duration {
	if !s.courier.free(startErrand) {
		return beatInterval
	}
	if wait := s.courier.wait(startErrand, now); wait > 0 {
		return wait
	}
	switch {
	case s.start.unread():
		s.load()
	case s.start.in(announcing):
		s.announce()
	}
	return beatInterval
}

// advanceConfig starts the errand that is due most of those that are no flush: announcing again, another count, a look
// at CONFIG_DB. It returns how long none is due.
func (s *syncer) advanceConfig(now time.Time) time.Duration {
	if !s.courier.free(lookErrand) {
		return beatInterval
	}
	if s.courier.failing(countErrand) && s.start.rightCount() { // its answer was lost
		s.fared(countErrand, nil, func() {})
	}
	due := [...]struct {
		wanted bool
		errand errand
		start  func()
	}{ // not while a flush may still send PortInitDone
		{s.start.in(reannouncing) && s.courier.free(flushErrand), startErrand, s.announce},
		{s.start.wrongCount(now), countErrand, s.recount},
		{s.start.wantsLook(), lookErrand, s.lookAgain},
	}
	wait := beatInterval
	for _, d := range due {
		if !d.wanted {
			continue
		}
		pause := s.courier.wait(d.errand, now)
		if pause == 0 {
			d.start()
			return beatInterval
		}
		wait = min(wait, pause)
	}
	return wait
}

// advanceFlush starts a flush if one is due and returns how long none is.
func (s *syncer) advanceFlush(now time.Time) time.Duration {
	if !s.courier.free(flushErrand) {
		return beatInterval
	}
	wait := s.checkAppl(now)
	if s.compare.wait(now) == 0 {
		s.compare.plan(now)
		s.listing.want(&s.m.resyncReconcile, now, 0)
		s.start.wantLook(false)
		wait = 0
	}
	if s.opers.wait(now) == 0 {
		s.compare.again(s.opers.take())
	}
	wait = min(wait, s.advanceObserver(now), s.compare.wait(now), s.opers.wait(now), s.outbox.wake(now),
		s.start.restWait(now))
	signal := s.start.owesInitDone(now) && s.home(now) && s.start.owesInitDone(now)
	if s.start.done() && s.outbox.written() && !s.compare.pending() {
		s.warm.settled()
	}
	if !signal && !s.owesFlush() {
		return wait
	}
	if pause := s.courier.wait(flushErrand, now); pause > 0 {
		return min(wait, pause)
	}
	if pause := s.outbox.pause(now); pause > 0 && !signal {
		return min(wait, pause)
	}
	if signal { // every entry goes before it
		s.outbox.leaveNone()
	}
	if s.flush(signal); s.courier.free(flushErrand) {
		return 0 // what came of it is known by now
	}
	return wait
}

// owesFlush says that there is something to write or to ask.
func (s *syncer) owesFlush() bool {
	return s.outbox.waiting() || s.outbox.asks() || s.compare.pending() || s.warm.owes() != "" || s.owesRecord() ||
		s.ready.owes(s.start.done()) != readyUnsaid
}

// finish flushes what is pending when the daemon stops, and lets an announcement end, within stopLimit.
func (s *syncer) finish() error {
	if s.stopBy.IsZero() {
		s.stopBy = s.now().Add(stopLimit)
	}
	for {
		more, err := s.takeIn()
		left := s.stopBy.Sub(s.now())
		flushed := s.options.observe || s.lastSent || s.outbox.settled() || s.courier.failing(flushErrand) ||
			!s.start.running()
		switch {
		case err != nil:
			return err
		case s.openDB == nil:
			s.settle()
			return nil
		case left > 0 && !more && s.courier.free(flushErrand) && !flushed:
			s.lastSent = true
			s.outbox.leaveNone()
			s.flush(s.start.owesInitDone(s.now()))
		case left <= 0 || s.courier.free(flushErrand) && flushed && s.courier.free(startErrand):
			s.notice("stopped", "unwritten_ports", s.outbox.unwritten())
			return nil
		case !more:
			err = s.source.Wait(min(left, flushGap))
		}
		if err != nil {
			return err
		}
	}
}

// leave ends what the loop has published, when it has ended, and returns what was counted.
func (s *syncer) leave() []carriedPort {
	s.m.portConfigDone.Set(0)
	s.m.portInitDone.Set(0)
	s.m.queueDepth.Set(0)
	s.status.anew()
	return s.links.leave(s.now())
}
