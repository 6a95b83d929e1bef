package main

import "time"

// divergence is what an observer knows of entries that are not what the kernel says: which, how, and since when.
// Whoever writes them has its time: what lasts is told.
type divergence struct {
	rows    rows[divergenceRow]
	ports   []*port   // that differ
	next    time.Time // when they are read again
	changed bool      // since they were told
}

// divergenceRow is a port's entry.
type divergenceRow struct {
	says    string // how it differs, empty: it does not
	found   string // what it held
	since   time.Time
	touched bool // somebody has written it since it was compared
	heard   bool // the kernel has told of the port since
}

// readAgain is how often an entry that differs is read, whatever events tell.
const readAgain = time.Second

// touch notes that somebody wrote a port's entry, and hear that the kernel told of the port.
func (d *divergence) touch(p *port) { d.rows.of(p).touched = true }
func (d *divergence) hear(p *port)  { d.rows.of(p).heard = true }

// judge takes what a comparison found. A difference is another one, with a time of its own, if the entry changed, or
// may have: then somebody writes, and is only late.
func (d *divergence) judge(p *port, w *portWrite, now time.Time) {
	if !w.compared {
		return
	}
	row := d.rows.of(p)
	was := row.says
	if w.differs == "" {
		if was != "" {
			d.ports = without(d.ports, p)
		}
	} else if was == "" {
		d.ports = append(d.ports, p)
		if len(d.ports) == 1 {
			d.next = now.Add(readAgain)
		}
	}
	if was == "" || w.found != row.found || row.touched && row.heard {
		row.since = now
	}
	d.changed = d.changed || was != "" || w.differs != ""
	row.says, row.found, row.touched, row.heard = w.differs, w.found, false, false
}

// differs says that a port's entry does.
func (d *divergence) differs(p *port) bool { return d.rows.of(p).says != "" }

// due are the ports to be read again now.
func (d *divergence) due(now time.Time) []*port {
	if len(d.ports) == 0 || now.Before(d.next) {
		return nil
	}
	d.next = now.Add(readAgain)
	return d.ports
}

// wait is how long none is.
func (d *divergence) wait(now time.Time) time.Duration {
	if len(d.ports) == 0 {
		return beatInterval
	}
	return max(0, d.next.Sub(now))
}

// news are all that differ by now, if that has changed since it was asked last.
func (d *divergence) news() (all []disagreement, changed bool) {
	if changed, d.changed = d.changed, false; !changed {
		return nil, false
	}
	for _, p := range d.ports {
		row := d.rows.of(p)
		all = append(all, disagreement{p.name, row.says, row.since})
	}
	return all, true
}

func (d *divergence) forget(p *port) { d.rows.drop(p) }
