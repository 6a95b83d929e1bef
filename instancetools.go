package main

import (
	"context"
	"time"
)

// instanceTools is what turns are taken with, and what a simulation takes the place of.
type instanceTools struct {
	// connect reads where the databases are, and where the lock
	connect   func(slow func()) (db *sonicDB, folder string, err error)
	dress     func(database) database // what a loop gets of them; nil: as they are
	run       func(ctx context.Context, s *syncer) error
	spawn     func(func())
	sleep     func(time.Duration)
	now       func() time.Time
	clock     func() time.Duration // the machine's, since it was booted
	strangers func() []otherDaemon // that write here, and know of no lock
	unmark    func()               // others see that we write without a lock
	busy      func()               // what follows is not to wait for the heap to be collected
	boot      string
}

// newInstanceTools is the real ones.
func newInstanceTools(config *dbConfigFile, l *writerLock, m *metrics, finder *daemonFinder,
	unmark, busy func()) instanceTools {
	return instanceTools{
		unmark: unmark, busy: busy,
		connect: func(slow func()) (*sonicDB, string, error) {
			c, err := config.read()
			if err != nil {
				return nil, "", err
			}
			return connectDatabases(c, m, slow), l.folder(c), nil
		},
		run:       func(ctx context.Context, s *syncer) error { return s.Run(ctx) },
		spawn:     func(f func()) { go f() },
		sleep:     time.Sleep,
		now:       time.Now,
		clock:     machineClock,
		boot:      bootID(),
		strangers: finder.withoutLock,
	}
}

const (
	readyPause = 2 * time.Second      // so long a standby may take to take over, before the lock is taken back
	yieldLook  = 5 * time.Millisecond // between looks whether it has

	strangerTime = time.Second // for a process to show that it knows of the lock
	strangerLook = 20 * time.Millisecond
)

// yield waits until another one has taken the lock, but not for ever.
func (t *instanceTools) yield(l *writerLock, folder string) (taken bool) {
	me := l.signed()
	for end := t.now().Add(readyPause); t.now().Before(end); t.sleep(yieldLook) {
		if h, _ := l.holder(folder); h != me {
			return true
		}
	}
	return false
}

// handedOverRest is how long whoever has handed over leaves the processors and Redis to the one that takes over: what
// both read, of 512 ports, took that one twice as long otherwise.
const handedOverRest = 100 * time.Millisecond

// restAfter waits after a hand-over.
func (t *instanceTools) restAfter(handedOver bool) {
	if handedOver {
		t.sleep(handedOverRest)
	}
}

// stranger says which portsyncd writes here and knows of no lock, empty: none is to be seen.
func (t *instanceTools) stranger() string {
	all := t.strangers()
	if len(all) == 0 {
		return ""
	}
	return describeDaemons(all) + " and knows of no lock"
}

// strangerThatStays is the same when a process that has just begun has had the time to bear the mark.
func (t *instanceTools) strangerThatStays() (why string) {
	why = t.stranger()
	for end := t.now().Add(strangerTime); why != "" && t.now().Before(end); why = t.stranger() {
		t.sleep(strangerLook)
	}
	return why
}
