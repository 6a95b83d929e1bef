package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// past is what has happened to both switches, as far as a difference on purpose can come of it, and what B has to make
// of it (sound.go). All of it is read off pictures of B's switch, before and after each operation.
type past struct {
	old     map[string]bool   // ifindexes of left-over interfaces of a cold start, while they exist
	oldOnce map[string]bool   // and those that are gone: A ignores whoever has one of these
	late    map[string]bool   // ports whose rows were changed behind their link messages
	doubt   map[string]bool   // of these, those whose entries B compares only now and then
	renamed map[string]bool   // names that the operation at hand has taken from interfaces
	stale   map[string]bool   // ports that had an entry and no interface when the daemon was started
	seen    map[string]bool   // configured ports that have had an interface
	glimpse map[string]bool   // and those that may have had one amid an operation
	told    map[string]bool   // what CONFIG_DB has said of a port since the start: "Ethernet0 mtu 9100"
	kernel  map[string]string // ifindexes by name
	at      operation         // the last one

	mute     bool // Redis sends no keyspace events
	spoilt   bool // somebody has put a key of the wrong type where A does not expect it
	hasty    bool // the operation before was not waited for
	runs     bool // B was started
	warm     bool // warm
	absent   bool // A is: it has ended, or is kept from running
	missed   bool // some link message came when APPL_DB did not have its port
	configed bool // the number of CONFIG_DB's ports was changed under the daemon
	lost     bool // APPL_DB has lost PortConfigDone
	unheard  bool // what it has lost, B finds out only by a comparison
	owed     bool // B has compared since: APPL_DB has to have every port
	alone    bool // the daemon was started again, and nothing else
	inited   bool // PortInitDone was there
	done     bool // and each configured port has had an interface by then
	adrift   bool // all interfaces went, and then the signals: whether PortInitDone is due is a matter of time
}

func newPast() *past {
	return &past{old: map[string]bool{}, oldOnce: map[string]bool{}, late: map[string]bool{}, doubt: map[string]bool{},
		renamed: map[string]bool{}, stale: map[string]bool{}, seen: map[string]bool{}, glimpse: map[string]bool{},
		told: map[string]bool{}}
}

// rows are the keys of a table and what kind they are: rows("config PORT|").
func (p picture) rows(table string) map[string]string {
	found := map[string]string{}
	for what, is := range p {
		row, of := strings.CutPrefix(what, table)
		if of && (is == "hash" || is == "string" || is == "set") {
			found[row] = is
		}
	}
	return found
}

// configured are CONFIG_DB's ports. A key that is no hash is none.
func (p picture) configured() map[string]string {
	ports := p.rows("config PORT|")
	maps.DeleteFunc(ports, func(_, kind string) bool { return kind != "hash" })
	return ports
}

// held are the ports of which STATE_DB has an entry of ours.
func (p picture) held() (ports []string) {
	for what := range p {
		row, of := strings.CutPrefix(what, "state PORT_TABLE|")
		if port, ours := strings.CutSuffix(row, " state"); of && ours {
			ports = append(ports, port)
		}
	}
	return ports
}

// whole says that a configured port has an entry as B would write it.
func (p picture) whole(port string) bool {
	words := strings.Split(p.entry("state PORT_TABLE|"+port), " ")
	upDown := []string{"up", "down"}
	_, err := strconv.ParseUint(words[len(words)-1], 10, 32)
	return len(words) == 4 && words[0] == "ok" && slices.Contains(upDown, words[1]) &&
		slices.Contains(upDown, words[2]) && err == nil && p.configured()[port] != ""
}

// indexes are the interfaces by name: ifindexes.
func (p picture) indexes() map[string]string {
	found := map[string]string{}
	for what, is := range p {
		if name, of := strings.CutPrefix(what, "link "); of {
			found[name], _, _ = strings.Cut(is, " ")
		}
	}
	return found
}

