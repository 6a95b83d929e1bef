package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A kernel of the simulator's own: links, their messages, a socket that overruns, and listings that links change under. TestSimulatedKernel holds it
// against the real one.

// simLink is a link.
type simLink struct {
	linkMessage // as the next message about it has it
	name        string
	old         bool // a left-over of the switch software's previous run,
	unsaid      bool // by what a start took for one, and has not announced
	setDown     bool // a daemon has set it down
}

// simKernel is the kernel of one namespace.
type simKernel struct {
	*scheduler
	links map[int32]*simLink
	names map[string]*simLink
	last  int32 // ifindex given out
	base  int   // grows with every link that comes or goes: what a listing is interrupted by
	home  netNSID
	away  bool // the namespace has no name for now
	lines int  // of a listing, which the kernel fills in at a time

	kinds map[string]string // of links by name: what creates them

	sockets  []*simSocket
	onGone   func(l *simLink)
	onNew    func(l *simLink)
	lostNews func(l *simLink) // nobody will ever hear that a link is new
}

// simSocket is a subscription, and the listing that may be under way beside it. It is a linkSource.
type simSocket struct {
	k         *simKernel
	room      int // messages that fit
	queue     []simMessage
	overrun   bool // ENOBUFS is to be reported
	congested bool // nothing is queued before the queue was empty
	woken     bool
	roused    bool
	dump      *simDump
	dumpFault string                          // of the next listing: fails, endless
	torn      int                             // so many listings are interrupted, and skip links, yet no left-over: only listings tell of those
	forbidden func(l *simLink)                // told of each link that is set down
	may       func() (over func(), err error) // asked before, nil: nobody is
	spins     int                             // reads since the last wait
	home      netNSID
	dead      []*simLink // the links of home, if that is not the kernel's any more
}

// simMessage is a message with a name of its own.
type simMessage struct {
	linkMessage
	name, kind string
}

// simDump is a listing: what is filled in was true when it was.
type simDump struct {
	filled []simMessage
	at     int  // the place in the kernel's list up to which it is filled in: who goes before it makes another one be skipped
	whole  bool // nothing is left to fill in
	base   int
	torn   bool // NLM_F_DUMP_INTR
	fault  string
}

const (
	simDumpBatch = 3   // lines the kernel fills in at a time, where there are few links
	simSpins     = 100 // turns of a loop without a wait
)

func newSimKernel(s *scheduler) *simKernel {
	return &simKernel{scheduler: s, links: map[int32]*simLink{}, names: map[string]*simLink{}, last: 1, lines: simDumpBatch, kinds: map[string]string{"PortChannel2": "team"}}
}

// sorted are the links by ifindex.
func (k *simKernel) sorted() (links []*simLink) {
	for _, l := range k.links {
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b *simLink) int { return int(a.index - b.index) })
	return links
}

// named finds a link.
func (k *simKernel) named(name string) *simLink { return k.names[name] }

// tell sends a message about a link to every subscription.
func (k *simKernel) tell(l *simLink, change func(*linkMessage)) {
	m := simMessage{linkMessage: l.linkMessage, name: l.name, kind: string(l.kind)}
	if change != nil {
		change(&m.linkMessage)
	}
	for _, s := range k.sockets {
		switch {
		case s.home != k.home:
			if m.created && k.lostNews != nil {
				k.lostNews(l)
			}
		case s.congested || len(s.queue) >= s.room:
			s.overrun, s.congested = true, true
			if m.created && k.lostNews != nil {
				k.lostNews(l)
			}
		default:
			s.queue = append(s.queue, m)
		}
	}
}

// create makes a link, with an ifindex of its own or one that was asked for.
func (k *simKernel) create(name string, index int32, flags uint32) *simLink {
	if k.named(name) != nil || k.links[index] != nil {
		return nil
	}
	if index == 0 {
		k.last++
		for k.links[k.last] != nil {
			k.last++
		}
		index = k.last
	}
	l := &simLink{name: name, linkMessage: linkMessage{index: index, mtu: 1500, hasCarrier: true, kind: []byte(k.kinds[name])}}
	k.links[index], k.names[name] = l, l
	k.base++
	k.say("link %d %s is created", index, name)
	k.tell(l, func(m *linkMessage) { m.created = true })
	if k.onNew != nil {
		k.onNew(l)
	}
	if flags != 0 {
		k.set(l, flags)
	}
	return l
}

