package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"
)

// How a namespace is looked after: from its sockets to the end of its loop.

// options are the command line.
type options struct {
	dbConfig   string
	netns      string
	dbGlobal   string
	standalone bool
	observe    bool
	standby    bool
	lockDir    string
	instance   string
	links      globs
	listen     addresses
	control    string
	tls        tlsFiles
	buffer     memorySize
	old        string
	reconcile  time.Duration
	memory     memorySize
	recorder   string // the flight recorder's file
	recordSize memorySize
	logLevel   slog.Level
	logOutput  string
	eoiu       time.Duration
	heartbeat  bool
	feature    bool // tell of readiness in FEATURE|swss
	version    bool
	given      map[string]bool // flags that are on the command line
}

// daemon is what the flags have come to.
type daemon struct {
	options *options
	log     *logControl
	m       *metrics // of the process
	health  *health  // of the process
	box     *box
	sharer  *sharer    // of several namespaces among several instances, nil: there is none
	waits   *lockWaits // of all namespaces
	unmark  func()     // has others see that we take no lock
	pace    *heapPace
}

// one looks after the only namespace until ctx ends. start has what the process has once begin, and returns what ends
// it.
func (d *daemon) one(ctx context.Context, start func(b *box) (stop func())) error {
	o := d.options
	// before anything that takes time: what exists by now is old
	source, noLinks := openKernelLinks(o.netns, int(o.buffer))
	if noLinks != nil && !errors.Is(noLinks, errNoNetNS) {
		return noLinks
	}
	u := &unit{m: d.m, health: d.health, log: d.log.Logger,
		look: diffOptions{dbConfig: o.dbConfig, netns: o.netns}}
	u.observes(o.observe)
	u.instance = d.newInstance(u)
	u.record = d.openRecorder(u, o.recorder)
	d.box = newBox(u)
	d.open(d.box)
	u.teller = d.newTeller(u)
	defer start(d.box)()
	return d.mirror(ctx, u, source, noLinks, d.log.Follow)
}

// openRecorder opens a namespace's flight recorder.
func (d *daemon) openRecorder(u *unit, path string) *recorder {
	record := openRecorder(path, int(d.options.recordSize), u.m, u.log)
	u.health.record = record
	record.note(ownStarted, "portsyncd "+u.m.version, time.Now())
	return record
}

// mirror keeps a namespace in step until ctx ends. Where the namespace is not there yet, there is no source, but why.
// follow takes what its CONFIG_DB says about the log.
func (d *daemon) mirror(ctx context.Context, u *unit, source *kernelLinks, noLinks error,
	follow func(logSettings)) error {
	defer func() { u.record.note(ownStopped, "", time.Now()) }()
	o, log := d.options, u.log
	if noLinks != nil {
		log.Warn("the network namespace is not there yet, waiting for it", "err", noLinks)
		u.health.await(noLinks)
		var err error
		if source, err = awaitKernelLinks(ctx, u.look.netns, int(o.buffer)); errors.Is(err, context.Canceled) {
			return nil
		} else if err != nil {
			return err
		}
		u.health.await(nil)
	}
	defer source.Close()
	source.status, source.buffers = u.health, &d.box.buffers
	if o.observe {
		log.Log(ctx, levelNotice, "observing: nothing is written or set down", "beside",
			describeDaemons(u.daemons.find(time.Now())))
	}
	log.Log(ctx, levelNotice, "listening to link messages", "version", u.m.version, "receive_buffer_bytes",
		source.rcvbuf)
	rules := syncOptions{old: o.old, reconcile: o.reconcile, eoiu: o.eoiu, logger: follow, recorder: u.record,
		noFabric: u.namespace != "", feature: o.feature}
	if o.standalone {
		rules.links = o.links
		return newSyncer(rules, source, nil, u.m, u.health, log, time.Now).Run(ctx)
	}
	u.instance.record, source.may = u.record, u.instance.may
	defer d.introduce(ctx, u)()
	return u.instance.run(ctx, source, rules)
}

// open has a box know the other instances, if there may be any.
func (d *daemon) open(b *box) {
	if d.options.named() {
		b.book = newPeerBook(d.m, d.options.instance)
	}
}

// introduce has the other instances told of us from a namespace, until it is told to stop.
func (d *daemon) introduce(ctx context.Context, u *unit) (stop func()) {
	if u.teller == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var told sync.WaitGroup
	told.Go(func() { u.teller.run(ctx) })
	return func() {
		cancel()
		told.Wait()
	}
}

// newTeller is what tells the other instances of us from a namespace, nil: nobody does.
func (d *daemon) newTeller(u *unit) *peerTeller {
	if !d.options.named() {
		return nil
	}
	return &peerTeller{namespace: u.namespace, name: d.options.instance, m: u.m, log: u.log,
		config: &dbConfigFile{path: u.look.dbConfig, now: time.Now},
		self:   func(now time.Time) peer { return d.box.self(now) }, book: d.box.book}
}

// named says that this is to be one of several instances, that know of each other.
func (o *options) named() bool { return (o.standby || o.given["instance"]) && !o.observe }

// newInstance is a namespace's portsyncd among others.
func (d *daemon) newInstance(u *unit) *instance {
	o := d.options
	lock := newWriterLock(lockHolder{Instance: o.instance, PID: os.Getpid(), Version: u.m.version}, time.Now)
	lock.waits = d.waits
	lock.flag, lock.namespace, lock.optional = o.lockDir, u.namespace, !o.amongOthers()
	config := &dbConfigFile{path: u.look.dbConfig, now: time.Now}
	i := &instance{instanceTools: newInstanceTools(config, lock, u.m, &daemonFinder{netns: u.look.netns},
		d.unmark, d.pace.grow),
		m: u.m, health: u.health, log: u.log, lock: lock, observe: o.observe}
	if i.file = o.recorder; i.file != "" && u.namespace != "" {
		i.file = recorderOf(i.file, u.namespace)
	}
	i.standby.Store(o.standby)
	return i
}

// refusal is why a loop would end right after it has begun, nil: for nothing that is known. What the loop before had is
// not touched: something of it may still be under way.
func (d *daemon) refusal(u *unit) error {
	c, err := readDBConfig(u.look.dbConfig)
	if err == nil && !d.options.observe {
		lock := d.newInstance(u).lock
		err = lock.take(lock.folder(c))
		lock.release()
	}
	if errors.Is(err, errConfig) || errors.Is(err, errNotJSON) || errors.Is(err, errHeld) && !d.options.standby {
		return err
	}
	return nil
}

// amongOthers says that somebody has asked for an instance among others, or for its lock.
func (o *options) amongOthers() bool { return o.standby || o.given["instance"] || o.given["lock.dir"] }

// recorderOf is where the events of one namespace of several are recorded.
func recorderOf(path, namespace string) string { return path + "." + namespace }
