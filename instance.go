package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
)

// An instance is one of several portsyncd for the same databases: it writes, or stands by (docs/instances.md). Each
// turn at either has a loop of its own.

const (
	standbyUsage = "stand by: keep everything current, write nothing, and take over when the portsyncd that " +
		"holds the lock ends, dies or hands over"
	instanceUsage = "`name` of this portsyncd among several (default: the host's, and that of a -control.socket of " +
		"its own)"
)

// instance takes turns.
type instance struct {
	instanceTools
	m       *metrics
	health  *health
	record  *recorder
	file    string // of the recorder, whoever writes; empty: none
	log     *slog.Logger
	lock    *writerLock
	standby atomic.Bool // -standby, or it has handed over: it stands by when it does not write
	observe bool        // -observe: it never writes

	source  linkSource
	rules   syncOptions
	carried []carriedPort
	retold  retold // by the turn before,
	// and its databases, nil: they are connected to anew. A turn that fails does not wait for who asks for them
	kept    atomic.Pointer[sonicDB]
	left    handoverRecord         // of the turn that has ended
	handed  *predecessor           // of the turn before ours, by another one
	taken   chan error             // what came of waiting for the lock
	behind  bool                   // another one has written while this one stood by, or before it did
	over    atomic.Bool            // no more turns: whoever still waits for the lock gives it back
	again   bool                   // whoever wrote before has left the switch running: this turn goes on with it
	gaveUp  atomic.Bool            // what could not be begun, see giveUp
	folder  atomic.Pointer[string] // of the lock, nil: not known yet
	found   func()                 // told when it is; nil: nobody is
	writing atomic.Bool
	ready   readyClaim
	holding holderWatch
	beside  strangerWatch

	mu      sync.Mutex
	asked   chan error // where what comes of a hand-over is told, nil: none is asked for
	to      string     // whom it is for, empty: whoever is ready
	endTurn func()
}

// run takes turns until ctx ends, or one of them fails.
func (i *instance) run(ctx context.Context, source linkSource, rules syncOptions) error {
	i.source, i.rules, i.ready.lock = source, rules, i.lock
	i.taken = make(chan error, 1)
	if i.observe {
		return i.turn(ctx, true, func(slow func()) (*sonicDB, error) {
			db, _, err := i.connect(slow)
			return db, err
		})
	}
	i.record.comeBack(i.file)
	defer func() {
		i.keep(nil)
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
		lost := i.standby.Load() && errors.Is(err, errHeld)
		switch {
		case ctx.Err() != nil && lost: // it was to end anyway
			return nil
		case ctx.Err() != nil || err != nil && !lost:
			return err
		case err != nil:
			i.log.Error("the lock is another's: standing by", "err", err)
		}
	}
}

// free takes the lock if nobody has it, or writes without: then a start is as any other.
func (i *instance) free() bool {
	db, folder, err := i.connect(func() {})
	if err != nil {
		return false
	}
	db.Close()
	i.enterFolder(folder)
	if i.stranger() != "" {
		return false
	}
	err = i.takeLock(folder)
	i.behind = errors.Is(err, errHeld)
	return err == nil
}

// takeLock takes the lock, if nobody has it. What another one has left for the next is nothing to us then.
func (i *instance) takeLock(folder string) error {
	err := i.lock.take(folder)
	if err == nil {
		i.lock.files.remove(i.lock.in(folder, handoverSuffix))
	}
	return err
}

// enterFolder notes where the lock is.
func (i *instance) enterFolder(folder string) {
	if i.folder.Swap(&folder) == nil && i.found != nil {
		i.found()
	}
}

// goOnWith is connect, or what the turn before was connected to.
func (i *instance) goOnWith(slow func()) (db *sonicDB, folder string, err error) {
	kept := i.kept.Swap(nil)
	if kept == nil {
		return i.connect(slow)
	}
	return kept.handOn(slow), *i.folder.Load(), nil
}

// keep is for the next turn; nil: it connects anew.
func (i *instance) keep(db *sonicDB) { i.drop(i.kept.Swap(db)) }

// drop closes databases, if there are any.
func (i *instance) drop(db *sonicDB) {
	if db != nil {
		db.Close()
	}
}

// context is a turn's, and ends it from any goroutine.
func (i *instance) context(ctx context.Context) (turn context.Context, end func()) {
	turn, cancel := context.WithCancel(ctx)
	return turn, func() {
		cancel()
		i.source.Rouse()
	}
}

