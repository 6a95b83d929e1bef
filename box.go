package main

import (
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// A box is what the process looks after: one switch, or with -db.global the namespaces of one with several ASICs, which
// come and go. Each has its own metrics, health and recorder; here is how they become one answer. No trouble of one
// namespace is the process's failure before all have it.

// box is the namespaces, and what the process has once.
type box struct {
	m       *metrics // of the process; without -db.global also of the only namespace
	health  *health  // the same
	several bool
	book    *peerBook // of the instances, nil: we are alone
	buffers bufferShare
	idle    atomic.Bool // there are namespaces, and all are fabric ASICs: nothing is to be looked after
	parts   atomic.Pointer[[]*unit]
}

// unit is what one namespace publishes, for anybody to read.
type unit struct {
	namespace string // empty: the only one
	m         *metrics
	health    *health
	record    *recorder
	look      diffOptions // where its ports are from
	log       *slog.Logger
	daemons   *daemonFinder // of an observer, nil: we write
	instance  *instance
	teller    *peerTeller // nil: nobody is told of us
}

// observes makes it an observer's, if it is to be.
func (u *unit) observes(observe bool) {
	if observe {
		u.daemons = &daemonFinder{netns: u.look.netns}
	}
}

// newBox makes the box of a process that looks after one switch.
func newBox(u *unit) *box {
	b := &box{m: u.m, health: u.health}
	b.put([]*unit{u})
	return b
}

// newSeveral makes one whose namespaces are still to be put in.
func newSeveral(m *metrics, h *health) *box {
	h.listed.Store(true) // what a namespace waits for is its own affair
	b := &box{m: m, health: h, several: true}
	b.put(nil)
	return b
}

func (b *box) put(units []*unit) { b.parts.Store(&units) }

// units are those of now, in order.
func (b *box) units() []*unit { return *b.parts.Load() }

// Append renders all metrics: a head for each family, and under it the process's value or those of each namespace.
func (b *box) Append(text []byte) []byte {
	if !b.several {
		return b.m.Append(text)
	}
	b.m.process.Read()
	units := b.units()
	for i := range b.m.families {
		f := &b.m.families[i]
		text = append(text, b.m.heads[i]...)
		if f.ofProcess() || f.value == b.m.checked {
			text = f.value.appendSamples(text, f.name, "")
		}
		if f.ofProcess() {
			continue
		}
		for _, u := range units {
			text = u.m.families[i].value.appendSamples(text, f.name, u.m.base)
		}
	}
	return text
}

// Update evaluates all health into the metrics, and logs what has changed. It returns a line for each check that is not
// ok, and the process's level.
func (b *box) Update(now time.Time, log *slog.Logger) (reasons []string, worst level) {
	checks, worst := b.health.Update(now, b.m, log)
	for _, c := range checks {
		if c.level != ok {
			reasons = append(reasons, c.name+": "+c.reason)
		}
	}
	if !b.several {
		b.m.health.Set(worst.score())
		return reasons, worst
	}
	of := make([]level, 0, len(b.units()))
	for _, u := range b.units() {
		checks, l := u.health.Update(now, u.m, u.log)
		u.m.health.Set(l.score())
		of = append(of, l)
		for _, c := range checks {
			if c.level != ok {
				reasons = append(reasons, u.namespace+": "+c.name+": "+c.reason)
			}
		}
	}
	worst = max(worst, together(of))
	b.m.health.Set(worst.score())
	return reasons, worst
}

// together is the level of a process whose namespaces have these: failed only when all are.
func together(of []level) level {
	switch {
	case len(of) == 0:
		return ok
	case slices.Min(of) == failed:
		return failed
	case slices.Max(of) != ok:
		return degraded
	}
	return ok
}

// Alive returns why a supervisor should start the process again; nothing is good news.
func (b *box) Alive(now time.Time) (failing []string) {
	if !b.several {
		return b.health.Alive(now)
	}
	for _, u := range b.units() {
		why := u.health.Alive(now)
		if len(why) == 0 { // the others would be hurt
			return nil
		}
		failing = append(failing, u.prefixed(why)...)
	}
	return failing
}

// Ready returns why the switch cannot rely on what is published, a line for each reason.
func (b *box) Ready(now time.Time) (failing []string) {
	if !b.several {
		return b.units()[0].ready(now)
	}
	failing = b.health.unready(now)
	if len(b.units()) == 0 && !b.idle.Load() {
		failing = append(failing, "no namespace is looked after yet")
	}
	for _, u := range b.units() {
		failing = append(failing, u.prefixed(u.ready(now))...)
	}
	return failing
}

// ready returns why the switch cannot rely on what is published of a namespace, or on this standby to take over.
func (u *unit) ready(now time.Time) (failing []string) {
	if u.instance.role() == roleStandby {
		failing = u.health.standbyReady(now)
		if len(failing) == 0 && !u.instance.ready.told() {
			failing = []string{"lock: the others cannot see yet that this standby is ready"}
		}
		return failing
	}
	return u.health.Ready(now, u.m.Pending())
}

// well is what a process says that is ready: for what, if that is not to write.
func (b *box) well() string {
	standby := func(u *unit) bool { return u.instance.role() == roleStandby }
	if all := b.units(); len(all) > 0 && !slices.ContainsFunc(all, func(u *unit) bool { return !standby(u) }) {
		return "standby, ready"
	}
	return "ok"
}

// prefixed has each line begin with the namespace.
func (u *unit) prefixed(lines []string) []string {
	for i := range lines {
		lines[i] = u.namespace + ": " + lines[i]
	}
	return lines
}

// listed says that the first listings of all links are complete, but for those of namespaces that are not there, or
// that there is nothing to list.
func (b *box) listed() bool {
	some := b.idle.Load()
	for _, u := range b.units() {
		switch {
		case u.health.listed.Load():
			some = true
		case !u.health.excused():
			return false
		}
	}
	return some
}

// excused says that every loop waits for something that no starting again brings about.
func (b *box) excused() bool {
	busy := func(u *unit) bool { return !u.health.excused() }
	return !slices.ContainsFunc(b.units(), busy)
}

// turns is how often the loops have turned.
func (b *box) turns() (n uint64) {
	for _, u := range b.units() {
		n += u.health.turns.Load()
	}
	return n
}

// messages is how many link messages there were.
func (b *box) messages() (n uint64) {
	for _, u := range b.units() {
		n += u.m.messages.Load()
	}
	return n
}

// trim gives memory back that only a start or a storm has needed.
func (b *box) trim() {
	for _, u := range b.units() {
		u.m.trim()
		u.record.trim()
	}
	b.buffers.drop()
	trimHeap()
}
