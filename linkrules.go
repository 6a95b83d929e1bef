package main

import (
	"path"

	"golang.org/x/sys/unix"
)

// What a link message says by itself.

// aboutDevice says that a message tells something about the device itself. What a bridge says of its port does not, nor
// that a link has left a bridge or a LAG (rule 2).
func aboutDevice(m *linkMessage) bool {
	return m.family == unix.AF_UNSPEC && (!m.deleted || m.master == 0)
}

func stateOf(m *linkMessage) portState {
	return portState{admin: m.flags&unix.IFF_UP != 0, oper: m.flags&unix.IFF_RUNNING != 0, mtu: m.mtu}
}

// globs are the patterns of -links, as path.Match knows them. The loopback interface has to be named in full.
type globs []string

func (g globs) match(name string) bool {
	for _, pattern := range g {
		if ok, _ := path.Match(pattern, name); ok && (name != "lo" || pattern == "lo") {
			return true
		}
	}
	return false
}
