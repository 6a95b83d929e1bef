package main

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// rate is so many toggles a second. A toggle is one change of one port's admin state.
type rate int

const (
	asFast   rate = math.MaxInt // the next toggle when the kernel is done with the last
	mostRate      = 1_000_000
	endless       = math.MaxInt // toggles
)

func (r rate) String() string {
	if r == asFast {
		return "max"
	}
	return strconv.Itoa(int(r)) + "/s"
}

// parseRates reads -rates. They come in ascending order, so that what a storm leaves behind disturbs no slower one.
func parseRates(text string) (rates []rate, err error) {
	if text == "" {
		return nil, nil
	}
	for word := range strings.SplitSeq(text, ",") {
		r := asFast
		if word = strings.TrimSpace(word); word != "max" {
			n, err := strconv.Atoi(word)
			if err != nil || n < 1 || n > mostRate {
				return nil, fmt.Errorf("%q is no rate: give toggles a second, 1 to %d of them or max, as in 30,300,max",
					word, mostRate)
			}
			r = rate(n)
		}
		if slices.Contains(rates, r) {
			return nil, fmt.Errorf("%q is there twice: give every rate once", word)
		}
		rates = append(rates, r)
	}
	slices.Sort(rates)
	return rates, nil
}

// toggles is how many of them a time has room for.
func (r rate) toggles(in time.Duration) int {
	if r == asFast {
		return endless
	}
	return int(float64(r) * in.Seconds())
}

// toggler sets ports down and up at a rate.
type toggler struct {
	set   func(index int, up bool) error
	ports []int // their indexes
	rate  rate
}

// run sets its ports down, one after the other, and up in the same order, again and again, until it has made as many
// toggles as asked for or stop says so. What is down by then is set up at the same rate. took is the time from the
// start to the last toggle.
//
// Toggle i is due at i/rate after the start, whenever the ones before it were made: one that is late makes no other
// late. At a rate that the kernel does not keep up with they come back to back, until stop.
func (t *toggler) run(asked int, stop func() bool) (made int, took time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begun := time.Now()
	toggle := func(index int, up bool) error {
		if t.rate != asFast {
			sleepUntil(begun.Add(time.Duration(made) * time.Second / time.Duration(t.rate)))
		}
		took = time.Since(begun)
		made++
		return t.set(index, up)
	}
	for asked-made >= 2 && !stop() {
		ports := t.ports[:min(len(t.ports), (asked-made)/2)]
		down := 0
		for down < len(ports) && !stop() {
			if err := toggle(ports[down], false); err != nil {
				return made, took, err
			}
			down++
		}
		for _, index := range ports[:down] {
			if err := toggle(index, true); err != nil {
				return made, took, err
			}
		}
	}
	return made, took, nil
}

// sleepUntil blocks in nanosleep(2). Go's own timers are a millisecond late, which would make bunches of a fast rate.
func sleepUntil(at time.Time) {
	for d := time.Until(at); d > 0; d = time.Until(at) {
		left := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&left, nil) // interrupted by a signal, it sleeps again
	}
}
