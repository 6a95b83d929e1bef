package main

import (
	"log/slog"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What the kernel says of its links: SONIC.md, "Which link messages count".

// linkTable knows the ports by name and their interfaces by ifindex, as the kernel last told of them, and which
// interfaces are left-overs of the switch software's previous run. It decides what a message means.
type linkTable struct {
	globs globs // which links are ports; nil: SONiC's rule
	m     *metrics
	log   *slog.Logger

	ports map[string]*port
	// by slot, nil: free. Whoever goes through all ports does so in this order: none may depend on a map's.
	slots   []*port
	free    []int // slots
	rows    rows[linkRow]
	byIndex map[int32]*port
	listed  bool                   // the first listing has ended
	flaps   map[string]uint64      // of ports that were forgotten, for their return
	carried map[string]carriedPort // what was counted before this loop, of ports still to come

	netns      uint64           // the inode of the links' network namespace, 0: the process's own
	old        map[int32]string // left-over interfaces and their names, rule 5
	oldVersion uint32           // grows when old changes
	oldWritten uint32           // the version that STATE_DB has
	// until that is decided: Ethernet* interfaces that were there before the subscription was
	existing map[int32]string
	created  map[int32]struct{} // until then: interfaces that came into being since
}

// linkRow is a port's interface.
type linkRow struct {
	index                         int32 // 0: it has none
	state                         portState
	upSeen                        bool // it was running at some time: from then on a loss of carrier is a flap
	flags, carrierUp, carrierDown uint32
	hasCarrier                    bool // carrierUp and carrierDown are the kernel's
	orphan                        bool // it had one in a namespace that was made again, of which nothing is known yet
}

func newLinkTable(g globs, m *metrics, log *slog.Logger) *linkTable {
	return &linkTable{
		globs: g, m: m, log: log, ports: make(map[string]*port), byIndex: make(map[int32]*port),
		flaps: make(map[string]uint64),
		old:   make(map[int32]string), existing: make(map[int32]string), created: make(map[int32]struct{}),
	}
}

// live takes one message of the subscription, received at a time.
func (t *linkTable) live(m *linkMessage, at time.Time) heard {
	if aboutDevice(m) {
		t.noteExisting(m)
	}
	if ignored := t.ignore(m); ignored != nil {
		ignored.Inc()
		return heard{ignored: ignored}
	}
	if m.deleted {
		return t.deleted(m)
	}
	h := t.linked(m, at)
	if h.port == nil {
		t.m.ignoredName.Inc()
		h.ignored = &t.m.ignoredName
	}
	return h
}

// line takes one line of a listing. Whether a live message was newer has to be found out before.
func (t *linkTable) line(m *linkMessage, at time.Time) heard {
	t.noteExisting(m)
	if ignored := t.ignore(m); ignored != nil {
		return heard{ignored: ignored}
	}
	return t.linked(m, at)
}

// noteExisting tells interfaces that were there before the subscription from those that came since, until it is decided
// which are old: the kernel says of a message whether it is about a new link. One that is about an old interface's
// ifindex says that the old one is gone, or never was: a listing may be ahead of the message.
func (t *linkTable) noteExisting(m *linkMessage) {
	if m.created {
		t.notOld(m.index)
	}
	switch {
	case t.existing == nil:
	case m.created:
		t.created[m.index] = struct{}{}
		delete(t.existing, m.index)
	case m.deleted:
		delete(t.created, m.index)
		delete(t.existing, m.index)
	case !strings.HasPrefix(string(m.name), "Ethernet"):
		delete(t.existing, m.index)
	default:
		_, since := t.created[m.index]
		if _, known := t.existing[m.index]; known || !since && !t.listed {
			t.existing[m.index] = string(m.name)
		}
	}
}

// endFirstListing notes that whatever existed before the subscription is known by now.
func (t *linkTable) endFirstListing() { t.listed = true }

// ignore returns the counter of the rule by which a message does not count, or nil.
func (t *linkTable) ignore(m *linkMessage) *counter {
	switch {
	case m.family != unix.AF_UNSPEC:
		return &t.m.ignoredBridge
	case m.deleted && m.master != 0:
		return &t.m.ignoredMaster
	case t.byIndex[m.index] != nil:
		return nil
	}
	if name, isOld := t.old[m.index]; isOld {
		if m.deleted {
			t.notOld(m.index)
		} else if name != string(m.name) { // the next daemon tells it from another one by both
			t.old[m.index], t.oldVersion = string(m.name), t.oldVersion+1
		}
		return &t.m.ignoredOld
	}
	if !t.globs.isPort(m.name) {
		return &t.m.ignoredName
	}
	if t.globs == nil && string(m.kind) == "team" {
		return &t.m.ignoredTeam
	}
	return nil
}

// linked carries out what a message about an existing link implies: a new interface, a rename, a name taken over by
// another interface, or just another state. Without a port the name is no port's (any more).
func (t *linkTable) linked(m *linkMessage, at time.Time) (h heard) {
	p := t.byIndex[m.index]
	if p != nil && p.name != string(m.name) {
		t.notice("interface renamed", "port", p.name, "ifindex", m.index, "name", string(m.name))
		t.unlink(p)
		h.gone[0], p = p, nil
		if !t.globs.isPort(m.name) {
			return h
		}
	}
	if h.port = p; p != nil {
		t.update(p, m, at)
		return h
	}
	h.port, h.appeared = t.port(string(m.name)), true
	if t.rows.of(h.port).index != 0 {
		t.unlink(h.port) // its deletion was lost, or is still to come
		h.gone[1] = h.port
	}
	t.link(h.port, m, at)
	return h
}

// link gives a port the interface that a message is about.
func (t *linkTable) link(p *port, m *linkMessage, at time.Time) {
	row := t.rows.of(p)
	*row = linkRow{index: m.index, hasCarrier: m.hasCarrier, flags: m.flags, carrierUp: m.carrierUp,
		carrierDown: m.carrierDown, upSeen: m.flags&unix.IFF_RUNNING != 0}
	t.byIndex[m.index] = p
	t.m.showLink(p.series)
	t.m.portsPresent.Set(float64(len(t.byIndex)))
	if !m.retold {
		t.notice("interface appeared", "port", p.name, "ifindex", m.index, "kind", string(m.kind))
	}
	t.apply(p, stateOf(m), at)
	t.resume(p, row, m, at)
}

// carry takes what was counted before, in another loop.
func (t *linkTable) carry(all []carriedPort) {
	t.carried = make(map[string]carriedPort, len(all))
	for _, c := range all {
		t.carried[c.Port], t.flaps[c.Port] = c, c.Flaps
	}
}

// resume goes on counting at a port's interface where it was left, if it is still the same.
func (t *linkTable) resume(p *port, row *linkRow, m *linkMessage, at time.Time) {
	c, known := t.carried[p.name]
	delete(t.carried, p.name)
	if !known || c.Ifindex != m.index {
		return
	}
	if c.UpSeen && c.Counted && m.hasCarrier {
		row.carrierDown = p.series.flappedSince(m.carrierDown, c.CarrierDown, at)
	}
	row.upSeen = row.upSeen || c.UpSeen
	if c.state() == row.state {
		p.series.lastChange.Set(c.Changed)
	}
}

// leave ends what is published of ports, when the loop has ended, and returns what was counted by now.
func (t *linkTable) leave(now time.Time) (all []carriedPort) {
	t.all(func(p *port) {
		row := t.rows.of(p)
		t.m.hide(p.series)
		c := carriedOf(p, row.state, now)
		c.Ifindex, c.CarrierDown, c.Counted, c.UpSeen = row.index, row.carrierDown, row.hasCarrier, row.upSeen
		all = append(all, c)
	})
	for name, flaps := range t.flaps {
		all = append(all, carriedPort{Port: name, Flaps: flaps})
	}
	t.m.portsPresent.Set(0)
	return all
}

// deleted handles a real RTM_DELLINK: the interface is gone from the kernel (rule 3). It is the port's own, or one that
// was never seen; an earlier interface of a port that has a new one says nothing any more.
func (t *linkTable) deleted(m *linkMessage) heard {
	p := t.byIndex[m.index]
	if p == nil {
		named, known := t.ports[string(m.name)]
		if !known || t.rows.of(named).index != 0 {
			t.m.ignoredName.Inc()
			return heard{ignored: &t.m.ignoredName}
		}
		p = named
	}
	t.unlink(p)
	return heard{gone: [2]*port{p}}
}

// unlink takes a port's interface from it, if it has one.
func (t *linkTable) unlink(p *port) {
	row := t.rows.of(p)
	if row.index != 0 {
		delete(t.byIndex, row.index)
		row.index = 0
		t.m.hideLink(p.series)
		t.m.portsPresent.Set(float64(len(t.byIndex)))
	}
	t.notice("interface gone", "port", p.name)
}

// port returns the port of a name, which is made if it is new.
func (t *linkTable) port(name string) *port {
	if p := t.ports[name]; p != nil {
		return p
	}
	name = strings.Clone(name) // it may be part of an answer
	p := &port{name: name, series: t.m.newPort(name, t.flaps[name])}
	delete(t.flaps, name)
	t.ports[name] = p
	if n := len(t.free); n > 0 {
		p.slot, t.free = t.free[n-1], t.free[:n-1]
		t.slots[p.slot] = p
		return p
	}
	p.slot, t.slots = len(t.slots), append(t.slots, p)
	return p
}

// known returns the port of a name, nil: there is none.
func (t *linkTable) known(name string) *port { return t.ports[name] }

// named returns the port of a name, made if it is new, nil if no link of that name is a port.
func (t *linkTable) named(name string) *port {
	if !t.globs.isPort([]byte(name)) {
		return nil
	}
	return t.port(name)
}

// notOld notes that the left-over with an ifindex is gone, if there was one.
func (t *linkTable) notOld(index int32) {
	if _, old := t.old[index]; old {
		delete(t.old, index)
		t.oldVersion++
	}
}

// unwritten says that STATE_DB does not have the present left-overs, and which version they are.
func (t *linkTable) unwritten() (version uint32, owed bool) {
	return t.oldVersion, t.oldVersion != t.oldWritten
}

// doubtWritten is for a STATE_DB that may have come back with older ones.
func (t *linkTable) doubtWritten() {
	if t.existing == nil { // they are known
		t.oldVersion++
	}
}

// written notes that STATE_DB has a version of them.
func (t *linkTable) written(version uint32) { t.oldWritten = version }

// leftovers are the old interfaces.
func (t *linkTable) leftovers() (all leftovers) {
	for index, name := range t.old {
		all = append(all, leftover{index, name, t.netns})
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].index < all[j].index })
	return all
}

