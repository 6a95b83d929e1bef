package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"portsyncd/internal/switchtest"
)

// System calls are counted by strace(1), which slows a daemon down: they have a turn of their own at each rate.

// counted is how many system calls a toggle takes at a rate, all threads together.
func (b *bench) counted(r rate) error {
	if err := b.mend(); err != nil {
		return err
	}
	t, err := b.toggler(r, b.names)
	if err != nil {
		return err
	}
	file := filepath.Join(b.sw.Dir, "calls")
	tracer := exec.CommandContext(b.ctx, "strace", "-f", "-c", "-o", file, "-p", strconv.Itoa(b.daemon.PID()))
	if err := tracer.Start(); err != nil {
		return fmt.Errorf("-calls: %w (apt-get install strace)", err)
	}
	err = switchtest.WaitFor(b.limit, "strace to hold the daemon", func() bool { return traced(b.daemon.PID()) })
	made := 0
	if err == nil {
		begun := time.Now()
		made, _, err = t.run(r.toggles(b.sweepTime), func() bool { return time.Since(begun) > b.sweepTime || b.ctx.Err() != nil })
		b.converge(b.limit, b.expect(nil))
	}
	_ = tracer.Process.Signal(syscall.SIGINT)
	_ = tracer.Wait() // it ends by the signal
	if err := errors.Join(err, b.ctx.Err()); err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	calls, err := sumCalls(string(text))
	if err != nil {
		return err
	}
	b.note(r.String()+": system calls a toggle", "", float64(calls)/float64(made))
	return nil
}

// traced says whether somebody traces a process: TracerPid of proc_pid_status(5).
func traced(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && strings.Contains(string(text), "TracerPid:") && !strings.Contains(string(text), "TracerPid:\t0\n")
}

// sumCalls sums the fourth column of what strace -c writes: share, seconds, microseconds a call, calls, errors if there were
// any, and the name.
func sumCalls(table string) (sum int, err error) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 5 || f[len(f)-1] == "total" {
			continue
		}
		if _, err := strconv.ParseFloat(f[0], 64); err != nil {
			continue // the head and the rulers
		}
		n, err := strconv.Atoi(f[3])
		if err != nil {
			return 0, fmt.Errorf("strace wrote %q, and no number of calls", line)
		}
		sum += n
	}
	if sum == 0 {
		return 0, fmt.Errorf("strace saw no system call; it wrote %q", table)
	}
	return sum, nil
}
