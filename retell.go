package main

import "time"

// What a loop knew of the links is told again to the one that follows on the same sockets: a standby that takes over
// does not ask the kernel for what it has heard, which takes tens of milliseconds with 512 ports, longer in a storm. It
// stands for the first listing unless there may be left-overs, which only a listing tells.

// known is what the next loop is told.
func (s *mirror) known() retold { return retold{s.knownLinks(), s.knownConfig()} }

// unwrittenTime is how long before the end of a standby's loop a port may have been heard of that the writer of before
// has not written: its last flush was under way.
const unwrittenTime = 30 * time.Millisecond

// knownLinks are all links that are ports, as a loop that has ended knew them; nil: it did not know all, or not for
// sure.
func (s *mirror) knownLinks() []linkMessage {
	if s.away != nil || s.failure != nil || !s.listing.settled() || !s.links.certain() {
		return nil
	}
	since := s.now().Add(-unwrittenTime)
	all := []linkMessage{} // not nil, although there may be none
	s.links.all(func(p *port) {
		if m, is := s.links.tell(p); is {
			m.pending = s.outbox.heardSince(p, since)
			all = append(all, m)
		}
	})
	return all
}

// word is what the next writer has to know of a loop that has ended.
func (s *mirror) word() handoverRecord {
	announced, initDone := s.start.word()
	old := s.links.leftovers()
	if h := s.options.handed; h != nil && !s.start.running() && len(old) == 0 {
		for _, l := range h.old.byIndex {
			old = append(old, l)
		}
	}
	return wordOf(old, announced, initDone)
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
			h := s.links.line(m, s.begun)
			if s.follow(h); h.port != nil && m.pending {
				s.outbox.hurry(h.port)
			}
		}
	}
	s.options.retold.links = nil
}

// knownConfig is CONFIG_DB as a loop that has ended knew it, nil: it may be another by now.
func (s *mirror) knownConfig() *switchConfig {
	c, facts := s.start.known()
	if !s.start.current() || !facts.events || s.watchLost || !c.complete {
		return nil
	}
	return c
}

// retoldConfig is what the loop before knew of CONFIG_DB, once, and when that was read: not lately. What was changed
// since is found by the look that follows a start.
func (s *mirror) retoldConfig() (c *switchConfig, at time.Time) {
	if c, s.options.retold.config = s.options.retold.config, nil; c == nil {
		at = s.now()
	}
	return c, at
}

// judgeRetold decides whether what was told again is enough, when it is known what kind of start this is. Whatever has
// waited since is taken in by now.
func (s *mirror) judgeRetold(now time.Time) {
	s.retelling = false
	if s.listing.owed() || !s.nothingOld() { // messages were lost since
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

// follows says that another portsyncd may have written until now.
func (s *mirror) follows() bool {
	return !s.options.observe && (s.options.takenOver || s.start.mode(s.options.old).what == "adopted")
}

// nothingOld says that no interface can be a left-over.
func (s *mirror) nothingOld() bool {
	_, facts := s.start.known()
	return s.start.mode(s.options.old).what == "adopted" && facts.old.empty() && s.options.handed.nothingOld()
}
