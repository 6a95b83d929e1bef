package main

import "log/slog"

const featureUsage = "tell SONiC's sysmonitor in STATE_DB's FEATURE|swss whether PortInitDone is sent: up_status, " +
	"fail_reason, update_time"

// readiness is what SONiC's sysmonitor is told of the start, if it was asked for: the row is the container's, and not
// ours (SONIC.md, "What supervises it").
type readiness struct {
	on  bool
	log *slog.Logger

	odd  bool      // its key is of another type, and that was said
	told readyWord // what STATE_DB has, as far as is known; readyUnsaid: that is not known
}

// owes is what STATE_DB is to be told, readyUnsaid: nothing. done says that PortInitDone is sent.
func (r *readiness) owes(done bool) readyWord {
	word := readyNo
	if done {
		word = readyYes
	}
	if !r.on || word == r.told {
		return readyUnsaid
	}
	return word
}

// landed notes that a word is there; refused says why STATE_DB does not take it, which is said once, and no port waits
// for.
func (r *readiness) landed(word readyWord, refused error) {
	if word == readyUnsaid {
		return
	}
	r.told = word
	was := r.odd
	if r.odd = refused != nil; r.odd && !was {
		r.log.Error("STATE_DB refuses "+featureTable+" "+dockerName, "err", refused, "remedy", "look at the key's type")
	}
}

// doubt is for a STATE_DB that may have lost it: it is asked again.
func (r *readiness) doubt() { r.told = readyUnsaid }
