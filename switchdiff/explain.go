package main

import (
	"context"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
)

// past is what has happened to both switches, as far as a difference on purpose can come of it.
type past struct {
	old      map[string]bool // left-over interfaces of a cold start: ifindexes
	late     map[string]bool // ports whose rows were changed behind their link messages
	renamed  map[string]bool // names that an interface had
	stale    map[string]bool // ports that had an entry and no interface when the daemon was started
	missed   bool            // some link message came when APPL_DB did not have its port
	configed bool            // CONFIG_DB's ports were changed under the daemon
	flushed  bool            // APPL_DB was flushed under it
	alone    bool            // it was started again, and nothing else
	inits    bool            // PortInitDone differs, on purpose
	kernel   map[string]string
}

func newPast() *past {
	return &past{old: map[string]bool{}, late: map[string]bool{}, renamed: map[string]bool{}, stale: map[string]bool{}}
}

// Names of differences on purpose.
const (
	ownRows      = "rows of ours in STATE_DB: PORTSYNCD_…, state in WARM_RESTART_TABLE"
	countFollows = "PortConfigDone's count follows CONFIG_DB"
	announced    = "APPL_DB was flushed, or a warm start finds no PortConfigDone there: B announces again"
	initWaits    = "PortInitDone: B waits for ports that were configured later"
	initDropped  = "PortInitDone: B waits neither for ports that CONFIG_DB dropped nor for APPL_DB to have all"
	levels       = "B publishes a port that APPL_DB has only after its link message"
	renames      = "B deletes the entry of an interface that was renamed"
	staleGone    = "B deletes an entry with a state that has no interface, with a comparison"
	identical    = "A writes what is there already"
	comesLater   = "an entry that others changed: A writes it with any link message, B with the next comparison"
	ends         = "the daemon A has ended by itself"
	stays        = "the daemon alone was started again: A sets the ports down"
)

// indexes are the interfaces by name: ifindexes.
func (s *side) indexes() map[string]string {
	found := map[string]string{}
	p := picture{}
	if s.links(p) == nil {
		for what, is := range p {
			index, _, _ := strings.Cut(is, " ")
			found[strings.TrimPrefix(what, "link ")] = index
		}
	}
	return found
}

// configured is how many ports CONFIG_DB has.
func (s *side) configured(ctx context.Context) string {
	return strconv.Itoa(len(s.sw.Config.Keys(ctx, "PORT|*").Val()))
}

// before is told of an operation before it happens.
func (p *past) before(op operation, s *side) {
	p.kernel = s.indexes()
	if op[0] != "start" {
		return
	}
	ctx := context.Background()
	exists := func(key string) bool { return s.sw.Appl.Exists(ctx, key).Val() > 0 }
	entries, _ := s.sw.State.Keys(ctx, "PORT_TABLE|*").Result()
	held := map[string]bool{}
	for _, key := range entries {
		if s.sw.State.HExists(ctx, key, "state").Val() {
			held[strings.TrimPrefix(key, "PORT_TABLE|")] = true
		}
	}
	get := func(key, field string) string { return s.sw.State.HGet(ctx, key, field).Val() }
	warm := (get("WARM_RESTART_ENABLE_TABLE|system", "enable") == "true" ||
		get("WARM_RESTART_ENABLE_TABLE|swss", "enable") == "true") &&
		get("WARM_RESTART_TABLE|portsyncd", "restore_count") != ""
	dpu := s.sw.Config.HGet(ctx, "DEVICE_METADATA|localhost", "switch_type").Val() == "dpu"
	inits, configed := p.inits && warm, p.configed && warm
	configed = configed || warm && s.sw.Appl.HGet(ctx, "PORT_TABLE:PortConfigDone", "count").Val() != s.configured(ctx)
	kernel := p.kernel
	renamed := p.renamed
	*p = *newPast()
	p.kernel, p.inits, p.configed, p.renamed = kernel, inits, configed, renamed
	p.alone = !warm && (exists("PORT_TABLE:PortInitDone") || exists("_PORT_TABLE:PortInitDone") ||
		exists("PORT_TABLE:PortConfigDone") || exists("_PORT_TABLE:PortConfigDone") || len(held) > 0)
	p.flushed = warm && !exists("PORT_TABLE:PortConfigDone")
	for name := range held {
		p.stale[name] = p.kernel[name] == ""
	}
	for name, index := range p.kernel {
		if !warm && !dpu && strings.HasPrefix(name, "Ethernet") {
			p.old[index] = true
		}
		p.missed = p.missed || strings.HasPrefix(name, "Ethernet") && !p.old[index] && !exists("PORT_TABLE:"+name)
	}
}

