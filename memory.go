package main

import (
	"bytes"
	"os"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"strconv"

	"golang.org/x/sys/unix"
)

// letGo gives back the pages of the program's own file that the start has read and nothing will read again: initialization, flags, the handshakes' tables.
// They count as resident memory, and on a small box the page cache has better uses. What is needed again is mapped again, from the page cache, without reading the
// disk. Where /proc or the kernel says no, nothing happens.
func letGo() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for line := range bytes.Lines(maps) {
		if f := bytes.Fields(line); len(f) == 6 && string(f[5]) == self && f[1][1] == '-' { // never what has been written to
			from, to, _ := bytes.Cut(f[0], []byte("-"))
			start, err := strconv.ParseUint(string(from), 16, strconv.IntSize)
			end, endErr := strconv.ParseUint(string(to), 16, strconv.IntSize)
			if err == nil && endErr == nil {
				_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED)
			}
		}
	}
}

// heapSpare is how much free heap may stay with the process.
const heapSpare = 512 << 10

// trimHeap returns free heap to the system at once: the runtime would take minutes over what a start or a storm has needed. Nothing happens if there is
// little of it.
func trimHeap() {
	free := []runtimemetrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	runtimemetrics.Read(free)
	if free[0].Value.Uint64() > heapSpare {
		debug.FreeOSMemory()
	}
}
