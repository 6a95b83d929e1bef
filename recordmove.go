package main

import "time"

// How the flight recorder goes on in another file while a loop runs: that of the portsyncd whose work this one takes
// over, or its own again when that had failed. To open one and to look through it takes milliseconds, which no port is
// to wait for: it happens beside the loop.

const (
	recorderTries = 200 // to open one that another daemon is about to leave,
	recorderPause = 5 * time.Millisecond
	moveBy        = time.Second      // a loop that writes nothing has its file by then
	mendPause     = 10 * time.Second // between two openings of its own: somebody may cut it short again and again
)

// follow has the recorder go on in the file of the portsyncd before, when its loop has time for that. None runs yet.
func (r *recorder) follow(path string, sleep func(time.Duration)) {
	switch {
	case r == nil:
	case r.off() || r.file == nil: // mend opens it
		r.path = path
	case r.path == path && !r.memory:
		r.forgetPorts()
	default:
		v := &r.moving
		v.path, v.sleep, v.wrote, v.by = path, sleep, false, time.Time{}
		v.waits.Store(true)
	}
}

// mend is called at each beat, and when a loop has written. Where the recorder is to go on in another file, or nothing
// can be recorded any more, it returns what opens one, which may take its time and is for another goroutine; mended,
// which is for the loop, goes on with it. nil: nothing is to be done. ports calls each for every port.
func (r *recorder) mend(now time.Time, wrote bool, ports func(each func(p *port))) (open func()) {
	if r == nil {
		return nil
	}
	v := &r.moving
	path, size, sleep, log, fails := v.path, r.size, v.sleep, r.log, r.failing() != ""
	if r.waiting() {
		if v.wrote = v.wrote || wrote; v.by.IsZero() {
			v.by = now.Add(moveBy)
		}
		if !v.wrote && now.Before(v.by) {
			return nil
		}
	} else if !fails && !v.late && !wrote && r.path != "" && !r.memory && !(&diskFile{File: r.file}).behind(r.path) {
		path, v.path, v.late = r.path, r.path, true // somebody has removed it
	} else if !fails && !v.late || now.Before(r.again) {
		return nil
	}
	turn, begins := v.begins()
	switch {
	case !begins:
		return nil
	case r.waiting():
		return func() { v.arrive(openLeft(path, size, recorderTries, sleep), turn) }
	}
	if r.again = now.Add(mendPause); !fails {
		return func() { v.arrive(openLeft(path, size, 1, sleep), turn) }
	}
	r.letGo()
	ports(func(p *port) { r.rows.of(p).leaveRing() })
	path = r.path
	return func() { v.arrive(openPlace(path, size, log), turn) }
}

// openLeft opens a file that whoever has left it, or was killed, may hold for a moment longer than the lock.
func openLeft(path string, size, tries int, sleep func(time.Duration)) (place recordPlace) {
	for ; ; sleep(recorderPause) {
		place.file, place.image, _, place.err = openRecord(path, size)
		if tries--; place.err == nil || tries == 0 {
			return place
		}
	}
}

// mended goes on with a file that was opened, if one was.
func (r *recorder) mended() {
	if place := r.moving.take(false); place != nil {
		r.goOn(*place)
	}
}

func (r *recorder) goOn(place recordPlace) {
	v := &r.moving
	switch waits := r.waiting(); {
	case !waits && place.err != nil:
	case !waits && (!v.late || place.memory): // its own again, where it had failed
		r.memory = place.memory
		r.settleIn(place.file, place.image, bootID())
		r.log.Log(ctxNone, levelNotice, "the flight recorder records again", "file", r.path)
	case place.err != nil:
		r.log.Warn("the flight recorder is in memory until it can have its file", "file", v.path, "err", place.err,
			"remedy", "does another program have it locked?")
		v.late = true
		r.forgetPorts()
		r.replay()
	default:
		if v.late {
			r.log.Log(ctxNone, levelNotice, "the flight recorder has its file", "file", v.path)
		}
		r.path, v.late = v.path, false
		r.replace(place)
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

// endLoop is for a loop that has ended: whatever is still being opened is nobody's, and no port is known any more.
func (r *recorder) endLoop() {
	if r == nil {
		return
	}
	if place := r.moving.take(true); place != nil {
		r.goOn(*place)
	}
	if r.waiting() {
		r.forgetPorts()
		r.replay()
	}
	r.rows, r.again, r.moving.late = rows[recordRow]{}, time.Time{}, false
}

// intoMemory has the recorder go on in memory with what is in its file, which is for another portsyncd. No loop records
// meanwhile.
func (r *recorder) intoMemory() {
	if r == nil {
		return
	}
	file, image, err := recordInMemory(r.size)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.path = ""
	switch {
	case r.off() || r.file == nil: // mend opens another one
	case err != nil:
		r.fail(err.Error())
		r.unmap()
	default:
		r.copyTo(image)
		r.unmap()
		r.memory = true
		r.begin(file, image, bootID())
		r.changes.Add(1)
		return
	}
	if err == nil {
		(&recordPlace{file: file, image: image}).close()
	}
}

// comeBack has a recorder that went into memory go on in its file, if nobody else records to it. No loop records
// meanwhile.
func (r *recorder) comeBack(path string) {
	if r.off() || r.file == nil || r.path != "" || path == "" {
		return
	}
	if place := openLeft(path, r.size, 1, nil); place.err == nil {
		r.path = path
		r.replace(place)
	}
}
