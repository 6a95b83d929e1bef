package main

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

// bootID names this boot of the machine, empty: the kernel does not say. Ifindexes, and times since the boot, mean
// nothing in another one.
var bootID = sync.OnceValue(func() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
})

// leftovers are interfaces of the switch software's previous run (SONIC.md, rule 5), by ifindex and with their names.
type leftovers []leftover

type leftover struct {
	index int32
	name  string
	netns uint64 // inode of its network namespace, 0: the process's own. One that is made again has the ifindexes again
}

// String is a left-over as our row has it: a colon is in no interface's name.
func (l leftover) String() string {
	text := strconv.Itoa(int(l.index)) + ":" + l.name
	if l.netns != 0 {
		text += ":" + strconv.FormatUint(l.netns, 10)
	}
	return text
}

// parseLeftover reads what String wrote.
func parseLeftover(text string) (l leftover, err error) {
	index, rest, _ := strings.Cut(text, ":")
	name, netns, within := strings.Cut(rest, ":")
	n, err := strconv.ParseInt(index, 10, 32)
	l = leftover{index: int32(n), name: name}
	if within && err == nil {
		l.netns, err = strconv.ParseUint(netns, 10, 64)
	}
	return l, err
}

// startMode is what becomes of them in a start, and why.
type startMode struct {
	old       func(leftover) bool // which existing interfaces are left-overs
	announce  bool                // ports and signals go to APPL_DB
	cold      bool                // the databases hold nothing of this run of the switch
	goesOn    bool                // they were written in this run of the switch, or lost a moment ago
	what, why string
}

func every(leftover) bool { return true }
func none(leftover) bool  { return false }

func (l leftovers) indexes() (indexes []int32) {
	for _, old := range l {
		indexes = append(indexes, old.index)
	}
	return indexes
}

// name is that of an ifindex, empty: it is not among them.
func (l leftovers) name(index int32) string {
	for _, old := range l {
		if old.index == index {
			return old.name
		}
	}
	return ""
}

// recordedOld is what the run before wrote down of them. None is a valid answer, too.
type recordedOld struct{ byIndex map[int32]leftover }

func (r *recordedOld) has(l leftover) bool { return r.byIndex[l.index] == l }

// empty says that there is no row, or that it lists none.
func (r *recordedOld) empty() bool { return r == nil || len(r.byIndex) == 0 }

// are says that the row lists just these.
func (r *recordedOld) are(old leftovers) bool {
	for _, o := range old {
		if !r.has(o) {
			return false
		}
	}
	return len(old) == len(r.byIndex)
}
