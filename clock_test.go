package main

import (
	"testing"
	"time"
	"unsafe"
)

// stepWall is what time.Now gives after somebody has set the clock: the wall clock differs by so much, the monotonic
// reading does not. It reaches into time.Time, whose layout TestStepWall checks.
func stepWall(t time.Time, by time.Duration) time.Time {
	const hasMonotonic, secondsShift, nanosMask = 1 << 63, 30, 1<<30 - 1
	inside := (*struct {
		wall uint64 // hasMonotonic, 33 bits of seconds since 1885, 30 bits of nanoseconds
		ext  int64  // the monotonic reading
		loc  *time.Location
	})(unsafe.Pointer(&t))
	if inside.wall&hasMonotonic == 0 {
		panic("a time without a monotonic reading cannot be stepped")
	}
	seconds, nanos := int64(inside.wall<<1>>(secondsShift+1)), int64(inside.wall&nanosMask)
	nanos += int64(by % time.Second)
	seconds += int64(by / time.Second)
	switch second := int64(time.Second); {
	case nanos < 0:
		seconds, nanos = seconds-1, nanos+second
	case nanos >= second:
		seconds, nanos = seconds+1, nanos-second
	}
	inside.wall = hasMonotonic | uint64(seconds)<<secondsShift | uint64(nanos)
	return t
}

func TestStepWall(t *testing.T) {
	now := time.Now()
	steps := []time.Duration{0, time.Nanosecond, -time.Nanosecond, 999999999, -999999999, 1500 * time.Millisecond,
		-time.Hour, 30 * 365 * 24 * time.Hour}
	for _, by := range steps {
		stepped := stepWall(now.Add(time.Minute), by)
		if stepped.Sub(now) != time.Minute {
			t.Errorf("stepped by %v, the monotonic reading differs by %v", by, stepped.Sub(now)-time.Minute)
		}
		if want := now.Round(0).Add(time.Minute + by); !stepped.Round(0).Equal(want) {
			t.Errorf("stepped by %v, the wall clock is %v, want %v", by, stepped.Round(0), want)
		}
	}
}
