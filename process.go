package main

import (
	"bytes"
	"encoding/binary"
	"math"
	runtimemetrics "runtime/metrics"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// process reads what the kernel and the Go runtime know of this process, into gauges. It keeps its files open and
// its buffers, so that a scrape allocates nothing.
type process struct {
	cpu, memory, virtual, started, openFDs, maxFDs gauge
	goroutines, threads, heapAlloc, heapInuse, sys gauge

	mu        sync.Mutex
	stat, fds int // descriptors of /proc/self/stat and /proc/self/fd, -1: not there
	buf       []byte
	samples   []runtimemetrics.Sample
}

const (
	clockTicks  = 100 // USER_HZ: the same on every Linux architecture that Go knows
	statBufLen  = 4 << 10
	direntLenAt = 16 // offset of d_reclen in struct linux_dirent64
)

func openProcess() *process {
	p := &process{stat: -1, fds: -1, buf: make([]byte, statBufLen), samples: []runtimemetrics.Sample{
		{Name: "/sched/goroutines:goroutines"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/total:bytes"},
	}}
	if fd, err := unix.Open("/proc/self/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		p.stat = fd
	}
	if fd, err := unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		p.fds = fd
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		p.maxFDs.Set(float64(limit.Cur))
	}
	p.started.Set(math.NaN())
	return p
}

// Read refreshes the gauges.
func (p *process) Read() {
	p.mu.Lock()
	defer p.mu.Unlock()
	runtimemetrics.Read(p.samples)
	p.goroutines.Set(float64(p.samples[0].Value.Uint64()))
	p.heapAlloc.Set(float64(p.samples[1].Value.Uint64()))
	p.heapInuse.Set(float64(p.samples[1].Value.Uint64() + p.samples[2].Value.Uint64()))
	p.sys.Set(float64(p.samples[3].Value.Uint64()))
	p.readStat()
	p.countFDs()
}

// ReadMemory refreshes the few that /proc/self/stat has, memory among them, and returns the resident bytes.
func (p *process) ReadMemory() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readStat()
	return p.memory.Load()
}

// readStat reads /proc/self/stat, proc(5): after the name in parentheses come fields 3 and on.
func (p *process) readStat() {
	n, err := unix.Pread(p.stat, p.buf, 0)
	if err != nil {
		return
	}
	text := p.buf[:n]
	text = text[bytes.LastIndexByte(text, ')')+1:]
	var utime, ticks uint64
	for field := 3; len(text) > 0; field++ {
		var word []byte
		text = bytes.TrimLeft(text, " ")
		if end := bytes.IndexByte(text, ' '); end >= 0 {
			word, text = text[:end], text[end:]
		} else {
			word, text = text, nil
		}
		number := parseUint(word)
		switch field {
		case 14:
			utime = number
		case 15:
			p.cpu.Set(float64(utime+number) / clockTicks)
		case 20:
			p.threads.Set(float64(number))
		case 22:
			ticks = number
		case 23:
			p.virtual.Set(float64(number))
		case 24:
			p.memory.Set(float64(number) * float64(unix.Getpagesize()))
		}
	}
	if math.IsNaN(p.started.Load()) {
		p.started.Set(bootTime() + float64(ticks)/clockTicks)
	}
}

// parseUint reads leading decimal digits.
func parseUint(b []byte) (n uint64) {
	for _, c := range b {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}

// bootTime is the line btime of /proc/stat, in seconds since the epoch.
func bootTime() float64 {
	fd, err := unix.Open("/proc/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return math.NaN()
	}
	defer unix.Close(fd)
	text, buf := []byte{}, make([]byte, statBufLen)
	for {
		n, err := unix.Read(fd, buf)
		if n <= 0 || err != nil {
			break
		}
		text = append(text, buf[:n]...)
	}
	if _, rest, found := bytes.Cut(text, []byte("\nbtime ")); found {
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if seconds, err := strconv.ParseFloat(string(line), 64); err == nil {
			return seconds
		}
	}
	return math.NaN()
}

// countFDs counts the entries of /proc/self/fd but . and ..; the descriptor it reads by is open and counts.
func (p *process) countFDs() {
	if _, err := unix.Seek(p.fds, 0, 0); err != nil {
		return
	}
	count := 0
	for {
		n, err := unix.ReadDirent(p.fds, p.buf)
		if n <= 0 || err != nil {
			break
		}
		for at := 0; at+direntLenAt+2 <= n; count++ {
			at += int(max(binary.NativeEndian.Uint16(p.buf[at+direntLenAt:]), direntLenAt))
		}
	}
	p.openFDs.Set(float64(count - 2))
}
