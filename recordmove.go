package main

import (
	"runtime/debug"
	"time"
)

// How the flight recorder goes on in another file while a loop runs: that of the portsyncd whose work this one takes
// over, or its own again when that had failed. To open one and to look through it takes milliseconds, which no port is
// to wait for: it happens beside the loop.

const (
	recorderTries = 200 // to open one that another daemon is about to leave,
	recorderPause = 5 * time.Millisecond
	mendPause     = 10 * time.Second // between two openings of its own: somebody may cut it short again and again
)

// follow has the recorder go on in the file of the portsyncd before, when its loop has time for that. None runs yet.
func (r *recorder) follow(path string, sleep func(time.Duration)) {
	if r == nil {
		return
	}
	if r.off() || r.file == nil { // mend opens it
		r.path = path
		return
	}
	if r.path == path && !r.memory {
		r.forgetPorts()
		return
	}
	r.rows = rows[recordRow]{}
	r.moving.path, r.moving.sleep = path, sleep
	r.moving.waits.Store(true)
}

// mend is called at each beat, and when a loop that takes over has written. Where the recorder is to go on in another
// file, or nothing can be recorded any more, it returns what opens one, which may take its time and is for another
// goroutine; mended, which is for the loop, goes on with it. nil: nothing is to be done. ports calls each for every
// port.
func (r *recorder) mend(now time.Time, ports func(each func(p *port))) (open func()) {
	switch {
	case r == nil:
		return nil
	case r.moving.waits.Load():
		turn, begins := r.moving.begins()
		if !begins {
			return nil
		}
		return func() { r.moving.arrive(openLeft(r.moving.path, r.size, r.moving.sleep), turn) }
	case r.failing() == "" || now.Before(r.again):
		return nil
	}
	turn, begins := r.moving.begins()
	if !begins {
		return nil
	}
	r.again = now.Add(mendPause)
	r.letGo()
	ports(func(p *port) { r.rows.of(p).leaveRing() })
	path, size, log := r.path, r.size, r.log
	return func() { r.moving.arrive(openPlace(path, size, log), turn) }
}

// openLeft opens a file that whoever has left it, or was killed, may hold for a moment longer than the lock.
func openLeft(path string, size int, sleep func(time.Duration)) (place recordPlace) {
	for range recorderTries {
		if place.file, place.image, _, place.err = openRecord(path, size); place.err == nil {
			break
		}
		sleep(recorderPause)
	}
	return place
}

// mended goes on with a file that was opened, if one was.
func (r *recorder) mended() {
	if place := r.moving.take(false); place != nil {
		r.goOn(*place)
	}
}

func (r *recorder) goOn(place recordPlace) {
	switch waits := r.moving.waits.Load(); {
	case !waits && place.err != nil:
	case !waits:
		r.memory = place.memory
		r.settleIn(place.file, place.image, bootID())
		r.log.Log(ctxNone, levelNotice, "the flight recorder records again", "file", r.path)
	case place.err != nil:
		r.log.Warn("the flight recorder stays in memory, and ends with this process", "file", r.moving.path, "err",
			place.err, "remedy", "does another program have it locked?")
		r.forgetPorts()
		r.replay()
	default:
		r.letGo()
		r.path, r.memory = r.moving.path, false
		r.settleIn(place.file, place.image, bootID())
		r.changes.Add(1)
		r.replay()
	}
}

// replay takes down what was remembered.
func (r *recorder) replay() {
	calls, spilled := r.moving.remembered()
	for _, call := range calls {
		call()
	}
	if spilled {
		r.log.Warn("the flight recorder lacks what happened while its file was opened", "file", r.path)
	}
}

// endLoop is for a loop that has ended: whatever is still being opened is nobody's.
func (r *recorder) endLoop() {
	if r == nil {
		return
	}
	if place := r.moving.take(true); place != nil {
		r.goOn(*place)
	} else if r.moving.waits.Load() {
		r.forgetPorts()
		r.replay()
	}
}

// intoMemory has the recorder go on in memory with what is in its file, which is for another portsyncd. No loop records
// meanwhile.
func (r *recorder) intoMemory() {
	if r.off() || r.file == nil { // mend opens it
		return
	}
	file, image, err := recordInMemory(r.size)
	if err != nil {
		r.fail(err.Error())
		r.letGo()
		return
	}
	r.copyTo(image)
	r.letGo()
	r.rows, r.path, r.memory = rows[recordRow]{}, "", true
	r.settleIn(file, image, bootID())
	r.changes.Add(1)
}

// copyTo copies the image.
func (r *recorder) copyTo(image []byte) {
	defer r.guard(debug.SetPanicOnFault(true))
	copy(image, r.image)
}

// comeBack has a recorder that went into memory go on in a file. No loop records meanwhile.
func (r *recorder) comeBack(path string) {
	if r == nil || r.path != "" || path == "" {
		return
	}
	r.follow(path, func(time.Duration) {})
	if r.moving.waits.Load() {
		r.goOn(openLeft(path, r.size, r.moving.sleep))
	}
}
