package main

import (
	"context"
	"fmt"
)

// The start, in SONIC.md's order, and which ports are configured: from the first reading of CONFIG_DB to its last change.

// phase is how far a start has come.
type phase int

const (
	phaseLoading    phase = iota // CONFIG_DB is to be read, and the first dump of all links to end
	phaseAnnouncing              // the ports and PortConfigDone go to APPL_DB
	phaseRunning
)

// load reads the configuration that a start needs, and at the first time what the run before left.
func (s *syncer) load() {
	var loaded *switchConfig
	var facts startFacts
	s.do(func(ctx context.Context) (err error) {
		if s.db == nil {
			if s.db, err = s.openDB(); err != nil {
				s.db = nil
				return err
			}
		}
		if loaded, err = s.db.Load(ctx); err != nil || s.started {
			return err
		}
		if filled := loaded.logger.filled(); filled != loaded.logger {
			if err := s.db.SetLogger(ctx, filled); err != nil {
				return err
			}
		}
		facts, err = s.db.LookBack(ctx, loaded.ports)
		return err
	}, func(err error) {
		switch {
		case err != nil:
		case s.started:
			s.configureAgain(loaded)
		default:
			s.loaded, s.facts = loaded, facts
			s.followLogger(loaded.logger)
			if loaded.eoiu > 0 {
				s.warm.eoiu = loaded.eoiu
			}
			s.beginIfReady()
		}
	})
}

// followLogger takes up what CONFIG_DB says about the log.
func (s *syncer) followLogger(l logSettings) {
	if l = l.filled(); s.options.logger != nil && l != s.logger {
		s.options.logger(l)
	}
	s.logger = l
}

// beginIfReady goes on with the start when CONFIG_DB is read and the existing links are listed, whichever comes last.
func (s *syncer) beginIfReady() {
	if s.loaded != nil && s.warm.reached && !s.started {
		s.begin(s.loaded, s.facts)
	}
}

// begin decides how this start goes on: what becomes of the interfaces that existed before, and whether ports and signals are announced.
func (s *syncer) begin(c *switchConfig, f startFacts) {
	s.started = true
	s.config = c
	s.m.warmStart.SetBool(f.warm)
	mode := s.decideOld(c, f)
	if mode.down {
		s.dismissListed()
	}
	s.configurePorts(c.names())
	if s.count = f.count; s.count < 0 {
		s.count = len(c.ports) // nobody counts on it yet
	}
	s.restore(f)
	if !f.warm {
		s.enterWarm(warmDisabled, false) // STATE_DB has it already
	}
	s.notice("start decided", "ports", len(c.ports), "existing_interfaces", mode.what, "why", mode.why, "old", len(s.old),
		"announce", mode.announce, "warm", f.warm, "keyspace_events", c.events)
	if mode.announce {
		s.phase = phaseAnnouncing
		return
	}
	s.initDone = f.initDone && !f.warm
	s.m.portInitDone.SetBool(s.initDone)
	s.status.initDone.Store(s.initDone)
	s.beginRunning()
}

// startMode is what a start does, and why.
type startMode struct {
	down      bool // existing interfaces are left-overs
	announce  bool // ports and signals go to APPL_DB
	what, why string
}

// decideOld tells left-overs of the switch software's previous run from interfaces that are current because only this daemon was restarted: a cold start
// of the switch flushes APPL_DB and STATE_DB, so what they hold is of this run (SONIC.md, "How a switch starts").
func (s *syncer) decideOld(c *switchConfig, f startFacts) startMode {
	restarted := f.initDone || f.configDone && len(f.held) > 0 // only announced, nothing published: old ones may still be there
	switch {
	case f.warm:
		return startMode{what: "adopted", why: "warm restart"}
	case s.options.old == "down":
		return startMode{down: true, announce: true, what: "old", why: "-old-interfaces down"}
	case s.options.old == "adopt":
		return startMode{announce: !f.configDone, what: "adopted", why: "-old-interfaces adopt"}
	case restarted:
		return startMode{what: "adopted", why: fmt.Sprintf("only this daemon was restarted: APPL_DB has the signals and STATE_DB %d entries", len(f.held))}
	case c.switchType == "dpu":
		return startMode{announce: true, what: "adopted", why: "switch_type is dpu"}
	}
	return startMode{down: true, announce: true, what: "old", why: "cold start"}
}

// dismissListed carries out rule 5: the interfaces that the first listing found are old, and so is all that was heard of them since.
func (s *syncer) dismissListed() {
	for index, name := range s.listed {
		s.old[index] = name
		if p := s.byIndex[index]; p != nil {
			s.detach(p)
			s.dropEvents(p)
		}
	}
	clear(s.listed)
}

// dropEvents takes back the events of a port whose interface turned out to be old.
func (s *syncer) dropEvents(p *port) {
	for i := range s.records {
		if s.records[i].port == p {
			s.m.ignoredOld.Add(s.records[i].n)
			s.records[i].n = 0
		}
	}
}

