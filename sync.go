package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// The syncer: what the kernel says of its links on one side, what the databases hold on the other, and the set of
// ports where the two may differ. It is level-triggered: a link message marks its port dirty, and a flush writes each
// dirty port's latest state. Start, resync, retry and recovery are all the same: mark and flush.

// database is where the syncer writes; *sonicDB is the real one.
type database interface {
	Load(ctx context.Context) (*switchConfig, error)
	LookBack(ctx context.Context, ports []portConfig) (startFacts, error)
	Announce(ctx context.Context, ports []portConfig) error
	Flush(ctx context.Context, f *flush) error
	Look(ctx context.Context) (ports []string, logger logSettings, err error)
	Recount(ctx context.Context, count int) error
	SetLogger(ctx context.Context, l logSettings) error
	Watch(ctx context.Context, w watcher)
	Close()
}

// port is everything known about one port. Only the syncer's loop touches it; while a flush is under way the
// database goroutine has its write.
type port struct {
	name        string
	index       int32 // of its interface in the kernel, 0: it has none
	link        portState
	upSeen      bool   // this interface was running at some time: from then on a loss of carrier is a flap
	carrierDown uint32 // the kernel's count at the last message
	hasCarrier  bool
	dumpSeen    uint32 // the dump that had the interface, or in which a live message was newer

	configured bool // in CONFIG_DB
	seen       bool // its host interface was seen: PortInitDone need not wait for it

	inAppl   bool      // APPL_DB has the port; false means unknown, and asked at the next write
	vanished uint32    // times inAppl became doubtful: an answer asked for earlier does not count then
	askedAt  uint32    // vanished when the write under way was made
	held     portState // what STATE_DB holds, if known
	known    bool
	removed  bool // the interface went away since the last write: DEL comes before anything else
	stale    bool // with removed: perhaps the DEL was carried out, or never owed; look before it is sent
	baseline bool // a warm start found an entry of it
	audited  bool // STATE_DB is believed to hold held, and is being compared
	missing  bool // APPL_DB did not have the port when it was asked
	repairs  int  // audits in a row that found the entry changed
	rested   int  // audits to sit out, in a fight with another writer

	dirty, inFlight bool
	record          int // its last event record in the current read, valid if records[record].port is this port
	write           portWrite
	series          *portSeries
}

const (
	checkInterval = time.Second            // how often APPL_DB is asked when its server sends no events
	beatInterval  = 5 * time.Second        // an idle process wakes up this often, see untilBeat
	shortBeat     = time.Second            // the same where something is wrong, or not ready
	goneFlapsMax  = 4096                   // flap counts kept for ports that are gone
	stopLimit     = 900 * time.Millisecond // for the last flush
	logLimit      = time.Second            // between two lines about malformed messages
)

// untilBeat is the time until the next beat. Whatever has to happen every now and then happens at the same moments, which the clock on the wall
// gives: what an idle process costs is wake-ups. It is at least shortBeat, also when that clock is set.
func untilBeat(now time.Time) time.Duration {
	d := beatInterval - time.Duration(now.UnixNano())%beatInterval
	if d < shortBeat {
		d += beatInterval
	}
	return d
}

// syncOptions is what the flags decide.
type syncOptions struct {
	links     globs             // which links are ports; nil: SONiC's rule
	old       string            // what becomes of interfaces that exist at the start: auto, down or adopt
	reconcile time.Duration     // how often everything is compared; 0: never
	eoiu      time.Duration     // how long the first dump may take before it is asked for again
	logger    func(logSettings) // takes what CONFIG_DB says about the log
	spawn     func(func())      // runs what takes its time beside the loop; nil: goroutines
}

// syncer keeps one set of ports in step. Everything it needs is handed to it; it has no global state.
type syncer struct {
	options syncOptions
	source  linkSource
	openDB  func() (database, error) // nil: no databases at all
	m       *metrics
	status  *health
	log     *slog.Logger
	now     func() time.Time

	phase     phase
	ports     map[string]*port
	byIndex   map[int32]*port
	old       map[int32]string // left-over interfaces of the previous run
	listed    map[int32]string // Ethernet* interfaces of the first dump, until the start knows whether they are old
	goneFlaps map[string]uint64
	at        time.Time // when the messages at hand were received

	dumping    bool
	dumpNumber uint32
	dumpGone   map[int32]struct{} // deleted while the dump was under way: its lines about them are late
	dumpWanted *counter           // a resync is due, for this reason
	dumpReason *counter           // the one under way
	dumpBegun  time.Time
	dumpAfter  time.Time
	dumpPause  backoff // after failures
	lostPause  backoff // between resyncs in a storm of overruns
	intrPause  backoff // between dumps that links keep changing under
	lastLost   time.Time

	dirty     []*port
	flying    []*port  // of the flush under way
	records   []events // of dirty ports
	inFlight  []events // of the flush under way
	batch     flush
	pace      pace
	unseen    int  // configured ports whose interface was not seen yet
	initDone  bool // PortInitDone was acknowledged
	initOnce  bool // it was before, and is owed again because APPL_DB lost it: no interface has to be waited for
	config    *switchConfig
	nextCheck time.Time
	nextBeat  time.Time
	pings     chan struct{} // a beat has come: are the databases still there?
	watchLost bool

	loaded        *switchConfig // what a start goes by, until the first dump has ended
	facts         startFacts
	started       bool // the start's decisions are made
	warm          warmRestart
	look          bool // CONFIG_DB's ports and log settings are to be read again
	lookForced    bool // because an event said so: then no ports means no ports
	count         int  // of the last PortConfigDone
	logger        logSettings
	waiting       bool // the log says that CONFIG_DB is being loaded
	audits        []*port
	auditList     bool // STATE_DB's entries are to be listed
	checkSignals  bool // PortConfigDone is to be looked for
	nextReconcile time.Time
	repaired      int // since the last reconciliation began

	db      database
	working bool // the database goroutine has a job
	jobs    chan func(context.Context)
	inbox   chan func()
	ended   chan struct{} // closed when Run returns
	work    context.Context
	retryAt time.Time
	pauses  backoff
	failing bool // the last job failed, and the log says so

	malformedLogged time.Time
	failure         error // ends Run
}

