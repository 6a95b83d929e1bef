package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// What the mirror has done in the databases: each errand is carried out by the courier, and its outcome taken in by the
// loop.

// do sends job by the courier, and then calls done with its error on the loop, after learning from it whether the
// databases answer.
func (s *mirror) do(e errand, job func(context.Context) error, done func(error)) {
	s.courier.send(s.work, e, job, func(err error) {
		if errors.Is(err, errConfig) || errors.Is(err, errFabric) || errors.Is(err, errHeld) {
			s.failure = err
			return
		}
		s.fared(e, err, func() { done(err) })
	})
}

// fared takes in whether the databases answer, and calls done before what follows from that.
func (s *mirror) fared(e errand, err error, done func()) {
	back := s.courier.learn(e, err, s.now())
	done()
	if back {
		s.distrust()
	}
	trouble := s.courier.trouble()
	if trouble == nil {
		trouble = s.outbox.refused()
	}
	s.noteOutage(trouble)
	s.status.database(trouble, s.courier.waits(), s.now())
}

// errFabric says that an ASIC connects others, and has no portsyncd (SONIC.md, "Several ASICs").
var errFabric = errors.New("its switch_type is fabric")

// load reads the configuration that a start needs, and what the run before left.
func (s *mirror) load() {
	var facts startFacts
	var unfilled error
	loaded, asked := s.retoldConfig()
	s.do(startErrand, func(ctx context.Context) (err error) {
		if s.db == nil {
			if s.db, err = s.openDB(s.courier.slow); err != nil {
				s.db = nil
				return err
			}
		}
		if loaded == nil {
			if loaded, err = s.db.Load(ctx); err != nil {
				return err
			}
		}
		if s.options.noFabric && loaded.switchType == "fabric" {
			return errFabric
		}
		unfilled = s.fillLogger(ctx, loaded.logger)
		facts, err = s.db.LookBack(ctx, loaded.ports)
		return err
	}, func(err error) {
		if err != nil {
			return
		}
		if facts.split {
			s.courier.separate()
		}
		if loaded.eoiu > 0 {
			s.listing.within(loaded.eoiu)
		}
		s.followLogger(loaded.logger, unfilled)
		s.start.loaded(loaded, facts, asked)
	})
}

// showInitDone tells whether PortInitDone is sent.
func (s *mirror) showInitDone() {
	done := s.start.done()
	if s.status.initDone.Swap(done) != done && done {
		s.record.note(ownInitDone, "", s.now())
	}
}

// noteOutage has the beginning and the end of an outage taken down.
func (s *mirror) noteOutage(trouble error) {
	switch down := s.status.dbDown.Load() != 0; {
	case trouble != nil && !down:
		s.record.note(ownOutage, trouble.Error(), s.now())
	case trouble == nil && down:
		s.record.note(ownBack, "", s.now())
	}
}

// decide is where the start knows enough: what becomes of the interfaces that existed before, and whether ports and
// signals are announced.
func (s *mirror) decide() {
	c, f := s.start.known()
	mode := s.start.mode(s.options.old)
	s.start.decided(mode, s.now())
	dismissed := s.links.decideOld(mode.old)
	for _, p := range dismissed {
		s.m.ignoredOld.Add(s.outbox.dismiss(p))
		s.record.gone(p, causeLeftOver, s.now())
		s.record.dismissed(p)
	}
	if mode.cold { // nothing was published yet: what went before this has no entry of ours
		s.links.all(func(p *port) {
			if !s.present(p) {
				s.m.ignoredOld.Add(s.outbox.dismiss(p))
			}
		})
	}
	switch {
	case s.options.observe: // it takes no part
	case f.warm:
		s.warm.begin()
	default:
		s.warm.enter(warmDisabled, false) // STATE_DB has it already
	}
	s.configure(c.ports)
	for _, p := range dismissed {
		s.forget(p)
	}
	s.restore()
	s.notice("start decided", "ports", len(c.ports), "existing_interfaces", mode.what, "why", mode.why,
		"old", len(s.links.leftovers()), "announce", mode.announce, "warm", f.warm, "keyspace_events", f.events)
	s.record.note(ownDecided, fmt.Sprintf("%d ports, interfaces %s: %s", len(c.ports), mode.what, mode.why), s.now())
	if mode.announce {
		s.start.bare(s.links.all, s.present)
		s.start.on(toAnnounce)
		return
	}
	s.start.on(toAdopt)
	if f.initDone && !f.warm {
		s.start.on(initDoneSent)
		s.showInitDone()
	}
	version, _ := s.links.unwritten()
	if f.old == nil && len(s.links.leftovers()) == 0 || f.old != nil && f.old.are(s.links.leftovers()) {
		s.links.written(version)
	}
	s.setOldDown()
	s.publish()
}

// restore takes STATE_DB's entries of configured ports as the baseline: only what the kernel says otherwise is written.
func (s *mirror) restore() {
	config, facts := s.start.known()
	for _, c := range config.ports {
		held, found := facts.held[c.name]
		if !found {
			continue
		}
		p := s.links.port(c.name)
		index, state := s.links.interfaceOf(p)
		s.outbox.baseline(p, held)
		s.warm.found(p, index != 0 && held == state)
	}
}

