package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// faultWindow is how far apart orchagent's word and the kernel's message about the same loss may be. The word is some
// tens of microseconds later most of the time; but the kernel may keep a loss of carrier back for a second.
const faultWindow = 2 * time.Second

// recordRow is what is known of a port's ring.
type recordRow struct {
	ring     []byte // nil: there is none left
	looked   bool   // whether it has one
	last     portRecord
	any      bool   // last is one, though its number may be a later record's that says nothing of the link
	settled  uint32 // up to this number it is known what was decided,
	sent     uint32 // and up to this one it is in flight
	sentWall time.Time
	faults   faults        // that orchagent has told of, and no loss of carrier so far,
	faultsAt time.Duration // by the machine's clock
}

// recall finds what a ring says of its port. What was pending when the daemon before ended is settled by our first
// write.
func (row *recordRow) recall(ring []byte) {
	row.ring = ring
	var all [portEvents]recordGlance // whole records would have the loop's stack grow
	var there newestNumber
	for i := range all {
		if all[i] = glanceAt(eventAt(ring, uint32(i))); all[i].number != 0 {
			there.add(all[i].number)
		}
	}
	newest := there.get()
	var pending uint32
	last := -1 // what a repair found says nothing of the link
	for i := range all {
		e := &all[i]
		if e.number == 0 || newest-e.number > portEvents {
			continue
		}
		if e.unsettled && (pending == 0 || newer(pending, e.number)) {
			pending = e.number
		}
		if e.ofLink && (last < 0 || newer(e.number, all[last].number)) {
			last = i
		}
	}
	var state portRecord
	if last >= 0 {
		state, _ = takePortRecord(eventAt(ring, uint32(last)))
	}
	row.any = state.number != 0
	state.number = newest
	row.last, row.settled = state, newest
	if pending != 0 {
		row.settled = pending - 1
	}
	row.sent = row.settled
}

// recordGlance is what recall has to know of each record.
type recordGlance struct {
	number            uint32 // 0: there is no whole one
	unsettled, ofLink bool
}

func glanceAt(b []byte) recordGlance {
	e, whole := takePortRecord(b)
	if !whole {
		return recordGlance{}
	}
	return recordGlance{e.number, e.unsettled(), e.ofLink()}
}

// resume recalls a ring, but what is known of the interface already: a ring that takes the place of one that failed may
// say less.
func (row *recordRow) resume(ring []byte) {
	known, last := row.any, row.last
	row.recall(ring)
	if known {
		last.number = row.last.number
		row.last, row.any = last, true
	}
}

// leaveRing is for a ring that is no more.
func (row *recordRow) leaveRing() {
	row.ring, row.looked = nil, false
	row.settled, row.sent = 0, 0
}

// causeOf is why a state came after another one. any: there was one; same: of the same interface.
func causeOf(any, same, listed bool, was, e *portRecord, flags uint32) cause {
	carrier := flags&unix.IFF_LOWER_UP != 0
	switch {
	case listed:
		return causeListed
	case !any:
		return causeCreated
	case !same:
		return causeRecreated
	case was.now.admin && !e.now.admin:
		return causeAdminDown
	case !was.now.admin && e.now.admin:
		return causeAdminUp
	case was.now.oper && !e.now.oper && !carrier:
		return causeCarrierLost
	case e.now.oper && (!was.now.oper || e.missed > 0):
		return causeCarrierBack
	case !e.now.oper && e.missed > 0 && !carrier:
		return causeCarrierLost
	case e.now.mtu != was.now.mtu:
		return causeMTU
	}
	return causeUnknown
}

// early are the faults that orchagent has told of before the kernel told of the loss that a record is about.
func (row *recordRow) early(e *portRecord, now time.Duration) (seen faults) {
	if row.faults != 0 && e.lost() {
		if now-row.faultsAt <= faultWindow {
			seen = row.faults
		}
		row.faults = 0
	}
	return seen
}
