package main

import "io"

// The heartbeat that SONiC's supervisor-proc-exit-listener waits for (SONIC.md, "What supervises it"): supervisord
// takes what is between the two markers out of a program's stdout, and tells its listeners.

// heartbeatMark is one beat. No newline follows it: that would be left over, and be an empty line of the program's log.
const heartbeatMark = "<!--XSUPERVISOR:BEGIN-->heartbeat<!--XSUPERVISOR:END-->"

const heartbeatUsage = "print a heartbeat for SONiC's supervisor-proc-exit-listener on stdout with every beat of " +
	"the loop, each 5 s or so"

// heart prints the beats of a loop. Nobody waits for it: while whoever reads stdout does not, beats are left out.
type heart struct{ due chan struct{} }

// startHeart has beats printed from a goroutine of its own, which may wait for ever.
func startHeart(stdout io.Writer) *heart {
	h := &heart{due: make(chan struct{}, 1)}
	go func() {
		for range h.due {
			_, _ = io.WriteString(stdout, heartbeatMark) // one that is closed takes none, and that is all
		}
	}()
	return h
}

// beat has a mark printed; without a heart, nothing.
func (h *heart) beat() {
	if h == nil {
		return
	}
	select {
	case h.due <- struct{}{}:
	default:
	}
}