// after is told when it has.
func (p *past) after(op operation, s *side) {
	now := s.indexes()
	for name, index := range p.kernel {
		if now[name] == "" && slices.Contains(slices.Collect(maps.Values(now)), index) {
			p.renamed[name] = true
		}
	}
	p.kernel = now
	switch op[0] {
	case "appl", "state", "consume", "wipe":
		for name := range now {
			p.late[name] = true
		}
		p.flushed = p.flushed || op[0] == "appl" && op[1] == "FLUSHDB"
	case "config":
		p.configed = p.configed || len(op) > 2 && strings.HasPrefix(op[2], "PORT|") || op[1] == "FLUSHDB"
	}
}

// explain returns what differs by accident, and the names of what differs on purpose.
func (p *past) explain(a, b picture) (differs []difference, names []string) {
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, what := range slices.Sorted(maps.Keys(all)) {
		d := difference{what, a.of(what), b.of(what)}
		if d.a == d.b {
			continue
		}
		name := p.why(d, a, b)
		if name == "" {
			differs = append(differs, d)
		} else if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return differs, names
}

func (p *past) why(d difference, a, b picture) string {
	words := append(strings.SplitN(d.what, " ", 4), "", "", "")
	switch {
	case p.alone:
		return stays
	case b.has("daemon") && !a.has("daemon"):
		return ends
	case strings.HasPrefix(d.what, "state PORTSYNCD_"), d.what == "state WARM_RESTART_TABLE|portsyncd state":
		return ownRows
	case words[0] == "event" && words[1] == "state":
		return p.whyState(strings.TrimPrefix(words[2], "PORT_TABLE|"), d, a, b)
	case words[0] == "state" && strings.HasPrefix(words[1], "PORT_TABLE|"):
		return p.whyState(strings.TrimPrefix(words[1], "PORT_TABLE|"), d, a, b)
	case p.flushed && (words[0] == "appl" || words[0] == "published" || words[1] == "appl"):
		return announced
	case strings.Contains(d.what, "PortInitDone"):
		return p.whyInit(d)
	case p.configed && (strings.Contains(d.what, "PortConfigDone") || waits(d.what)):
		return countFollows
	case p.inits && waits(d.what):
		return initDropped
	}
	return ""
}

// waits says that something is about all keys of APPL_DB that wait for orchagent.
func waits(what string) bool {
	return what == "appl PORT_TABLE_KEY_SET" || strings.HasPrefix(what, "published ")
}

// whyInit is about PortInitDone.
func (p *past) whyInit(d difference) string {
	switch {
	case p.inits:
	case d.a != nothing && p.configed:
		p.inits = true
		return initWaits
	case d.b != nothing && (p.configed || p.missed):
		p.inits = true
	default:
		return ""
	}
	return initDropped
}

// whyState is about a port's entry in STATE_DB.
func (p *past) whyState(port string, d difference, a, b picture) string {
	key := "state PORT_TABLE|" + port
	link, present := b["link "+port]
	index, _, _ := strings.Cut(link, " ")
	current := present && !p.old[index]
	event := strings.HasPrefix(d.what, "event")
	switch {
	case event && d.b == nothing && strings.HasSuffix(d.what, " hset") && a.entry(key) == b.entry(key):
		return identical
	case !b.has(key+" state") && !present && p.renamed[port]:
		return renames
	case !b.has(key+" state") && !present && (p.stale[port] || a.has(key+" state")) && !strings.Contains(port, "."):
		return staleGone
	case p.flushed && (!present || current && b.entry(key) == asEntry(link)):
		return announced
	case event && p.late[port] && !a.has(key) && !b.has(key): // somebody has deleted what only B had published
		return levels
	case current && p.late[port] && b.has("appl PORT_TABLE:"+port) && b.entry(key) == asEntry(link):
		p.missed = true
		return levels
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
