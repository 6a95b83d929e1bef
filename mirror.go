package main

import (
	"context"
	"log/slog"
	"strconv"
	"time"
)

// database is where the syncer writes; *sonicDB is the real one. Flush is called by one goroutine at a time, Load,
// LookBack, Announce, Recount and SetLogger by another one, and Watch by a third.
type database interface {
	Load(ctx context.Context) (*switchConfig, error)
	LookBack(ctx context.Context, ports []portConfig) (startFacts, error)
	Announce(ctx context.Context, recent, fallback []portConfig, old leftovers) (announcement, error)
	Flush(ctx context.Context, f *flush) error
	Recount(ctx context.Context, count int) (lost bool, err error)
	SetLogger(ctx context.Context, l logSettings) error
	Watch(ctx context.Context, w watcher)
	Nudge() // asks the servers whether they are there, without waiting: Watch sees what becomes of it
	Close()
}

// openDatabase opens the databases. They tell slow, from any goroutine, before a call takes longer than a moment.
type openDatabase func(slow func()) (database, error)

// retold is what a loop tells the next one.
type retold struct {
	links  []linkMessage // nil: the kernel is asked
	config *switchConfig // nil: CONFIG_DB is read
}

// syncOptions is what the flags decide, and what a simulation takes the place of.
type syncOptions struct {
	links     globs             // which links are ports; nil: SONiC's rule
	old       string            // what becomes of interfaces that exist at the start: auto, down or adopt
	reconcile time.Duration     // how often everything is compared; 0: never
	eoiu      time.Duration     // how long a listing may take before it is asked for again
	logger    func(logSettings) // takes what CONFIG_DB says about the log
	spawn     func(func())      // runs what takes its time beside the loop; nil: goroutines
	end       func()            // ends what spawn runs, from inside; nil: a goroutine
	random    random            // for jitter; nil: the library's
	noFabric  bool              // an ASIC whose switch_type is fabric has no ports: errFabric
	recorder  *recorder         // takes down what happens; nil: nobody does
	observe   bool              // compare only: another portsyncd writes
	carried   []carriedPort     // what was counted of ports before
	retold    retold            // by the loop before
	handed    *predecessor      // see start
	takenOver bool              // another one wrote a moment ago: its last commands may still be under way
	beat      func() error      // called at each beat; an error ends the loop. nil: nobody
	standing  func(ready bool)  // of an observer: told when it becomes able to take over, or unable; nil: nobody
	feature   bool              // tell of readiness in FEATURE|swss
}

// mirror is the rooms of a syncer and what follows from what happens in them. What is known belongs to the rooms, each
// the only one to touch its own; the mirror tells them what happened elsewhere.
type mirror struct {
	options syncOptions
	source  linkSource
	openDB  openDatabase // nil: no databases at all
	m       *metrics
	status  *health
	log     *slog.Logger
	now     func() time.Time
	post    func(func()) // hands something to the loop

	start   start
	links   *linkTable
	listing *listing
	outbox  outbox
	compare comparison
	opers   operLook
	warm    warmRestart
	ready   readiness
	courier courier
	differ  divergence // of an observer
	record  *recorder

	away      error     // why no namespace has the name of the links', nil: one has
	nextHome  time.Time // when that is looked at again
	at        time.Time // when the messages at hand were received,
	heard     bool      // and that there were some
	begun     time.Time
	nextCheck time.Time
	able      bool // of an observer: it could take over
	retelling bool // what the loop before knew stands for the first listing
	watching  bool // keyspace events are followed
	watchLost bool // or were, before their subscription broke
	logger    logSettings
	// the defaults of CONFIG_DB's settings could not be written
	loggerOwed bool
	db         database
	work       context.Context

	malformedLogged time.Time
	failure         error // ends the loop
}

func newMirror(o syncOptions, source linkSource, openDB openDatabase, m *metrics, status *health,
	log *slog.Logger, now func() time.Time, post func(func())) mirror {
	return mirror{
		options: o, source: source, openDB: openDB, m: m, status: status, log: log, now: now, post: post,
		start: start{m: m, log: log, observes: o.observe, handed: o.handed},
		links: newLinkTable(o.links, m, log), listing: newListing(m, o.random, o.eoiu),
		outbox: outbox{m: m, log: log, now: now, pace: newPace(o.observe)}, warm: warmRestart{m: m, log: log},
		compare: comparison{m: m, log: log, random: o.random, interval: o.reconcile},
		courier: courier{m: m, log: log, random: o.random, spawn: o.spawn, end: o.end, post: post},
		record:  o.recorder,
		ready:   readiness{on: o.feature && !o.observe, log: log},
	}
}

