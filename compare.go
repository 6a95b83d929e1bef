package main

import (
	"log/slog"
	"slices"
	"time"
)

// comparison is the look at kernel, APPL_DB and STATE_DB that happens now and then, and after everything that makes our
// view of them doubtful: what is still to be compared, what was found wrong, and who fights us over it.
type comparison struct {
	m        *metrics
	log      *slog.Logger
	random   random
	interval time.Duration // 0: only what an event asks for
	rows     rows[compareRow]

	next    time.Time // when the next one is due; zero: none is
	all     []*port   // of which the last one began with
	waiting []*port   // to be compared: the rest of these, or others beside them
	list    bool      // STATE_DB's entries are to be listed
	signals bool      // PortConfigDone is to be looked for
	repairs int       // since the last one began
	fights  []*port   // over whose entries another program and we are fighting
}

// compareRow is what is known of a port from comparisons.
type compareRow struct {
	believed bool // its entry was believed to be right, and is being compared
	absent   bool // APPL_DB did not have the port when it was asked
	repairs  int  // in a row, each time it was compared
	rest     int  // comparisons to sit out, in a fight with another writer
	asked    bool // it took part in the last comparison,
	struck   bool // and had to be repaired since that began
}

const (
	compareBatch = 128 // ports compared in one flush, so that live changes go in between
	fightAfter   = 12  // repairs of a port in a row that make it a fight with another writer
	restAtMost   = 64  // comparisons to sit out in a fight
	jitterShare  = 10  // a comparison comes up to a tenth of the interval early
)

// nothingFound is what a read finds of our four fields where there is no entry.
const nothingFound = "- - - -"

// plan sets when the next comparison is due.
func (c *comparison) plan(now time.Time) {
	if c.interval <= 0 {
		c.next = time.Time{}
		return
	}
	c.next = now.Add(c.interval - time.Duration(c.random.below(int64(c.interval)/jitterShare+1)))
}

// soon has the next comparison come when what another one has sent is sure to be carried out.
func (c *comparison) soon(now time.Time) { c.next = now.Add(settleTime) }

// recheck has another one come where none comes by itself, and the last one has found something wrong: whoever was told
// of that is to be told of its end.
func (c *comparison) recheck(wrong bool, now time.Time) {
	if wrong && c.interval <= 0 && c.next.IsZero() {
		c.next = now.Add(recheckPause)
	}
}

// recheckPause is the default of the interval between comparisons.
const recheckPause = time.Minute

// wait is how long none is due.
func (c *comparison) wait(now time.Time) time.Duration {
	if c.next.IsZero() {
		return beatInterval
	}
	return max(0, c.next.Sub(now))
}

// begin has every port compared, the list of all entries, and the signals. What was left of the one before is dropped.
func (c *comparison) begin(all func(each func(p *port))) {
	c.endFights()
	c.waiting = c.all[:0]
	all(func(p *port) {
		row := c.rows.of(p)
		row.struck = false
		if row.asked = row.rest == 0; !row.asked {
			row.rest--
			return
		}
		c.waiting = append(c.waiting, p)
	})
	slices.SortFunc(c.waiting, func(a, b *port) int { return comparePorts(a.name, b.name) })
	c.all = c.waiting
	clear(c.all[len(c.all):cap(c.all)]) // ports that are gone
	c.askAll()
	c.repairs = 0
}

// endFights ends those over ports whose entries the last comparison did not have to repair, or found nothing of.
func (c *comparison) endFights() {
	for _, p := range slices.Clone(c.fights) {
		if row := c.rows.of(p); row.asked && !row.struck {
			row.repairs = 0
			c.fights = without(c.fights, p)
		}
	}
}

// askList has the entries listed with the next flush, askSignals the signals looked for.
func (c *comparison) askList()    { c.list = true }
func (c *comparison) askSignals() { c.signals = true }

// ask takes what is to be asked with the flush at hand; what is asked for meanwhile is for the next one.
func (c *comparison) ask() (list, signals bool) {
	list, signals = c.list, c.signals
	c.list, c.signals = false, false
	return list, signals
}

// unanswered notes that what was asked has no answer.
func (c *comparison) unanswered(list, signals bool) {
	c.list, c.signals = c.list || list, c.signals || signals
}

