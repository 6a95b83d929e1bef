package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"portsyncd/internal/switchtest"
)

// The sweep asks what a link message costs when there are few of them and when there are many: a daemon that is woken
// by each does the same for all, one that takes what waits is cheaper the more there are.

// sweepOptions are those of -rates.
type sweepOptions struct {
	rates        []rate
	sweepTime    time.Duration // of toggles at each rate
	sweepChanges int           // whose latency is taken at each rate
	svg          string        // file for the plot
	calls        bool          // count system calls, too
}

const leastSweep = 100 * time.Millisecond

func (o *sweepOptions) validate() error {
	switch {
	case len(o.rates) == 0 && o.svg != "":
		return errors.New("-svg: it draws the sweep, and there is none without -rates: give both")
	case len(o.rates) == 0 && o.calls:
		return errors.New("-calls: they are counted at each of the -rates: give both")
	case len(o.rates) == 0:
		return nil
	case o.sweepTime < leastSweep:
		return fmt.Errorf("-sweep-time: %v is too short: give at least %v", o.sweepTime, leastSweep)
	case o.sweepChanges < 1:
		return fmt.Errorf("-sweep-changes: %d: give at least 1", o.sweepChanges)
	case o.rates[0].toggles(o.sweepTime) < 2:
		return fmt.Errorf("-rates: %v makes fewer than two toggles, down and up, in a -sweep-time of %v: raise either",
			o.rates[0], o.sweepTime)
	}
	return nil
}

// sweep is the steps of a run with -rates.
func (b *bench) sweep(start func() error) []func() error {
	steps := []func() error{start, b.appear, b.latency}
	for _, r := range b.rates {
		steps = append(steps, func() error { return b.toggled(r) }, func() error { return b.pressed(r) })
		if b.calls {
			steps = append(steps, func() error { return b.counted(r) })
		}
	}
	return append(steps, b.aftermath, b.settle, b.quiet, b.ended, b.resident)
}

// mend lets a rate begin on a switch on which nothing is wrong: what was left so before is not its doing.
func (b *bench) mend() error {
	if _, wrong := b.converge(b.limit, b.expect(nil)); len(wrong) > 0 {
		if err := b.sw.Flap(1, wrong...); err != nil {
			return err
		}
		b.converge(b.limit, b.expect(nil))
	}
	return b.settle()
}

// reading is what others count of the daemon's work.
type reading struct {
	switchtest.Counters
	commands int
}

func (b *bench) read() (r reading, err error) {
	if r.commands, err = b.redisCommands(); err != nil {
		return r, err
	}
	r.Counters, err = b.daemon.Counters()
	return r, err
}

// toggled is what a message and a toggle cost at a rate, from the first toggle until STATE_DB is right and the kernel's
// own late messages have passed.
func (b *bench) toggled(r rate) error {
	if err := b.mend(); err != nil {
		return err
	}
	t, err := b.toggler(r, b.names)
	if err != nil {
		return err
	}
	if err := b.listenAfresh(); err != nil {
		return err
	}
	before, err := b.read()
	if err != nil {
		return err
	}
	var full error
	begun := time.Now()
	made, took, err := t.run(r.toggles(b.sweepTime), func() bool {
		filled, err := b.links.Filled()
		full = err
		return err != nil || filled > mostFilled || time.Since(begun) > b.sweepTime || b.ctx.Err() != nil
	})
	if err := errors.Join(err, full, b.ctx.Err()); err != nil {
		return err
	}
	converged, wrong := b.converge(b.limit, b.expect(nil))
	if err := b.settle(); err != nil {
		return err
	}
	after, err := b.read()
	if err != nil {
		return err
	}
	messages, err := b.heard(r)
	if err != nil {
		return err
	}
	b.note(achieved(r), "", float64(made-1)/took.Seconds())
	b.note(r.String()+": link messages", "", float64(messages))
	b.noteCosts(r, after.Sub(before.Counters), float64(messages), float64(made))
	b.note(r.String()+": Redis commands a message", "", float64(after.commands-before.commands)/float64(messages))
	b.noteConverged(r.String(), converged, wrong)
	return nil
}

