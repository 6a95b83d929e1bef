package main

import (
	"sync/atomic"
	"time"
)

const (
	beatInterval = 5 * time.Second // an idle process wakes up this often, see untilBeat
	shortBeat    = time.Second     // the same where something is wrong, or not ready
)

// untilBeat is the time until the next beat. Whatever has to happen every now and then happens at the same moments,
// which the clock on the wall gives: what an idle process costs is wake-ups. It is at least shortBeat, also when that
// clock is set.
func untilBeat(now time.Time) time.Duration {
	d := beatInterval - time.Duration(now.UnixNano())%beatInterval
	if d < shortBeat {
		d += beatInterval
	}
	return d
}

// bell tells the watchdog of beats. Those of several loops in the same moment are one: each time that it wakes costs.
type bell struct {
	rung chan struct{}
	last atomic.Int64 // instant
}

func newBell() *bell { return &bell{rung: make(chan struct{}, 1)} }

// ring does nothing if there is no bell.
func (b *bell) ring(now time.Time) {
	if b == nil {
		return
	}
	at, last := instant(now), b.last.Load()
	if last != 0 && at-last < int64(shortBeat/2) || !b.last.CompareAndSwap(last, at) {
		return
	}
	select {
	case b.rung <- struct{}{}:
	default:
	}
}
