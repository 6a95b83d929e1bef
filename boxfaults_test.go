package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Boxes that start beside another portsyncd.

// TestSecondDaemonOfABoxIsRefused as one of a single switch is (docs/instances.md, "The lock"): it ends with exit code 1 and a line that names the holder.
func TestSecondDaemonOfABoxIsRefused(t *testing.T) {
	t.Parallel()
	b := newBoxTest(t, 2, 1)
	for _, s := range b.asics {
		b.up(s, 1)
	}
	second, err := b.StartDaemon(daemonProgram(t))
	must(t, err)
	t.Cleanup(second.Stop)
	if code, err := second.Wait(patience); err != nil || code != exitFailed {
		t.Fatalf("it ends with %d, %v", code, err)
	}
	_, last, _ := strings.Cut(second.Log(), "\nportsyncd: sw-")
	if !strings.Contains(last, ": another portsyncd writes to these databases: ") || !strings.Contains(last, fmt.Sprintf(", process %d, ", b.d.PID())) {
		t.Errorf("its last words do not name the holder:\n%s", second.Log())
	}
}

// TestBoxOneOfWhoseNamespacesIsAnothers goes on for the others, as while they are handed over one by one from the daemons of the containers, and takes that one up
// when it is free.
func TestBoxOneOfWhoseNamespacesIsAnothers(t *testing.T) {
	t.Parallel()
	b := newBoxTest(t, 2, 1)
	ours, others := b.asics[0], b.asics[1]
	b.up(ours, 1)
	b.up(others, 1)
	b.d.Stop()
	container, err := others.StartDaemon(daemonProgram(t))
	must(t, err)
	others.keep(container)
	others.waitMetric(container, "portsyncd_port_init_done", "1")
	b.d, err = b.StartDaemon(daemonProgram(t))
	must(t, err)
	ours.keep(b.d)
	b.up(ours, 1)
	ours.waitFor("it to say whose the other one is", func() bool {
		return b.d.Logged("is not looked after for now", others.NetNS, "another portsyncd writes") > 0
	})
	time.Sleep(2 * unitPause) // its next look at the other one is no end, either
	if !b.d.Running() {
		t.Fatalf("it has ended:\n%s", b.d.Log())
	}
	container.Stop()
	b.up(others, 1)
}
