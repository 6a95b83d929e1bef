package main

import (
	"time"
)

// operLook is the ports about which orchagent's oper_status in APPL_DB and the kernel's disagree for good
// (sonic-buildimage#22257, #24689). That field is not ours to put right. Whoever compares tells what was found; a
// difference is one when it was there settleTime ago, too, and the interface is as it was then.
type operLook struct {
	rows    rows[operRow]
	ports   []*port   // of which something has lasted, in the order in which that was found
	again   []*port   // to be looked at again,
	at      time.Time // then
	stirred bool      // ports, or what they differ in, changed since it was last asked
}

// operRow is what was found of a port.
type operRow struct {
	says    string    // empty: nothing
	changed float64   // when the interface had last changed
	since   time.Time // it was first seen
	lasts   bool
	asked   bool // it is among those to be looked at again,
	listed  bool // and among those of which something has lasted
}

// look takes what a comparison has found about a port: says is empty where they agree, changed is when the interface
// last changed.
func (d *operLook) look(p *port, says string, changed float64, now time.Time) {
	if says == "" && !d.rows.has(p) {
		return
	}
	row := d.rows.of(p)
	switch {
	case says == "":
		row.says, row.lasts = "", false
	case says != row.says || changed != row.changed:
		row.says, row.changed, row.since, row.lasts = says, changed, now, false
		d.askAgain(p, now)
	case !row.lasts && now.Sub(row.since) >= settleTime:
		row.lasts, d.stirred = true, true
	}
	d.list(p, row)
}

// list puts a port among those that differ, or out.
func (d *operLook) list(p *port, row *operRow) {
	switch {
	case row.lasts && !row.listed:
		d.ports = append(d.ports, p)
		row.listed, d.stirred = true, true
		p.series.setDiffers(row.says)
	case !row.lasts && row.listed:
		d.ports = without(d.ports, p)
		row.listed, d.stirred = false, true
		p.series.setDiffers("")
	}
}

// askAgain has a port looked at again when what was found may have lasted.
func (d *operLook) askAgain(p *port, now time.Time) {
	row := d.rows.of(p)
	if row.asked {
		return
	}
	row.asked = true
	d.again = append(d.again, p)
	d.at = now.Add(settleTime)
}

// changed notes that a port's interface has changed: what it differs in may be over.
func (d *operLook) changed(p *port, now time.Time) {
	if len(d.ports) > 0 && d.rows.has(p) && d.rows.of(p).listed {
		d.askAgain(p, now)
	}
}

// gone notes that a port has no interface, and so nothing to differ in.
func (d *operLook) gone(p *port) {
	if d.rows.has(p) {
		row := d.rows.of(p)
		row.says, row.lasts = "", false
		d.list(p, row)
	}
}

// found says that something has lasted.
func (d *operLook) found() bool { return len(d.ports) > 0 }

// wait is how long no port is to be looked at again.
func (d *operLook) wait(now time.Time) time.Duration {
	if len(d.again) == 0 {
		return beatInterval
	}
	return max(0, d.at.Sub(now))
}

// take hands out the ports to be looked at again.
func (d *operLook) take() []*port {
	again := d.again
	d.again = nil
	for _, p := range again {
		d.rows.of(p).asked = false
	}
	return again
}

// forget drops a port.
func (d *operLook) forget(p *port) {
	d.gone(p)
	d.again = without(d.again, p)
	d.rows.drop(p)
}

// news are all that differ by now, if that has changed since it was asked last.
func (d *operLook) news() (all []disagreement, stirred bool) {
	if stirred, d.stirred = d.stirred, false; !stirred {
		return nil, false
	}
	for _, p := range d.ports {
		row := d.rows.of(p)
		all = append(all, disagreement{p.name, row.says, row.since})
	}
	return all, true
}
