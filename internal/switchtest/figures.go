package switchtest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Counters are what the kernel counts of a process, summed up over its threads.
type Counters struct {
	CPU         time.Duration // processor time, to the nanosecond
	Runs        int64         // times that a thread was put on a processor
	Voluntary   int64         // context switches because a thread waited
	Involuntary int64         // context switches because others wanted the processor
	Ended       int           // threads that have ended: what they did after the last reading before that is in no sum
}

func (c *Counters) add(o Counters) {
	c.CPU += o.CPU
	c.Runs += o.Runs
	c.Voluntary += o.Voluntary
	c.Involuntary += o.Involuntary
	c.Ended += o.Ended
}

// Sub is what came since an earlier reading.
func (c Counters) Sub(before Counters) Counters {
	c.add(Counters{-before.CPU, -before.Runs, -before.Voluntary, -before.Involuntary, -before.Ended})
	return c
}

// tally keeps the sums of a process whose threads come and go. A thread takes its counters with it, and how often
// threads that have ended were switched the kernel tells the process itself only; so what was last seen of a thread
// stays in the sums, and they never fall.
type tally struct {
	mu    sync.Mutex
	alive map[string]Counters // what was last seen of each thread, by its id
	ended Counters
}

// read takes a reading from /proc/PID/task.
func (t *tally) read(tasks string) (sum Counters, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return sum, err
	}
	alive := make(map[string]Counters)
	for _, entry := range threads {
		now, err := readThread(filepath.Join(tasks, entry.Name()))
		switch before, known := t.alive[entry.Name()]; {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH): // ended since it was listed
			if !known {
				t.ended.Ended++
			}
			continue
		case err != nil:
			return sum, err
		case known && now.Runs < before.Runs: // another one, with the id of one that has ended
			t.end(before)
			delete(t.alive, entry.Name())
		}
		alive[entry.Name()] = now
		sum.add(now)
	}
	for id, before := range t.alive {
		if _, still := alive[id]; !still {
			t.end(before)
		}
	}
	t.alive = alive
	sum.add(t.ended)
	return sum, nil
}

func (t *tally) end(thread Counters) {
	t.ended.add(thread)
	t.ended.Ended++
}

// readThread reads schedstat – time on a processor, time waiting for one, times put on one – and status.
func readThread(folder string) (c Counters, err error) {
	text, err := os.ReadFile(filepath.Join(folder, "schedstat"))
	if err != nil {
		return c, err
	}
	var waited int64
	if n, _ := fmt.Sscan(string(text), (*int64)(&c.CPU), &waited, &c.Runs); n != 3 {
		return c, fmt.Errorf("%s/schedstat: %q is not three numbers", folder, text)
	}
	if text, err = os.ReadFile(filepath.Join(folder, "status")); err != nil {
		return c, err
	}
	found := 0
	for line := range bytes.Lines(text) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		var to *int64
		switch string(name) {
		case "voluntary_ctxt_switches":
			to = &c.Voluntary
		case "nonvoluntary_ctxt_switches":
			to = &c.Involuntary
		default:
			continue
		}
		if *to, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64); err != nil {
			return c, fmt.Errorf("%s/status: %w", folder, err)
		}
		found++
	}
	if found != 2 {
		return c, fmt.Errorf("%s/status: the kernel counts no context switches", folder)
	}
	return c, nil
}

func (d *Daemon) tasks() string { return fmt.Sprintf("/proc/%d/task", d.PID()) }

// Counters are those of the daemon so far.
func (d *Daemon) Counters() (Counters, error) {
	sum, err := d.tally.read(d.tasks())
	if err != nil {
		err = fmt.Errorf("process %d has ended, or its counters cannot be read: %w; the daemon printed:\n%s",
			d.PID(), err, d.Log())
	}
	return sum, err
}

// CPU is the processor time that the daemon has used so far, to the nanosecond: the sum over its threads.
func (d *Daemon) CPU() (time.Duration, error) {
	sum, err := d.Counters()
	return sum.CPU, err
}

// Threads is how many threads the daemon has.
func (d *Daemon) Threads() (int, error) {
	threads, err := os.ReadDir(d.tasks())
	return len(threads), err
}

// Memory is the daemon's resident memory and the anonymous part of it, in bytes.
func (d *Daemon) Memory() (resident, anonymous int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.PID()))
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(string(fields[1]), 10, 64)
		switch string(fields[0]) {
		case "VmRSS:":
			resident = kib << 10
		case "RssAnon:":
			anonymous = kib << 10
		}
	}
	return resident, anonymous, err
}
