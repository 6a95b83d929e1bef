package main

import (
	"fmt"
	"slices"
	"sort"
	"sync/atomic"
	"time"
)

// Disagreements: what two sources say differently about a port, told by whoever compares them and read by anybody.

// disagreement is a port about which two sources disagree.
type disagreement struct {
	port, says string
	since      time.Time
}

// disagreeKind is who compares.
type disagreeKind int

const (
	stateDisagrees disagreeKind = iota // STATE_DB is not what the kernel says: an observer
	operDisagrees                      // orchagent's oper_status is not: everybody
	disagreeKinds
)

// settleTime is how long a difference has to last before it is one: the databases follow the kernel, and orchagent the
// ASIC, within fractions of a second.
const settleTime = 2 * time.Second

// disagreements is all of them. The zero value is empty.
type disagreements struct {
	of [disagreeKinds]atomic.Pointer[[]disagreement]
}

// tell sets what one kind has found by now.
func (d *disagreements) tell(kind disagreeKind, all []disagreement) { d.of[kind].Store(&all) }

// lasting are those that have lasted, in natural order.
func (d *disagreements) lasting(now time.Time) (all []disagreement) {
	for kind := range d.of {
		if told := d.of[kind].Load(); told != nil {
			for _, one := range *told {
				if now.Sub(one.since) >= settleTime {
					all = append(all, one)
				}
			}
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return comparePorts(all[i].port, all[j].port) < 0 })
	return all
}

// lasts says that there are some of one kind.
func (d *disagreements) lasts(kind disagreeKind, now time.Time) bool {
	told := d.of[kind].Load()
	return told != nil && slices.ContainsFunc(*told, func(one disagreement) bool {
		return now.Sub(one.since) >= settleTime
	})
}

// differing says how many ports differ, and which is the first; empty: none does.
func (d *disagreements) differing(now time.Time) string {
	all := d.lasting(now)
	if len(all) == 0 {
		return ""
	}
	first, ports := all[0], 0
	for i, one := range all {
		if one.since.Before(first.since) {
			first = one
		}
		if i == 0 || one.port != all[i-1].port {
			ports++
		}
	}
	verb := "ports differ, the first is"
	if ports == 1 {
		verb = "port differs,"
	}
	return fmt.Sprintf("%d %s %s, since %s: %s", ports, verb, first.port, first.since.UTC().Format(time.RFC3339),
		first.says)
}
