package main

import (
	"sync"
	"sync/atomic"
	"time"
)

// flapMemory is how many losses of carrier a port remembers the time of: so many within flapWindow are flapping.
const (
	flapMemory = 3
	flapWindow = 5 * time.Minute
)

// portSeries is one port's part of the per-port families, and what the API tells of it beside. It is resolved once,
// when the port appears, and then set without a look-up. The loop sets it, and anyone may read it.
type portSeries struct {
	name       string // in UTF-8, as the labels have it
	labels     string
	flaps      counter
	operUp     gauge
	adminUp    gauge
	mtu        gauge
	lastChange gauge
	pending    gauge

	configured, present atomic.Bool
	alias               atomic.Pointer[string]   // CONFIG_DB's, nil: none
	lostCarrier         [flapMemory]atomic.Int64 // when, in Unix milliseconds, the latest last; 0: never
}

// newPortSeries makes the series of a port under rendered labels.
func newPortSeries(port, labels string, flaps uint64) *portSeries {
	s := &portSeries{name: readable(port), labels: labels}
	s.flaps.Add(flaps)
	return s
}

// flapped counts n losses of carrier that were heard of at a time.
func (s *portSeries) flapped(n uint64, at time.Time) {
	s.flaps.Add(n)
	for range min(n, flapMemory) {
		for i := range flapMemory - 1 {
			s.lostCarrier[i].Store(s.lostCarrier[i+1].Load())
		}
		s.lostCarrier[flapMemory-1].Store(at.UnixMilli())
	}
}

// show publishes a state, since a time.
func (s *portSeries) show(admin, oper bool, mtu uint32, since time.Time) {
	s.operUp.SetBool(oper)
	s.adminUp.SetBool(admin)
	s.mtu.Set(float64(mtu))
	s.lastChange.SetTime(since)
}

// flapping tells whether the carrier was lost flapMemory times within flapWindow.
func (s *portSeries) flapping(now time.Time) bool {
	return now.UnixMilli()-s.lostCarrier[0].Load() <= flapWindow.Milliseconds()
}

// setAlias publishes CONFIG_DB's alias; empty: there is none.
func (s *portSeries) setAlias(alias string) {
	if was := s.alias.Load(); was == nil || *was != alias {
		s.alias.Store(&alias)
	}
}

// portSet is the ports that anyone may ask about: those that have an interface, and those that are configured.
type portSet struct {
	mu    sync.Mutex
	ports map[*portSeries]struct{}
}

// note puts a port in or out, as it is now.
func (s *portSet) note(p *portSeries) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !p.configured.Load() && !p.present.Load():
		delete(s.ports, p)
	case s.ports == nil:
		s.ports = map[*portSeries]struct{}{p: {}}
	default:
		s.ports[p] = struct{}{}
	}
}

// all is the ports, in no order.
func (s *portSet) all() []*portSeries {
	s.mu.Lock()
	defer s.mu.Unlock()
	ports := make([]*portSeries, 0, len(s.ports))
	for p := range s.ports {
		ports = append(ports, p)
	}
	return ports
}