func newSyncer(o syncOptions, source linkSource, openDB func() (database, error), m *metrics, status *health, log *slog.Logger, now func() time.Time) *syncer {
	return &syncer{
		options: o, source: source, openDB: openDB, m: m, status: status, log: log, now: now,
		ports: make(map[string]*port), byIndex: make(map[int32]*port),
		old: make(map[int32]string), listed: make(map[int32]string),
		goneFlaps: make(map[string]uint64), dumpGone: make(map[int32]struct{}),
		jobs: make(chan func(context.Context), 1), inbox: make(chan func(), 64), pings: make(chan struct{}, 1), ended: make(chan struct{}),
	}
}

// Run takes links in and writes them out until ctx ends, and then flushes what is pending, for at most a second. It returns an
// error only when it cannot go on: errConfig, or a link source that is dead.
func (s *syncer) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.source.Wake)
	defer stop()
	defer close(s.ended)
	var cancel context.CancelFunc
	s.work, cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if s.openDB != nil {
		if s.options.spawn == nil {
			go s.serveJobs()
		}
	}
	s.m.netlinkConnected.Set(1)
	defer s.m.netlinkConnected.Set(0)
	s.dumpWanted = &s.m.resyncStart
	s.warm.begun, s.warm.eoiu = s.now(), s.options.eoiu
	for ctx.Err() == nil && s.failure == nil {
		if err := s.turn(); err != nil {
			return err
		}
	}
	if s.failure != nil {
		return s.failure
	}
	return s.finish()
}

// turn is one round of the loop: take in, write out, wait.
func (s *syncer) turn() error {
	more, err := s.takeIn()
	if err != nil {
		return err
	}
	now := s.now()
	wait := s.advance(now, more)
	switch {
	case more || wait == 0:
		return nil
	case s.phase == phaseRunning && len(s.dirty) > 0 && !s.failing && s.pace.wait(now) > 0:
		s.source.Pause(s.pace.wait(now)) // in a storm: let messages gather in the kernel
		return nil
	}
	return s.source.Wait(wait)
}

// takeIn handles what waits: link messages, then what other goroutines posted.
func (s *syncer) takeIn() (more bool, err error) {
	more, err = s.source.Receive(s)
	if err != nil {
		s.m.netlinkConnected.Set(0)
		s.status.linksEnded.Store(true)
		return false, fmt.Errorf("read link messages: %w", err)
	}
	for {
		select {
		case fn := <-s.inbox:
			fn()
		default:
			return more, nil
		}
	}
}

// post hands fn to the loop. Any goroutine but the loop's own may call it.
func (s *syncer) post(fn func()) {
	select {
	case s.inbox <- fn:
		s.source.Wake()
	case <-s.ended:
	}
}

func (s *syncer) notice(msg string, args ...any) {
	s.log.Log(context.Background(), levelNotice, msg, args...)
}

// advance starts whatever is due and returns how long there is nothing more to start. A dump is not begun while messages wait (more): after an
// overrun those are older than what was lost, and must not pass for news that is newer than the dump.
func (s *syncer) advance(now time.Time, more bool) time.Duration {
	wait := untilBeat(now)
	if !now.Before(s.nextBeat) {
		s.nextBeat = now.Add(wait)
		s.status.beat()
		select {
		case s.pings <- struct{}{}:
		default:
		}
	}
	if s.dumpWanted != nil && !s.dumping && !more {
		if due := s.dumpAfter.Sub(now); due > 0 {
			wait = min(wait, due)
		} else {
			s.startDump()
		}
	}
	wait = min(wait, s.advanceEOIU(now))
	unwritten := len(s.dirty) + len(s.flying)
	s.m.queueDepth.Set(float64(unwritten))
	s.status.turn(now, unwritten)
	switch {
	case s.openDB == nil:
		if s.warm.reached && s.phase == phaseLoading { // nothing to load
			s.phase = phaseRunning
			s.status.noDB.Store(true)
		}
		s.settle()
		return wait
	case s.working:
		return wait
	case now.Before(s.retryAt):
		return min(wait, s.retryAt.Sub(now))
	}
	switch s.phase {
	case phaseLoading:
		if s.loaded == nil {
			s.load()
		}
	case phaseAnnouncing:
		s.announce()
	case phaseRunning:
		if s.look && (len(s.dirty) == 0 || s.pace.wait(now) > 0) {
			s.lookAgain()
			return wait
		}
		return min(wait, s.advanceFlush(now))
	}
	return wait
}