// tell returns a message about a port's interface, as the last one had it, if there is one.
func (t *linkTable) tell(p *port) (m linkMessage, is bool) {
	row := t.rows.of(p)
	return linkMessage{index: row.index, name: []byte(p.name), flags: row.flags, mtu: row.state.mtu, retold: true,
		hasCarrier: row.hasCarrier, carrierUp: row.carrierUp, carrierDown: row.carrierDown}, row.index != 0
}

// certain says that there are no left-overs, as far as that is decided, and that no interface is in doubt.
func (t *linkTable) certain() bool {
	sure := t.existing == nil && len(t.old) == 0
	t.all(func(p *port) { sure = sure && !t.rows.of(p).orphan })
	return sure
}

// forget drops a port that no room has any use for, and keeps its flap count for its return.
func (t *linkTable) forget(p *port) {
	delete(t.ports, p.name)
	t.slots[p.slot], t.free = nil, append(t.free, p.slot)
	t.rows.drop(p)
	if flaps := p.series.flaps.Load(); flaps > 0 && len(t.flaps) < goneFlapsMax {
		t.flaps[p.name] = flaps
	}
}

// all calls each for every port, in an order of its own that is always the same. Ports may come and go meanwhile.
func (t *linkTable) all(each func(p *port)) {
	for i := 0; i < len(t.slots); i++ {
		if p := t.slots[i]; p != nil {
			each(p)
		}
	}
}

