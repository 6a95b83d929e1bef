package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// An instance is one of several portsyncd for the same databases: it writes, or stands by (docs/instances.md). Each
// turn at either has a loop of its own.

const (
	standbyUsage = "stand by: keep everything current, write nothing, and take over when the portsyncd that " +
		"holds the lock ends, dies or hands over"
	instanceUsage = "`name` of this portsyncd among several, in the lock's file (default: the host's name)"

	readyName    = "portsyncd.standby"  // locked by each standby that could take over
	readyPause   = 2 * time.Second      // so long a standby may take to take over, before the lock is taken back
	yieldLook    = 5 * time.Millisecond // between looks whether it has
	silentAfter  = 15 * time.Second     // a holder that has shown no sign of life for so long does not answer
	handoverTime = 3 * time.Second      // for a hand-over as a whole
)

// Roles.
const (
	roleWriter   = "writer"
	roleObserver = "observer"
	roleStandby  = "standby"
)

// errNoStandby says that nobody could take over.
var errNoStandby = errors.New("no standby is ready, so this portsyncd goes on")

// errNotWriting says that there is nothing to hand over.
var errNotWriting = errors.New("this portsyncd does not write")

// instance takes turns.
type instance struct {
	m       *metrics
	health  *health
	record  *recorder
	file    string // of the recorder, whoever writes; empty: none
	log     *slog.Logger
	lock    *writerLock
	standby atomic.Bool // -standby, or it has handed over: it stands by when it does not write
	observe bool        // -observe: it never writes

	source  *kernelLinks
	rules   syncOptions
	config  *dbConfigFile
	carried []carriedPort
	taken   chan error  // what came of waiting for the lock
	over    atomic.Bool // no more turns: whoever still waits for the lock gives it back
	again   bool        // this turn is not the first one

	folder  atomic.Pointer[string] // of the lock, nil: not known yet
	writing atomic.Bool
	ready   *os.File // the standby's lock, nil: it is not ready

	// of the holder, as the standby sees it
	sign   time.Time // that its file had
	signAt time.Time // and since when

	mu      sync.Mutex
	asked   chan error // where what comes of a hand-over is told, nil: none is asked for
	endTurn context.CancelFunc
}

// role is what it does, for people and programs.
func (i *instance) role() string {
	switch {
	case i == nil:
	case i.observe:
		return roleObserver
	case i.standby.Load() && !i.writing.Load():
		return roleStandby
	}
	return roleWriter
}

// holder is who has the lock, for people; empty: it is not known where that is.
func (i *instance) holder() string {
	if i == nil {
		return ""
	}
	folder := i.folder.Load()
	if folder == nil {
		return ""
	}
	h, _ := i.lock.holder(*folder)
	return h.String()
}

// may is asked before a link is set down.
func (i *instance) may() (over func(), err error) {
	if !i.writing.Load() {
		return nil, errObserves
	}
	return i.lock.leave, i.lock.enter()
}

// run takes turns until ctx ends, or one of them fails.
func (i *instance) run(ctx context.Context, source *kernelLinks, rules syncOptions, config *dbConfigFile) error {
	i.source, i.rules, i.config = source, rules, config
	i.taken = make(chan error, 1)
	source.may = i.may
	if i.observe {
		return i.turn(ctx, true, i.openObserved)
	}
	defer func() {
		i.over.Store(true)
		i.lock.release()
	}()
	for first := true; ; first = false {
		if i.standby.Load() && !(first && i.free()) {
			if err := i.stand(ctx, !first); err != nil || ctx.Err() != nil {
				return err
			}
		}
		err := i.write(ctx)
		switch {
		case ctx.Err() != nil || err != nil && !(i.standby.Load() && errors.Is(err, errHeld)):
			return err
		case err != nil:
			i.log.Error("the lock is another's: standing by", "err", err)
		}
	}
}

