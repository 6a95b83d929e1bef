package main

import (
	"runtime"
	"runtime/debug"
)

// heapSpare is how much free heap may stay with the process.
const heapSpare = 512 << 10

// trimAfter is how many beats in a row without a link message come before the heap is trimmed. To collect and give back
// costs two milliseconds of processor time: not in the seconds after a storm, when the next one may be near.
const trimAfter = 12

// trimmer gives back what a start or a storm has needed, once, when it is long over. The zero value is at a start.
type trimmer struct {
	messages uint64 // link messages so far
	quiet    int    // beats since the last one
}

// beat is told at each beat how many link messages there were so far, and tells whether the heap is to be trimmed.
func (t *trimmer) beat(messages uint64) (due bool) {
	if messages != t.messages {
		t.messages, t.quiet = messages, 0
	}
	t.quiet++
	return t.quiet == trimAfter
}

// trimHeap returns free heap to the system at once: the runtime would take minutes. Nothing happens if there is little
// of it.
func trimHeap() {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapIdle-m.HeapReleased > heapSpare {
		debug.FreeOSMemory()
	}
}
