package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// What a process says of itself to the other instances, and of all of them to whoever asks.

// reasonLimit is how much a row says of what is wrong.
const reasonLimit = 240

// self is this process as an instance.
func (b *box) self(now time.Time) peer {
	p := peer{version: b.m.version, pid: os.Getpid(), role: roleStandby, heartbeat: utc(now)}
	var reasons []string
	take := func(u *unit, h *health) {
		for _, c := range h.Checks(now, 0) {
			if c.level != ok {
				reasons = append(reasons, qualified(u.namespace, c.name)+": "+c.reason)
			}
		}
	}
	for _, u := range b.units() {
		p.name = u.instance.lock.me.Instance
		if u.instance.holds() {
			p.role = roleWriter
			if u.namespace != "" {
				p.namespaces = append(p.namespaces, u.namespace)
			}
		}
		take(u, u.health)
	}
	p.health = levelOf(b.m.health.Load()).String()
	if p.reason = strings.Join(reasons, "; "); len(p.reason) > reasonLimit {
		p.reason = strings.ToValidUTF8(p.reason[:reasonLimit], "") + " …"
	}
	p.ready = len(b.Ready(now)) == 0
	return p
}

// levelOf is the level that has a score.
func levelOf(score float64) level {
	for l := ok; l < failed; l++ {
		if l.score() == score {
			return l
		}
	}
	return failed
}

// tell has the other instances told, at a beat.
func (b *box) tell() {
	for _, u := range b.units() {
		if u.teller != nil {
			u.teller.beat()
		}
	}
}

// hear takes in what the other instances have said meanwhile.
func (b *box) hear(now time.Time) {
	for _, u := range b.units() {
		if u.teller != nil {
			u.teller.hear(now)
		}
	}
}

// instanceAnswer is an instance, in the answer under statusPath.
type instanceAnswer struct {
	Instance   string   `json:"instance"`
	Up         bool     `json:"up"`
	Version    string   `json:"version"`
	PID        int      `json:"pid"`
	Role       string   `json:"role"`
	Namespaces []string `json:"namespaces"`
	Health     string   `json:"health"`
	Reason     string   `json:"reason"`
	Ready      bool     `json:"ready"`
	Heartbeat  string   `json:"heartbeat"`
}

// instances is all that are known, by name.
func (b *box) instances(now time.Time) (all []instanceAnswer) {
	if b.book == nil {
		return nil
	}
	b.hear(now)
	for _, r := range b.book.all() {
		a := instanceAnswer{r.name, r.up(now) || r.name == b.book.me, r.version, r.pid, r.role, r.namespaces,
			r.health, r.reason, r.ready, r.heartbeat}
		if a.Namespaces == nil {
			a.Namespaces = []string{}
		}
		all = append(all, a)
	}
	return all
}

// says is an instance for people.
func (a *instanceAnswer) says() string {
	switch {
	case !a.Up:
		return "has not been heard of since " + a.Heartbeat
	case a.Role == roleWriter && len(a.Namespaces) > 0:
		return fmt.Sprintf("writer of %s, %s, version %s", strings.Join(a.Namespaces, " "), a.condition(), a.Version)
	}
	return fmt.Sprintf("%s, %s, version %s", a.Role, a.condition(), a.Version)
}

func (a *instanceAnswer) condition() string {
	text := a.Health
	if !a.Ready {
		text += ", not ready"
	}
	if a.Reason != "" {
		text += " (" + a.Reason + ")"
	}
	return text
}

// alsoThere is a line for each instance, for whoever asks whether we are ready.
func (b *box) alsoThere(now time.Time) (text string) {
	for _, a := range b.instances(now) {
		text += "\ninstance " + a.Instance + ": " + a.says()
	}
	return text
}

// holds says that it writes, and has the lock.
func (i *instance) holds() bool { return i != nil && i.writing.Load() && i.lock.held() }
