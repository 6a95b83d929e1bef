package main

import "time"

// What follows when the links' network namespace goes, or is made again: what is known of interfaces is of the old one.

// home looks whether the links are still those of the namespace that has the name, and tells whether there is one. What
// goes by an ifindex, or says that all of them were seen, asks first.
func (s *mirror) home(now time.Time) bool {
	moved, err := s.source.Follow()
	if err != nil && s.away == nil {
		s.log.Warn("the network namespace is gone, waiting for it", "err", err)
		s.record.note(ownNamespace, "gone, and waited for", now)
	}
	if err == nil && s.away != nil && !moved {
		s.notice("the network namespace is back, and is the same")
	}
	switch s.nextHome = now.Add(netNSPause); {
	case err != nil:
		s.status.homeless("the network namespace is gone, and waited for: " + err.Error())
	case moved:
		s.moved(now)
	case s.away != nil:
		s.status.homeless("")
	}
	s.away = err
	return err == nil
}

// advanceHome looks for a namespace that is gone, and returns how long not to. One that is there is looked at at each
// beat.
func (s *mirror) advanceHome(now time.Time) time.Duration {
	if s.away != nil && !now.Before(s.nextHome) {
		s.home(now)
	}
	if s.away == nil {
		return beatInterval
	}
	return s.nextHome.Sub(now)
}

// moved is for links of another namespace than before. Entries of STATE_DB stay until the listing has told which ports
// have an interface there: what other daemons have written of a new one stays with it.
func (s *mirror) moved(now time.Time) {
	s.log.Warn("the network namespace was made again: its links are listed, and compared")
	s.record.note(ownNamespace, "made again", now)
	for _, p := range s.links.anew(s.source.Home()) {
		s.record.gone(p, causeListed, now)
	}
	s.start.anew(s.links.all)
	s.status.homeless("the network namespace was made again, and its links are not listed yet")
	s.retelling = false
	s.listing.anew(now)
	s.owe(now)
}