// signal says that a signal is in APPL_DB, or on its way there.
func (p picture) signal(name string) bool {
	return p.has("appl PORT_TABLE:"+name) || p.has("appl _PORT_TABLE:"+name)
}

// count is that of PortConfigDone.
func (p picture) count() string {
	if p.has("appl _PORT_TABLE:PortConfigDone count") {
		return p.of("appl _PORT_TABLE:PortConfigDone count")
	}
	return p.of("appl PORT_TABLE:PortConfigDone count")
}

// isPort says that a link of this name is one of ours.
func isPort(name string) bool {
	return (strings.HasPrefix(name, "Ethernet") || strings.HasPrefix(name, "PortChannel")) && !strings.Contains(name, ".")
}

// current says that a port has an interface that is no left-over.
func (p *past) current(name string) bool { return p.kernel[name] != "" && !p.old[p.kernel[name]] }

// before is told of an operation before it happens.
func (p *past) before(op operation, now picture) {
	p.at, p.owed = op, false
	if !p.hasty {
		clear(p.renamed)
	}
	if op[0] == "start" && !p.runs {
		p.begin(now)
	}
	switch op[0] {
	case "switch":
		p.mute = op[1] == "eventless"
	case "stop", "kill":
		p.runs = false
	case "consume":
		for what := range now {
			if name, of := strings.CutPrefix(what, "appl PORT_TABLE_KEY_SET "); of {
				p.late[name] = true
			}
		}
	case "redis":
		for name := range p.kernel {
			p.late[name] = true
		}
		if op[1] == "0" { // APPL_DB's
			p.lost = true
			p.inited = p.inited && (!p.warm || p.done)
			p.drift(now)
		}
	}
	p.rename(op)
	p.note(now)
}

// rename notes which names an operation takes from interfaces, and may give to some for a moment.
func (p *past) rename(op operation) {
	for _, line := range op[1:] {
		words := strings.Fields(line)
		for _, word := range words {
			if (op[0] == "batch" || op[0] == "stall" || p.hasty) && isPort(word) {
				p.glimpse[word] = true
			}
		}
		if op[0] == "near" {
			words = op[1:]
		}
		if len(words) == 5 && words[0] == "link" && words[3] == "name" {
			p.renamed[words[2]] = true
		}
	}
}

// begin is for a start.
func (p *past) begin(now picture) {
	enable := func(who string) bool { return now.of("state WARM_RESTART_ENABLE_TABLE|"+who+" enable") == "true" }
	_, err := strconv.ParseUint(now.of("state WARM_RESTART_TABLE|portsyncd restore_count"), 10, 32)
	before := *p
	*p = *newPast()
	p.at, p.spoilt, p.mute, p.hasty, p.absent = before.at, before.spoilt, before.mute, before.hasty, before.absent
	p.kernel, p.renamed, p.configed = now.indexes(), before.renamed, before.configed
	p.runs, p.warm = true, (enable("system") || enable("swss")) && err == nil
	held, whole := now.held(), false
	for _, name := range held { // by docs/start.md
		whole = whole || now.whole(name)
	}
	row := now.has("state PORTSYNCD_START_TABLE|old_interfaces")
	p.alone = !p.warm && (now.signal("PortInitDone") || now.signal("PortConfigDone") && (row || whole) || row && whole)
	p.inited = (p.warm || p.alone) && now.signal("PortInitDone")
	p.lost = p.warm && !now.signal("PortConfigDone")
	p.configed = p.warm && (p.configed || now.count() != strconv.Itoa(len(now.configured())))
	for _, name := range held {
		p.stale[name] = p.kernel[name] == ""
	}
	switch dpu := now.of("config DEVICE_METADATA|localhost switch_type") == "dpu"; {
	case p.alone:
		for one := range strings.FieldsSeq(now.of("state PORTSYNCD_START_TABLE|old_interfaces ifindexes")) {
			index, name, _ := strings.Cut(one, ":")
			p.old[index] = p.kernel[name] == index // one of another name may be a new one
		}
	case !p.warm && !dpu:
		for name, index := range p.kernel {
			if strings.HasPrefix(name, "Ethernet") {
				p.old[index], p.oldOnce[index] = true, true
			}
		}
	}
	for name, index := range p.kernel {
		p.missed = p.missed || isPort(name) && !p.old[index] && !now.has("appl PORT_TABLE:"+name)
	}
}