// free takes the lock if nobody has it: then a start is as any other.
func (i *instance) free() bool {
	c, err := i.config.read()
	return err == nil && i.lock.take(i.lock.folder(c)) == nil
}

// write is a turn at writing, until ctx ends or a hand-over is asked for. The lock is taken as soon as it is known
// where it is, and released when nothing is under way any more.
func (i *instance) write(ctx context.Context) error {
	turn, end := context.WithCancel(ctx)
	defer end()
	i.mu.Lock()
	i.endTurn = end
	i.mu.Unlock()
	i.writing.Store(true)
	err := i.turn(turn, false, func(slow func()) (*sonicDB, database, error) {
		c, err := i.config.read()
		if err != nil {
			return nil, nil, err
		}
		if err := i.hold(i.lock.folder(c)); err != nil {
			return nil, nil, err
		}
		db := connectDatabases(c, i.m, slow)
		guard(db, i.lock)
		return db, db, nil
	})
	i.writing.Store(false)
	i.leaveLock(ctx, err)
	return err
}

// hold takes the lock, unless it is ours, and what the holder before has left.
func (i *instance) hold(folder string) error {
	i.folder.Store(&folder)
	if i.lock.held() {
		return nil
	}
	return i.lock.take(folder)
}

// leaveLock gives the lock away after a turn at writing, with what was counted, and answers whoever asked for that.
func (i *instance) leaveLock(ctx context.Context, failure error) {
	i.mu.Lock()
	asked := i.asked
	i.asked, i.endTurn = nil, nil
	i.mu.Unlock()
	if i.lock.held() {
		if err := leaveRecord(i.lock.in(*i.folder.Load(), handoverSuffix), i.carried); err != nil {
			i.log.Warn("what was counted of ports is not handed over", "err", err)
		}
		if asked != nil || ctx.Err() == nil {
			i.log.Log(ctxNone, levelNotice, "handing over: nothing is written any more")
		}
		i.record.note(ownLock, "released", time.Now())
		if i.file != "" && ctx.Err() == nil {
			i.record.move("") // the file is for the next one
		}
	}
	i.lock.release()
	if asked != nil {
		asked <- failure
	}
}

// stand is a turn at standing by, until the lock is ours. After a hand-over it lets another one have it first.
func (i *instance) stand(ctx context.Context, yield bool) error {
	turn, end := context.WithCancel(ctx)
	defer end()
	i.log.Log(ctx, levelNotice, "standing by: nothing is written")
	var begin sync.Once
	err := i.turn(turn, true, func(slow func()) (*sonicDB, database, error) {
		c, err := i.config.read()
		if err != nil {
			return nil, nil, err
		}
		folder := i.lock.folder(c)
		i.folder.Store(&folder)
		begin.Do(func() { go i.await(folder, yield, end) })
		db := connectDatabases(c, i.m, slow)
		return db, observed(db), nil
	})
	i.standing(false)
	if err != nil || ctx.Err() != nil {
		return err
	}
	if err := <-i.taken; err != nil {
		return err
	}
	theirs, err := findRecord(i.lock.in(*i.folder.Load(), handoverSuffix))
	i.carried, i.again = joinCarried(i.carried, theirs), true
	i.log.Log(ctx, levelNotice, "taking over", "handed_over", err == nil)
	if i.file != "" {
		i.record.move(i.file)
	}
	i.record.note(ownLock, "taken over", time.Now())
	return nil
}

// await has the kernel wait for the lock, and then ends the turn. A process that ends does not wait for it.
func (i *instance) await(folder string, yield bool, end context.CancelFunc) {
	if yield {
		i.yield(folder)
	}
	err := i.lock.await(folder)
	if i.over.Load() {
		i.lock.release()
	}
	i.taken <- err
	end()
}

