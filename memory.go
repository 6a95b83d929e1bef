package main

import (
	"errors"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// gcPercent is low because the heap is a few hundred kilobytes: collecting it takes less than a millisecond, and Go
	// would otherwise let it grow to 4 MB before the first time.
	gcPercent = 25
	// growTime is how long Go may let it, after a start, and growPercent how far, after a hand-over: to collect what
	// these leave behind would take their own time.
	growPercent = 200
	growTime    = 2 * time.Second
)

// heapPace is how early the heap is collected. The zero value leaves that to somebody else, GOGC.
type heapPace struct {
	mu    sync.Mutex
	until *time.Timer // when it is early again
}

// begin is for a start, whose heap grows as Go lets it.
func (h *heapPace) begin() {
	h.until = time.AfterFunc(growTime, func() { debug.SetGCPercent(gcPercent) })
}

// grow is for a hand-over.
func (h *heapPace) grow() {
	if h.until == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	debug.SetGCPercent(growPercent)
	h.until.Reset(growTime)
}

// trimAfter is how many quiet beats come before the heap is trimmed: to collect and give back costs two milliseconds of
// processor time, so not in the seconds after a storm, when the next one may be near. So many link messages a beat as
// trickle are quiet.
const (
	trimAfter = 12
	trickle   = 100
)

// trimmer gives back what a start or a storm has needed, once, when it is long over. The zero value is at a start.
type trimmer struct {
	messages uint64 // link messages so far
	quiet    int    // quiet beats in a row
}

// beat is told at each beat how many link messages there were so far, and tells whether the heap is to be trimmed.
func (t *trimmer) beat(messages uint64) (due bool) {
	if messages-t.messages > trickle {
		t.quiet = 0
	}
	t.messages = messages
	t.quiet++
	return t.quiet == trimAfter
}

// trimHeap returns free heap to the system at once: the runtime would take minutes.
func trimHeap() {
	runtime.GC() // each halves a stack that a start or a storm has had grow
	debug.FreeOSMemory()
}

// memorySize is a flag in bytes, with or without a unit.
type memorySize uint64

func (m *memorySize) String() string {
	if *m%(1<<20) == 0 {
		return strconv.FormatUint(uint64(*m)>>20, 10) + "MiB"
	}
	return strconv.FormatUint(uint64(*m), 10)
}

func (m *memorySize) Set(text string) error {
	number, shift := text, 0
	for unit, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if rest, found := strings.CutSuffix(text, unit); found {
			number, shift = rest, bits
		}
	}
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n<<shift > 1<<30 {
		return errors.New("give a number of bytes, or of KiB, MiB or GiB, up to 1GiB")
	}
	*m = memorySize(n << shift)
	return nil
}