// wake is what comes before everything else: the first listing is asked for.
func (s *mirror) wake() {
	s.begun = s.now()
	s.source.DropDump() // one of a loop before would pass for all links
	s.links.within(s.source.Home())
	s.links.carry(s.options.carried)
	s.listing.want(&s.m.resyncStart, s.begun, 0)
	if s.openDB == nil {
		s.start.loaded(new(switchConfig), startFacts{}, s.begun)
	}
}

func (s *mirror) notice(msg string, args ...any) { s.log.Log(ctxNone, levelNotice, msg, args...) }

// beside runs fn without waiting for it.
func (s *mirror) beside(fn func()) { s.courier.beside(fn) }

// received, live, dumped, dumpDone, lost and malformed take what the kernel says.

func (s *mirror) received(at time.Time, messages int) {
	s.at, s.heard = at, true
	s.m.messages.Add(uint64(messages))
}

func (s *mirror) live(m *linkMessage) {
	if aboutDevice(m) {
		s.listing.hear(m.index)
	}
	h := s.links.live(m, s.at)
	s.take(h, m, false)
	s.follow(h)
	switch {
	case h.port != nil:
		s.outbox.note(h.port, s.at)
	case m.deleted && h.gone[0] != nil:
		s.outbox.note(h.gone[0], s.at)
	case h.ignored == &s.m.ignoredName && s.options.links.isSub(m.name):
		s.subInterface(m)
	case m.deleted && h.ignored != nil: // it looks like a deletion, and is none
		if p := s.links.known(string(m.name)); p != nil {
			s.record.ignored(p, s.at)
		}
	}
}

// subInterface takes what is said of an interface that is no port and has an entry nevertheless (rule 3). One that is
// there again keeps it.
func (s *mirror) subInterface(m *linkMessage) {
	if m.deleted {
		s.outbox.drop(s.links.port(string(m.name)))
	} else if p := s.links.known(string(m.name)); p != nil {
		s.outbox.dismiss(p)
	}
}

func (s *mirror) dumped(m *linkMessage) {
	if s.listing.counts(m.index) {
		h := s.links.line(m, s.at)
		s.take(h, m, true)
		s.follow(h)
	}
}

// follow carries out what a message about a link, or the line of a listing, meant.
func (s *mirror) follow(h heard) {
	for _, p := range h.gone {
		switch {
		case p == nil:
			continue
		case s.retelling: // the one before us has written it, or not: the entry is compared
			s.outbox.dismiss(p)
		default:
			s.outbox.drop(p)
		}
		s.opers.gone(p)
	}
	if h.port == nil {
		return
	}
	s.opers.changed(h.port, s.at)
	_, state := s.links.interfaceOf(h.port)
	s.outbox.aim(h.port, state)
	if h.appeared {
		s.start.saw(h.port)
	}
	if s.options.observe {
		s.differ.hear(h.port)
	}
}

// take has it taken down.
func (s *mirror) take(h heard, m *linkMessage, listed bool) {
	if p := h.gone[0]; p != nil {
		why := causeRenamed
		if m.deleted {
			why = causeDeleted
		}
		s.record.gone(p, why, s.at)
	}
	if h.port != nil {
		s.record.link(h.port, m, listed, s.at)
	}
}

// dumpDone ends a listing: what it did not have is gone.
func (s *mirror) dumpDone(interrupted bool, err error) {
	now := s.now()
	defer func() { s.owe(now) }()
	if err != nil {
		s.log.Warn("listing all links failed, trying again", "err", err, "pause", s.listing.failed(now))
		return
	}
	s.listing.done(interrupted, now)
	if !interrupted {
		if s.away == nil {
			s.status.homeless("")
		}
		for _, p := range s.links.dropMissing(s.listing.mentioned) {
			s.record.gone(p, causeListed, now)
			s.outbox.drop(p)
			s.opers.gone(p)
		}
	}
	switch {
	case !s.start.firstListing():
		if s.start.running() && s.openDB != nil {
			s.compare.begin(s.links.all)
		}
	case !interrupted || s.listing.hopeless():
		s.listed(now)
	}
}

// listed notes the end of the initial update: the first listing was complete. From here on "not in the kernel" means
// gone.
func (s *mirror) listed(now time.Time) {
	took := now.Sub(s.begun)
	s.m.eoiuReached.Set(1)
	s.m.eoiuSeconds.Set(took.Seconds())
	s.status.listed.Store(true)
	s.links.endFirstListing()
	s.log.Info("links listed: end of initial update", "ports", s.m.portsPresent.Load(), "took", took)
	s.record.endListing(func(name string) (*port, bool) {
		p := s.links.known(name)
		return p, p != nil && s.present(p)
	}, now)
	s.record.note(ownListed, strconv.Itoa(int(s.m.portsPresent.Load()))+" ports", now)
	s.start.on(linksListed)
}

