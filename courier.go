package main

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// courier is the way from the loop to the databases: pauses between tries, and who does not answer. It has two lanes
// with one errand at a time in each, because a CONFIG_DB that hangs must not delay what is written to STATE_DB.
//
// A flush is carried out on the loop's own goroutine, which costs two wake-ups, the message's and the answer's. That
// lasts as long as the databases answer promptly, each question within a millisecond. When they do not, or there are
// many questions, the loop goes on elsewhere (relay) while this goroutine waits, so that link intake never waits for a
// Redis longer than some milliseconds.
type courier struct {
	m      *metrics
	log    *slog.Logger
	random random
	spawn  func(func())          // runs what takes its time beside the loop; nil: goroutines
	end    func()                // ends what spawn runs, from inside; nil: a goroutine
	relay  func()                // has the loop go on elsewhere; nil: flushes are carried out beside it, too
	here   atomic.Bool           // the loop's own goroutine carries a flush out
	post   func(func())          // hands what came of it to the loop
	split  bool                  // CONFIG_DB is on a server of its own
	busy   [2]bool               // an errand is under way in a lane
	tries  [len(errands)]attempt // of each errand
	// what CONFIG_DB has to become for a start or a look, nil: nothing. The log has said so
	awaited error
}

// errand is one of the kinds of work for the databases. Each has its own pauses: a CONFIG_DB that refuses or is down
// does not delay what is written to STATE_DB.
type errand int

const (
	startErrand errand = iota // read what a start needs, announce: all databases
	flushErrand               // APPL_DB and STATE_DB
	lookErrand                // CONFIG_DB
	countErrand               // PortConfigDone with another count, to APPL_DB
)

// lane is where an errand goes: flushes have one for themselves, the rest, which reads CONFIG_DB or follows from what
// was read there, shares the other. Recounting is in the second because it must not overtake an announcement.
func (e errand) lane() int {
	if e == flushErrand {
		return 0
	}
	return 1
}

// lookRest is the time between two looks at CONFIG_DB: whoever changes many ports causes many events.
const lookRest = 20 * time.Millisecond

var errands = [...]errand{startErrand, flushErrand, lookErrand, countErrand}

// attempt is how an errand fares.
type attempt struct {
	err       error // why it failed last, nil: it did not
	pauses    backoff
	notBefore time.Time
}

// send carries out job, and then done with its error on the loop. One errand at a time in each lane: the caller asks
// free first.
func (c *courier) send(ctx context.Context, e errand, job func(context.Context) error, done func(error)) {
	c.busy[e.lane()] = true
	finish := func(err error) {
		c.busy[e.lane()] = false
		done(err)
	}
	if e != flushErrand || c.relay == nil {
		c.beside(func() {
			err := job(ctx)
			c.post(func() { finish(err) })
		})
		return
	}
	c.here.Store(true)
	err := job(ctx)
	if c.here.CompareAndSwap(true, false) {
		finish(err)
		return
	}
	c.post(func() { finish(err) })
	c.endHere()
}

// relayed sets how the loop goes on elsewhere.
func (c *courier) relayed(relay func()) { c.relay = relay }

// slow is told that what is under way takes longer than a moment: if it is the loop that waits, the loop goes on
// elsewhere. Any goroutine may call it, also one that carries out something else.
func (c *courier) slow() {
	if c.here.CompareAndSwap(true, false) {
		c.relay()
	}
}

// beside runs fn without waiting for it.
func (c *courier) beside(fn func()) {
	if c.spawn != nil {
		c.spawn(fn)
		return
	}
	go fn()
}

// endHere ends the goroutine that was the loop's before it had to wait. It does not return.
func (c *courier) endHere() {
	if c.end != nil {
		c.end()
	}
	runtime.Goexit()
}

// free says that no errand is under way in the lane of this one.
func (c *courier) free(e errand) bool { return !c.busy[e.lane()] }

// separate notes that CONFIG_DB is on a server of its own.
func (c *courier) separate() { c.split = true }

// wait is how long an errand is not to be tried.
func (c *courier) wait(e errand, now time.Time) time.Duration {
	return max(0, c.tries[e].notBefore.Sub(now))
}

// rest keeps an errand from being tried before a time.
func (c *courier) rest(e errand, until time.Time) { c.tries[e].notBefore = until }

// failing says that an errand's last try failed.
func (c *courier) failing(e errand) bool { return c.tries[e].err != nil }

// waits is what CONFIG_DB has to become before the ports can be announced, nil: nothing.
func (c *courier) waits() error { return c.awaited }

// trouble is why the databases do not do as they are told, nil: they do.
func (c *courier) trouble() error {
	for i := range c.tries {
		if err := c.tries[i].err; err != nil {
			return err
		}
	}
	return nil
}

// learn takes in an errand's outcome. An outage is said once, when it begins and when it has ended; back tells that it
// has, and that what is known of ports is in doubt now. A CONFIG_DB on a server of its own says nothing of them.
func (c *courier) learn(e errand, err error, now time.Time) (back bool) {
	try := &c.tries[e]
	if errors.Is(err, errConfigLoading) {
		if c.awaited == nil {
			c.awaited = err
			c.log.Log(ctxNone, levelNotice, "waiting", "for", err)
		}
		err = nil // CONFIG_DB has answered
		try.notBefore = now.Add(try.pauses.next(c.random))
	} else if err == nil {
		try.pauses, try.notBefore = backoff{}, time.Time{}
		if e == lookErrand {
			try.notBefore = now.Add(lookRest)
		}
		if e == startErrand || e == lookErrand {
			c.awaited = nil
		}
	}
	was := c.down(e)
	try.err = err
	if err != nil {
		try.notBefore = now.Add(try.pauses.next(c.random))
	}
	c.m.redisConnected.SetBool(c.trouble() == nil)
	switch down := c.down(e); {
	case down && !was:
		c.log.Warn(c.outage(e, err), "err", err)
	case was && !down:
		c.log.Log(ctxNone, levelNotice, "the databases answer again")
		return !c.split || e != lookErrand
	}
	return false
}

// down says that an errand fails, or another one that goes to the same server.
func (c *courier) down(e errand) bool {
	if c.split && e == lookErrand {
		return c.failing(lookErrand)
	}
	return c.failing(startErrand) || c.failing(flushErrand) || c.failing(countErrand) ||
		!c.split && c.failing(lookErrand)
}

// outage says in a few words what keeps the databases from being read or written.
func (c *courier) outage(e errand, err error) string {
	var reply redis.Error
	switch {
	case errors.Is(err, errNoDBConfig):
		return "the database configuration is not there yet, waiting for it (-db.config)"
	case errors.Is(err, errNoLockFolder):
		return "the lock's folder is not there, waiting for it (-lock.dir); nothing is written"
	case errors.Is(err, errLockLost):
		return "the lock's file was removed, and everything is compared before anything is written"
	case errors.As(err, &reply), errors.Is(err, errWrongType):
		return "a database refuses commands, trying again"
	case errors.Is(err, errPortsChange):
		return "announcing the ports is tried again"
	case c.split && e == lookErrand:
		return "CONFIG_DB does not answer, trying again until it does; ports are still written, and PortInitDone waits"
	}
	return "the databases do not answer, trying again until they do"
}
