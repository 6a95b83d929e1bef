package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"
	"time"
)

// Several namespaces in one process (-db.global): each is looked after by itself, and nothing that happens to one is
// waited for by another. The file that lists them is looked at with every beat.

// unitPause is the time before a namespace whose loop has ended is looked after again: its configuration is broken, or
// its sockets were.
const unitPause = 5 * time.Second

// fabricPause is the time between looks whether CONFIG_DB still makes an ASIC a fabric one.
const fabricPause = time.Minute

// several is the namespaces of -db.global.
type several struct {
	*daemon
	file   *dbGlobalFile
	now    func() time.Time
	fabric func(ctx context.Context) // ends when fabric ASICs are looked at again
	taken  chan error                // has who writes here when every namespace is another's

	ended sync.WaitGroup

	mu        sync.Mutex              // of what the loops change, too. Only look puts units in and out of
	running   map[string]*runningUnit // these
	recorders map[string]*recorder    // of namespaces that were there once, for their return
	logs      map[string]logSettings  // of each CONFIG_DB
}

// runningUnit is a namespace that is looked after, until its context ends.
type runningUnit struct {
	namespaceConfig
	cancel  context.CancelFunc
	over    chan struct{} // closed when it has ended
	leaving bool          // it is to end; look's
	idle    bool          // a fabric ASIC's: there is nothing to look after
	refused error         // that another portsyncd writes there, nil: not as far as is known
	// what it publishes; another one after its loop has ended. nil: nothing, for it is a fabric ASIC's
	published *unit
}

// globalFile is the file of -db.global, empty: one namespace is looked after. One that is being written is waited for
// later.
func (o *options) globalFile() (string, error) {
	if o.dbGlobal != autoDBGlobal {
		return o.dbGlobal, nil
	}
	listed, err := listNamespaces(autoDBGlobal)
	if listed != nil || errors.Is(err, errNotJSON) {
		return defaultDBGlobal, nil
	}
	return "", err
}

// several makes the namespaces of a file.
func (d *daemon) several(file string) *several {
	d.box = newSeveral(d.m, d.health)
	d.open(d.box)
	if d.options.standby {
		d.sharer = newSharer(d.box, d.options.instance, d.log.Logger)
	}
	return &several{daemon: d, file: &dbGlobalFile{path: file, now: time.Now}, now: time.Now, fabric: awaitFabricLook,
		taken: make(chan error, 1), running: map[string]*runningUnit{}, recorders: map[string]*recorder{},
		logs: map[string]logSettings{}}
}

// awaitFabricLook waits until a beat, when other loops wake up, too.
func awaitFabricLook(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(fabricPause + untilBeat(time.Now())):
	}
}

// run looks after them until ctx ends, or each is another portsyncd's, and then lets each end by itself.
func (s *several) run(ctx context.Context, start func(b *box) (stop func())) error {
	defer start(s.box)()
	defer s.ended.Wait()
	ctx, end := context.WithCancel(ctx)
	defer end()
	if s.sharer != nil {
		go s.sharer.run(ctx)
	}
	for first := true; ; first = false {
		err := s.look(ctx)
		if err != nil && len(s.running) == 0 && errors.Is(err, errConfig) {
			return err
		}
		if first {
			go s.tellBegun(ctx)
		}
		if s.idle() {
			s.health.heart.beat()
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.taken:
			return err
		case <-time.After(untilBeat(s.now())):
		}
	}
}

// idle says that no loop has a beat: all there is are fabric ASICs, as on a chassis' supervisor card, or nothing yet.
func (s *several) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.running {
		if !r.idle {
			return false
		}
	}
	return true
}

// tellBegun closes the process's begun when all loops of now have turned.
func (s *several) tellBegun(ctx context.Context) {
	for _, u := range s.box.units() {
		select {
		case <-u.health.begun:
		case <-ctx.Done():
			return
		}
	}
	close(s.health.begun)
}

// look takes up what the file says.
func (s *several) look(ctx context.Context) error {
	listed, err := s.file.read()
	s.health.await(err)
	if err != nil {
		return err
	}
	s.leave(ctx, listed)
	var begun sync.WaitGroup
	held := ""
	for _, n := range listed {
		if r := s.running[n.name]; r == nil {
			s.begin(ctx, n, &begun)
		} else if r.leaving {
			held = n.name + " is listed otherwise, and not looked after before the kernel lets its loop go (rtnl)"
		}
	}
	s.health.homeless(held)
	begun.Wait()
	s.publish()
	return nil
}

