package main

import (
	"context"
	"log/slog"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What link messages and dumps mean for the ports: the rules of SONIC.md, "Which link messages count".

func (s *syncer) received(at time.Time, messages int) {
	s.at = at
	s.m.messages.Add(uint64(messages))
}

// live handles one message of the subscription by the rules of SONIC.md, "Which link messages count".
func (s *syncer) live(m *linkMessage) {
	p := s.byIndex[m.index]
	if ignored := s.ignore(m, p); ignored != nil {
		ignored.Inc()
		return
	}
	if m.deleted {
		s.deleted(m, p)
		return
	}
	p = s.linked(m, p)
	if p == nil {
		s.m.ignoredName.Inc()
		return
	}
	p.dumpSeen = s.dumpNumber
	s.update(p, m)
	s.noteEvent(p)
}

// ignore returns the counter of the rule by which a message does not count, or nil.
func (s *syncer) ignore(m *linkMessage, p *port) *counter {
	switch {
	case m.family != unix.AF_UNSPEC:
		return &s.m.ignoredBridge // what a bridge says of its port says nothing of the device
	case m.deleted && m.master != 0:
		return &s.m.ignoredMaster // it left a bridge or a LAG
	case p != nil:
		return nil
	}
	if _, isOld := s.old[m.index]; isOld {
		if m.deleted {
			delete(s.old, m.index)
		}
		return &s.m.ignoredOld
	}
	if !s.isPort(m.name) {
		return &s.m.ignoredName
	}
	if s.options.links == nil && string(m.kind) == "team" {
		return &s.m.ignoredTeam
	}
	return nil
}

// isPort is SONiC's rule on names, or the globs of the standalone mode. A sub-interface is no port.
func (s *syncer) isPort(name []byte) bool {
	if s.options.links != nil {
		return s.options.links.match(string(name))
	}
	for _, prefix := range [...]string{"Ethernet", "PortChannel"} {
		if len(name) >= len(prefix) && string(name[:len(prefix)]) == prefix {
			return strings.IndexByte(string(name), '.') < 0
		}
	}
	return false
}

// linked returns the port that a link message is about, after carrying out what it implies: a new interface, a rename, or a name taken
// over by another interface. It is nil if the name is no port's (any more).
func (s *syncer) linked(m *linkMessage, p *port) *port {
	if p != nil {
		if p.name == string(m.name) {
			return p
		}
		s.notice("interface renamed", "port", p.name, "ifindex", m.index, "name", string(m.name))
		s.unlink(p)
		if !s.isPort(m.name) {
			return nil
		}
	}
	p = s.port(string(m.name))
	if p.index != 0 {
		s.unlink(p) // its deletion was lost, or is still to come
	}
	p.index = m.index
	p.upSeen, p.hasCarrier = false, m.hasCarrier
	p.carrierDown = m.carrierDown
	p.link = portState{}
	s.byIndex[m.index] = p
	s.m.showLink(p.series)
	s.m.portsPresent.Set(float64(len(s.byIndex)))
	if p.configured && !p.seen && s.phase == phaseRunning {
		s.sawInterface(p)
	}
	s.notice("interface appeared", "port", p.name, "ifindex", m.index, "kind", string(m.kind))
	s.apply(p, stateOf(m), true)
	return p
}

// port returns the port of a name, which is made if it is new.
func (s *syncer) port(name string) *port {
	p := s.ports[name]
	if p == nil {
		p = &port{name: name, series: newPortSeries(name, s.goneFlaps[name])}
		p.write.port = name
		delete(s.goneFlaps, name)
		s.ports[name] = p
	}
	return p
}

func stateOf(m *linkMessage) portState {
	return portState{admin: m.flags&unix.IFF_UP != 0, oper: m.flags&unix.IFF_RUNNING != 0, mtu: m.mtu}
}

// update takes a port's state from a message.
func (s *syncer) update(p *port, m *linkMessage) {
	state := stateOf(m)
	if p.upSeen {
		switch {
		case m.hasCarrier && p.hasCarrier:
			p.series.flaps.Add(uint64(m.carrierDown - p.carrierDown)) // 32 bits, wrapping as the kernel's do
		case !m.hasCarrier && p.link.oper && !state.oper:
			p.series.flaps.Inc()
		}
	}
	p.upSeen = p.upSeen || state.oper
	p.carrierDown, p.hasCarrier = m.carrierDown, m.hasCarrier
	if s.log.Enabled(context.Background(), slog.LevelDebug) {
		s.log.Debug("link message", "port", p.name, "ifindex", m.index, "admin", upDown(state.admin), "oper", upDown(state.oper),
			"mtu", m.mtu, "operstate", m.operState, "carrier_up", m.carrierUp, "carrier_down", m.carrierDown)
	}
	if state != p.link {
		s.apply(p, state, false)
	}
}

// apply sets a port's state in the metrics and says so in the log.
func (s *syncer) apply(p *port, state portState, fresh bool) {
	if !fresh && s.log.Enabled(context.Background(), slog.LevelInfo) {
		s.log.Info("link changed", "port", p.name, "admin", upDown(state.admin), "oper", upDown(state.oper), "mtu", state.mtu)
	}
	p.link = state
	p.series.operUp.SetBool(state.oper)
	p.series.adminUp.SetBool(state.admin)
	p.series.mtu.Set(float64(state.mtu))
	p.series.lastChange.SetTime(s.at)
}

// deleted handles a real RTM_DELLINK: the interface is gone from the kernel.
func (s *syncer) deleted(m *linkMessage, p *port) {
	if s.dumping {
		s.dumpGone[m.index] = struct{}{}
	}
	delete(s.listed, m.index)
	if p == nil { // never seen, or an earlier interface of a port that has a new one
		named, ok := s.ports[string(m.name)]
		if !ok || named.index != 0 {
			s.m.ignoredName.Inc()
			return
		}
		p = named
	}
	s.unlink(p)
	s.noteEvent(p)
}

// unlink notes that a port's interface is gone: its entry in STATE_DB has to be deleted.
func (s *syncer) unlink(p *port) {
	p.removed, p.stale = true, false
	s.detach(p)
	s.markDirty(p)
	s.notice("interface gone", "port", p.name)
}

// detach takes a port's interface from it.
func (s *syncer) detach(p *port) {
	if p.index == 0 {
		return
	}
	delete(s.byIndex, p.index)
	p.index = 0
	s.m.hideLink(p.series)
	s.m.portsPresent.Set(float64(len(s.byIndex)))
}

// sawInterface notes that a configured port has its host interface.
func (s *syncer) sawInterface(p *port) {
	p.seen = true
	p.series.pending.Set(0)
	s.unseen--
}

func (s *syncer) malformed(err error) {
	s.m.malformed.Inc()
	if now := s.now(); now.Sub(s.malformedLogged) >= logLimit {
		s.malformedLogged = now
		s.log.Warn("netlink message dropped", "err", err, "malformed_total", s.m.malformed.Load())
	}
}

// lost asks for a resync: at once, but in a storm of overruns after growing pauses. Any number of them before it begins cause one.
func (s *syncer) lost(why string) {
	s.m.overruns.Inc()
	now := s.now()
	if now.Sub(s.lastLost) > calmAfter {
		s.lostPause = backoff{}
	}
	s.lastLost = now
	if s.dumpWanted == &s.m.resyncOverrun {
		return
	}
	var pause time.Duration
	if s.lostPause.tries > 0 {
		pause = s.lostPause.next()
	} else {
		s.lostPause.tries++
		s.log.Warn("link messages were lost, listing all links again", "why", why)
	}
	s.wantDump(&s.m.resyncOverrun, pause)
}

// wantDump asks for a dump after a pause, unless one is due sooner.
func (s *syncer) wantDump(reason *counter, pause time.Duration) {
	if after := s.now().Add(pause); s.dumpWanted == nil || after.Before(s.dumpAfter) {
		s.dumpWanted, s.dumpAfter = reason, after
	}
	s.owe()
}

// owe keeps health informed of a resync that is owed because messages were lost or a dump was not whole.
func (s *syncer) owe() {
	owed := s.dumpWanted != nil && s.dumpWanted != &s.m.resyncReconcile || s.dumping && s.dumpReason == &s.m.resyncOverrun
	s.status.resync.Store(owed)
	since(&s.status.resyncAt, owed, s.now())
}

func (s *syncer) startDump() {
	s.dumpReason, s.dumpWanted = s.dumpWanted, nil
	if err := s.source.StartDump(); err != nil {
		s.dumpDone(false, err)
		return
	}
	s.dumpReason.Inc()
	s.dumping, s.dumpBegun = true, s.now()
	s.dumpNumber++
	clear(s.dumpGone)
}

// patientDumps is how many interrupted dumps a start sits out before it makes do with what they and the live messages gave.
const patientDumps = 5

// dumped handles a line of a dump. A live message of the same link that was read since the dump began is newer.
func (s *syncer) dumped(m *linkMessage) {
	if _, gone := s.dumpGone[m.index]; gone {
		return
	}
	if !s.warm.reached && strings.HasPrefix(string(m.name), "Ethernet") {
		s.listed[m.index] = string(m.name)
	}
	p := s.byIndex[m.index]
	if p != nil && p.dumpSeen == s.dumpNumber || s.ignore(m, p) != nil {
		return
	}
	if p = s.linked(m, p); p != nil {
		p.dumpSeen = s.dumpNumber
		s.update(p, m)
		s.touch(p)
	}
}

// dumpDone ends a dump: what it did not have is gone. One that links changed under (interrupted) is completed by the live messages, but what it lacks may exist all
// the same: it is repeated when things are calm.
func (s *syncer) dumpDone(interrupted bool, err error) {
	s.dumping = false
	if err != nil {
		pause := s.dumpPause.next()
		s.log.Warn("listing all links failed, trying again", "err", err, "pause", pause)
		s.wantDump(&s.m.resyncFailed, pause)
		return
	}
	s.dumpPause = backoff{}
	if interrupted {
		s.wantDump(&s.m.resyncInterrupted, 5*s.intrPause.next()) // half a second to five
	} else {
		s.intrPause = backoff{}
		for _, p := range s.byIndex {
			if p.dumpSeen != s.dumpNumber {
				s.unlink(p)
			}
		}
	}
	s.owe()
	switch {
	case !s.warm.reached && interrupted && s.intrPause.tries < patientDumps:
	case !s.warm.reached:
		s.status.listed.Store(true)
		s.reachEOIU()
		s.beginIfReady()
	case s.phase == phaseRunning && s.openDB != nil:
		s.audit()
	}
}

// globs are the patterns of -links, as path.Match knows them. The loopback interface has to be named in full.
type globs []string

func (g globs) match(name string) bool {
	for _, pattern := range g {
		if ok, _ := path.Match(pattern, name); ok && (name != "lo" || pattern == "lo") {
			return true
		}
	}
	return false
}