// announce pushes the ports and PortConfigDone to APPL_DB, as CONFIG_DB has them at that moment.
func (s *mirror) announce() {
	recent, fallback := s.start.portsToAnnounce(s.now())
	old := s.links.leftovers()
	version, _ := s.links.unwritten()
	var told announcement
	s.do(startErrand, func(ctx context.Context) (err error) {
		told, err = s.db.Announce(ctx, recent, fallback, old)
		return err
	}, func(err error) {
		if err != nil {
			return
		}
		s.links.written(version)
		first := s.start.in(announcing)
		s.start.told(told)
		s.record.note(ownConfigDone, strconv.Itoa(len(s.start.configuredPorts()))+" ports", s.now())
		s.configure(s.start.configuredPorts())
		if first {
			s.setOldDown()
		}
		s.publish()
	})
}

// setOldDown sets the old interfaces down, beside the loop because the kernel takes its time; failures are only
// warnings (rule 5).
func (s *mirror) setOldDown() {
	s.home(s.now()) // in a namespace that was made again there are none
	old, home := s.links.leftovers(), s.source.Home()
	if len(old) == 0 || s.options.observe {
		return
	}
	s.notice("setting old interfaces down", "count", len(old))
	s.beside(func() {
		s.source.SetDown(home, old.indexes(), func(index int32, err error) {
			s.log.Warn("setting an old interface down failed", "port", old.name(index), "ifindex", index, "err", err)
		})
	})
}

// publish is where link messages reach STATE_DB from. What the run before left there is compared, and the databases'
// events are followed.
func (s *mirror) publish() {
	s.links.all(s.outbox.touch)
	if s.watching {
		return
	}
	s.watching = true
	s.compare.askList()
	s.start.wantLook(false) // what was changed since the ports were read
	s.compare.plan(s.now())
	if s.follows() { // what the one before has sent may arrive late
		s.compare.soon(s.now())
	}
	w := watcher{
		appl:      func(c applChange) { s.post(func() { s.applChanged(c) }) },
		config:    func(event bool) { s.post(func() { s.start.wantLook(event) }) },
		fault:     func(name string, seen faults) { s.post(func() { s.faulted(name, seen) }) },
		connected: func(up bool, err error) { s.post(func() { s.watchChanged(up, err) }) },
	}
	if s.options.observe {
		w.state = func(port string) { s.post(func() { s.entryTouched(port) }) }
	}
	s.beside(func() { s.db.Watch(s.work, w) })
}

// mendRecorder has a recorder that failed opened again, beside the loop.
func (s *mirror) mendRecorder(now time.Time, wrote bool) {
	if open := s.record.mend(now, wrote, s.links.all); open != nil {
		s.beside(func() {
			open()
			s.post(s.record.mended)
		})
	}
}

// faulted takes what orchagent says of a port that went down.
func (s *mirror) faulted(name string, seen faults) {
	if p := s.links.known(name); p != nil {
		s.record.faulted(p, seen, s.now())
	}
}

// lookAgain reads what may have changed in CONFIG_DB.
func (s *mirror) lookAgain() {
	var c *switchConfig
	certain, owed, unfilled := s.start.takeLook(), s.loggerOwed, error(nil)
	s.do(lookErrand, func(ctx context.Context) (err error) {
		if c, err = s.db.Load(ctx); err == nil && owed {
			unfilled = s.fillLogger(ctx, c.logger)
		}
		return err
	}, func(err error) {
		s.start.looked()
		if err != nil {
			s.start.wantLook(certain)
			return
		}
		s.followLogger(c.logger, unfilled)
		if c.lost || len(c.ports) == 0 && !certain && !c.complete { // nobody says that it should be empty
			return
		}
		s.start.read(c)
		s.configure(c.ports)
	})
}

// recount sends PortConfigDone again when the number of ports has changed.
func (s *mirror) recount() {
	count, lost := len(s.start.configuredPorts()), false
	s.do(countErrand, func(ctx context.Context) (err error) {
		lost, err = s.db.Recount(ctx, count)
		return err
	}, func(err error) {
		switch {
		case err != nil:
			s.start.uncounted()
			s.start.wantLook(false) // by the next try another number may be right
		case lost:
			s.courier.rest(countErrand, s.now().Add(lastPause)) // where it is not ours to announce
			s.lostSignals()
		default:
			s.start.counted(count)
			s.record.note(ownConfigDone, strconv.Itoa(count)+" ports", s.now())
		}
	})
}

// lostSignals has ports and signals announced again, unless that is not ours to do, or under way.
func (s *mirror) lostSignals() {
	s.home(s.now())
	if s.start.mayAnnounce() {
		s.start.lost()
		s.start.bare(s.links.all, s.present)
		s.showInitDone()
	}
}

// checkInterval is how often APPL_DB is asked when its server sends no events.
const checkInterval = time.Second