// leaveLimit is how long a loop may take to end.
const leaveLimit = time.Second

// leave ends what is not listed any more, or not so. A loop that the kernel holds is not waited for: what takes its
// place is begun when it has ended.
func (s *several) leave(ctx context.Context, listed []namespaceConfig) {
	var leaving []*runningUnit
	for name, r := range s.running {
		if !r.leaving && slices.Contains(listed, r.namespaceConfig) {
			continue
		}
		leaving = append(leaving, r)
		if !r.leaving {
			s.log.Log(ctx, levelNotice, "a namespace is not listed any more, or otherwise", "namespace", name)
			r.cancel()
		}
	}
	ctx, stop := context.WithTimeout(ctx, leaveLimit)
	defer stop()
	for _, r := range leaving {
		first := !r.leaving
		if r.leaving = true; first { // otherwise it has had its time
			select {
			case <-r.over:
			case <-ctx.Done():
			}
		}
		select {
		case <-r.over: // also when the time is over, of which another one may have taken all
			s.drop(r)
			continue
		default:
		}
		if first {
			s.log.Warn("the loop of a namespace that is not listed any more does not end", "namespace", r.name,
				"remedy", "what holds the kernel's lock for link changes (rtnl) is in: cat /proc/*/stack")
			s.hide(r)
		}
	}
}

// drop forgets a unit that has ended, and hide has nothing published of one that has not.
func (s *several) drop(r *runningUnit) {
	s.forgetLog(r.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, r.name)
}

func (s *several) hide(r *runningUnit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.published = nil
}

// begin looks after a namespace, beside the caller. begun is done when it can be published.
func (s *several) begin(ctx context.Context, n namespaceConfig, begun *sync.WaitGroup) {
	ctx, cancel := context.WithCancel(ctx)
	r := &runningUnit{namespaceConfig: n, cancel: cancel, over: make(chan struct{})}
	s.mu.Lock()
	s.running[n.name] = r
	s.mu.Unlock()
	begun.Add(1)
	s.ended.Go(func() {
		defer close(r.over)
		defer cancel()
		// before anything that takes time: what exists by now is old
		source, noLinks := openKernelLinks(n.name, int(s.options.buffer))
		u := s.newUnit(r)
		begun.Done()
		s.keep(ctx, r, u, source, noLinks)
	})
}

// newUnit makes what a namespace publishes, in place of what it did before.
func (s *several) newUnit(r *runningUnit) *unit {
	u := &unit{namespace: r.name, m: newUnitMetrics(s.m, r.name), log: s.log.With("namespace", r.name),
		health: &health{bell: s.health.bell, heart: s.health.heart, begun: make(chan struct{})},
		look:   diffOptions{dbConfig: r.dbConfig, netns: r.name, namespace: r.name}}
	u.observes(s.options.observe)
	u.instance, u.teller = s.newInstance(u), s.newTeller(u)
	if s.sharer != nil {
		u.instance.found = s.sharer.found
	}
	s.mu.Lock()
	record, before := s.recorders[r.name]
	s.mu.Unlock()
	if before {
		record.beginAnew(u.m)
		u.record, u.health.record = record, record
	} else if path := s.options.recorder; path != "" {
		u.record = s.openRecorder(u, recorderOf(path, r.name))
	} else {
		u.record = s.openRecorder(u, "")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recorders[r.name], r.published, r.idle, r.refused = u.record, u, false, nil
	return u
}

// keep looks after a namespace again whenever its loop has ended, until ctx ends.
func (s *several) keep(ctx context.Context, r *runningUnit, u *unit, source *kernelLinks, noLinks error) {
	for {
		err := noLinks
		if err == nil || errors.Is(err, errNoNetNS) {
			err = s.mirror(ctx, u, source, noLinks, s.follow(r.name))
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errFabric):
			u.log.Log(ctx, levelNotice, "the namespace is not looked after", "why", err, "again", fabricPause)
			s.hide(r)
			s.refuse(r, true, nil)
			s.publish()
			for isFabric(ctx, r.dbConfig, u.m) {
				if s.fabric(ctx); ctx.Err() != nil {
					return
				}
			}
			u.log.Log(ctx, levelNotice, "the namespace is looked after: its switch_type is not fabric any more")
			source, noLinks = openKernelLinks(r.name, int(s.options.buffer))
		default:
			source, noLinks = s.again(ctx, r, u, err)
			if ctx.Err() != nil {
				if source != nil {
					source.Close()
				}
				return
			}
		}
		u = s.newUnit(r)
		s.publish()
	}
}

