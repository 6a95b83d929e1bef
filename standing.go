package main

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What standbys and the holder see of each other in the lock's folder: who could take over, whether the holder lives,
// and who writes without a lock.

// readyClaim is the file by which a standby tells that it could take over: a lock that goes with the process.
type readyClaim struct {
	lock *writerLock
	file lockFile // nil: we could not
	made atomic.Bool
	able bool // we could take over, whatever became of the claim
	said bool // that it cannot be made
}

// told says that the others can see it.
func (c *readyClaim) told() bool { return c.made.Load() }

// path is the file of an instance.
func (c *readyClaim) path(folder, name string) string {
	return c.lock.in(folder, readySuffix) + url.PathEscape(name)
}

// set notes whether we could take over, and at each beat that we still could: a claim is believed as long as it is
// touched. That it cannot be made is returned once.
func (c *readyClaim) set(folder string, ready bool) error {
	err := c.claim(folder, ready)
	first := err != nil && !c.said
	if c.said = err != nil; first {
		return err
	}
	return nil
}

func (c *readyClaim) claim(folder string, ready bool) error {
	defer func() { c.made.Store(c.file != nil) }()
	if c.file != nil && (!ready || !c.file.behind(c.path(folder, c.lock.me.Instance))) {
		c.file.Close()
		c.file = nil
	}
	if c.file != nil {
		c.file.touch()
	}
	if !ready || c.file != nil {
		return nil
	}
	path := c.path(folder, c.lock.me.Instance)
	file, err := c.lock.files.open(path)
	if err != nil {
		return err
	}
	if err = file.claim(); err == nil && !file.behind(path) {
		err = errors.New("somebody has removed it")
	}
	if err != nil {
		file.Close()
		return fmt.Errorf("%s: %w", path, err)
	}
	c.file = file
	return file.write([]byte(c.lock.me.String())) // who watches the folder hears of it
}

// has says that an instance could take over.
func (c *readyClaim) has(folder, name string) bool { return c.holds(c.path(folder, name)) }

// holds says that a file is claimed by one that lives: it was touched lately. A clock that is set meanwhile costs the
// time until the next beat.
func (c *readyClaim) holds(path string) bool {
	at, is := c.lock.files.claimed(path)
	return is && c.lock.now().Sub(at).Abs() < silentAfter
}

// names are the instances that could take over.
func (c *readyClaim) names(folder string) (names []string) {
	prefix := c.lock.in(folder, readySuffix)
	for _, path := range c.lock.files.starting(prefix) {
		name, err := url.PathUnescape(strings.TrimPrefix(path, prefix))
		if err == nil && c.holds(path) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// silentAfter: a holder that has shown no sign of life for so long does not answer.
const silentAfter = 15 * time.Second

// holderWatch looks at a standby's beats whether the holder lives. One that does not may be stopped, or stuck: nobody
// takes the lock from it.
type holderWatch struct {
	sign time.Time // that its file had
	at   time.Time // and since when
}

// look says how the holder fails, empty: it does not.
func (w *holderWatch) look(l *writerLock, folder string, now time.Time) string {
	holder, sign := l.holder(folder)
	if w.at.IsZero() || !sign.Equal(w.sign) {
		w.sign, w.at = sign, now
	}
	silent := now.Sub(w.at)
	if silent < silentAfter {
		return ""
	}
	return fmt.Sprintf("the holder (%s) does not answer for %v; it keeps the lock until it ends", holder,
		silent.Round(time.Second))
}

// strangerWatch is a standby that has the lock while a portsyncd writes that knows of none, such as the C++ one: it
// goes on observing until it is told to write. That the other one has ended is no reason: whoever looks after that may
// start it again.
type strangerWatch struct {
	mu     sync.Mutex
	forced chan struct{} // closed when it is told to write; nil: nobody writes without a lock
}

// begin is for a stranger that was seen.
func (w *strangerWatch) begin() (forced <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forced = make(chan struct{})
	return w.forced
}

func (w *strangerWatch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forced = nil
}

func (w *strangerWatch) on() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.forced != nil
}

// errNotBeside says that there is nothing to force.
var errNotBeside = errors.New("-force is for a standby that only observes because a portsyncd writes without a lock; " +
	"this one does not")

// force has it write.
func (w *strangerWatch) force() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.forced == nil {
		return errNotBeside
	}
	close(w.forced)
	w.forced = nil
	return nil
}

const onlyForced = "this one only observes until it is told to write, when that one is ended: portsyncd " +
	"handover -force"