// announce pushes the ports and PortConfigDone to APPL_DB.
func (s *syncer) announce() {
	s.do(func(ctx context.Context) error {
		return s.db.Announce(ctx, s.config.ports)
	}, func(err error) {
		if err != nil {
			return
		}
		s.count = len(s.config.ports)
		s.notice("PortConfigDone sent", "count", s.count)
		s.setOldDown()
		s.beginRunning()
	})
}

// setOldDown sets the old interfaces down, beside the loop because the kernel takes its time; failures are only warnings.
func (s *syncer) setOldDown() {
	if len(s.old) == 0 {
		return
	}
	indexes, names := make([]int32, 0, len(s.old)), make(map[int32]string, len(s.old))
	for index, name := range s.old {
		indexes = append(indexes, index)
		names[index] = name
	}
	s.notice("setting old interfaces down", "count", len(indexes))
	s.beside(func() {
		s.source.SetDown(indexes, func(index int32, err error) {
			s.log.Warn("setting an old interface down failed", "port", names[index], "ifindex", index, "err", err)
		})
	})
}

// beginRunning starts the writing: from here on link messages reach STATE_DB. What the run before left there is compared.
func (s *syncer) beginRunning() {
	first := s.phase != phaseAnnouncing || s.nextReconcile.IsZero()
	s.phase = phaseRunning
	s.m.portConfigDone.Set(1)
	for _, p := range s.ports {
		s.touch(p)
	}
	if !first {
		return
	}
	s.auditList = true
	s.look = true // what was changed since the ports were read
	s.planReconcile()
	w := watcher{
		pings:     s.pings,
		appl:      func(c applChange) { s.post(func() { s.applChanged(c) }) },
		config:    func(event bool) { s.post(func() { s.look, s.lookForced = true, s.lookForced || event }) },
		connected: func(up bool, err error) { s.post(func() { s.watchChanged(up, err) }) },
	}
	s.beside(func() { s.db.Watch(s.work, w) })
}

// announceAgain sends ports and signals once more: APPL_DB lost them.
func (s *syncer) announceAgain() {
	s.log.Warn("APPL_DB has lost PortConfigDone: sending ports and signals again from CONFIG_DB")
	s.phase = phaseLoading
	s.initOnce = s.initOnce || s.initDone
	s.loaded, s.initDone = nil, false
	s.m.portConfigDone.Set(0)
	s.m.portInitDone.Set(0)
	s.status.initDone.Store(false)
}

// configureAgain takes CONFIG_DB's ports after APPL_DB was found empty. A CONFIG_DB that lost its ports, too, is no reason to lose ours.
func (s *syncer) configureAgain(c *switchConfig) {
	if len(c.ports) == 0 {
		c.ports = s.config.ports
	}
	s.config = c
	s.configurePorts(c.names())
	s.phase = phaseAnnouncing
}

// configurePorts sets which ports are configured.
func (s *syncer) configurePorts(names []string) {
	s.m.portsConfigured.Set(float64(len(names)))
	configured := make(map[string]bool, len(names))
	for _, name := range names {
		configured[name] = true
		p := s.port(name)
		if p.configured {
			continue
		}
		p.configured = true
		p.series.pending.Set(1)
		s.unseen++
		s.m.showPending(p.series)
		if p.index != 0 {
			s.sawInterface(p)
		}
	}
	for _, p := range s.ports {
		if p.configured && !configured[p.name] {
			s.unconfigure(p)
		}
	}
}

// unconfigure is for a port that CONFIG_DB has no more: nothing waits for its interface.
func (s *syncer) unconfigure(p *port) {
	if !p.seen {
		s.unseen--
	}
	p.configured, p.seen = false, false
	s.m.hidePending(p.series)
	s.forget(p)
}

// lookAgain reads what may have changed in CONFIG_DB.
func (s *syncer) lookAgain() {
	var ports []string
	var logger logSettings
	forced := s.lookForced
	s.look, s.lookForced = false, false
	s.do(func(ctx context.Context) (err error) {
		ports, logger, err = s.db.Look(ctx)
		return err
	}, func(err error) {
		if err != nil {
			s.look, s.lookForced = true, forced
			return
		}
		s.followLogger(logger)
		if len(ports) > 0 || forced { // without an event, a CONFIG_DB without ports is one that was lost
			s.configurePorts(ports)
			s.recount(len(ports))
		}
	})
}

// recount sends PortConfigDone again when the number of ports has changed: the next warm restart of orchagent goes by it.
func (s *syncer) recount(count int) {
	if count == s.count {
		return
	}
	s.do(func(ctx context.Context) error { return s.db.Recount(ctx, count) }, func(err error) {
		if err != nil {
			s.look = true
			return
		}
		s.notice("PortConfigDone sent again", "count", count, "was", s.count)
		s.count = count
	})
}
