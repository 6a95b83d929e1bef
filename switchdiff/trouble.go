package main

import (
	"context"
	"strings"
	"syscall"
	"time"
)

// trouble adds what should not happen to a switch, and does: a daemon that does not get to run, a Redis that does not
// answer, connections that break, keys of the wrong type.
func (m *maker) trouble() {
	name := m.name()
	switch m.IntN(6) {
	case 0, 1:
		m.add("halt")
		for range 1 + m.IntN(5) {
			m.small(m.name())
		}
		m.add("go")
	case 2:
		m.batch()
		last := len(m.h) - 1
		m.h[last] = append([]string{"stall"}, m.h[last][1:]...)
	case 3:
		m.add("cut")
		m.small(name)
		m.add("cut")
	default:
		key := m.one([]string{"PORT_TABLE|" + name, "PORT_TABLE:" + name, "_PORT_TABLE:" + name})
		db := map[bool]string{true: "state", false: "appl"}[strings.Contains(key, "|")]
		m.add(db, "SET", key, "no hash")
		for range m.IntN(4) {
			m.small(name)
		}
		m.add(db, "DEL", key)
	}
}

// small is one small thing.
func (m *maker) small(name string) {
	switch m.IntN(9) {
	case 0:
		m.add("near", "link", "del", name)
	case 1:
		m.add("cable", name, farEnd(name))
	case 2, 3:
		m.add("near", "link", "set", name, m.one([]string{"up", "down"}))
	case 4:
		m.add("near", "link", "set", name, "mtu", m.one([]string{"1500", "9000"}))
	case 5:
		m.add("near", "link", "set", name, "name", m.name())
	case 6:
		m.add("appl", "DEL", "PORT_TABLE:"+name)
	case 7:
		m.add("appl", "HSET", "PORT_TABLE:"+name, "oper_status", "up")
	case 8:
		m.port()
	}
}

// stalling is longer than B waits for an answer.
const stalling = 2500 * time.Millisecond

// stall has Redis not answer while interfaces change.
func (s *side) stall(lines []string) error {
	redis := s.sw.Redis[0].Process()
	if err := redis.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	defer func() { _ = redis.Signal(syscall.SIGCONT) }()
	err := s.sw.Batch(s.sw.NetNS, lines...)
	time.Sleep(stalling)
	return err
}

// cut ends all subscriptions. Ours are made again.
func (s *side) cut(ctx context.Context) error {
	err := s.sw.Appl.Do(ctx, "client", "kill", "type", "pubsub").Err()
	time.Sleep(reconnecting)
	return err
}

// reconnecting is longer than B takes to subscribe again.
const reconnecting = 300 * time.Millisecond

// signal sends the daemon one, if it runs.
func (s *side) signal(signal syscall.Signal) error {
	if s.daemon == nil {
		return nil
	}
	return s.daemon.Signal(signal)
}
