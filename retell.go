package main

import (
	"log/slog"
	"time"
)

// What a loop knew of the links is told again to the one that follows on the same sockets: a standby that takes over
// does not ask the kernel for what it has heard, which takes tens of milliseconds with 512 ports, longer in a storm. It
// stands for the first listing unless there may be left-overs, which only a listing tells.

// knownLinks are all links that are ports, as a loop that has ended knew them; nil: it did not know all, or not for
// sure.
func (s *mirror) knownLinks() []linkMessage {
	if s.away != nil || s.failure != nil || !s.listing.settled() {
		return nil
	}
	return s.links.tellAll()
}

// settled says that a listing was whole, and that none is owed or under way.
func (l *listing) settled() bool {
	return l.whole && !l.underWay && (l.due == nil || l.due == &l.m.resyncReconcile)
}

// tellAll returns a message about each port's interface, nil where there are left-overs, or may be.
func (t *linkTable) tellAll() []linkMessage {
	if t.existing != nil || len(t.old) > 0 {
		return nil
	}
	all := make([]linkMessage, 0, len(t.byIndex)) // not nil, although there may be none
	orphans := false
	t.all(func(p *port) {
		if m, is := t.tell(p); is {
			all = append(all, m)
		}
		orphans = orphans || t.rows.of(p).orphan
	})
	if orphans {
		return nil
	}
	return all
}

// tell returns a message about a port's interface, as the last one had it, if there is one.
func (t *linkTable) tell(p *port) (m linkMessage, is bool) {
	row := t.rows.of(p)
	return linkMessage{index: row.index, name: []byte(p.name), flags: row.flags, mtu: row.state.mtu,
		hasCarrier: row.hasCarrier, carrierUp: row.carrierUp, carrierDown: row.carrierDown}, row.index != 0
}

// hear takes what is told again, without a word in the log: nothing appears by that.
func (t *linkTable) hear(m *linkMessage, at time.Time) heard {
	log := t.log
	t.log = slog.New(slog.DiscardHandler)
	defer func() { t.log = log }()
	return t.line(m, at)
}

// retell takes what the loop before knew, as the lines of a listing that has not ended: messages that wait are newer.
func (s *mirror) retell(links []linkMessage) {
	if s.retelling = links != nil; !s.retelling {
		return
	}
	s.listing.retell(s.begun)
	s.at = s.begun
	for i := range links {
		if m := &links[i]; s.listing.counts(m.index) {
			s.follow(s.links.hear(m, s.begun))
		}
	}
}

// retell begins a listing that the kernel is not asked for.
func (l *listing) retell(now time.Time) {
	l.reason, l.due = &l.m.resyncStart, nil
	l.underWay, l.begun = true, now
}

// ask ends it without a result: the kernel is to be asked.
func (l *listing) ask(now time.Time) {
	l.underWay = false
	l.want(&l.m.resyncStart, now, 0)
}

// judgeRetold decides whether what was told again is enough, when it is known what kind of start this is. Whatever has
// waited since is taken in by now.
func (s *mirror) judgeRetold(now time.Time) {
	s.retelling = false
	if s.listing.due != nil || !s.start.nothingOld(s.options.old) { // messages were lost since
		s.listing.ask(now)
		return
	}
	s.links.all(func(p *port) {
		if m, is := s.links.tell(p); is {
			s.record.link(p, &m, true, now)
		}
	})
	s.dumpDone(false, nil)
}

// nothingOld says that no interface can be a left-over.
func (s *start) nothingOld(option string) bool {
	mode := s.mode(option)
	return mode.what == "adopted" && s.facts.old.empty() && s.handed.empty()
}