// serveJobs is the database goroutine: link intake never waits for Redis.
func (s *syncer) serveJobs() {
	for {
		select {
		case job := <-s.jobs:
			job(s.work)
		case <-s.ended:
			return
		}
	}
}

// do runs job on the database goroutine and then done with its error on the loop. One job at a time.
func (s *syncer) do(job func(context.Context) error, done func(error)) {
	s.working = true
	carry := func(ctx context.Context) {
		err := job(ctx)
		s.post(func() {
			s.working = false
			s.judge(err)
			done(err)
		})
	}
	if s.options.spawn != nil {
		s.options.spawn(func() { carry(s.work) })
		return
	}
	s.jobs <- carry
}

// beside runs fn without waiting for it.
func (s *syncer) beside(fn func()) {
	if s.options.spawn != nil {
		s.options.spawn(fn)
		return
	}
	go fn()
}

// judge learns from a job's outcome whether the databases answer, says so once per change, and sets the pause before a retry.
func (s *syncer) judge(err error) {
	if errors.Is(err, errConfig) {
		s.failure = err
		return
	}
	if errors.Is(err, errConfigLoading) {
		if !s.waiting {
			s.waiting = true
			s.notice("waiting", "for", err)
		}
		s.retryAt = s.now().Add(s.pauses.next())
		return
	}
	s.status.database(err, s.now())
	answered := err == nil || !unavailable(err)
	s.m.redisConnected.SetBool(answered)
	if err == nil {
		s.pauses, s.retryAt = backoff{}, time.Time{}
		if s.failing {
			s.failing = false
			s.notice("the databases answer again")
			s.distrust()
		}
		return
	}
	s.retryAt = s.now().Add(s.pauses.next())
	if !s.failing {
		s.failing = true
		s.log.Warn(outage(err, answered), "err", err)
	}
}

// outage says in a few words what keeps the databases from being written.
func outage(err error, answered bool) string {
	switch {
	case errors.Is(err, errNoDBConfig):
		return "the database configuration is not there yet, waiting for it (-db.config)"
	case answered:
		return "a database refuses a command, trying again"
	}
	return "the databases do not answer, trying again until they do"
}

// distrust is for databases that were away and may have come back with other content, or none: everything is asked and compared.
func (s *syncer) distrust() {
	for _, p := range s.ports {
		p.inAppl, p.known = false, false
		p.vanished++
		s.touch(p)
	}
	s.auditList, s.checkSignals = true, true
}

// applChanged keeps the view of which ports APPL_DB has. A port that enters it after its link message is published now.
func (s *syncer) applChanged(c applChange) {
	p := s.ports[c.port]
	if p == nil {
		return // asked when its interface appears
	}
	p.inAppl = c.exists
	if c.exists {
		p.missing = false
		s.touch(p)
	} else {
		p.vanished++
	}
}

// watchChanged is told when the subscription to APPL_DB's events stands or breaks. What happened before it stood is not known.
func (s *syncer) watchChanged(connected bool, err error) {
	switch {
	case !connected:
		s.watchLost = true
		s.checkSignals = true // asks the server something, so that an outage shows although nothing has to be written
		s.log.Info("the subscription to APPL_DB's keyspace events broke", "err", err)
	case s.watchLost:
		s.watchLost = false
		s.distrust()
	default:
		for _, p := range s.ports { // a port may have entered APPL_DB after it was asked for, and before events could tell
			p.inAppl = false
			p.vanished++
			s.touch(p)
		}
	}
}

// finish flushes what is pending when the daemon stops, within stopLimit.
func (s *syncer) finish() error {
	deadline := s.now().Add(stopLimit)
	last := false
	for {
		more, err := s.takeIn()
		left := deadline.Sub(s.now())
		switch {
		case err != nil:
			return err
		case s.openDB == nil:
			s.settle()
			return nil
		case left <= 0 || !s.working && (last || s.failing || s.phase != phaseRunning || len(s.dirty) == 0):
			s.notice("stopped", "unwritten_ports", len(s.dirty)+len(s.flying))
			return nil
		case s.working:
			err = s.source.Wait(min(left, flushGap))
		case !more:
			last = true
			s.startFlush(s.owesInitDone())
		}
		if err != nil {
			return err
		}
	}
}
