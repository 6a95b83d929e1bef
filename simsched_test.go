package main

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"
)

// The simulator's scheduler: strands of work that run one at a time, a clock that passes only between them, and dice that decide every order. A
// run is a function of its seed and its events.

// strand is a coroutine: the daemon's loop, one of its errands, or something of the world's.
type strand struct {
	name    string
	owner   int // the daemon's number, 0: the world's
	resume  func() (pause, bool)
	end     func()
	ended   bool
	waiting pause
}

// pause is what a strand waits for: a time, or a condition that holds earlier.
type pause struct {
	until time.Time
	ready func() bool // nil: only the time
}

// killed unwinds a strand whose daemon was killed.
type killed struct{}

// scheduler runs strands.
type scheduler struct {
	dice    *rand.Rand
	now     time.Time     // as the simulation counts it
	stepped time.Duration // by how much somebody has set the clock on the wall
	strands []*strand
	current *strand
	yield   func(pause) bool // of the current strand
	stopped map[int]bool     // daemons that SIGSTOP has stopped
	trace   bool
	history []string
	steps   int
}

// spawn makes a strand, which begins when the scheduler chooses it.
func (s *scheduler) spawn(name string, owner int, body func()) *strand {
	st := &strand{name: name, owner: owner}
	st.resume, st.end = iter.Pull(func(yield func(pause) bool) {
		defer func() {
			if why := recover(); why != nil {
				if _, ok := why.(killed); !ok {
					panic(fmt.Sprintf("%v\n%s", why, debug.Stack()))
				}
			}
		}()
		s.yield = yield
		body()
	})
	st.waiting = pause{until: s.now}
	s.strands = append(s.strands, st)
	return st
}

// sleep gives way to other strands until a time, or until a condition holds.
func (s *scheduler) sleep(p pause) {
	me, yield := s.current, s.yield
	if !yield(p) {
		panic(killed{})
	}
	s.current, s.yield = me, yield
}

// nap gives way for up to a duration.
func (s *scheduler) nap(most time.Duration) {
	s.sleep(pause{until: s.now.Add(time.Duration(s.dice.Int64N(int64(most) + 1)))})
}

// step runs one strand that can go on, or lets time pass until one can or limit is reached; false: it is.
func (s *scheduler) step(limit time.Time) bool {
	var able []*strand
	next := limit
	for _, st := range s.strands {
		switch {
		case s.stopped[st.owner]:
		case !s.now.Before(st.waiting.until) || st.waiting.ready != nil && st.waiting.ready():
			able = append(able, st)
		case st.waiting.until.Before(next):
			next = st.waiting.until
		}
	}
	if len(able) == 0 {
		s.now = next
		return next.Before(limit)
	}
	s.steps++
	s.run(able[s.dice.IntN(len(able))])
	s.now = s.now.Add(time.Duration(s.dice.Int64N(int64(20 * time.Microsecond))))
	return true
}

// run resumes a strand until it gives way or ends.
func (s *scheduler) run(st *strand) {
	before, yield := s.current, s.yield
	s.current = st
	waiting, more := st.resume()
	s.current, s.yield = before, yield
	st.waiting = waiting
	if !more {
		s.drop(func(other *strand) bool { return other == st })
	}
}

// drop ends strands.
func (s *scheduler) drop(which func(*strand) bool) {
	kept := s.strands[:0]
	var gone []*strand
	for _, st := range s.strands {
		if which(st) {
			gone = append(gone, st)
		} else {
			kept = append(kept, st)
		}
	}
	s.strands = kept
	for _, st := range gone {
		st.ended = true
		st.end()
	}
}

// say writes a line of the history.
func (s *scheduler) say(format string, args ...any) {
	if s.trace {
		who := "world"
		if s.current != nil {
			who = s.current.name
		}
		at := s.now.Sub(simEpoch)
		s.history = append(s.history, fmt.Sprintf("%9.4f %-9s %s", at.Seconds(), who, fmt.Sprintf(format, args...)))
	}
}

func (s *scheduler) story() string { return strings.Join(s.history, "\n") }

// simEpoch is when every run begins. It is not at a beat.
var simEpoch = time.Unix(1_700_000_001, 0)

// simBase is where the monotonic readings of all runs begin.
var simBase = time.Now()

// clock is what time.Now says: the clock on the wall may be set, the monotonic reading goes on.
func (s *scheduler) clock() time.Time {
	return stepWall(simBase.Add(s.now.Sub(simEpoch)), simEpoch.Sub(simBase.Round(0))+s.stepped)
}

// simContext is a context that ends when it is told, on the strand that tells it.
type simContext struct {
	context.Context
	done  chan struct{}
	ended error
	after []func()
}

func newSimContext() *simContext {
	return &simContext{Context: context.Background(), done: make(chan struct{})}
}

func (c *simContext) Done() <-chan struct{} { return c.done }
func (c *simContext) Err() error            { return c.ended }

// AfterFunc takes the place of the goroutine that package context would start: contexts made of this one end with it. Whoever cancels wakes the
// daemon himself.
func (c *simContext) AfterFunc(f func()) (stop func() bool) {
	c.after = append(c.after, f)
	return func() bool { return true }
}

func (c *simContext) cancel() {
	if c.ended == nil {
		c.ended = context.Canceled
		close(c.done)
		for _, f := range c.after {
			f()
		}
	}
}
