package main

import (
	"time"
)

// settleTime is how long a difference has to last before it is one: the databases follow the kernel, and orchagent the
// ASIC, within fractions of a second.
const settleTime = 2 * time.Second

// differs is the ports about which two sources disagree for good, and which are not for us to put right: APPL_DB's
// oper_status is orchagent's word (sonic-buildimage#22257, #24689). Whoever compares tells it what was found; a
// difference is one when it was there settleTime ago, too, and the interface is as it was then.
type differs struct {
	rows    rows[differRow]
	ports   []*port   // of which something has lasted, in the order in which that was found
	again   []*port   // to be looked at again,
	at      time.Time // then
	stirred bool      // ports, or what they differ in, changed since it was last asked
}

// differSource is what is compared with the kernel.
type differSource int

const (
	differOper    differSource = iota // APPL_DB's oper_status
	differState                       // STATE_DB's entry, where nobody puts it right
	differSources = iota
)

// differRow is what is known of a port.
type differRow struct {
	found  [differSources]found
	asked  bool // it is among those to be looked at again
	listed bool // and among those of which something has lasted
}

// found is what a source and the kernel disagree in.
type found struct {
	says    string    // empty: nothing
	changed float64   // when the interface had last changed
	since   time.Time // it was first seen
	lasts   bool
}

// look takes what a comparison has found about a port: says is empty where they agree, changed is when the interface
// last changed.
func (d *differs) look(p *port, source differSource, says string, changed float64, now time.Time) {
	if says == "" && !d.rows.has(p) {
		return
	}
	row := d.rows.of(p)
	f := &row.found[source]
	switch {
	case says == "":
		*f = found{}
	case says != f.says || changed != f.changed:
		*f = found{says: says, changed: changed, since: now}
		d.askAgain(p, now)
	case !f.lasts && now.Sub(f.since) >= settleTime:
		f.lasts = true
	}
	d.list(p, row)
}

// list puts a port among those that differ, or out.
func (d *differs) list(p *port, row *differRow) {
	says := row.says()
	switch listed := says != ""; {
	case listed && !row.listed:
		d.ports = append(d.ports, p)
		row.listed, d.stirred = true, true
	case !listed && row.listed:
		d.ports = without(d.ports, p)
		row.listed, d.stirred = false, true
	}
	p.series.setDiffers(says)
}

// says is what a port differs in, empty: nothing that has lasted.
func (row *differRow) says() string {
	for i := range row.found {
		if f := &row.found[i]; f.lasts {
			return f.says
		}
	}
	return ""
}

// askAgain has a port looked at again when what was found may have lasted.
func (d *differs) askAgain(p *port, now time.Time) {
	row := d.rows.of(p)
	if row.asked {
		return
	}
	row.asked = true
	d.again = append(d.again, p)
	d.at = now.Add(settleTime)
}

// changed notes that a port's interface has changed: what it differs in may be over.
func (d *differs) changed(p *port, now time.Time) {
	if len(d.ports) > 0 && d.rows.has(p) && d.rows.of(p).listed {
		d.askAgain(p, now)
	}
}

// gone notes that a port has no interface, and so nothing to differ in.
func (d *differs) gone(p *port) {
	if d.rows.has(p) {
		row := d.rows.of(p)
		row.found = [differSources]found{}
		d.list(p, row)
	}
}

// wait is how long no port is to be looked at again.
func (d *differs) wait(now time.Time) time.Duration {
	if len(d.again) == 0 {
		return beatInterval
	}
	return max(0, d.at.Sub(now))
}

// take hands out the ports to be looked at again.
func (d *differs) take() []*port {
	again := d.again
	d.again = nil
	for _, p := range again {
		d.rows.of(p).asked = false
	}
	return again
}

// forget drops a port.
func (d *differs) forget(p *port) {
	d.gone(p)
	d.again = without(d.again, p)
	d.rows.drop(p)
}

// differing is which ports differ, for whoever asks.
type differing struct {
	ports int
	first []string  // some of them, and in what
	since time.Time // the first was seen
}

// differingNamed is how many ports health names.
const differingNamed = 3

// news is which ports differ, nil: none does; and whether that is news.
func (d *differs) news() (now *differing, is bool) {
	if !d.stirred {
		return nil, false
	}
	d.stirred = false
	if len(d.ports) == 0 {
		return nil, true
	}
	now = &differing{ports: len(d.ports)}
	for i, p := range d.ports {
		for _, f := range d.rows.of(p).found {
			if f.lasts && (now.since.IsZero() || f.since.Before(now.since)) {
				now.since = f.since
			}
		}
		if i < differingNamed {
			now.first = append(now.first, p.name+" ("+d.rows.of(p).says()+")")
		}
	}
	return now, true
}
