package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Reconciliation: kernel, APPL_DB and STATE_DB are compared now and then, and after everything that makes our view of them
// doubtful. Differences are repaired, counted and logged.

const (
	auditBatch  = 128 // ports compared in one flush, so that live changes go in between
	fightAfter  = 12  // repairs of a port in a row that make it a fight with another writer
	restAtMost  = 64  // audits to sit out in a fight
	calmAfter   = 5 * time.Second
	jitterShare = 10 // a reconciliation comes up to a tenth of the interval early
)

// nothingFound is what a read finds of our four fields where there is no entry.
const nothingFound = "- - - -"

// planReconcile sets when the next reconciliation is due.
func (s *syncer) planReconcile() {
	interval := s.options.reconcile
	if interval > 0 {
		interval -= time.Duration(rand.Int64N(int64(interval)/jitterShare + 1))
	}
	s.nextReconcile = s.now().Add(interval)
}

// advanceReconcile starts a reconciliation if one is due, with a dump of the kernel's links, and returns how long none is.
func (s *syncer) advanceReconcile(now time.Time) time.Duration {
	if s.options.reconcile <= 0 {
		return beatInterval
	}
	if due := s.nextReconcile.Sub(now); due > 0 {
		return due
	}
	s.planReconcile()
	s.wantDump(&s.m.resyncReconcile, 0)
	s.look = true
	return 0
}

// audit begins the comparison, after a dump: every port's entry, the list of all entries, and the signals.
func (s *syncer) audit() {
	s.audits = s.audits[:0]
	for _, p := range s.ports {
		if p.rested > 0 {
			p.rested--
			continue
		}
		s.audits = append(s.audits, p)
	}
	slices.SortFunc(s.audits, func(a, b *port) int { return comparePorts(a.name, b.name) })
	s.auditList, s.checkSignals = true, true
	s.repaired = 0
}

// takeAudits adds the next ports to be compared to the dirty ones.
func (s *syncer) takeAudits() {
	batch := s.audits[:min(auditBatch, len(s.audits))]
	s.audits = s.audits[len(batch):]
	for _, p := range batch {
		if s.ports[p.name] != p || p.index == 0 {
			continue // what has no interface is found in the list
		}
		p.audited = p.known && s.inStep(p) && !p.inFlight
		p.known, p.inAppl = false, false
		p.vanished++
		s.markDirty(p)
	}
}

// judgeAudit says what an audit found for one port.
func (s *syncer) judgeAudit(p *port, w *portWrite) {
	was := p.audited
	p.audited = false
	if w.written && p.missing {
		p.missing = false
		s.m.repairLate.Inc()
		s.log.Info("published: the port entered APPL_DB after its last link message", "port", p.name)
	}
	switch {
	case w.del && w.stale && p.index == 0 && s.warm.counted: // left from before this start: no repair of a comparison
	case w.del && w.stale && p.index == 0:
		s.repair(p, &s.m.repairStale, "an entry without an interface", w.found, "none")
	case was && w.same:
		p.repairs = 0
	case was && w.written && w.found == nothingFound:
		s.repair(p, &s.m.repairLost, "an entry was lost", w.found, w.describe())
	case was && w.written:
		s.repair(p, &s.m.repairChanged, "another writer changed an entry", w.found, w.describe())
	}
}

func (w *portWrite) describe() string {
	return fmt.Sprintf("ok %s %s %s", upDown(w.state.oper), upDown(w.state.admin), w.mtuString())
}

// repair counts and logs one repair. A dozen of the same port in a row are a fight: it is said once, and the port is left alone for a while.
func (s *syncer) repair(p *port, kind *counter, what, found, right string) {
	kind.Inc()
	s.repaired++
	p.repairs++
	switch {
	case p.repairs < fightAfter:
		s.log.Warn("repaired: "+what, "port", p.name, "found", found, "right", right)
	case p.repairs == fightAfter:
		s.log.Error("another program keeps changing this port's entry: repairing it less and less often", "port", p.name, "found", found, "right", right)
		p.rested = 1
	default:
		p.rested = min(1<<(p.repairs-fightAfter), restAtMost)
	}
}

// audited takes in what a flush found out beside its writes.
func (s *syncer) audited() {
	if s.batch.list {
		s.auditList = false
		for _, name := range s.batch.listed {
			if !s.isPort([]byte(name)) {
				continue
			}
			if p := s.port(name); p.index == 0 && !p.removed {
				p.removed, p.stale = true, true
				s.markDirty(p)
			}
		}
		s.batch.listed = nil
	}
	if s.batch.signals {
		s.checkSignals = false
		if s.batch.signalsGone && s.mayAnnounce() {
			s.announceAgain()
		}
	}
	if len(s.audits) == 0 && !s.auditList {
		s.status.repaired.Store(int64(s.repaired))
	}
}

// mayAnnounce says whether signals that APPL_DB lacks are ours to send: not while a warm start still goes on.
func (s *syncer) mayAnnounce() bool { return s.m.warmStart.Load() == 0 || s.initDone }