func (b *bench) noteCosts(r rate, used switchtest.Counters, messages, toggles float64) {
	b.note(costOfMessage(r), "us", us(used.CPU)/messages)
	b.note(r.String()+": processor time a toggle", "us", us(used.CPU)/toggles)
	b.note(r.String()+": voluntary switches a toggle", "", float64(used.Voluntary)/toggles)
	b.note(r.String()+": involuntary switches a toggle", "", float64(used.Involuntary)/toggles)
	b.note(r.String()+": wake-ups a toggle", "", float64(used.Runs)/toggles)
}

// The plot finds these by their names.
func achieved(r rate) string      { return r.String() + ": toggles a second" }
func costOfMessage(r rate) string { return r.String() + ": processor time a message" }

func (b *bench) toggler(r rate, ports []string) (*toggler, error) {
	t := &toggler{set: b.admin.Set, rate: r}
	for _, p := range ports {
		index, err := b.sw.Index(p)
		if err != nil {
			return nil, err
		}
		t.ports = append(t.ports, index)
	}
	return t, nil
}

// mostFilled leaves room in the listener's buffer for setting up what is down, which makes more messages than setting
// it down did, and for the kernel's late ones.
const mostFilled = 0.3

// listenAfresh counts from nothing, on hold. Between rates nobody listens: it would keep the kernel's memory and take
// processor time for nothing.
func (b *bench) listenAfresh() (err error) {
	if b.links != nil {
		b.links.Close()
	}
	if b.links, err = b.sw.ListenLinks(nil); err == nil {
		b.links.Hold(true)
	}
	return err
}

// heard is how many messages came since listenAfresh.
func (b *bench) heard(r rate) (int64, error) {
	b.links.Hold(false)
	n, lost := b.settledMessages(), b.links.Lost.Load()
	b.links.Close()
	b.links = nil
	switch {
	case lost:
		return 0, fmt.Errorf("-rates: %v overran the bench's own listener: take a shorter -sweep-time", r)
	case n == 0:
		return 0, fmt.Errorf("-rates: %v made no link message at all", r)
	}
	return n, nil
}

// lostPatience is how many changes in a row have to be waited for in vain, -limit each, until a daemon is taken for
// lost in the storm. Its quantiles are then those of the changes up to there: more would only take time.
const lostPatience = 3

// pressed is the latency on one port while the others are toggled at a rate.
func (b *bench) pressed(r rate) error {
	took, err := b.changeAmid(r, b.sweepChanges)
	b.noteLatency(r.String()+": one change", took)
	return err
}

// changeAmid takes the latency of so many changes of the last port while the others are toggled at a rate.
func (b *bench) changeAmid(r rate, changes int) (took []time.Duration, err error) {
	last := len(b.names) - 1
	others := b.names[:last]
	if r != asFast { // as many as go down in half a second, and up in the other half: a slow rate has both, too
		others = others[:min(last, max(1, int(r)/2))]
	}
	t, err := b.toggler(r, others)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(b.ctx)
	defer stop()
	storm := make(chan error, 1)
	go func() {
		_, _, err := t.run(endless, func() bool { return ctx.Err() != nil })
		storm <- err
	}()
	took, err = b.change(b.names[last:], changes, lostPatience)
	stop()
	if stormErr := <-storm; err == nil {
		err = stormErr
	}
	return took, err
}

// aftermath is what the daemon still does when the storm of the last rate is over and all is written.
func (b *bench) aftermath() error {
	b.converge(b.limit, b.expect(nil))
	return b.watch("after the storm")
}

// ended says how far the counters can be trusted: what a thread did between the last reading and its end is in none.
func (b *bench) ended() error {
	c, err := b.daemon.Counters()
	b.note("threads that ended", "", float64(c.Ended))
	return err
}
