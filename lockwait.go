package main

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// errGivenUp says that whoever waited for a lock does not any more.
var errGivenUp = errors.New("the lock is not waited for any more")

// lockWaits are the calls in which this process waits for locks. Nothing but the lock ends one, and each has a thread
// and an open file: a namespace that is listed again, or looked after again, goes on with the one that it left.
type lockWaits struct {
	mu sync.Mutex
	of map[string]*lockWait // by the lock's path
}

// lockWait is one of them.
type lockWait struct {
	file   fileID       // that the path was when it began
	takers int          // who wants what comes of it
	ended  chan lockGot // has that, once
}

// lockGot is a lock that is ours, or why it is not.
type lockGot struct {
	file  lockFile
	since string
	err   error
}

func newLockWaits() *lockWaits { return &lockWaits{of: map[string]*lockWait{}} }

// wait returns what comes of a call that waits for the lock of a path, or of one that is under way. Until over is
// closed: then the lock is nobody's of this process when it comes.
func (w *lockWaits) wait(path string, over <-chan struct{}, call func() lockGot) (got lockGot) {
	one := w.join(path, call)
	has := false
	select {
	case got = <-one.ended:
		has = true
	case <-over:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	one.takers--
	select {
	case <-over:
	default:
		return got
	}
	if !has {
		select {
		case got = <-one.ended: // just now
			has = true
		default:
		}
	}
	if has {
		one.give(got)
	}
	return lockGot{err: errGivenUp}
}

// join finds the call that is under way, or makes it: another one where the lock's file is another by now, because
// somebody has removed it. What that waits for may never come.
func (w *lockWaits) join(path string, call func() lockGot) *lockWait {
	w.mu.Lock()
	defer w.mu.Unlock()
	one, file := w.of[path], fileID{}
	if id, err := identify(unix.AT_FDCWD, path, 0); err == nil {
		file = id
	}
	if one == nil || one.file != file {
		one = &lockWait{file: file, ended: make(chan lockGot, 1)}
		w.of[path] = one
		go func() {
			got := call()
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.of[path] == one {
				delete(w.of, path)
			}
			one.give(got)
		}()
	}
	one.takers++
	return one
}

// give hands on what came of the call. Where nobody wants it the lock is free again.
func (l *lockWait) give(got lockGot) {
	switch {
	case l.takers > 0:
		l.ended <- got
	case got.file != nil:
		got.file.Close()
	}
}
