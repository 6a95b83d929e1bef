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

// bell tells the watchdog of beats, on the thread of whoever rings. Those of several loops in the same moment are one.
type bell struct {
	heard atomic.Pointer[func(now time.Time)] // nil: nobody listens yet
	last  atomic.Int64                        // instant
}

// hear sets who listens.
func (b *bell) hear(f func(now time.Time)) { b.heard.Store(&f) }

// ring does nothing if there is no bell.
func (b *bell) ring(now time.Time) {
	if b == nil {
		return
	}
	at, last, heard := instant(now), b.last.Load(), b.heard.Load()
	if heard == nil || last != 0 && at-last < int64(shortBeat/2) || !b.last.CompareAndSwap(last, at) {
		return
	}
	(*heard)(now)
}
