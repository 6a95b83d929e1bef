package main

import "time"

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
