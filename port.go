package main

// port is one port: its name, its series, and a number under which every room keeps what it knows of it. What a room
// knows is nobody else's.
type port struct {
	name   string
	slot   int // small, and another port's once this one is forgotten
	series *portSeries
}

// portState is what STATE_DB says about a port, beside state=ok.
type portState struct {
	admin, oper bool
	mtu         uint32
}

// signals is what APPL_DB has of the two signals.
type signals struct {
	known      bool // it was asked, and has answered
	configDone bool
	initDone   bool
	count      int // of PortConfigDone, -1: not known
}

// rows is what one room knows about each port, by the port's slot. The zero value is empty.
type rows[T any] struct{ bySlot []*T }

// of returns a port's row, which is made, zero, when it is first asked for. It stays where it is until it is dropped.
func (r *rows[T]) of(p *port) *T {
	for len(r.bySlot) <= p.slot {
		r.bySlot = append(r.bySlot, nil)
	}
	row := r.bySlot[p.slot]
	if row == nil {
		row = new(T)
		r.bySlot[p.slot] = row
	}
	return row
}

// has says that a port's row was made.
func (r *rows[T]) has(p *port) bool { return p.slot < len(r.bySlot) && r.bySlot[p.slot] != nil }

// drop forgets a port's row, before its slot becomes another port's.
func (r *rows[T]) drop(p *port) {
	if p.slot < len(r.bySlot) {
		r.bySlot[p.slot] = nil
	}
}

// without takes a port out of a list, whose order stays.
func without(ports []*port, p *port) []*port {
	kept := ports[:0]
	for _, other := range ports {
		if other != p {
			kept = append(kept, other)
		}
	}
	return kept
}
