package switchtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// CPU is the processor time that the daemon has used so far, to the nanosecond: the sum over its threads.
func (d *Daemon) CPU() (time.Duration, error) {
	threads, err := d.threads()
	var sum time.Duration
	for _, file := range threads {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue // it ended
		} else if err != nil {
			return 0, err
		}
		on, _, _ := bytes.Cut(text, []byte(" "))
		ns, err := strconv.ParseInt(string(on), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += time.Duration(ns)
	}
	return sum, err
}

// Threads is how many threads the daemon has.
func (d *Daemon) Threads() (int, error) {
	threads, err := d.threads()
	return len(threads), err
}

func (d *Daemon) threads() ([]string, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", d.PID()))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("process %d has ended, or the kernel keeps no schedstat; the daemon printed:\n%s", d.PID(), d.Log())
	}
	return files, err
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
