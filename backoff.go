package main

import (
	"context"
	"math/rand/v2"
	"time"
)

// The pauses between tries: a second at most, so that all is right within two of a database's return.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = time.Second
)

// random gives a number below n, which is positive; nil is the library's. A simulation has its own, so that a seed
// decides a run.
type random func(n int64) int64

func (r random) below(n int64) int64 {
	if r == nil {
		return rand.Int64N(n)
	}
	return r(n)
}

// backoff gives growing pauses from firstPause to lastPause, with jitter so that many daemons do not come back in step.
// The zero value begins with the first.
type backoff struct{ tries int }

func (b *backoff) next(r random) time.Duration {
	pause := min(firstPause<<min(b.tries, 10), lastPause)
	b.tries++
	return pause - time.Duration(r.below(int64(pause/4)))
}

// skip takes the first try, which has no pause, and tells whether it was.
func (b *backoff) skip() (first bool) {
	if b.tries > 0 {
		return false
	}
	b.tries++
	return true
}

func (b *backoff) sleep(ctx context.Context) {
	select {
	case <-time.After(b.next(nil)):
	case <-ctx.Done():
	}
}
