package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Slots: how many connections the metrics server has open at a time, and who has to make room. Whoever comes gets in as
// long as somebody does nothing: else a few clients that connect and say no more would keep Prometheus out.

const (
	maxConnections = 32
	maxPerPeer     = maxConnections / 2
	stalledAfter   = time.Second // so long nothing moved: a request under way has to make room, too, if nobody is idle
)

// slots holds the open connections of a server.
type slots struct {
	m *metrics

	mu    sync.Mutex
	open  map[*slotConn]struct{}
	freed chan struct{} // has a token if a connection ended since somebody waited
}

func newSlots(m *metrics) *slots {
	return &slots{m: m, open: make(map[*slotConn]struct{}), freed: make(chan struct{}, 1)}
}

// admission is what becomes of a new connection.
type admission int

const (
	slotGiven   admission = iota
	slotRefused           // all that its peer may have are at work
	slotWait              // all that there are are at work
)

// admit gives c a slot, if need be that of the connection that has been idle or silent longest: of the same peer if
// that has all it may have, else of all.
func (s *slots) admit(c *slotConn, now time.Time) admission {
	s.mu.Lock()
	defer s.mu.Unlock()
	ofPeer := 0
	for other := range s.open {
		if c.shares(other) {
			ofPeer++
		}
	}
	var out *slotConn
	switch {
	case ofPeer >= maxPerPeer:
		if out = s.idlest(now, c.shares); out == nil {
			s.m.httpRefused.Inc()
			return slotRefused
		}
	case len(s.open) >= maxConnections:
		if out = s.idlest(now, func(*slotConn) bool { return true }); out == nil {
			return slotWait
		}
	}
	if out != nil {
		delete(s.open, out)
		s.m.httpEvicted.Inc()
		out.Conn.Close()
	}
	c.moved = now
	s.open[c] = struct{}{}
	s.m.httpConnections.Set(float64(len(s.open)))
	return slotGiven
}

// idlest finds, among the connections that may be asked, the one where nothing has moved for longest, before all those
// without a request. A request under way is only disturbed when it has stalled. The caller holds the lock.
func (s *slots) idlest(now time.Time, asked func(*slotConn) bool) (out *slotConn) {
	for c := range s.open {
		switch {
		case !asked(c) || c.busy && now.Sub(c.moved) < stalledAfter:
		case out == nil || out.busy && !c.busy || out.busy == c.busy && c.moved.Before(out.moved):
			out = c
		}
	}
	return out
}

// leave gives c's slot back.
func (s *slots) leave(c *slotConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	s.m.httpConnections.Set(float64(len(s.open)))
	select {
	case s.freed <- struct{}{}:
	default:
	}
}

// state is net/http's word on a connection: it has read a request, or it waits for the next.
func (s *slots) state(c net.Conn, state http.ConnState) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if c, ok := c.(*slotConn); ok {
		s.mu.Lock()
		c.busy, c.idle, c.moved = state == http.StateActive, state == http.StateIdle, time.Now()
		s.mu.Unlock()
	}
}

// waited says that somebody may wait for an answer: a request is under way, or on its way. Whoever has long been silent
// has none.
func (s *slots) waited(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if c.busy || !c.idle && now.Sub(c.moved) < stalledAfter {
			return true
		}
	}
	return false
}

// slotConn is a connection with a slot.
type slotConn struct {
	net.Conn
	slots *slots
	peer  netip.Prefix // zero: a unix socket's peer, which has no address to tell it from others by
	moved time.Time    // when a byte last did, guarded by the slots' lock
	busy  bool         // a request was read and is not answered yet, guarded likewise
	idle  bool         // what it has asked is answered, guarded likewise
	once  sync.Once
}

func (s *slots) newConn(c net.Conn) *slotConn {
	return &slotConn{Conn: c, slots: s, peer: peerOf(c.RemoteAddr())}
}

// peerOf is whom a connection is counted for: an IPv4 address, or the /64 that an IPv6 host chooses its addresses from.
func peerOf(a net.Addr) netip.Prefix {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := t.AddrPort().Addr().Unmap()
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.WithZone("").Prefix(bits)
	return prefix
}

// shares tells whether two connections are of one peer.
func (c *slotConn) shares(other *slotConn) bool { return c.peer.IsValid() && c.peer == other.peer }

func (c *slotConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.note(n)
	return n, err
}

func (c *slotConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.note(n)
	return n, err
}

func (c *slotConn) note(n int) {
	if n > 0 {
		c.slots.mu.Lock()
		c.moved = time.Now()
		c.slots.mu.Unlock()
	}
}

func (c *slotConn) Close() error {
	c.once.Do(func() { c.slots.leave(c) })
	return c.Conn.Close()
}

// slotListener hands on connections that have a slot. While all are at work the next one waits, and the rest in the
// kernel's queue, which is bounded, too.
type slotListener struct {
	net.Listener
	slots  *slots
	once   sync.Once
	closed chan struct{}
}

func (s *slots) Listener(l net.Listener) *slotListener {
	return &slotListener{Listener: l, slots: s, closed: make(chan struct{})}
}

func (l *slotListener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := l.slots.newConn(inner)
		got := l.slots.admit(c, time.Now())
		for ; got == slotWait; got = l.slots.admit(c, time.Now()) {
			select {
			case <-l.slots.freed:
			case <-time.After(stalledAfter):
			case <-l.closed:
				inner.Close()
				return nil, net.ErrClosed
			}
		}
		if got == slotGiven {
			return c, nil
		}
		inner.Close()
	}
}

func (l *slotListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}
