package main

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// What the flight recorder is told while the file that it is to go on in is opened beside the loop.

const queueMost = 1 << 13 // calls that are remembered until then

// recordPlace is a file, its image in memory, and why there is none.
type recordPlace struct {
	file   *os.File
	image  []byte
	err    error
	memory bool // the file has no name
}

// close gives it back.
func (p *recordPlace) close() {
	if p.file != nil {
		_ = unix.Munmap(p.image)
		p.file.Close()
	}
}

// recordMove is the way to another file.
type recordMove struct {
	path  string // empty: its own again
	sleep func(time.Duration)
	wrote bool        // the loop has written something,
	by    time.Time   // or has had time to
	late  bool        // the file was not to be had, and is tried again
	waits atomic.Bool // the recorder takes nothing down until then, and remembers what it was told

	mu      sync.Mutex
	under   bool   // one is being opened
	turn    uint32 // what a loop before has had opened is nobody's
	from    *recordPlace
	queue   []func()
	spilled bool // more than can be remembered: nothing of it is taken down, and the next messages tell the state
}

// later has a call made again when the recorder has its file, and says that it will be. Anybody may call it.
func (v *recordMove) later(call func()) bool {
	if !v.waits.Load() {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.waits.Load() {
		return false
	}
	if v.spilled = v.spilled || len(v.queue) == queueMost; v.spilled {
		v.queue = nil
	} else {
		v.queue = append(v.queue, call)
	}
	return true
}

// remembered ends that, and returns the calls.
func (v *recordMove) remembered() (calls []func(), spilled bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	calls, spilled = v.queue, v.spilled
	v.queue, v.spilled = nil, false
	v.waits.Store(false)
	return calls, spilled
}

// arrive takes what was opened for a loop; nobody's is closed.
func (v *recordMove) arrive(place recordPlace, turn uint32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if turn == v.turn {
		v.from = &place
	} else {
		place.close()
	}
}

// take returns what was opened, nil: nothing. over says that the loop has ended.
func (v *recordMove) take(over bool) (place *recordPlace) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if over {
		v.turn++
	}
	place, v.from = v.from, nil
	v.under = v.under && place == nil && !over
	return place
}

// begins says that one is to be opened now, for a loop.
func (v *recordMove) begins() (turn uint32, now bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.under {
		return 0, false
	}
	v.under = true
	return v.turn, true
}
