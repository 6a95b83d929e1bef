package main

import (
	"math"
	"strings"
	"sync/atomic"
	"time"
)

// flapMemory is how many losses of carrier a port remembers the time of: so many within flapWindow are flapping.
const (
	flapMemory = 3
	flapWindow = 5 * time.Minute
)

// An hour of losses of carrier is counted in so many slices, the one that has just begun and twelve whole ones.
const (
	flapSlice  = 5 * time.Minute
	flapSlices = 13
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
	lastChange timeGauge
	pending    gauge

	configured, present atomic.Bool
	alias               atomic.Pointer[string]   // CONFIG_DB's, nil: none
	lostCarrier         [flapMemory]atomic.Int64 // when, an instant, the latest last; 0: never
	// losses of carrier by slices of time: the slice's number, and how many
	recent  [flapSlices]atomic.Uint64
	last    atomic.Uint32          // the cause of what happened last, counted from 1; 0: not known
	differs atomic.Pointer[string] // what others say otherwise, for good; nil: nothing
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
		s.lostCarrier[flapMemory-1].Store(instant(at))
	}
	if n > 0 {
		slice := flapSliceOf(at)
		place := &s.recent[slice%flapSlices]
		count := place.Load()
		if uint32(count>>32) != slice {
			count = uint64(slice) << 32
		}
		place.Store(count + min(n, math.MaxUint32-count&math.MaxUint32))
	}
}

// flapSliceOf is the number of the slice that a time is in.
func flapSliceOf(at time.Time) uint32 { return uint32(instant(at) / int64(flapSlice)) }

// flapsLastHour is how often the carrier was lost in the last hour, to within a slice.
func (s *portSeries) flapsLastHour(now time.Time) (flaps uint64) {
	slice := flapSliceOf(now)
	for i := range s.recent {
		if count := s.recent[i].Load(); slice-uint32(count>>32) < flapSlices {
			flaps += count & math.MaxUint32
		}
	}
	return flaps
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
	first := s.lostCarrier[0].Load()
	return first != 0 && instant(now)-first <= int64(flapWindow)
}

// caused notes why what happened last did. Of a port that nobody asks about there is no series.
func (s *portSeries) caused(why cause) {
	if s != nil {
		s.last.Store(uint32(why) + 1)
	}
}

// lastCause is why what happened last did, empty: not known.
func (s *portSeries) lastCause() string {
	if n := s.last.Load(); n > 0 {
		return cause(n - 1).String()
	}
	return ""
}

// setDiffers publishes what others say otherwise, for good; empty: nothing.
func (s *portSeries) setDiffers(says string) {
	switch was := s.differs.Load(); {
	case says == "":
		s.differs.Store(nil)
	case was == nil || *was != says:
		s.differs.Store(&says)
	}
}

// setAlias publishes CONFIG_DB's alias; empty: there is none.
func (s *portSeries) setAlias(alias string) {
	if was := s.alias.Load(); was == nil || *was != alias {
		kept := strings.Clone(alias)
		s.alias.Store(&kept)
	}
}

// flappedSince counts the losses of carrier since a count, and returns which count is the later one.
func (s *portSeries) flappedSince(now, before uint32, at time.Time) uint32 {
	s.flapped(lossesSince(now, before), at)
	return later(now, before)
}

// lossesSince is how many more losses of carrier there are than before, in 32 bits that wrap as the kernel's do. None:
// what was before is of another portsyncd, which had heard more.
func lossesSince(now, before uint32) uint64 { return uint64(max(0, int32(now-before))) }

// later is the later one of two counts.
func later(a, b uint32) uint32 {
	if lossesSince(a, b) > 0 {
		return a
	}
	return b
}
