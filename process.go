package main

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// process reads what the kernel and the Go runtime know of this process, into gauges. It keeps its files open and
// its buffers, so that a scrape allocates nothing.
type process struct {
	cpu, memory, virtual, started, openFDs, maxFDs gauge
	goroutines, threads, heapAlloc, heapInuse, sys gauge

	began time.Duration // by machineClock, negative: not known

	mu                sync.Mutex
	statm, fds, tasks int // descriptors of what has these names in /proc/self, -1: not there
	buf               []byte
	heap              runtime.MemStats
}

const (
	clockTicks  = 100 // USER_HZ: the same on every Linux architecture that Go knows
	procBufLen  = 4 << 10
	direntLenAt = 16 // offset of d_reclen in struct linux_dirent64
)

func openProcess() *process {
	p := &process{buf: make([]byte, procBufLen)}
	p.statm = openProc("/proc/self/statm", 0)
	p.fds = openProc("/proc/self/fd", unix.O_DIRECTORY)
	p.tasks = openProc("/proc/self/task", unix.O_DIRECTORY)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		p.maxFDs.Set(float64(limit.Cur))
	}
	p.began = startClock()
	p.Started(time.Now())
	return p
}

// openProc returns a descriptor, -1: there is none.
func openProc(path string, how int) int {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|how, 0)
	if err != nil {
		return -1
	}
	return fd
}

// Read refreshes the gauges.
func (p *process) Read() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.goroutines.Set(float64(runtime.NumGoroutine()))
	runtime.ReadMemStats(&p.heap) // package runtime/metrics takes a thirtieth of a start to set itself up
	p.heapAlloc.Set(float64(p.heap.HeapAlloc))
	p.heapInuse.Set(float64(p.heap.HeapInuse))
	p.sys.Set(float64(p.heap.Sys))
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) == nil {
		p.cpu.Set(float64(unix.TimevalToNsec(usage.Utime)+unix.TimevalToNsec(usage.Stime)) / 1e9)
	}
	p.readMemory()
	p.countFDs()
	var tasks unix.Stat_t
	if unix.Fstat(p.tasks, &tasks) == nil {
		p.threads.Set(float64(tasks.Nlink) - 2) // proc_task_getattr in the kernel's fs/proc/base.c
	}
	p.Started(time.Now())
}

// Started is when the process started, in seconds since the epoch, by the wall clock of now: a machine without a
// battery boots in 1970, and is told the time later. It stays as it is as long as nobody sets the clock.
func (p *process) Started(now time.Time) float64 {
	at := math.NaN()
	if p.began >= 0 {
		at = math.Round((float64(now.UnixMilli())/1000-(machineClock()-p.began).Seconds())*clockTicks) / clockTicks
	}
	if was := p.started.Load(); !(math.Abs(at-was) < clockSet) {
		p.started.Set(at)
	}
	return p.started.Load()
}

// ReadMemory refreshes the memory's gauges, unless a scrape does, and returns the resident bytes. It does not wait.
func (p *process) ReadMemory() float64 {
	if p.mu.TryLock() {
		p.readMemory()
		p.mu.Unlock()
	}
	return p.memory.Load()
}

// readMemory reads /proc/self/statm, proc(5): virtual and resident size in pages.
func (p *process) readMemory() {
	if _, _, errno := unix.RawSyscall(unix.SYS_LSEEK, uintptr(p.statm), 0, unix.SEEK_SET); errno != 0 {
		return
	}
	n, errno := rawIO(unix.SYS_READ, uintptr(p.statm), p.buf) // at each beat, see identify
	if errno != 0 {
		return
	}
	size, rest, _ := bytes.Cut(p.buf[:n], []byte(" "))
	page := float64(unix.Getpagesize())
	p.virtual.Set(float64(parseUint(size)) * page)
	p.memory.Set(float64(parseUint(rest)) * page)
}

// startClock is when the process started: field 22 of /proc/self/stat, counted from the boot by the same clock as
// machineClock. Fields are counted after the name in parentheses, which may hold anything. /proc/stat, which has the
// boot's own time, is hidden from some services (systemd's ProcSubset=pid).
func startClock() time.Duration {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return -1
	}
	return startTicks(text)
}

func startTicks(stat []byte) time.Duration {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return -1
	}
	return time.Duration(parseUint(fields[22-3])) * (time.Second / clockTicks)
}

// machineClock is the time since the machine was booted, 0: not known.
func machineClock() time.Duration {
	var clock unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &clock) != nil {
		return 0
	}
	return time.Duration(clock.Nano())
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

// stopped tells whether a process is, by a signal or a debugger: the state of /proc/pid/stat is T or t.
func stopped(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, rest, found := bytes.Cut(text, []byte(") "))
	return err == nil && found && len(rest) > 0 && rest[0]|' ' == 't'
}
