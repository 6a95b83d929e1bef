package main

import (
	"os"
	"strings"
)

// bootID names this boot of the machine, empty: the kernel does not say. Ifindexes, and times since the boot, mean
// nothing in another one.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

// leftovers are interfaces of the switch software's previous run (SONIC.md, rule 5), by ifindex and with their names.
type leftovers []leftover

type leftover struct {
	index int32
	name  string
}

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

// recordedOld is what the run before wrote down of them, names by ifindex. No ifindex is a valid answer, too.
type recordedOld struct{ indexes map[int32]string }

func (r *recordedOld) has(index int32, name string) bool { return r.indexes[index] == name }

// are says that the row lists just these.
func (r *recordedOld) are(old leftovers) bool {
	for _, o := range old {
		if !r.has(o.index, o.name) {
			return false
		}
	}
	return len(old) == len(r.indexes)
}