// checkAppl is the view of APPL_DB when its server sends no events, or refuses a subscription: ports believed to be
// there are counted, and those that have an interface and were not found are asked for again. It returns how long that
// is not due.
func (s *mirror) checkAppl(now time.Time) time.Duration {
	if _, facts := s.start.known(); facts.events && !s.watchLost {
		return beatInterval
	}
	if now.Before(s.nextCheck) {
		return s.nextCheck.Sub(now)
	}
	s.nextCheck = now.Add(checkInterval)
	s.outbox.confirmNone()
	s.links.all(func(p *port) {
		s.outbox.confirm(p)
		s.outbox.touch(p)
	})
	s.start.wantLook(false)
	return checkInterval
}

// flush hands every dirty port's latest state to the databases, and some of the ports to be compared.
func (s *mirror) flush(signal bool) {
	now := s.now()
	for _, p := range s.compare.take() {
		if s.present(p) { // what has no interface is found in the list
			s.compare.believe(p, s.outbox.inspect(p))
		} else {
			s.opers.gone(p)
		}
	}
	f := s.outbox.send(now)
	s.outbox.underWay(func(p *port) { s.record.sent(p, now) })
	f.initDone, f.warm = signal, s.warm.owes()
	if f.list, f.signals = s.compare.ask(); f.signals {
		s.ready.doubt() // what is asked there is asked here, too
	}
	f.ready, f.readyAt = s.ready.owes(s.start.done()), now
	version, _ := s.links.unwritten()
	if f.record = s.owesRecord(); f.record {
		f.old = s.links.leftovers()
	}
	told := s.start.times()
	send := func(ctx context.Context) error { return s.db.Flush(ctx, f) }
	s.do(flushErrand, send, func(err error) {
		if told != s.start.times() { // which of the two came first is not known
			s.compare.unanswered(false, f.signals)
			f.signals, f.found = false, signals{}
		}
		s.flushed(f, version, err)
	})
}

// owesRecord says that STATE_DB lacks which interfaces are old. An announcement writes that, too, and is not overtaken.
func (s *mirror) owesRecord() bool {
	_, owed := s.links.unwritten()
	return owed && s.courier.free(startErrand) && !s.options.observe
}

// flushed takes in what came of a flush, in which the left-overs had a version.
func (s *mirror) flushed(f *flush, version uint32, err error) {
	for _, p := range s.outbox.landed(s.now()) {
		w := s.outbox.result(p)
		s.observedPort(p, w)
		if w.differs == "" { // else it is not over
			s.record.landed(p, w, s.now())
		}
		if why := s.compare.judge(p, w, !s.present(p), s.warm.underWay()); why != causeUnknown {
			s.record.repaired(p, why, w.found, s.now())
		}
		s.warm.judge(p, w)
		s.heardOper(p, w)
		s.forget(p)
	}
	s.mendRecorder(s.now(), true)
	s.tellDiffering()
	if all, news := s.opers.news(); news {
		s.status.differ.tell(operDisagrees, all)
	}
	if f.missing {
		s.links.all(s.outbox.askAgain)
	}
	if err != nil {
		s.compare.unanswered(f.list, true) // the end of the trouble is to show, whatever was asked
		return
	}
	s.warm.acknowledged(f.warm)
	s.ready.landed(f.ready, f.unready)
	if f.record {
		s.links.written(version)
	}
	switch {
	case f.initDone && f.refused != nil:
		s.start.refusedInitDone(f.refused, s.now())
	case f.initDone:
		s.compare.unanswered(false, s.start.sentInitDone())
		s.showInitDone()
	}
	s.compared(f)
}

// heardOper compares what orchagent says of a port with what the kernel does. Its other words for a port that is not
// up, such as not_present, are no difference.
func (s *mirror) heardOper(p *port, w *portWrite) {
	if !w.oper || !w.heard || w.err != nil || !s.present(p) {
		return
	}
	says := ""
	switch {
	case w.applUp == "up" && !w.state.oper:
		says = "orchagent's oper_status is up, the kernel's down"
	case w.applUp != "up" && w.applUp != "" && w.state.oper:
		says = "orchagent's oper_status is " + w.applUp + ", the kernel's up"
	}
	s.opers.look(p, says, p.series.lastChange.Load(), s.now())
}

// compared takes in what a flush found out beside its writes.
func (s *mirror) compared(f *flush) {
	if s.listing.tells() { // else the end of a listing has them listed again
		for _, name := range f.listed {
			if p := s.links.named(name); p != nil {
				s.outbox.suspect(p)
			}
		}
	}
	f.listed = nil
	f.found.initDone = f.found.initDone || f.initDone && f.refused == nil // it was asked for before it was sent
	if s.start.compare(f.found) {
		s.lostSignals()
	}
	if f.found.known && s.start.follow(f.events) {
		s.log.Warn("whether Redis sends keyspace events has changed: without them APPL_DB is asked every second",
			"sent", f.events == eventsSent, "remedy", "config set notify-keyspace-events AKE")
	}
	s.showInitDone()
	if repairs, over := s.compare.outcome(); over {
		s.status.repaired.Store(int64(repairs))
		_, fights := s.compare.fight()
		s.compare.recheck(repairs > 0 || fights > 0 || s.opers.found(), s.now())
	}
	s.status.fighting(s.compare.fight())
}
