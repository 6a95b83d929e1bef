package main

import "time"

// What an observer's loop does beside a writer's: it follows the entries of STATE_DB, and looks again at those that
// differ.

// entryTouched takes an event about an entry of STATE_DB: somebody wrote it.
func (s *mirror) entryTouched(name string) {
	p := s.links.named(name)
	if p == nil {
		return
	}
	s.differ.touch(p)
	s.readEntry(p)
}

// stand tells when the observer becomes able to take over, or unable: it knows the links and the databases, and these
// answer. That entries differ is a reason to.
func (s *mirror) stand() {
	able := s.start.running() && s.away == nil && s.courier.trouble() == nil && !s.listing.owed()
	if s.options.standing != nil && able != s.able {
		s.options.standing(able)
	}
	s.able = able
}

// readEntry has a port's entry read and compared with the next flush.
func (s *mirror) readEntry(p *port) {
	if s.present(p) {
		s.outbox.doubt(p)
		return
	}
	s.outbox.suspect(p)
}

// advanceObserver reads again what differs, and returns how long there is nothing to read.
func (s *mirror) advanceObserver(now time.Time) time.Duration {
	if !s.options.observe {
		return beatInterval
	}
	s.stand()
	for _, p := range s.differ.due(now) {
		s.readEntry(p)
	}
	return s.differ.wait(now)
}

// observedPort takes in what a comparison of a port's entry found.
func (s *mirror) observedPort(p *port, w *portWrite) {
	if s.options.observe {
		s.differ.judge(p, w, s.now())
	}
}

// tellDiffering publishes which ports differ.
func (s *mirror) tellDiffering() {
	if all, changed := s.differ.news(); changed {
		s.status.differ.tell(stateDisagrees, all)
	}
}