// write is a turn at writing, until ctx ends or a hand-over is asked for. The lock is taken as soon as it is known
// where it is, and released when nothing is under way any more.
func (i *instance) write(ctx context.Context) error {
	turn, end := i.context(ctx)
	defer end()
	i.mu.Lock()
	i.endTurn = end
	i.mu.Unlock()
	i.writing.Store(true)
	err := i.turn(turn, false, func(slow func()) (*sonicDB, error) {
		db, folder, err := i.goOnWith(slow)
		if err == nil {
			err = i.hold(turn, folder)
		}
		if err != nil {
			i.drop(db)
			return nil, err
		}
		guard(db, i.lock)
		if i.again {
			db.handOver()
		}
		return db, nil
	})
	i.writing.Store(false)
	i.keep(nil) // a turn that ended before it connected
	i.leaveLock(ctx, err)
	return err
}

// hold takes the lock, unless it is ours. Whoever has it may be ending.
func (i *instance) hold(turn context.Context, folder string) error {
	i.enterFolder(folder)
	if i.lock.held() {
		return nil
	}
	err := i.takeLock(folder)
	if errors.Is(err, errHeld) {
		i.log.Log(turn, levelNotice, "another portsyncd writes, waiting whether it is ending", "limit", readyPause)
	}
	for end := i.now().Add(readyPause); errors.Is(err, errHeld) && turn.Err() == nil && i.now().Before(end); {
		i.sleep(yieldLook)
		err = i.takeLock(folder)
	}
	if err == nil && turn.Err() != nil { // nobody would release it
		i.lock.release()
		return turn.Err()
	}
	if none := i.lock.missing(); none != nil {
		i.log.Error("this portsyncd writes without a lock, and nothing keeps a second one from it", "err", none)
		i.health.complain(i.lock.without())
		i.unmark()
	}
	return err
}

// leaveLock gives the lock away after a turn at writing, with what was counted, and answers whoever asked for that.
func (i *instance) leaveLock(ctx context.Context, failure error) {
	i.mu.Lock()
	asked, to := i.asked, i.to
	i.asked, i.endTurn, i.to = nil, nil, ""
	i.mu.Unlock()
	held := i.lock.held() && i.lock.missing() == nil
	if held {
		record := i.left
		record.BootID, record.At, record.To, record.Ports = i.boot, i.clock(), to, i.carried
		path := i.lock.in(*i.folder.Load(), handoverSuffix)
		if err := leaveRecord(i.lock.files, path, record); err != nil {
			i.log.Warn("what was counted of ports is not handed over", "err", err)
		}
		if asked != nil || ctx.Err() == nil && failure == nil {
			i.log.Log(ctxNone, levelNotice, "handing over: nothing is written any more")
		}
		i.record.note(ownLock, "released", i.now())
		if i.file != "" && ctx.Err() != nil {
			i.record.note(ownStopped, "", i.now())
		}
	}
	i.lock.release()
	if asked != nil {
		asked <- failure
	}
	if held && i.file != "" { // the file is for the next one, whose ports do not wait for it
		i.record.intoMemory()
	} else {
		i.record.forgetPorts()
	}
}

// stand is a turn at standing by, until the lock is ours. After a hand-over it lets another one have it first.
func (i *instance) stand(ctx context.Context, yield bool) error {
	turn, end := i.context(ctx)
	defer end()
	i.log.Log(ctx, levelNotice, "standing by: nothing is written")
	i.restAfter(yield)
	var begin sync.Once
	err := i.turn(turn, true, func(slow func()) (*sonicDB, error) {
		db, folder, err := i.connect(slow)
		if err != nil {
			return nil, err
		}
		i.enterFolder(folder)
		begin.Do(func() { i.spawn(func() { i.await(turn, folder, yield, end) }) })
		return db, nil
	})
	i.standing(false)
	if err != nil || ctx.Err() != nil {
		return err
	}
	if err := <-i.taken; err != nil {
		return err
	}
	i.behind = i.behind || yield
	i.takeUp(ctx)
	return nil
}

// takeUp goes on where the holder before has left off. Where there was none, and this one only stood by because it
// could not know yet, it is a start as any other.
func (i *instance) takeUp(ctx context.Context) {
	record, err := findRecord(i.lock.files, i.lock.in(*i.folder.Load(), handoverSuffix), i.boot, i.clock())
	if i.again = i.behind; !i.again { // what was left for others is nothing to us
		record = handoverRecord{}
	}
	i.carried, i.handed = joinCarried(i.carried, record.Ports), record.predecessor()
	i.log.Log(ctx, levelNotice, "taking over", "handed_over", err == nil && i.again)
	if i.file != "" {
		i.record.follow(i.file, i.sleep)
	} else {
		i.record.forgetPorts()
	}
	i.record.note(ownLock, "taken over", i.now())
}