// interfaceOf returns a port's interface: its ifindex, 0 if it has none, and its state.
func (t *linkTable) interfaceOf(p *port) (index int32, state portState) {
	row := t.rows.of(p)
	return row.index, row.state
}

// dropMissing takes their interfaces from the ports that a whole listing did not mention, and returns these ports:
// their deletions were lost.
func (t *linkTable) dropMissing(mentioned func(index int32) bool) (gone []*port) {
	t.all(func(p *port) {
		row := t.rows.of(p)
		switch {
		case row.orphan:
			row.orphan = false
		case row.index != 0 && !mentioned(row.index):
			t.unlink(p)
		default:
			return
		}
		gone = append(gone, p)
	})
	for index := range t.old {
		if !mentioned(index) {
			t.notOld(index)
		}
	}
	return gone
}

// within sets the links' network namespace.
func (t *linkTable) within(home netNSID) { t.netns = home.inode }

// anew forgets every ifindex: the links are another namespace's, and what is there came into being with it. It returns
// the ports that had an interface, which the next whole listing says of whether they have one.
func (t *linkTable) anew(home netNSID) (orphans []*port) {
	t.within(home)
	t.all(func(p *port) {
		if row := t.rows.of(p); row.index != 0 {
			t.unlink(p)
			row.orphan = true
			orphans = append(orphans, p)
		}
	})
	for index := range t.old {
		t.notOld(index)
	}
	clear(t.existing)
	clear(t.created)
	return orphans
}