// set changes flags, and counts carriers as the kernel does.
func (k *simKernel) set(l *simLink, flags uint32) {
	if flags &^= unix.IFF_LOWER_UP; flags&unix.IFF_RUNNING != 0 {
		flags |= unix.IFF_LOWER_UP
	}
	if l.flags == flags {
		return
	}
	was, is := l.flags&unix.IFF_RUNNING != 0, flags&unix.IFF_RUNNING != 0
	switch {
	case is && !was:
		l.carrierUp++
	case was && !is:
		l.carrierDown++
	}
	l.flags = flags
	k.say("link %d %s is set %s/%s", l.index, l.name, upDown(flags&unix.IFF_UP != 0), upDown(is))
	k.tell(l, nil)
}

func (k *simKernel) setMTU(l *simLink, mtu uint32) {
	if l.mtu != mtu {
		l.mtu = mtu
		k.say("link %d %s has mtu %d", l.index, l.name, mtu)
		k.tell(l, nil)
	}
}

// enslave puts a link into a bridge, or takes it out with master 0.
func (k *simKernel) enslave(l *simLink, master uint32) {
	if l.master == master {
		return
	}
	k.say("link %d %s has master %d", l.index, l.name, master)
	l.master = master
	bridge := func(m *linkMessage) { m.family, m.deleted = unix.AF_BRIDGE, master == 0 }
	if master == 0 {
		k.tell(l, bridge)
	}
	k.tell(l, nil)
	if master != 0 {
		k.tell(l, bridge)
	}
}

// remove deletes a link, or moves it out of the namespace.
func (k *simKernel) remove(l *simLink) {
	k.set(l, 0)
	if l.master != 0 { // the bridge says so, the device has no message of its own for that
		l.master = 0
		k.tell(l, func(m *linkMessage) { m.family, m.deleted = unix.AF_BRIDGE, true })
	}
	delete(k.links, l.index)
	delete(k.names, l.name)
	k.base++
	k.say("link %d %s is deleted", l.index, l.name)
	k.tell(l, func(m *linkMessage) { m.deleted = true })
	if k.onGone != nil {
		k.onGone(l)
	}
}

// rename gives a link another name.
func (k *simKernel) rename(l *simLink, name string) {
	if k.named(name) != nil {
		return
	}
	delete(k.names, l.name)
	if k.onGone != nil {
		k.onGone(l)
	}
	k.say("link %d %s is renamed %s", l.index, l.name, name)
	l.name, k.names[name] = name, l
	k.tell(l, nil)
	if k.onNew != nil {
		k.onNew(l)
	}
}

// remake makes the namespace again: its links are gone, and who listens to the old one is not told.
func (k *simKernel) remake() {
	links := k.sorted()
	for _, s := range k.sockets {
		if s.home == k.home {
			s.dead = links
		}
	}
	clear(k.links)
	clear(k.names)
	k.home.inode++
	k.last, k.base = 1, k.base+1
	k.say("the namespace is made again")
	if k.onGone != nil {
		for _, l := range links {
			k.onGone(l)
		}
	}
}

// subscribe opens a subscription with room for so many messages.
func (k *simKernel) subscribe(room int) *simSocket {
	s := &simSocket{k: k, room: room, home: k.home}
	k.sockets = append(k.sockets, s)
	return s
}

func (k *simKernel) unsubscribe(s *simSocket) {
	k.sockets = slices.DeleteFunc(k.sockets, func(other *simSocket) bool { return other == s })
}

// hand gives a message to a sink's method.
func (m *simMessage) hand(take func(*linkMessage)) {
	l := m.linkMessage
	l.name, l.kind = []byte(m.name), []byte(m.kind)
	take(&l)
}

func (s *simSocket) Receive(sink linkSink) (more bool, err error) {
	if s.spins++; s.spins > simSpins { // a daemon that never waits must not stop the clock
		s.k.nap(20 * time.Microsecond)
	}
	for reads := 1 + s.k.dice.IntN(readsPerTurn); ; reads-- {
		if s.overrun {
			s.overrun = false
			s.k.say("ENOBUFS")
			sink.lost("the socket buffer overran")
			continue
		}
		if len(s.queue) == 0 {
			break
		}
		if reads <= 0 {
			return true, nil
		}
		n := min(batchLen, len(s.queue), 1+s.k.dice.IntN(batchLen))
		batch := s.queue[:n]
		s.queue = s.queue[n:]
		s.congested = s.congested && len(s.queue) > 0
		sink.received(s.k.clock(), n)
		for i := range batch {
			batch[i].hand(sink.live)
		}
		if s.k.dice.IntN(8) == 0 {
			s.k.nap(50 * time.Microsecond) // links change while messages are read
		}
	}
	if s.dump == nil {
		return false, nil
	}
	return s.list(sink), nil
}