func (s *mirror) lost(why string) {
	s.m.overruns.Inc()
	now := s.now()
	if s.listing.lost(now) {
		s.record.note(ownOverrun, why, now)
		s.log.Warn("link messages were lost, listing all links again", "why", why)
	}
	s.owe(now)
}

// owe keeps health informed of a listing that is owed because messages were lost or one before was not whole.
func (s *mirror) owe(now time.Time) {
	owed := s.listing.owed()
	s.status.resync.Store(owed)
	since(&s.status.resyncAt, owed, now)
}

// logLimit is the time between two lines about malformed messages.
const logLimit = time.Second

func (s *mirror) malformed(err error) {
	s.m.malformed.Inc()
	if now := s.now(); now.Sub(s.malformedLogged) >= logLimit {
		s.malformedLogged = now
		s.log.Warn("netlink message dropped", "err", err, "malformed_total", s.m.malformed.Load())
	}
}

// advanceListing gives up a listing that does not end, begins one that is due, and returns how long there is nothing of
// either. None is begun while messages wait (more): after an overrun those are older than what was lost, and must not
// pass for news that is newer than the listing.
func (s *mirror) advanceListing(now time.Time, more bool) time.Duration {
	if s.listing.giveUp(now) {
		s.retelling = false
		s.log.Warn("the listing of all links does not end, asking for it again", "timeout", s.listing.within(0))
	}
	if !more && s.listing.isDue(now) {
		s.listing.begin(now)
		if err := s.source.StartDump(); err != nil {
			s.dumpDone(false, err)
		}
	}
	return s.listing.wait(now)
}

// settle ends everything pending where there is nothing to write to.
func (s *mirror) settle() {
	if s.start.in(deciding) {
		s.links.decideOld(none)
		s.start.on(toAdopt)
		s.m.portConfigDone.Set(0) // nobody is told anything
		s.status.noDB.Store(true)
	}
	for _, p := range s.outbox.settle() {
		s.record.settled(p, s.now())
		s.forget(p)
	}
	s.m.queueDepth.Set(0)
}

// forget drops a port that is neither configured nor in the kernel, and of which nothing has to be written.
func (s *mirror) forget(p *port) {
	if index, _ := s.links.interfaceOf(p); index != 0 || s.start.configured(p) || !s.outbox.idle(p) ||
		s.differ.differs(p) {
		return
	}
	s.differ.forget(p)
	s.start.forget(p)
	s.outbox.forget(p)
	s.compare.forget(p)
	s.opers.forget(p)
	s.warm.forget(p)
	s.record.forget(p)
	s.links.forget(p)
}

// bare says that ports are published and there is no interface at all.
func (s *mirror) bare() bool {
	return s.start.running() && s.m.portsPresent.Load() == 0 && len(s.start.configuredPorts()) > 0
}

// present says that a port has an interface that is no left-over.
func (s *mirror) present(p *port) bool {
	index, _ := s.links.interfaceOf(p)
	return index != 0
}

// configure sets which ports are configured.
func (s *mirror) configure(configured []portConfig) {
	ports := make([]*port, len(configured))
	for i, c := range configured {
		ports[i] = s.links.port(c.name)
		ports[i].series.setAlias(c.alias())
	}
	for _, p := range s.start.configure(ports, s.links.all, s.present) {
		s.forget(p)
	}
}

// distrust is for databases that were away and may have come back with other content, or none: everything is asked and
// compared.
func (s *mirror) distrust() {
	s.links.all(func(p *port) { s.outbox.doubt(p) })
	s.links.doubtWritten()
	s.compare.askAll()
	s.start.wantLook(false)
}

// applChanged takes what is heard of a port's entry in APPL_DB. One that is not known is asked for when its interface
// appears.
func (s *mirror) applChanged(c applChange) {
	if (s.options.observe || !c.exists) && (c.port == portConfigDone || c.port == portInitDone) {
		s.compare.askSignals()
	}
	p := s.links.known(c.port)
	if p == nil {
		return
	}
	s.outbox.appl(p, c.exists)
	if c.exists {
		s.compare.entered(p)
	}
}

// watchChanged is told when a subscription stands or breaks. What happened before it stood is not known.
func (s *mirror) watchChanged(connected bool, err error) {
	switch {
	case !connected:
		s.watchLost = true
		s.compare.askAll() // asks the servers something, so that an outage shows although nothing has to be written
		s.log.Info("a subscription to keyspace events broke", "err", err)
	case s.watchLost:
		s.watchLost = false
		s.distrust()
	default: // a port may have entered APPL_DB after it was asked for, and before events could tell
		s.links.all(s.outbox.askAgain)
	}
}