// decideOld carries out rule 5, once: the interfaces that isOld says are left-overs lose their ports, and are ignored
// from now on. It returns these ports.
func (t *linkTable) decideOld(isOld func(leftover) bool) (dismissed []*port) {
	for index, name := range t.existing {
		if isOld(leftover{index, name, t.netns}) {
			t.old[index] = name
		}
	}
	t.existing, t.created = nil, nil
	t.oldVersion++
	t.all(func(p *port) {
		if _, old := t.old[t.rows.of(p).index]; old {
			t.unlink(p)
			dismissed = append(dismissed, p)
		}
	})
	return dismissed
}

// update takes a port's state from a message about the interface that it has.
func (t *linkTable) update(p *port, m *linkMessage, at time.Time) {
	row, state, losses := t.rows.of(p), stateOf(m), m.carrierDown
	if row.upSeen {
		switch {
		case m.hasCarrier && row.hasCarrier:
			losses = p.series.flappedSince(m.carrierDown, row.carrierDown, at)
		case !m.hasCarrier && row.state.oper && !state.oper:
			p.series.flapped(1, at)
		}
	}
	row.upSeen = row.upSeen || state.oper
	row.flags, row.carrierUp, row.carrierDown, row.hasCarrier = m.flags, m.carrierUp, losses, m.hasCarrier
	if t.log.Enabled(ctxNone, slog.LevelDebug) {
		t.log.Debug("link message", "port", p.name, "ifindex", m.index, "admin", upDown(state.admin),
			"oper", upDown(state.oper), "mtu", m.mtu, "operstate", m.operState, "carrier_up", m.carrierUp,
			"carrier_down", m.carrierDown)
	}
	if state == row.state {
		return
	}
	if t.log.Enabled(ctxNone, slog.LevelInfo) {
		t.log.Info("link changed", "port", p.name, "admin", upDown(state.admin), "oper", upDown(state.oper),
			"mtu", state.mtu)
	}
	t.apply(p, state, at)
}

// apply sets a port's state, also in the metrics.
func (t *linkTable) apply(p *port, state portState, at time.Time) {
	t.rows.of(p).state = state
	p.series.show(state.admin, state.oper, state.mtu, at)
}

func (t *linkTable) notice(msg string, args ...any) {
	t.log.Log(ctxNone, levelNotice, msg, args...)
}
