package main

import "time"

// epoch is where instants are counted from. It is no state: any moment would do.
var epoch = time.Now()

// instant is a time in nanoseconds of the monotonic clock, as an atomic holds it: when somebody sets the clock on the
// wall, nothing has lasted any longer for it. It is never 0, which stands for no time.
func instant(t time.Time) int64 {
	if d := t.Sub(epoch); d != 0 {
		return int64(d)
	}
	return 1
}

// instantTime is the time of an instant.
func instantTime(i int64) time.Time {
	if i == 0 {
		return time.Time{}
	}
	return epoch.Add(time.Duration(i))
}

// clockSet is by how many seconds a clock that somebody has set differs: less is one that was read a moment later.
const clockSet = 0.5

// wallClock is what the wall clock says when the monotonic one is at 0, in nanoseconds. Both go equally fast, so that
// it is another one only when somebody sets the one on the wall.
func wallClock(t time.Time) int64 { return t.UnixNano() - instant(t) }

// utc is how times are written.
func utc(t time.Time) string { return t.UTC().Truncate(time.Millisecond).Format(time.RFC3339Nano) }

// seconds is a gauge's time.
func seconds(since1970 float64) time.Time { return time.UnixMilli(int64(since1970 * 1000)) }
