package main

import "strconv"

// The words of the flight recorder.

// cause is why a port's state changed, as far as the kernel says. It is never guessed.
type cause uint8

const (
	causeUnknown cause = iota
	causeAdminDown
	causeAdminUp
	causeCarrierLost
	causeCarrierBack
	causeMTU
	causeCreated
	causeDeleted
	causeRecreated
	causeRenamed
	causeListed // a listing has it otherwise than it was known: at a start, or after messages were lost
	causeRepaired
	causeLate
	causeLeftOver // rule 5: of the switch software's previous run
)

var causes = [...]string{"unknown", "admin down", "admin up", "carrier lost", "carrier back", "MTU changed", "created",
	"deleted", "created again", "renamed", "found by a listing", "repaired", "published late", "left-over"}

func (c cause) String() string {
	if int(c) < len(causes) {
		return causes[c]
	}
	return causes[causeUnknown]
}

// outcomeKind is what was decided about STATE_DB.
type outcomeKind uint8

const (
	outcomePending   outcomeKind = iota // not known yet
	outcomeWritten                      // written, and acknowledged
	outcomeSame                         // STATE_DB had it already
	outcomeAbsent                       // not written: APPL_DB does not have the port (rule 4)
	outcomeDeleted                      // the entry is deleted
	outcomeMerged                       // written with a later change, or with what came of both
	outcomeFailed                       // the databases did not take it, and are asked again
	outcomeNoMessage                    // a message that says nothing of the device (rule 2)
	outcomeLeftOver                     // nothing is written of a left-over (rule 5)
)

var outcomes = [...]string{"pending", "written", "no difference", "not in APPL_DB", "deleted",
	"written with a later one", "failed, trying again", "ignored: bridge or LAG", "ignored: left-over"}

// final says that nothing else follows: a port that APPL_DB does not have may enter it.
func (o outcomeKind) final() bool {
	return o != outcomePending && o != outcomeFailed && o != outcomeAbsent
}

func (o outcomeKind) String() string {
	if int(o) < len(outcomes) {
		return outcomes[o]
	}
	return outcomes[outcomePending]
}

// faults are orchagent's words for why a port went down, a bit each, as SAI numbers them (saiport.h,
// sai_port_error_status_t).
type faults uint16

// faultWords are what orchagent calls them (portsorch.cpp of sonic-swss).
var faultWords = [...]string{"mac_local_fault", "mac_remote_fault", "fec_sync_loss", "fec_alignment_loss",
	"high_ser_error", "high_ber_error", "crc_rate", "data_unit_crc_error", "data_unit_size",
	"data_unit_misalignment_error", "code_group_error", "signal_local_error", "no_rx_reachability"}

// words are all of them; one that has no name here has its number.
func (f faults) words() (words []string) {
	for i := range 16 {
		switch {
		case f&(1<<i) == 0:
		case i < len(faultWords):
			words = append(words, faultWords[i])
		default:
			words = append(words, "error_"+strconv.Itoa(i))
		}
	}
	return words
}

// ownKind is what happened to the daemon.
type ownKind uint8

const (
	ownUnknown ownKind = iota
	ownStarted
	ownStopped
	ownListed
	ownDecided
	ownConfigDone
	ownInitDone
	ownOverrun
	ownOutage
	ownBack
	ownHealth
	ownNamespace
	ownLock
)

var ownKinds = [...]string{"unknown", "started", "stopped", "links listed", "start decided", "PortConfigDone sent",
	"PortInitDone sent", "link messages lost", "databases down", "databases back", "health",
	"network namespace", "lock"}

func (k ownKind) String() string {
	if int(k) < len(ownKinds) {
		return ownKinds[k]
	}
	return ownKinds[ownUnknown]
}
