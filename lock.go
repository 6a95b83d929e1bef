package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The lock: which of several portsyncd writes to the databases of a namespace (docs/instances.md). The kernel drops it
// when its holder dies, and nobody else can take it away.

const lockDirUsage = "`folder` of the lock that the portsyncd that writes holds (default: that of APPL_DB's unix " +
	"socket, or one of its address's in " + defaultLockDir + ")"

// errHeld says that another portsyncd holds the lock.
var errHeld = errors.New("another portsyncd writes to these databases")

// errLockLost says that the lock was not ours when something was to be written, which was not. What is written next may
// find that others wrote meanwhile.
var errLockLost = errors.New("the lock was not ours any more")

// lockHolder is who holds it, as its file has it.
type lockHolder struct {
	Instance string `json:"instance"`
	PID      int    `json:"pid"`
	Version  string `json:"version"`
	Since    string `json:"since"`
}

func (h lockHolder) String() string {
	if h.PID == 0 {
		return "one that has not said who it is"
	}
	return fmt.Sprintf("%s, process %d, version %s, since %s", h.Instance, h.PID, h.Version, h.Since)
}

// writerLock is the lock of one namespace. Anybody may use it.
type writerLock struct {
	flag      string     // -lock.dir
	namespace string     // of several, which may share a folder; empty: the only one
	optional  bool       // nobody has asked for a lock: where none can be had, this one writes without
	me        lockHolder // but for since when
	since     string     // this lock
	now       func() time.Time
	files     lockFolder
	pause     func(until func() bool) // waits, in a simulation; nil: there is none
	waits     *lockWaits              // of the process; nil: each waits by itself, and until the lock comes

	mu     sync.Mutex
	idle   sync.Cond // inside is 0
	inside int       // so many write right now
	doubt  bool      // it was lost, and taken again, and nothing was to be written since
	wanted bool      // it was taken, and not released: if its file is removed, it is taken again
	path   string
	file   lockFile // nil: it is not held
	none   error    // why there is no lock, and this one writes without
	lost   error    // the same of one that was ours: it is tried again each time
}

// newWriterLock makes one in a folder of the disk.
func newWriterLock(me lockHolder, now func() time.Time) *writerLock {
	l := &writerLock{me: me, now: now, files: diskFolder{}}
	l.idle.L = &l.mu
	return l
}

// folder is where the lock of databases is.
func (l *writerLock) folder(c *dbConfig) string {
	appl, _ := c.address("APPL_DB")
	switch {
	case l.flag != "":
		return l.flag
	case appl.network == "unix":
		return filepath.Dir(appl.address)
	}
	return filepath.Join(defaultLockDir, fmt.Sprintf("%s.%d", url.PathEscape(appl.address), appl.id))
}

// in is a file's path there. A folder that is not a namespace's own has the files of several.
func (l *writerLock) in(folder, suffix string) string {
	name := appName
	if l.namespace != "" && folder == l.flag {
		name += "." + l.namespace
	}
	return filepath.Join(folder, name+suffix)
}

// take takes the lock in a folder, or says who has it. Where nobody has asked for one, and the folder cannot be
// written, there is none.
func (l *writerLock) take(folder string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path = l.in(folder, lockSuffix)
	err := l.acquire()
	var unwritable *unwritableFolder
	if l.none = nil; l.optional && errors.As(err, &unwritable) {
		l.none, l.wanted, err = unwritable, true, nil
	}
	return err
}

// missing is why this one writes without a lock, nil: it does not.
func (l *writerLock) missing() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return cmp.Or(l.none, l.lost)
}

// without is the same for people, empty: it has one.
func (l *writerLock) without() string {
	if none := l.missing(); none != nil {
		return "this portsyncd writes without a lock: " + none.Error()
	}
	return ""
}

