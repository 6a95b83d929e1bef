package main

import "log/slog"

// warmRestart is SONiC's warm restart as WARM_RESTART_TABLE|portsyncd tells it: the switch software starts again while
// ports go on forwarding (SONIC.md, "Warm restart").
type warmRestart struct {
	m   *metrics
	log *slog.Logger

	state    string // shown
	owed     string // to be written with the next flush, empty: STATE_DB has it
	counting bool   // what becomes of the entries that the start found is being counted
	rows     rows[warmRow]
}

// warmRow is a port's entry as a warm start found it.
type warmRow struct{ found bool } // one that was found and not corrected yet

// enter shows a state, and has it written with the next flush if STATE_DB does not have it yet.
func (w *warmRestart) enter(state string, write bool) {
	w.state = state
	w.m.warmStart.SetBool(state != warmDisabled)
	if write {
		w.owed = state
	}
	for i, name := range warmStates {
		w.m.warmState[i].SetBool(name == state)
	}
	w.log.Log(ctxNone, levelNotice, "warm restart state", "state", state)
}

// begin is for a start that is warm: from here on entries that are kept, corrected and removed are counted.
func (w *warmRestart) begin() {
	w.counting = true
	w.enter(warmInitialized, false)
	w.enter(warmRestored, true)
}

// found notes an entry that a start found; kept says that it is right as it is.
func (w *warmRestart) found(p *port, kept bool) {
	if !w.counting {
		return
	}
	w.rows.of(p).found = true
	if kept {
		w.m.warmKept.Inc()
	}
}

// judge counts what a flush did to a port's entry.
func (w *warmRestart) judge(p *port, done *portWrite) {
	if !w.counting || done.err != nil {
		return
	}
	switch row := w.rows.of(p); {
	case done.written && row.found:
		row.found = false
		w.m.warmRepaired.Inc()
	case done.deleted && !done.written:
		w.m.warmGone.Inc()
	}
}

// settled ends a warm restart: the kernel was listed, every configured port was seen, and nothing is left to write or
// to compare.
func (w *warmRestart) settled() {
	if w.state == warmRestored {
		w.counting = false
		w.enter(warmReconciled, true)
	}
}

// acknowledged notes that a state was written.
func (w *warmRestart) acknowledged(state string) {
	if w.owed == state {
		w.owed = ""
	}
}

// owes is the state that is to be written with the next flush, empty: none.
func (w *warmRestart) owes() string { return w.owed }

// underWay says that entries from before a warm start are still being sorted out.
func (w *warmRestart) underWay() bool { return w.counting }

func (w *warmRestart) forget(p *port) { w.rows.drop(p) }
