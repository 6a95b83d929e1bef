package main

// The states of a start, and the steps between them.

// startState is how far a start has come, in SONIC.md's order.
type startState int

const (
	opening      startState = iota // nothing is known yet
	loading                        // the links are listed; CONFIG_DB is to be read
	listingLinks                   // CONFIG_DB is read; the first listing is to end
	deciding                       // both: what becomes of existing interfaces, and is anything announced?
	announcing                     // ports and PortConfigDone go to APPL_DB
	publishing                     // link messages reach STATE_DB; PortInitDone is owed
	complete                       // PortInitDone is acknowledged
	reannouncing                   // APPL_DB has lost the signals: announcing, while ports are published as before
)

var startStates = [...]string{"opening", "loading", "listing", "deciding", "announcing", "publishing", "complete",
	"reannouncing"}

func (s startState) String() string { return startStates[s] }

// startEvent is what takes a start from one state to the next.
type startEvent int

const (
	configRead startEvent = iota
	linksListed
	toAnnounce // decided: a cold start
	toAdopt    // decided: APPL_DB has the ports
	announced
	initDoneSent
	signalsLost
	initDoneLost
)

var startEvents = [...]string{"CONFIG_DB read", "links listed", "decided to announce", "decided to adopt",
	"PortConfigDone acknowledged", "PortInitDone acknowledged", "APPL_DB lost PortConfigDone",
	"APPL_DB lost PortInitDone"}

func (e startEvent) String() string { return startEvents[e] }

// startTable is every step that a start can take. docs/start.md prints it.
var startTable = []struct {
	from startState
	on   startEvent
	to   startState
}{
	{opening, configRead, listingLinks},
	{opening, linksListed, loading},
	{loading, configRead, deciding},
	{listingLinks, linksListed, deciding},
	{deciding, toAnnounce, announcing},
	{deciding, toAdopt, publishing},
	{announcing, announced, publishing},
	{publishing, initDoneSent, complete},
	{publishing, signalsLost, reannouncing},
	{complete, signalsLost, reannouncing},
	{complete, initDoneLost, publishing},
	{reannouncing, announced, publishing},
}
