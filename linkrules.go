package main

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// What a link message says by itself, and what comes of it.

// heard is what a link message, or a line of a listing, meant.
type heard struct {
	ignored  *counter // it does not count, by this rule, nil: it does
	port     *port    // whose present state it tells, nil: none
	appeared bool     // port has an interface that it did not have before
	gone     [2]*port // ports that lost their interface by it: deleted, renamed, or their name taken over; nil: none
}

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

// isPort is SONiC's rule on names, or the globs of the standalone mode. A sub-interface is no port (rule 1).
func (g globs) isPort(name []byte) bool {
	if g != nil {
		return g.match(string(name))
	}
	for _, prefix := range [...]string{"Ethernet", "PortChannel"} {
		if len(name) >= len(prefix) && string(name[:len(prefix)]) == prefix {
			return strings.IndexByte(string(name), '.') < 0
		}
	}
	return false
}

// isSub says that a name is a sub-interface's of a front-panel port. intfmgrd has an entry of it in STATE_DB's
// PORT_TABLE, which goes with the interface, also when the kernel deletes it together with its port: intfmgrd takes one
// that stays for an interface that is there, and throws when that cannot be set (intfmgr.cpp, setHostSubIntfMtu).
func (g globs) isSub(name []byte) bool {
	return g == nil && strings.HasPrefix(string(name), "Ethernet") && strings.IndexByte(string(name), '.') >= 0
}

// goneFlapsMax is how many ports that are gone are remembered for their flap counts.
const goneFlapsMax = 4096