// await takes the lock in a folder as soon as nobody else has it, unless over is closed before (errGivenUp). held:
// another one had it until then.
func (l *writerLock) await(folder string, over <-chan struct{}) (held bool, err error) {
	waiting := &writerLock{me: l.me, now: l.now, files: l.files, path: l.in(folder, lockSuffix)}
	got := func(err error) lockGot { return lockGot{waiting.file, waiting.since, err} }
	is := got(waiting.acquire())
	if held = errors.Is(is.err, errHeld); held {
		call := func() lockGot { return got(waiting.acquireBy(true)) }
		if l.waits == nil {
			is = call()
		} else {
			is = l.waits.wait(waiting.path, over, call)
		}
	}
	if is.err != nil {
		return held, is.err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path, l.file, l.since, l.wanted = waiting.path, is.file, is.since, true
	return held, nil
}

func (l *writerLock) acquire() error { return l.acquireBy(false) }

// acquireBy opens the file and locks it. If it is not what the path leads to by then, somebody has removed it, and the
// next one is tried.
func (l *writerLock) acquireBy(waiting bool) error {
	for tries := 0; waiting || tries < 100; tries++ {
		file, err := l.files.open(l.path)
		if err != nil && tries > 0 { // it was to be had at first
			return fmt.Errorf("the lock is removed, and cannot be made: %v", err)
		}
		if err != nil {
			return err
		}
		if err = file.lock(waiting); err != nil {
			file.Close()
			if errors.Is(err, errTaken) {
				holder, _ := l.readHolder(l.path)
				return fmt.Errorf("%w: %s; it has locked %s. Start this one with -standby to have it take over "+
					"when that one ends, or with -observe", errHeld, holder, l.path)
			}
			return err
		}
		if !file.behind(l.path) {
			file.Close()
			continue
		}
		l.file, l.wanted = file, true
		_ = l.sign() // it is ours whoever can read that
		return nil
	}
	return fmt.Errorf("%s is removed as fast as it is made", l.path)
}

// signed is who we are, as it stands in the file.
func (l *writerLock) signed() lockHolder {
	l.mu.Lock()
	defer l.mu.Unlock()
	me := l.me
	me.Since = l.since
	return me
}

// sign writes who we are.
func (l *writerLock) sign() error {
	l.since = l.now().UTC().Format(time.RFC3339)
	me := l.me
	me.Since = l.since
	text, err := json.Marshal(me)
	if err != nil {
		return err
	}
	return l.file.write(text)
}

// enter comes before whatever only the holder may do, and leave after it. An error says that the lock is not ours: then
// it must not be done. Between a look at it and what is done nothing can take it away but somebody's hand.
func (l *writerLock) enter() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ours() && !l.doubt {
		l.inside++
		return nil
	}
	l.doubt = false
	without := l.lost != nil
	err := l.regain()
	if without && l.lost != nil && errors.Is(err, errLockLost) {
		l.inside++
		return nil
	}
	return err
}

// enterAside is enter for what has nothing to compare: if the lock was lost, that is told to what is written next.
func (l *writerLock) enterAside() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ours() {
		without := l.lost != nil
		err := l.regain()
		if l.doubt = true; !without || l.lost == nil {
			return err
		}
	}
	l.inside++
	return nil
}

func (l *writerLock) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inside--; l.inside == 0 {
		l.idle.Broadcast()
	}
}

// ours is asked with the mutex held, as all that follows.
func (l *writerLock) ours() bool {
	return l.wanted && (l.none != nil || l.file != nil && l.file.behind(l.path))
}

// still waits until nobody writes.
func (l *writerLock) still() {
	for l.inside > 0 {
		if l.pause == nil {
			l.idle.Wait()
			continue
		}
		func() {
			l.mu.Unlock()
			defer l.mu.Lock()
			l.pause(func() bool { return l.inside == 0 })
		}()
	}
}

// regain takes the lock again where somebody has removed its file. It always returns an error, and errHeld if another
// was faster.
func (l *writerLock) regain() error {
	l.still()
	if !l.wanted || l.ours() { // in the latter case it was taken again
		return errLockLost
	}
	before := l.file
	err := l.acquire()
	held := errors.Is(err, errHeld)
	if l.lost = nil; err != nil && !held {
		if l.optional {
			l.lost = err
		}
		return fmt.Errorf("%w: %v", errLockLost, err)
	}
	if before != nil { // not earlier: that wakes up who waits for it
		before.Close()
	}
	if held {
		l.file = nil
		return err
	}
	return errLockLost
}

// release gives the lock away, when all that was sent is answered or given up. Nothing is written afterwards.
func (l *writerLock) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted, l.none, l.lost = false, nil, nil
	l.still()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// beat looks whether the lock is still ours, and shows that we live: whoever waits for it looks at the file's time. It
// returns an error where another holds it. What is under way is not waited for, which may take as long as a Redis that
// hangs: the next beat comes.
func (l *writerLock) beat() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ours() {
		if l.file != nil {
			l.file.touch()
		}
		return nil
	}
	if l.inside > 0 {
		return nil
	}
	err := l.regain()
	if errors.Is(err, errHeld) {
		return err
	}
	l.doubt = l.file != nil
	return nil // what is written next says so
}

// holder is who has the lock in a folder, as its file says, and when it last showed that it lives.
func (l *writerLock) holder(folder string) (h lockHolder, sign time.Time) {
	return l.readHolder(l.in(folder, lockSuffix))
}

func (l *writerLock) readHolder(path string) (h lockHolder, sign time.Time) {
	text, sign, err := l.files.look(path)
	if err == nil {
		_ = json.Unmarshal(text, &h)
	}
	return h, sign
}

// hostName is an instance's name unless it is given another.
func hostName() string {
	if name, err := os.Hostname(); err == nil && validateInstance(name) == nil {
		return name
	}
	return appName
}

// defaultInstance is the name of one that is given none: the host's, and that of its control socket where that is not
// the usual one, for two on a host have one each.
func defaultInstance(control string) string {
	name := hostName()
	if control != "" && control != defaultControlSocket {
		name += "-" + strings.TrimSuffix(filepath.Base(control), ".sock")
	}
	if validateInstance(name) != nil {
		return hostName()
	}
	return name
}

// validateInstance finds what is wrong with -instance.
func validateInstance(name string) error {
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("-instance: %q is not a name of 1 to 64 characters without blanks", name)
	}
	return nil
}

// held says that it is ours, as far as is known.
func (l *writerLock) held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file != nil || l.none != nil
}