// turn runs a loop, with databases of its own.
func (i *instance) turn(ctx context.Context, observe bool, open func(slow func()) (*sonicDB, error)) error {
	rules := i.rules
	rules.observe, rules.carried, rules.retold = observe, i.carried, i.retold
	ready := i.retold.config != nil
	i.retold = retold{}
	if i.again { // what exists is what the holder before has left running, unless the databases say otherwise
		rules.old, rules.takenOver, rules.handed = "auto", !observe, i.handed
	}
	rules.beat, rules.standing = i.beat, nil
	if observe && !i.observe {
		rules.beat, rules.standing = i.watch, i.standing
	} else if observe {
		rules.beat = nil
	}
	var opened atomic.Pointer[sonicDB]
	openDB := func(slow func()) (as database, err error) {
		db, err := open(slow)
		if err != nil {
			return nil, err
		}
		opened.Store(db)
		db.ready = ready
		if as = db; observe {
			as = observed(db)
		}
		if i.dress != nil {
			as = i.dress(as)
		}
		return as, nil
	}
	s := newSyncer(rules, i.source, openDB, i.m, i.health, i.log, i.now)
	err := i.instanceTools.run(ctx, s)
	i.left = s.word()
	i.retold = s.known()
	if db := opened.Load(); rules.standing != nil && i.retold.config != nil { // they answer
		i.keep(db)
	} else {
		i.drop(db)
	}
	i.carried = s.leave()
	i.record.endLoop()
	return err
}

// await has the kernel wait for the lock, and then ends the turn. A process that ends does not wait for it.
func (i *instance) await(turn context.Context, folder string, yield bool, end func()) {
	begun, held, err := i.clock(), false, error(nil)
	for start := !yield; ; start = false {
		if yield && !i.yield(i.lock, folder) {
			i.log.Warn("nobody has taken over")
		}
		if held, err = i.lock.await(folder, turn.Done()); errors.Is(err, errGivenUp) {
			return
		}
		i.behind = i.behind || held
		if err != nil && !(start && errors.Is(err, errConfig)) && !i.over.Load() && turn.Err() == nil {
			i.log.Warn("the lock cannot be waited for, trying again", "err", err)
			i.sleep(readyPause)
			yield = false
			continue
		}
		i.busy()
		if err != nil || i.over.Load() || !i.meant(folder) {
			break
		}
		i.lock.release()
		yield = true
	}
	if err == nil && !i.over.Load() {
		if leftSince(begun, i.lock, folder, i.boot, i.clock()) {
			i.behind = true
		} else {
			i.heed(turn)
		}
	}
	if i.over.Load() {
		i.lock.release()
	}
	i.taken <- err
	end()
}

// meant says that the lock, which is ours now, is to go to another one, who is there to take it: it was handed over to
// that one, or we could not take over right now, and others could.
func (i *instance) meant(folder string) (another bool) {
	me := i.lock.me.Instance
	r, age, err := readRecord(i.lock.files, i.lock.in(folder, handoverSuffix), i.boot, i.clock(), false)
	if err == nil && r.To != "" && age < readyPause {
		return r.To != me && i.ready.has(folder, r.To)
	}
	able := i.ready.names(folder)
	return len(able) > 0 && !slices.Contains(able, me)
}

// heed waits as long as a portsyncd writes that knows of no lock, until we are told to write.
func (i *instance) heed(turn context.Context) {
	why := i.strangerThatStays()
	if why == "" {
		return
	}
	i.behind = true
	i.log.Warn(why + "; " + onlyForced)
	forced := i.beside.begin()
	defer i.beside.end()
	select {
	case <-forced:
	case <-turn.Done():
	}
}

// standing notes whether we could take over.
func (i *instance) standing(ready bool) {
	i.ready.able = ready
	folder := i.folder.Load()
	if folder == nil {
		return
	}
	if err := i.ready.set(*folder, ready); err != nil {
		i.log.Warn("nobody is told that this standby is ready", "err", err, "remedy",
			"give each instance a name of its own, -instance, and let this user write to the folder")
	}
}

// beat looks at a writer's beat at the lock.
func (i *instance) beat() error {
	err := i.lock.beat()
	i.health.complain(i.lock.without())
	return err
}

// watch looks at a standby's beat at who writes.
func (i *instance) watch() error {
	folder := i.folder.Load()
	if folder == nil {
		return nil
	}
	if i.ready.able { // it may have been removed, or could not be made, and is to be touched
		i.standing(true)
	}
	why := ""
	if i.beside.on() {
		_ = i.lock.beat() // we hold it, though we only observe; one who was faster is met when we are told to write
		if why = i.stranger(); why == "" {
			why = "the portsyncd that wrote without a lock is not to be seen any more"
		}
		why += "; " + onlyForced
	} else {
		why = i.holding.look(i.lock, *folder, i.now())
	}
	i.health.complain(why)
	return nil
}
