package main

import "time"

// How often ports are written, or looked at.

const (
	flushBurst  = 8                      // so many changes are flushed at once each,
	flushGap    = 4 * time.Millisecond   // a storm of them at this distance,
	longGap     = 6 * time.Millisecond   // and one that lasts at this one,
	stormGrowth = 64                     // which it has reached after so many flushes
	observeGap  = 100 * time.Millisecond // an observer's: what it finds is told two seconds later
)

// pace is a token bucket: flushBurst flushes at once, one more every flushGap. In a storm that lasts the gap grows, up
// to longGap, which it has after stormGrowth flushes that had to wait. As soon as one need not, it is flushGap again.
// The zero value is full.
type pace struct {
	full  time.Time // when the bucket is full again
	storm int       // so many flushes in a row found no more than their own token
	idly  bool      // nothing is written: the gap is observeGap
}

func newPace(observe bool) pace { return pace{idly: observe} }

// observes says that nothing is written.
func (p *pace) observes() bool { return p.idly }

// gap is the distance of flushes that do not have to wait for long.
func (p *pace) gap() time.Duration {
	if p.idly {
		return observeGap
	}
	return flushGap
}

// empty is when the bucket holds one token.
func (p *pace) empty() time.Time { return p.full.Add(-(flushBurst - 1) * p.gap()) }

// wait returns how long the next flush has to wait.
func (p *pace) wait(now time.Time) time.Duration { return max(0, p.empty().Sub(now)) }

func (p *pace) take(now time.Time) {
	spare := now.Sub(p.empty()) >= p.gap()
	if spare {
		p.storm = 0
	}
	if p.full.Before(now) {
		p.full = now
	}
	p.full = p.full.Add(p.gap() + (longGap-flushGap)*time.Duration(p.storm)/stormGrowth)
	if !spare {
		p.storm = min(p.storm+1, stormGrowth)
	}
}