// fight is the first of the ports that are fought over, and how many there are.
func (c *comparison) fight() (first string, ports int) {
	if len(c.fights) > 0 {
		first = c.fights[0].name
	}
	return first, len(c.fights)
}

// outcome is how many repairs a comparison needed, and whether it is over.
func (c *comparison) outcome() (repairs int, over bool) {
	return c.repairs, !c.list && len(c.waiting) == 0
}

// askAll has the entries listed and the signals looked for with the next flush.
func (c *comparison) askAll() { c.list, c.signals = true, true }

// pending says that there is something to ask.
func (c *comparison) pending() bool { return c.list || c.signals || len(c.waiting) > 0 }

// take hands out the next ports to be compared, valid until the next comparison begins.
func (c *comparison) take() []*port {
	batch := c.waiting[:min(compareBatch, len(c.waiting))]
	c.waiting = c.waiting[len(batch):]
	return batch
}

// believe notes that a port is being compared, and whether its entry was believed to be right.
func (c *comparison) believe(p *port, right bool) { c.rows.of(p).believed = right }

// forget drops a port.
func (c *comparison) forget(p *port) {
	c.rows.drop(p)
	c.fights = without(c.fights, p)
	c.waiting = without(c.waiting, p)
}

// judge says what came out for one port's write. gone says that the port has no interface; begun, that entries from
// before a warm start are still being sorted out: to remove those is no repair. It returns causeRepaired or causeLate
// if the entry was wrong, or missing.
func (c *comparison) judge(p *port, w *portWrite, gone, begun bool) (why cause) {
	row := c.rows.of(p)
	believed := row.believed
	row.believed = false
	if w.err != nil {
		return causeUnknown
	}
	if w.ask && !w.exists {
		row.absent = true
	}
	if w.written && row.absent {
		why = causeLate
		row.absent = false
		c.m.repairLate.Inc()
		c.log.Info("published: the port entered APPL_DB after its last link message", "port", p.name)
	}
	switch {
	case w.del == delIfOurs && w.deleted && gone:
		if !begun {
			return c.repair(p, &c.m.repairStale, "an entry without an interface", w.found, "none")
		}
	case believed && w.same:
		row.repairs = 0
		c.fights = without(c.fights, p)
	case believed && w.written && w.found == nothingFound:
		return c.repair(p, &c.m.repairLost, "an entry was lost", w.found, w.describe())
	case believed && w.written:
		return c.repair(p, &c.m.repairChanged, "another writer changed an entry", w.found, w.describe())
	}
	return why
}

// repair counts and logs one repair. A dozen of the same port in a row are a fight: it is said once, and the port is
// left alone for longer and longer.
func (c *comparison) repair(p *port, kind *counter, what, found, right string) cause {
	kind.Inc()
	c.repairs++
	row := c.rows.of(p)
	row.repairs++
	row.struck = true
	switch {
	case row.repairs < fightAfter:
		c.log.Warn("repaired: "+what, "port", p.name, "found", found, "right", right)
	case row.repairs == fightAfter:
		c.log.Error("another program keeps changing this port's entry: repairing it less and less often",
			"port", p.name, "found", found, "right", right)
		row.rest = 1
		c.fights = append(c.fights, p)
	default:
		row.rest = restOf(row.repairs)
	}
	return causeRepaired
}

// restOf is how many comparisons a port sits out after so many repairs in a row: doubling, up to restAtMost. The count
// has no end, and a shift by it would.
func restOf(repairs int) int {
	rest := 1
	for range min(repairs-fightAfter, restAtMost) {
		rest = min(2*rest, restAtMost)
	}
	return rest
}

// again has ports compared once more, before the next comparison.
func (c *comparison) again(ports []*port) {
	for _, p := range ports {
		if c.rows.of(p).rest == 0 && !slices.Contains(c.waiting, p) {
			c.waiting = append(c.waiting, p)
		}
	}
}

// entered notes that a port is in APPL_DB (again), which an event has told.
func (c *comparison) entered(p *port) { c.rows.of(p).absent = false }

// describe is an entry as texts describes one that was read.
func (w *portWrite) describe() string {
	return "ok " + upDown(w.state.oper) + " " + upDown(w.state.admin) + " " + w.mtuString()
}
