package main

import (
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Names of differences on purpose.
const (
	ownRows      = "rows of ours in STATE_DB: PORTSYNCD_…, state in WARM_RESTART_TABLE"
	countFollows = "PortConfigDone's count follows CONFIG_DB"
	announced    = "APPL_DB has lost the signals, or a warm start finds no PortConfigDone there: B announces again"
	initWaits    = "PortInitDone: B waits for ports that were configured later"
	initDropped  = "PortInitDone: B waits neither for ports that CONFIG_DB dropped nor for APPL_DB to have all"
	levels       = "B publishes a port that APPL_DB has only after its link message"
	renames      = "B deletes the entry of an interface that was renamed"
	staleGone    = "B deletes an entry with a state that has no interface, with a comparison"
	identical    = "A writes what is there already"
	gathered     = "of several changes at once, B writes what came of them"
	comesLater   = "an entry that others changed: A writes it with any link message, B with the next comparison"
	reused       = "an ifindex that an old interface had: A ignores the new one that has it"
	ends         = "the daemon A has ended by itself: B has to be right without it"
	stays        = "the daemon alone was started again: A would set the ports down, and B has to be right without it"
	still        = "what differed before, and nobody has written since"
)

// explain returns what differs by accident, and the names of what differs on purpose. Beside A, B has to be right.
func (p *past) explain(a, b picture, last map[difference]string) (differs []difference, names map[difference]string) {
	names = map[difference]string{}
	if p.absent {
		return p.unsound(b), names
	}
	if !a.has("daemon") && b.has("daemon") && (p.spoilt || fatal(b)) {
		names[difference{"daemon", nothing, b.of("daemon")}] = ends
		return p.unsound(b), names
	}
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, what := range slices.Sorted(maps.Keys(all)) {
		d := difference{what, a.of(what), b.of(what)}
		if d.a == d.b {
			continue
		}
		name := p.why(d, a, b, last)
		if name == "" && !strings.HasPrefix(what, "event ") && last[d] != "" {
			name = still
		}
		if name == "" {
			differs = append(differs, d)
		} else {
			names[d] = name
		}
	}
	return append(differs, p.unsound(b)...), names
}

func (p *past) why(d difference, a, b picture, last map[difference]string) string {
	words := append(strings.SplitN(d.what, " ", 4), "", "", "")
	switch {
	case strings.HasPrefix(d.what, "state PORTSYNCD_"), p.warmWord(d):
		return ownRows
	case strings.HasPrefix(d.what, "published "):
		return pushes(d, a, b, last)
	case p.hasty && words[0] == "event" && a.of(strings.Join(words[1:3], " ")) == b.of(strings.Join(words[1:3], " ")):
		return gathered
	case d.what == "appl PORT_TABLE_KEY_SET": // its members are compared, too
		return countFollows
	case words[0] == "event" && words[1] == "state":
		return p.whyState(strings.TrimPrefix(words[2], "PORT_TABLE|"), d, a, b)
	case words[0] == "state" && strings.HasPrefix(words[1], "PORT_TABLE|"):
		return p.whyState(strings.TrimPrefix(words[1], "PORT_TABLE|"), d, a, b)
	case strings.Contains(d.what, "PortInitDone") && d.a == nothing: // whether B is right, unsound says
		return initDropped
	case strings.Contains(d.what, "PortInitDone"):
		return initWaits
	case strings.Contains(d.what, "PortConfigDone") && p.lost:
		return announced
	case strings.Contains(d.what, "PortConfigDone") && p.configed:
		return countFollows
	case p.lost && d.a == nothing && p.isTold(d):
		return announced
	}
	return ""
}

// warmWord says that a difference is a state that B has in WARM_RESTART_TABLE.
func (p *past) warmWord(d difference) bool {
	allowed := []string{"disabled"}
	if p.warm {
		allowed = []string{"initialized", "restored", "reconciled"}
	}
	return d.what == "state WARM_RESTART_TABLE|portsyncd state" && slices.Contains(allowed, d.b)
}

// pushes is about how often orchagent was told of something: once for each key that only one of them has pushed, or had
// pushed before, which the other one has caught up with.
func pushes(d difference, a, b picture, last map[difference]string) string {
	all, differing := maps.Clone(a), 0
	maps.Copy(all, b)
	for what := range all {
		pushed := strings.HasPrefix(what, "event appl _PORT_TABLE:") && strings.HasSuffix(what, " hset")
		if a.has(what) != b.has(what) && (pushed || strings.HasPrefix(what, "appl PORT_TABLE_KEY_SET ")) {
			differing++
		}
	}
	for d := range last {
		if strings.HasPrefix(d.what, "appl PORT_TABLE_KEY_SET ") {
			differing++
		}
	}
	times := func(n string) int { i, _ := strconv.Atoi(n); return i }
	if n := times(d.a) - times(d.b); max(n, -n) <= differing {
		return countFollows
	}
	return ""
}

// isTold says that APPL_DB has something that CONFIG_DB has said of a port.
func (p *past) isTold(d difference) bool {
	what, event := strings.CutPrefix(d.what, "event ")
	if event {
		what = what[:max(0, strings.LastIndex(what, " "))]
	}
	for _, of := range []string{"appl _PORT_TABLE:", "appl PORT_TABLE:", "appl PORT_TABLE_KEY_SET "} {
		row, is := strings.CutPrefix(what, of)
		switch {
		case !is:
		case event, strings.HasSuffix(of, " "):
			return p.told[row+" hash"]
		default:
			return p.told[row+" "+d.b]
		}
	}
	return false
}

// whyState is about a port's entry in STATE_DB.
func (p *past) whyState(port string, d difference, a, b picture) string {
	key := "state PORT_TABLE|" + port
	link := b["link "+port]
	index, _, _ := strings.Cut(link, " ")
	current := p.current(port)
	right := current && b.entry(key) == asEntry(link)
	event := strings.HasPrefix(d.what, "event")
	switch {
	case event && d.b == nothing && strings.HasSuffix(d.what, " hset") && a.entry(key) == b.entry(key):
		return identical
	case event && (p.at[0] == "batch" || p.at[0] == "stall" || p.hasty) && a.entry(key) == b.entry(key):
		return gathered
	case !b.has(key+" state") && !current && p.renamed[port]:
		return renames
	case !event && p.renamed[port] && d.b == nothing: // others' fields went with the entry
		return renames
	case event && p.renamed[port] && strings.HasSuffix(d.what, " del"):
		return renames
	case !b.has(key+" state") && !current && (p.stale[port] || a.has(key+" state")) && isPort(port):
		return staleGone
	case event && p.at[0] == "state" && len(p.at) > 2 && p.at[2] == "PORT_TABLE|"+port &&
		strings.HasSuffix(d.what, " "+strings.ToLower(p.at[1])):
		return still // and others have changed it now
	case event && strings.HasSuffix(d.what, " del") && !a.has(key) && !b.has(key):
		return still // somebody has deleted what only one of them had
	case right && p.oldOnce[index]:
		return reused
	case right && p.lost && d.b != nothing:
		return announced
	case right && !a.has("appl PORT_TABLE:"+port) && b.has("appl PORT_TABLE:"+port): // at a start before this one
		return announced
	case right && (p.late[port] || !b.has("appl PORT_TABLE:"+port)) && a.entry(key) != b.entry(key):
		if a.has(key + " state") {
			return comesLater
		}
		return levels
	case event && right && p.late[port]:
		return comesLater
	case current && p.late[port] && a.entry(key) == asEntry(link):
		return comesLater
	}
	return ""
}

// entry is the four fields of an entry.
func (p picture) entry(key string) string {
	return p.of(key+" state") + " " + p.of(key+" admin_status") + " " + p.of(key+" netdev_oper_status") + " " +
		p.of(key+" mtu")
}

// asEntry is what they should be for a link.
func asEntry(link string) string {
	words := strings.Fields(link)
	status := func(flag net.Flags) string {
		if slices.Contains(strings.Split(words[1], "|"), flag.String()) {
			return "up"
		}
		return "down"
	}
	return "ok " + status(net.FlagUp) + " " + status(net.FlagRunning) + " " + words[2]
}
