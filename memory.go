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
//
// A mapping with pages of our own (Anonymous) is left alone, although it is read-only now: a position-independent build has its relocations there.
func letGo() {
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	var start, end uint64 // of the mapping that the following lines are about; end 0: none of ours
	for line := range bytes.Lines(smaps) {
		switch f := bytes.Fields(line); {
		case len(f) >= 5 && bytes.IndexByte(f[0], '-') > 0: // from-to permissions offset device inode path
			from, to, _ := bytes.Cut(f[0], []byte("-"))
			start, _ = strconv.ParseUint(string(from), 16, strconv.IntSize)
			end = 0
			if len(f) == 6 && string(f[5]) == self && f[1][1] == '-' {
				end, _ = strconv.ParseUint(string(to), 16, strconv.IntSize)
			}
		case end > start && len(f) == 3 && string(f[0]) == "Anonymous:" && string(f[1]) == "0":
			_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED)
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