// yield waits until another one has taken the lock, but not for ever.
func (i *instance) yield(folder string) {
	for end := time.Now().Add(readyPause); time.Now().Before(end); time.Sleep(yieldLook) {
		if h, _ := i.lock.holder(folder); h != i.lock.me {
			return
		}
	}
	i.log.Warn("nobody has taken over")
}

// openObserved is an observer's databases.
func (i *instance) openObserved(slow func()) (*sonicDB, database, error) {
	db, err := openSonicDB(i.config, i.m, slow)
	if err != nil {
		return nil, nil, err
	}
	return db, observed(db), nil
}

// turn runs a loop, with databases of its own.
func (i *instance) turn(ctx context.Context, observe bool,
	open func(slow func()) (*sonicDB, database, error)) error {
	rules := i.rules
	rules.observe, rules.carried = observe, i.carried
	if i.again { // what exists is what the holder before has left running, unless the databases say otherwise
		rules.old, rules.takenOver = "auto", !observe
	}
	rules.beat, rules.standing = i.lock.beat, nil
	if observe {
		rules.beat, rules.standing = i.watchHolder, i.standing
	}
	var opened atomic.Pointer[sonicDB]
	openDB := func(slow func()) (database, error) {
		db, as, err := open(slow)
		if err == nil {
			opened.Store(db)
		}
		return as, err
	}
	s := newSyncer(rules, i.source, openDB, i.m, i.health, i.log, time.Now)
	err := s.Run(ctx)
	if db := opened.Load(); db != nil {
		db.Close()
	}
	i.carried = s.leave()
	i.record.forgetPorts()
	return err
}

// standing notes whether we could take over. Whoever wants to hand over sees it: a lock that goes with the process.
func (i *instance) standing(ready bool) {
	if !ready && i.ready != nil {
		i.ready.Close()
		i.ready = nil
	}
	if !ready || i.ready != nil || i.observe {
		return
	}
	file, err := openLock(i.lock.in(*i.folder.Load(), readySuffix))
	if err == nil {
		if err = flock(file, unix.LOCK_SH|unix.LOCK_NB); err == nil {
			i.ready = file
			return
		}
		file.Close()
	}
	i.log.Warn("nobody is told that this standby is ready", "err", err)
}

// someoneReady says that a standby could take over.
func someoneReady(path string) (bool, error) {
	file, err := openLock(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	return errors.Is(flock(file, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK), nil
}

// watchHolder looks at a standby's beat whether the holder lives. One that does not may be stopped, or stuck: nobody
// takes the lock from it.
func (i *instance) watchHolder() error {
	folder := i.folder.Load()
	if i.observe || folder == nil {
		return nil
	}
	holder, sign := i.lock.holder(*folder)
	now := time.Now()
	if i.signAt.IsZero() || !sign.Equal(i.sign) {
		i.sign, i.signAt = sign, now
	}
	silent := now.Sub(i.signAt)
	if silent < silentAfter {
		i.health.lock.Store(nil)
		return nil
	}
	why := fmt.Sprintf("the holder (%s) does not answer for %v; it keeps the lock until it ends", holder,
		silent.Round(time.Second))
	i.health.lock.Store(&why)
	return nil
}

// handOver has a standby take over, if one is ready, and returns when it may: nothing is written by this one any more.
func (i *instance) handOver() error {
	answer := make(chan error, 1)
	i.mu.Lock()
	folder := i.folder.Load()
	if i.endTurn == nil || i.asked != nil || folder == nil || !i.lock.held() {
		i.mu.Unlock()
		return errNotWriting
	}
	ready, err := someoneReady(i.lock.in(*folder, readySuffix))
	if err == nil && !ready {
		err = errNoStandby
	}
	if err != nil {
		i.mu.Unlock()
		return err
	}
	i.standby.Store(true)
	i.asked = answer
	i.endTurn()
	i.mu.Unlock()
	select {
	case err := <-answer:
		return err
	case <-time.After(handoverTime):
		return errors.New("the loop has not ended its writing in time: look at its health")
	}
}
