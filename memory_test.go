package main

import (
	"runtime"
	"testing"
)

var ballast []byte

func TestTrimHeap(t *testing.T) {
	ballast = make([]byte, 64<<20)
	for i := 0; i < len(ballast); i += 4096 {
		ballast[i] = 1
	}
	ballast = nil
	runtime.GC()
	trimHeap()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if n := m.HeapIdle - m.HeapReleased; n > 16<<20 {
		t.Errorf("%d bytes of free heap stay", n)
	}
}

// TestHeapIsTrimmedOnceWhenItHasBeenQuietForLong, and not while messages come.
func TestHeapIsTrimmedOnceWhenItHasBeenQuietForLong(t *testing.T) {
	var trim trimmer
	trims := 0
	beats := func(n int, messages func(i int) uint64) int {
		trims = 0
		for i := range n {
			if trim.beat(messages(i)) {
				trims++
			}
		}
		return trims
	}
	const storm = 1_000_000
	if n := beats(100, func(i int) uint64 { return uint64(i / 5 * (storm / 20)) }); n != 0 {
		t.Errorf("trimmed %d times in a storm that comes and goes", n)
	}
	if n := beats(100, func(i int) uint64 { return storm + uint64(i/11) }); n != 1 {
		t.Errorf("trimmed %d times after it, while one bad cable makes a message now and then", n)
	}
}