// after is told when it has.
func (p *past) after(op operation, now picture) {
	was := p.kernel
	p.kernel = now.indexes()
	for name, index := range was {
		if p.kernel[name] == "" && slices.Contains(slices.Collect(maps.Values(p.kernel)), index) {
			p.renamed[name] = true
		}
	}
	indexes := slices.Collect(maps.Values(p.kernel))
	maps.DeleteFunc(p.old, func(index string, _ bool) bool { return !slices.Contains(indexes, index) })
	switch op[0] {
	case "appl", "state", "wipe":
		p.meddled(op, now)
		p.spoilt = p.spoilt || op[1] == "SET"
	case "config":
		p.configed = p.configed || len(op) > 2 && strings.HasPrefix(op[2], "PORT|")
	case "compared":
		p.owed, p.unheard = p.lost && !p.warm, false
		clear(p.doubt)
	}
	p.note(now)
}

// meddled is for a row of APPL_DB or STATE_DB that somebody has changed.
func (p *past) meddled(op operation, now picture) {
	touch := func(name string) {
		p.late[name] = true
		p.doubt[name] = p.doubt[name] || op[0] == "wipe" || op[0] == "state" && (op[1] != "HSET" && op[1] != "HDEL" ||
			slices.ContainsFunc(ourFields, func(field string) bool { return slices.Contains(op, field) }))
	}
	name := ""
	if len(op) > 2 {
		name = strings.TrimPrefix(strings.TrimPrefix(op[2], "PORT_TABLE|"), "PORT_TABLE:")
	}
	switch {
	case op[1] == "FLUSHDB", op[0] == "wipe" && strings.HasPrefix(op[1], "PORT_TABLE"):
		for name := range p.kernel {
			touch(name)
		}
		p.lost = p.lost || op[0] == "appl"
		p.unheard = p.unheard || op[0] == "appl"
	case name == "PortConfigDone" && op[1] == "DEL":
		p.lost = true
	case name == "PortConfigDone":
		p.configed, p.unheard = true, true
	case name != "":
		touch(name)
	}
	taken := op[1] == "DEL" && (name == "PortConfigDone" || name == "PortInitDone")
	p.unheard = p.unheard || p.mute && taken
	if op[0] == "appl" && (op[1] == "FLUSHDB" || taken) { // a warm start that is not complete owes it to nobody yet
		p.inited = p.inited && (!p.warm || p.done || now.signal("PortInitDone"))
	}
	p.drift(now)
}

// drift is for an APPL_DB that has lost the signals while no configured port has an interface: then the switch software
// starts again, and what was there before is no matter (docs/several-asics.md).
func (p *past) drift(now picture) {
	someone := false
	for port := range now.configured() {
		someone = someone || p.current(port)
	}
	p.adrift = p.adrift || p.lost && !someone
}

// ourFields are the four that B writes.
var ourFields = []string{"state", "netdev_oper_status", "admin_status", "mtu"}

// note takes down what is true at some time between two operations.
func (p *past) note(now picture) {
	ports := now.configured()
	for name := range ports {
		if p.runs && isPort(name) && p.current(name) {
			p.seen[name] = true
		}
	}
	maps.DeleteFunc(p.seen, func(name string, _ bool) bool { return ports[name] == "" })
	for what, is := range now {
		if row, of := strings.CutPrefix(what, "config PORT|"); of {
			before, _, marked := strings.Cut(row, "@")
			if marked {
				row = before
			}
			p.told[row+" "+is] = true
		}
	}
}
