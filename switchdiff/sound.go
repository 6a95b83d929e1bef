package main

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// unsound is what B has made wrong of what has happened, whatever A has: each is something that should be otherwise.
// What B finds out only by a comparison is left out until there was one.
func (p *past) unsound(b picture) (wrong []difference) {
	if !p.runs {
		return nil
	}
	should := func(what, be string) {
		if is := b.of(what); is != be {
			wrong = append(wrong, difference{what + ", which should be " + be, be, is})
		}
	}
	should("daemon", "runs")
	for name := range p.kernel {
		key := "state PORT_TABLE|" + name
		published := isPort(name) && p.current(name) && b.of("appl PORT_TABLE:"+name) == "hash"
		if published && !p.doubt[name] && b.of(key) != "string" {
			if want, is := asEntry(b["link "+name]), b.entry(key); is != want {
				wrong = append(wrong, difference{key + ", which should be as the kernel has it", want, is})
			}
		}
	}
	for _, name := range b.held() {
		if !p.current(name) && isPort(name) && !p.doubt[name] {
			should("state PORT_TABLE|"+name+" state", nothing)
		}
	}
	ports := b.configured()
	if (!p.warm || p.done) && !p.unheard { // a warm start leaves the count alone until it is complete
		if want, is := strconv.Itoa(len(ports)), b.count(); is != want {
			wrong = append(wrong, difference{"PortConfigDone's count", want, is})
		}
	}
	if p.owed {
		for name := range ports {
			if !b.signal(name) {
				should("appl _PORT_TABLE:"+name, "hash")
			}
		}
	}
	return append(wrong, p.unsoundInit(b)...)
}

// unsoundInit is the same about PortInitDone: it is there if each configured port has had an interface, and stays.
func (p *past) unsoundInit(b picture) []difference {
	is, missing := b.signal("PortInitDone"), p.unseen(b)
	all := missing == ""
	switch {
	case p.adrift || p.unheard || is == (all || p.inited):
		return nil
	case is && p.glimpse[missing]:
		return nil
	case is:
		return []difference{{"PortInitDone, which comes before an interface of " + missing, nothing, "there"}}
	}
	return []difference{{"PortInitDone, which nothing is missing for", "there", nothing}}
}

// unseen is a configured port that has had no interface.
func (p *past) unseen(b picture) string {
	for name := range b.configured() {
		if !p.seen[name] {
			return cmp.Or(name, "the port without a name")
		}
	}
	return ""
}

// settled is told when a picture was found to be right.
func (p *past) settled(a, b picture) {
	p.done = p.done || p.runs && b.signal("PortInitDone") && p.unseen(b) == ""
	p.inited = p.inited || p.runs && b.signal("PortInitDone") && !p.adrift
	for name := range p.late {
		key := "state PORT_TABLE|" + name
		if link, present := b["link "+name]; present && !p.absent && a.entry(key) == b.entry(key) &&
			b.entry(key) == asEntry(link) {
			delete(p.late, name)
			delete(p.doubt, name)
		}
	}
}

// fatal says that A may have ended by what it has found.
func fatal(b picture) bool {
	for _, kind := range b.rows("config PORT|") {
		if kind != "hash" {
			return true
		}
	}
	count := b.of("state WARM_RESTART_TABLE|portsyncd restore_count")
	return count != nothing &&
		slices.ContainsFunc(strings.Split(count, ""), func(c string) bool { return c < "0" || c > "9" })
}
