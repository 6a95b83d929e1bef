package main

import "log/slog"

const featureUsage = "tell SONiC's sysmonitor in STATE_DB's FEATURE|swss whether PortInitDone is sent: up_status, " +
	"fail_reason, update_time"

// readiness is what SONiC's sysmonitor is told of the start, if it was asked for: the row is the container's, and not
// ours (SONIC.md, "What supervises it").
type readiness struct {
	on  bool
	log *slog.Logger

	told readyWord // what STATE_DB has, as far as is known; readyUnsaid: that is not known
	sent readyWord // what is on its way there; readyUnsaid: nothing, or it was doubted meanwhile
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

// send notes that a word is on its way, and returns it.
func (r *readiness) send(word readyWord) readyWord {
	r.sent = word
	return word
}

// landed notes that it is there; refused says why STATE_DB does not take it, which is said once, and no port waits for.
func (r *readiness) landed(refused error) {
	if r.sent == readyUnsaid {
		return
	}
	r.told = r.sent
	if refused != nil {
		r.log.Error("STATE_DB refuses "+featureTable+" "+dockerName, "err", refused, "remedy", "look at the key's type")
	}
}

// doubt is for a STATE_DB that may have lost it.
func (r *readiness) doubt() { r.told, r.sent = readyUnsaid, readyUnsaid }