// list hands out the lines that are filled in, and fills in the next ones.
func (s *simSocket) list(sink linkSink) (more bool) {
	d := s.dump
	switch {
	case d.fault == "endless":
		return false
	case d.fault == "fails":
		s.dump = nil
		sink.dumpDone(false, unix.EBUSY)
		return false
	}
	lines := d.filled
	whole := d.whole
	sink.received(s.k.clock(), 0)
	for i := range lines {
		s.k.say("line: %d %s", lines[i].index, lines[i].name)
		lines[i].hand(sink.dumped)
	}
	if whole {
		s.dump = nil
		s.k.say("end of the listing, interrupted: %v", d.torn)
		sink.dumpDone(d.torn, nil)
		return false
	}
	s.fill(d)
	if s.k.dice.IntN(2) == 0 {
		s.k.nap(200 * time.Microsecond)
	}
	return true
}

// fill fills in the next lines, as they are now.
func (s *simSocket) fill(d *simDump) {
	d.torn = d.torn || d.base != s.k.base
	d.filled = d.filled[:0]
	links := s.k.sorted()
	if s.home != s.k.home {
		links = s.dead
	}
	for _, l := range links[min(d.at, len(links)):] {
		if len(d.filled) == s.k.lines {
			return
		}
		if d.at++; d.fault == "torn" && !l.old && s.k.dice.IntN(3) > 0 {
			continue
		}
		d.filled = append(d.filled, simMessage{linkMessage: l.linkMessage, name: l.name, kind: string(l.kind)})
	}
	d.whole = true
}

func (s *simSocket) DropDump() { s.dump = nil }

func (s *simSocket) StartDump() error {
	s.dump = &simDump{base: s.k.base, fault: s.dumpFault}
	s.dumpFault = ""
	if s.dump.fault == "" && s.torn > 0 {
		s.torn--
		s.dump.fault, s.dump.torn = "torn", true
	}
	s.k.say("a listing begins %s", s.dump.fault)
	s.fill(s.dump)
	return nil
}

func (s *simSocket) ready() bool {
	return s.woken || s.overrun || len(s.queue) > 0 || s.dump != nil && s.dump.fault != "endless"
}

func (s *simSocket) Wait(d time.Duration) error {
	s.spins = 0
	if d < 0 {
		d = time.Hour
	}
	if !s.woken || s.k.dice.IntN(4) == 0 {
		s.k.sleep(pause{until: s.k.now.Add(max(d, time.Microsecond)), ready: s.ready})
	}
	s.woken = false
	return nil
}

func (s *simSocket) Wake()  { s.woken = true }
func (s *simSocket) Rouse() { s.woken, s.roused = true, true }

func (s *simSocket) Pause(d time.Duration) {
	s.k.sleep(pause{until: s.k.now.Add(d), ready: func() bool { return s.roused }})
	s.roused = false
}

func (s *simSocket) Home() netNSID { return s.home }

var errSimAway = errors.New("no such namespace")

func (s *simSocket) Follow() (moved bool, err error) {
	switch {
	case s.k.away:
		return false, errSimAway
	case s.home == s.k.home:
		return false, nil
	}
	s.k.say("the sockets are opened anew")
	s.home, s.dead, s.dump = s.k.home, nil, nil
	s.queue, s.overrun, s.congested = nil, false, false
	return true, nil
}

func (s *simSocket) SetDown(home netNSID, indexes []int32, failed func(int32, error)) {
	for _, index := range indexes {
		over, err := s.mayChange()
		if err != nil {
			failed(index, err)
			continue
		}
		s.k.nap(2 * time.Millisecond)
		if s.may != nil && s.k.dice.IntN(4) == 0 {
			s.k.nap(500 * time.Millisecond) // something holds rtnl
		}
		l := s.k.links[index]
		switch {
		case home != s.k.home:
			failed(index, errMoved)
		case l == nil:
			failed(index, unix.ENODEV)
		default:
			if s.forbidden != nil {
				s.forbidden(l)
			}
			l.setDown = true
			s.k.set(l, 0)
		}
		over()
	}
}

// mayChange asks before a link is set down, as the real one does.
func (s *simSocket) mayChange() (over func(), err error) {
	if s.may == nil {
		return func() {}, nil
	}
	return s.may()
}

// describeSim is a message in a line, for comparing the fake kernel with the real one.
func describeSim(m *simMessage) string {
	what := "new"
	switch {
	case m.deleted:
		what = "del"
	case m.created:
		what = "created"
	}
	return fmt.Sprintf("%s family=%d %s admin=%v master=%v mtu=%d", what, m.family, m.name, m.flags&unix.IFF_UP != 0, m.master != 0, m.mtu)
}
