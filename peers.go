package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What several instances know of each other: each has a row in STATE_DB, and reads those of the others.

// peerStale is how long a row may stay as it is: two beats may be late.
const peerStale = 15 * time.Second

// peer is an instance, as its row has it.
type peer struct {
	name       string
	version    string
	pid        int
	role       string
	namespaces []string // that it writes to; one without a name is not among them
	health     string
	reason     string
	ready      bool
	heartbeat  string // RFC 3339, by its own clock
}

// fields are the row's.
func (p *peer) fields() []string {
	return []string{"version", p.version, "pid", strconv.Itoa(p.pid), "role", p.role,
		"namespaces", strings.Join(p.namespaces, ","), "health", p.health, "reason", p.reason,
		"ready", strconv.FormatBool(p.ready), "heartbeat", p.heartbeat}
}

// readPeer makes an instance of a row.
func readPeer(name string, row []string) (p peer) {
	p.name = name
	for i := 0; i+1 < len(row); i += 2 {
		switch value := row[i+1]; row[i] {
		case "version":
			p.version = value
		case "pid":
			p.pid, _ = strconv.Atoi(value)
		case "role":
			p.role = value
		case "namespaces":
			p.namespaces = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
		case "health":
			p.health = value
		case "reason":
			p.reason = value
		case "ready":
			p.ready = value == "true"
		case "heartbeat":
			p.heartbeat = value
		}
	}
	return p
}

// peerRow is what was read of one instance.
type peerRow struct {
	peer
	at time.Time // when it was seen to have changed; zero: it was old when it was seen first
}

// up says that it lives.
func (r *peerRow) up(now time.Time) bool { return !r.at.IsZero() && now.Sub(r.at) < peerStale }

// peerBook is what one process knows of all instances. Anybody may use it.
type peerBook struct {
	m     *metrics // of the process
	me    string   // our own name: we are up
	mu    sync.Mutex
	rows  map[string]map[string]peerRow // by namespace in whose STATE_DB they are, and name
	shown map[string]*gauge             // series
}

func newPeerBook(m *metrics, me string) *peerBook {
	return &peerBook{m: m, me: me, rows: map[string]map[string]peerRow{}, shown: map[string]*gauge{}}
}

// take takes what a namespace's STATE_DB has.
func (b *peerBook) take(namespace string, peers []peer, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before, rows := b.rows[namespace], make(map[string]peerRow, len(peers))
	for _, p := range peers {
		row := peerRow{p, now}
		if was, known := before[p.name]; known && was.heartbeat == p.heartbeat {
			row.at = was.at
		} else if !known && oldBeat(p.heartbeat, now) {
			row.at = time.Time{}
		}
		rows[p.name] = row
	}
	b.rows[namespace] = rows
	b.publish(now)
}

// keep forgets what was read where nobody looks any more: of namespaces that are not among these.
func (b *peerBook) keep(namespaces []string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for namespace := range b.rows {
		if !slices.Contains(namespaces, namespace) {
			delete(b.rows, namespace)
		}
	}
	b.publish(now)
}

// miss is for a STATE_DB that does not answer: what it had grows old.
func (b *peerBook) miss(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.publish(now)
}

// oldBeat says that a row that nobody has seen before is stale. A clock that is set meanwhile costs the time until the
// next beat.
func oldBeat(heartbeat string, now time.Time) bool {
	at, err := time.Parse(time.RFC3339, heartbeat)
	return err != nil || now.Sub(at).Abs() >= peerStale
}

// all is every instance, by name: what was heard last of it.
func (b *peerBook) all() (rows []peerRow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.latest()
}

func (b *peerBook) latest() (rows []peerRow) {
	newest := map[string]peerRow{}
	for _, of := range b.rows {
		for name, row := range of {
			if was, known := newest[name]; !known || row.at.After(was.at) {
				newest[name] = row
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(newest)) {
		rows = append(rows, newest[name])
	}
	return rows
}

// publish renders the series of all.
func (b *peerBook) publish(now time.Time) {
	want := map[string]bool{}
	show := func(v *vector, on bool, pairs ...string) {
		labels := labelSet(pairs...)
		key := labels
		if v == &b.m.instanceUp {
			key = "up" + labels
		}
		g := b.shown[key]
		if g == nil {
			g = new(gauge)
			b.shown[key] = g
			v.Add(labels, g)
		}
		g.SetBool(on)
		want[key] = true
	}
	for _, row := range b.latest() {
		up := row.up(now) || row.name == b.me
		show(&b.m.instanceUp, up, "instance", row.name)
		if len(b.rows) == 1 && b.rows[""] != nil {
			show(&b.m.instanceWriter, up && row.role == roleWriter, "instance", row.name)
			continue
		}
		for namespace := range b.rows {
			show(&b.m.instanceWriter, up && slices.Contains(row.namespaces, namespace),
				"instance", row.name, "namespace", namespace)
		}
	}
	for key := range b.shown {
		if want[key] {
			continue
		}
		delete(b.shown, key)
		if labels, isUp := strings.CutPrefix(key, "up"); isUp {
			b.m.instanceUp.Remove(labels)
		} else {
			b.m.instanceWriter.Remove(key)
		}
	}
}
