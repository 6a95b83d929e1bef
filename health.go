package main

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// Health: what the loop tells of itself, for probes that must not wait for it.

const (
	stuckAfter  = 10 * time.Second // a loop that has not turned for so long is stuck
	behindAfter = 2 * time.Second  // so long a port may wait to be written before the databases count as out of step
)

// health is written by the loop and read by anyone.
type health struct {
	turned   atomic.Int64 // when the loop last turned, Unix nanoseconds
	behind   atomic.Int64 // since when there are unwritten ports, Unix nanoseconds, 0: there are none
	listed   atomic.Bool  // the first listing of all links is complete
	failing  atomic.Bool  // the databases do not answer, or refuse
	noDB     atomic.Bool  // standalone: there are none
	initDone atomic.Bool
}

// turn notes that the loop turns, and whether ports wait to be written.
func (h *health) turn(now time.Time, unwritten int) {
	h.turned.Store(now.UnixNano())
	switch {
	case unwritten == 0:
		h.behind.Store(0)
	case h.behind.Load() == 0:
		h.behind.Store(now.UnixNano())
	}
}

// Alive returns why the daemon is not alive; nothing is good news.
func (h *health) Alive(now time.Time) (failing []string) {
	if since := now.Sub(time.Unix(0, h.turned.Load())); since > stuckAfter {
		failing = append(failing, fmt.Sprintf("loop: has not turned for %v", since.Round(time.Second)))
	}
	return failing
}

// Ready returns why the switch cannot rely on what is published, a line for each failing check. pending are the ports that PortInitDone waits for.
func (h *health) Ready(now time.Time, pending []string) (failing []string) {
	failing = h.Alive(now)
	if !h.listed.Load() {
		failing = append(failing, "links: the first listing is not complete")
	}
	if h.noDB.Load() {
		return failing
	}
	if h.failing.Load() {
		failing = append(failing, "databases: they do not answer, or refuse")
	}
	if since := h.behind.Load(); since != 0 && now.Sub(time.Unix(0, since)) > behindAfter {
		failing = append(failing, fmt.Sprintf("databases: ports wait to be written since %s", time.Unix(0, since).UTC().Format(time.RFC3339)))
	}
	switch {
	case h.initDone.Load():
	case len(pending) > 0:
		failing = append(failing, fmt.Sprintf("PortInitDone: %d ports have no interface yet: %s", len(pending), strings.Join(pending, " ")))
	default:
		failing = append(failing, "PortInitDone: not sent yet")
	}
	return failing
}
