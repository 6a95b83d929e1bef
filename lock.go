package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The lock: which of several portsyncd writes to the databases of a namespace (docs/instances.md). The kernel drops it
// when its holder dies, and nobody else can take it away.

const (
	defaultLockDir = "/run/portsyncd" // where Redis is reached by TCP
	lockDirUsage   = "`folder` of the lock that the portsyncd that writes holds (default: that of APPL_DB's unix " +
		"socket, or " + defaultLockDir + ")"
	lockMode = 0o644
)

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
	flag      string // -lock.dir
	namespace string // of several, which may share a folder; empty: the only one
	me        lockHolder
	now       func() time.Time

	mu     sync.RWMutex // whoever writes holds it for reading
	doubt  atomic.Bool  // it was lost, and taken again, and nothing was to be written since
	wanted bool         // it was taken, and not released: if its file is removed, it is taken again
	path   string
	file   *os.File // nil: it is not held
	tail   int64    // where its last byte is
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
	return defaultLockDir
}

// What is in the folder.
const (
	lockSuffix     = ".lock"
	readySuffix    = ".standby"  // locked by each standby that could take over
	handoverSuffix = ".handover" // what a holder leaves for the next one
)

// in is a file's path there. A folder that is not a namespace's own has the files of several.
func (l *writerLock) in(folder, suffix string) string {
	name := appName
	if l.namespace != "" && (folder == l.flag || folder == defaultLockDir) {
		name += "." + l.namespace
	}
	return filepath.Join(folder, name+suffix)
}

// take takes the lock in a folder, or says who has it.
func (l *writerLock) take(folder string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path = l.in(folder, lockSuffix)
	return l.acquire(unix.LOCK_EX | unix.LOCK_NB)
}

// await takes the lock in a folder as soon as nobody else has it: a call that the kernel holds back until then, and
// which nothing but the end of the process ends earlier.
func (l *writerLock) await(folder string) error {
	waiting := &writerLock{me: l.me, now: l.now, path: l.in(folder, lockSuffix)}
	if err := waiting.acquire(unix.LOCK_EX); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path, l.file, l.tail, l.me, l.wanted = waiting.path, waiting.file, waiting.tail, waiting.me, true
	return nil
}

// acquire opens the file and locks it. If it is not what the path leads to by then, somebody has removed it, and the
// next one is tried.
func (l *writerLock) acquire(how int) error {
	for range 100 {
		file, err := openLock(l.path)
		if err != nil {
			return err
		}
		if err = flock(file, how); err != nil {
			holder := readHolder(file)
			file.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return fmt.Errorf("%w: %s; it has locked %s. Start this one with -standby to have it take over "+
					"when that one ends, or with -observe", errHeld, holder, l.path)
			}
			return &fs.PathError{Op: "flock", Path: l.path, Err: err}
		}
		if !isBehind(file, l.path) {
			file.Close()
			continue
		}
		l.file, l.wanted = file, true
		return l.sign()
	}
	return fmt.Errorf("%s is removed as fast as it is made", l.path)
}

// openLock opens the file, which is made if it is not there, and so is the folder if it is the default.
func openLock(path string) (*os.File, error) {
	if folder := filepath.Dir(path); folder == defaultLockDir {
		if err := os.Mkdir(folder, controlDirMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, lockError(folder, err)
		}
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, lockMode)
	if err != nil {
		return nil, lockError(filepath.Dir(path), err)
	}
	return file, nil
}

// lockError tells what waiting cures, a folder that is not there yet, from what it does not.
func lockError(folder string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the lock: %w", err)
	}
	return fmt.Errorf("%w: the lock of the portsyncd that writes: %w; make %s writable for this user, or name another "+
		"folder with -lock.dir, the same for every portsyncd of these databases", errConfig, err, folder)
}

// flock is flock(2), which signals interrupt.
func flock(file *os.File, how int) error {
	for {
		if err := unix.Flock(int(file.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// isBehind says that a file is the one that a path leads to.
func isBehind(file *os.File, path string) bool {
	var ours, named unix.Stat_t
	return unix.Fstat(int(file.Fd()), &ours) == nil && unix.Stat(path, &named) == nil &&
		ours.Dev == named.Dev && ours.Ino == named.Ino
}

// readHolder reads who holds it.
func readHolder(file *os.File) (h lockHolder) {
	text, _ := io.ReadAll(io.NewSectionReader(file, 0, 4<<10))
	_ = json.Unmarshal(text, &h)
	return h
}

// sign writes who we are.
func (l *writerLock) sign() error {
	l.me.Since = l.now().UTC().Format(time.RFC3339)
	text, err := json.Marshal(l.me)
	if err == nil {
		text = append(text, '\n')
		l.tail = int64(len(text) - 1)
		err = l.file.Truncate(0)
	}
	if err == nil {
		_, err = l.file.WriteAt(text, 0)
	}
	if err != nil {
		return fmt.Errorf("write to the lock: %w", err)
	}
	return nil
}

// enter comes before whatever only the holder may do, and leave after it. An error says that the lock is not ours: then
// it must not be done. Between a look at it and what is done nothing can take it away but somebody's hand.
func (l *writerLock) enter() error {
	l.mu.RLock()
	if l.ours() && !l.doubt.Swap(false) {
		return nil
	}
	l.mu.RUnlock()
	return l.regain()
}

// ours is asked with the mutex held.
func (l *writerLock) ours() bool { return l.file != nil && isBehind(l.file, l.path) }

func (l *writerLock) leave() { l.mu.RUnlock() }

// regain takes the lock again where somebody has removed its file. It always returns an error, and errHeld if another
// was faster.
func (l *writerLock) regain() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.wanted:
		return errLockLost
	case l.ours():
		return errLockLost // it was taken again
	case l.file != nil:
		l.file.Close()
		l.file = nil
	}
	if err := l.acquire(unix.LOCK_EX | unix.LOCK_NB); err != nil {
		return err
	}
	return errLockLost
}

// release gives the lock away, when all that was sent is answered or given up. Nothing is written afterwards.
func (l *writerLock) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = false
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// beat looks whether the lock is still ours, and shows that we live: whoever waits for it looks at the file's time. It
// returns an error where another holds it.
func (l *writerLock) beat() error {
	l.mu.RLock()
	if l.ours() {
		_, _ = l.file.WriteAt([]byte{'\n'}, l.tail)
		l.mu.RUnlock()
		return nil
	}
	l.mu.RUnlock()
	err := l.regain()
	if errors.Is(err, errHeld) {
		return err
	}
	l.doubt.Store(l.held())
	return nil // what is written next says so
}

// holder is who has the lock in a folder, as its file says, and when it last showed that it lives.
func (l *writerLock) holder(folder string) (h lockHolder, sign time.Time) {
	file, err := os.Open(l.in(folder, lockSuffix))
	if err != nil {
		return h, sign
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil {
		sign = info.ModTime()
	}
	return readHolder(file), sign
}

// hostName is an instance's name unless it is given another.
func hostName() string {
	if name, err := os.Hostname(); err == nil && validateInstance(name) == nil {
		return name
	}
	return appName
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
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.file != nil
}
