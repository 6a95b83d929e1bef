package main

import (
	"sort"
	"sync"
	"sync/atomic"
)

// portSet is the ports that anyone may ask about: those that have an interface, and those that are configured. It has
// one list of them, in the order of their label sets, for all families that have a series a port.
//
// What comes and goes is noted, and put in order with the rest when somebody looks, or when the notes are an eighth of
// it: where many ports come and go, sorting everything at each would take longer than everything else that their
// messages need.
type portSet struct {
	mu    sync.Mutex
	ports []*portSeries // in order, each label set once
	notes []*portSeries // that came or went since then, in the order of that
}

const fewNotes = 64 // so many are never worth putting in order by themselves

// listed says that a port is in the set.
func (s *portSeries) listed() bool { return s.configured.Load() || s.present.Load() }

// note puts a port in or out, as it is now.
func (s *portSet) note(p *portSeries) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, p)
	if len(s.notes) > fewNotes+len(s.ports)/8 {
		s.tidy()
	}
}

// byLabels sorts where its slice is kept: a slice itself would be copied to the heap to be sorted.
type byLabels []*portSeries

func (n *byLabels) Len() int           { return len(*n) }
func (n *byLabels) Less(i, j int) bool { return (*n)[i].labels < (*n)[j].labels }
func (n *byLabels) Swap(i, j int)      { (*n)[i], (*n)[j] = (*n)[j], (*n)[i] }

// tidy carries the notes out, without memory of its own. The caller holds the lock.
func (s *portSet) tidy() {
	if len(s.notes) == 0 {
		return
	}
	sort.Stable((*byLabels)(&s.notes))
	kept := s.ports[:0]
	for _, p := range s.ports {
		if p.listed() {
			kept = append(kept, p)
		}
	}
	clear(s.ports[len(kept):])
	s.ports = kept
	fresh, at := s.notes[:0], 0 // those that s.ports does not have
	for _, p := range s.notes {
		if !p.listed() {
			continue
		}
		at += sort.Search(len(s.ports)-at, func(i int) bool { return s.ports[at+i].labels >= p.labels })
		last := len(fresh) - 1
		switch {
		case at < len(s.ports) && s.ports[at].labels == p.labels:
			s.ports[at] = p
		case last >= 0 && fresh[last].labels == p.labels:
			fresh[last] = p
		default:
			fresh = append(fresh, p)
		}
	}
	s.merge(fresh)
	clear(s.notes)
	s.notes = s.notes[:0]
}

// merge puts ports in that are in order and new, from the end, so that each moves once.
func (s *portSet) merge(fresh []*portSeries) {
	old := len(s.ports)
	s.ports = append(s.ports, fresh...)
	for to := len(s.ports) - 1; len(fresh) > 0; to-- {
		last := len(fresh) - 1
		if old > 0 && s.ports[old-1].labels > fresh[last].labels {
			old--
			s.ports[to] = s.ports[old]
		} else {
			s.ports[to], fresh = fresh[last], fresh[:last]
		}
	}
}

// trim gives back what came and went needed.
func (s *portSet) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tidy()
	s.notes = nil
	if cap(s.ports) > len(s.ports) {
		s.ports = append(make([]*portSeries, 0, len(s.ports)), s.ports...)
	}
}

// all is the ports, in the order of their labels.
func (s *portSet) all() []*portSeries {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tidy()
	return append([]*portSeries(nil), s.ports...)
}

// portFamily is the value of a family that has a series a port.
type portFamily struct {
	set  *portSet
	part portPart
}

// portPart is which of a port's series it is.
type portPart uint8

const (
	flapsPart portPart = iota
	operUpPart
	adminUpPart
	mtuPart
	lastChangePart
	pendingPart
)

// part is one of a port's series, nil: it has none now. That of pending is there while the port is configured, the
// others while it has an interface.
func (s *portSeries) part(which portPart) value {
	if which == pendingPart {
		if s.configured.Load() {
			return &s.pending
		}
		return nil
	}
	if !s.present.Load() {
		return nil
	}
	switch which {
	case flapsPart:
		return &s.flaps
	case operUpPart:
		return &s.operUp
	case adminUpPart:
		return &s.adminUp
	case mtuPart:
		return &s.mtu
	}
	return &s.lastChange
}

func (f *portFamily) appendSamples(b []byte, name, _ string) []byte {
	f.set.mu.Lock()
	defer f.set.mu.Unlock()
	f.set.tidy()
	for _, p := range f.set.ports {
		if v := p.part(f.part); v != nil {
			b = v.appendSamples(b, name, p.labels)
		}
	}
	return b
}

// set sets one of a port's flags, present or configured. The loop does.
func (s *portSet) set(p *portSeries, flag *atomic.Bool, is bool) {
	was := p.listed()
	flag.Store(is)
	if p.listed() != was {
		s.note(p)
	}
}