// again waits until there is nothing that would end a loop at once, and then has the sockets open for the next one.
// What there is gets said when it changes: loops that begin in vain would fill log and recorder with themselves.
func (s *several) again(ctx context.Context, r *runningUnit, u *unit, err error) (source *kernelLinks, noLinks error) {
	for said := ""; ; {
		s.refuse(r, false, err)
		if why := err.Error(); why != said {
			u.log.Error("the namespace is not looked after for now; the others are", "err", err, "pause", unitPause)
			u.health.await(err)
			said = why
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(unitPause):
		}
		u.health.heart.beat() // there is no loop that would
		source, noLinks = openKernelLinks(r.name, int(s.options.buffer))
		if err = noLinks; err == nil || errors.Is(err, errNoNetNS) {
			err = s.refusal(u)
		}
		if err == nil {
			return source, noLinks
		}
		if noLinks == nil {
			source.Close()
		}
	}
}

// refuse notes that a namespace's loop has ended because there is nothing to look after, or with err. Where another
// portsyncd writes to each that there is, the process ends as one that looks after a single namespace does: what it
// would wait for is to write when the other one ends, which only -standby asks for. As long as one is its own, or may
// yet be, it goes on for that, and takes up the others' when they are free.
func (s *several) refuse(r *runningUnit, idle bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.idle, r.refused = idle, nil; errors.Is(err, errHeld) {
		r.refused = err
	}
	var first *runningUnit
	for _, of := range s.running {
		switch {
		case of.idle:
		case of.refused == nil:
			return
		case first == nil || comparePorts(of.name, first.name) < 0:
			first = of
		}
	}
	if first == nil {
		return
	}
	select {
	case s.taken <- fmt.Errorf("%s: %w", first.name, first.refused):
	default:
	}
}

// isFabric looks whether CONFIG_DB still makes an ASIC a fabric one. What cannot be read is as it was, and so is a
// CONFIG_DB that says nothing because it is being filled.
func isFabric(ctx context.Context, dbConfig string, m *metrics) bool {
	c, err := readDBConfig(dbConfig)
	if err != nil {
		return true
	}
	db := connectDatabases(c, m, func() {})
	defer db.Close()
	onlyRead(db)
	says, err := db.Load(ctx)
	return err != nil || says.switchType == "fabric" || says.switchType == "" && !says.complete
}

// publish puts what runs into the box, in order.
func (s *several) publish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var units []*unit
	idle := len(s.running) > 0
	for _, r := range s.running {
		if idle = idle && r.idle; r.published != nil {
			units = append(units, r.published)
		}
	}
	s.box.idle.Store(idle)
	sort.SliceStable(units, func(i, j int) bool { return comparePorts(units[i].namespace, units[j].namespace) < 0 })
	if s.box.book != nil {
		names := make([]string, len(units))
		for i, u := range units {
			names[i] = u.namespace
		}
		s.box.book.keep(names, s.now())
	}
	changed := !slices.Equal(units, s.box.units())
	if s.box.put(units); changed && s.sharer != nil {
		s.sharer.found() // the folders of their locks may have been known before
	}
}

// follow takes what a namespace's CONFIG_DB says about the log. There is one log: its level is the most talkative of
// all, and its output that of the first namespace.
func (s *several) follow(namespace string) func(logSettings) {
	return func(l logSettings) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.logs[namespace] = l
		all := joinLogs(s.logs)
		if _, err := parseLogLevel(l.level); err != nil && all.level != l.level && !s.log.fixedLevel {
			s.log.Error("LOGGER|portsyncd LOGLEVEL in CONFIG_DB: using that of the others", "namespace", namespace,
				"err", err)
		}
		s.log.Follow(all)
	}
}

// forgetLog is for a namespace that is gone.
func (s *several) forgetLog(namespace string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.logs[namespace]; !known {
		return
	}
	if delete(s.logs, namespace); len(s.logs) > 0 {
		s.log.Follow(joinLogs(s.logs))
	}
}

// joinLogs makes one of several settings. Where no level makes sense the first is taken, for the log to say so.
func joinLogs(of map[string]logSettings) (all logSettings) {
	names := slices.SortedFunc(maps.Keys(of), comparePorts)
	all = of[names[0]]
	lowest, err := parseLogLevel(all.level)
	for _, name := range names[1:] {
		if level, bad := parseLogLevel(of[name].level); bad == nil && (err != nil || level < lowest) {
			all.level, lowest, err = of[name].level, level, nil
		}
	}
	return all
}
