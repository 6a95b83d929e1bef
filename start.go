package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"
)

// start is how far the start has come, which ports are configured, and which of these have never had an interface:
// PortInitDone waits for them.
type start struct {
	m    *metrics
	log  *slog.Logger
	rows rows[startRow]

	state  startState
	config *switchConfig // CONFIG_DB as it was last read
	readAt time.Time     // when it was asked for at the start
	facts  startFacts    // what the run before left
	count  int           // of the last PortConfigDone, or unknownCount
	sent   uint32        // how often it was sent
	unseen int           // configured ports that never had an interface
	// PortInitDone was sent, and is owed again because APPL_DB lost it: no interface has to be waited for
	again    bool
	observes bool         // another portsyncd announces
	handed   *predecessor // nil: none
	moved    bool         // all interfaces went, and are to come again: each configured port's is waited for
	rest     time.Time    // PortInitDone was refused, and is not sent before
	hush     time.Time    // a warm start leaves the count alone until then, or until it has ended

	look     bool // CONFIG_DB is to be read again
	looking  bool // it is being read again
	certain  bool // because an event said so: then no ports means no ports
	oddNames string
}

const unknownCount = -1

// startRow is a port's place in CONFIG_DB.
type startRow struct {
	configured bool
	seen       bool // it had an interface
	listed     bool // by the reading at hand
}

// on takes the step that an event leads to, and tells whether there is one.
func (s *start) on(e startEvent) bool {
	for _, step := range startTable {
		if step.from == s.state && step.on == e {
			s.state = step.to
			s.show()
			return true
		}
	}
	return false
}

// show puts the state into the metrics.
func (s *start) show() {
	s.m.portConfigDone.SetBool(s.running() && s.state != reannouncing && (!s.observes || s.facts.configDone))
	s.m.portInitDone.SetBool(s.done())
}

func (s *start) in(states ...startState) bool { return slices.Contains(states, s.state) }

// running says that link messages reach STATE_DB.
func (s *start) running() bool { return s.state >= publishing }

// done says that PortInitDone is acknowledged.
func (s *start) done() bool { return s.state == complete }

// firstListing says that the first listing of all links has not ended yet.
func (s *start) firstListing() bool { return s.state == opening || s.state == listingLinks }

// unread says that CONFIG_DB was not read yet.
func (s *start) unread() bool { return s.state == opening || s.state == loading }

// loaded takes what a start needs to know.
func (s *start) loaded(c *switchConfig, f startFacts, now time.Time) {
	s.config, s.facts, s.readAt = c, f, now
	s.tellOdd(c.odd)
	s.count = f.count
	if !f.configDone {
		s.count = len(c.ports) // nobody counts on it yet
	}
	s.on(configRead)
}

// known is what a start goes by: CONFIG_DB as it was last read, and what the run before left.
func (s *start) known() (*switchConfig, startFacts) { return s.config, s.facts }

// mayAnnounce says that signals which APPL_DB lacks are ours to send. A warm start announces nothing before it is
// complete, unless APPL_DB had them when it began.
func (s *start) mayAnnounce() bool {
	return !s.observes && (s.done() || s.state == publishing && (!s.facts.warm || s.facts.configDone))
}

// owesInitDone says that PortInitDone is to be sent: every configured port's interface was seen. Which are configured
// is not known while CONFIG_DB is to be read again: a listing that is interrupted can take the start many seconds.
func (s *start) owesInitDone(now time.Time) bool {
	return !s.observes && s.state == publishing &&
		(s.unseen == 0 && !s.look && !s.looking || s.again) && !now.Before(s.rest)
}

// refusedInitDone notes that APPL_DB refuses the signal's key; the ports do not wait for that.
func (s *start) refusedInitDone(err error, now time.Time) {
	if s.rest.IsZero() {
		s.log.Error("APPL_DB refuses PortInitDone, trying again", "err", err, "remedy",
			"look at the types of the keys _PORT_TABLE:PortInitDone and PORT_TABLE_KEY_SET")
	}
	s.rest = now.Add(refusalRest)
}

// wantLook asks for CONFIG_DB to be read again; certain says that an event told of a change there.
func (s *start) wantLook(certain bool) { s.look, s.certain = true, s.certain || certain }

// takeLook says whether it is to be read, and takes the wish.
func (s *start) takeLook() (certain bool) {
	certain = s.certain
	s.look, s.certain, s.looking = false, false, true
	return certain
}

// looked notes that CONFIG_DB was read again, or that this failed.
func (s *start) looked() { s.looking = false }

// wantsLook says that CONFIG_DB is to be read, and current that it was read, and nothing says that it has changed.
func (s *start) wantsLook() bool { return s.look }
func (s *start) current() bool   { return s.running() && !s.look && !s.looking }

// read takes CONFIG_DB as it was read again.
func (s *start) read(c *switchConfig) {
	s.config = c
	s.tellOdd(c.odd)
}

// tellOdd says once which ports of CONFIG_DB are none.
func (s *start) tellOdd(odd []string) {
	names := fmt.Sprint(odd)
	if len(odd) > 0 && names != s.oddNames {
		s.log.Error("keys of CONFIG_DB's PORT table are no hashes, and are left out", "keys", names, "remedy",
			"delete and configure them again")
	}
	s.oddNames = names
}

// configuredPorts are CONFIG_DB's, as it was last read.
func (s *start) configuredPorts() []portConfig { return s.config.ports }

// initWasSent says that PortInitDone was, in this run of the switch. What a restarted daemon found of it counts like
// its own.
func (s *start) initWasSent() bool {
	return !s.moved && (s.again || s.done() || s.facts.initDone && !s.facts.warm)
}

// word is what the next one has to know of this start, should the databases be lost by then.
func (s *start) word() (announced, initDone bool) {
	if s.handed != nil && !s.running() && !s.moved { // it may have come to nothing yet
		return !s.observes, s.handed.initDone
	}
	return s.running() && !s.observes, s.initWasSent()
}

// lost notes that APPL_DB has lost the signals.
func (s *start) lost() {
	s.log.Warn("APPL_DB has lost PortConfigDone: sending ports and signals again from CONFIG_DB")
	s.again = s.initWasSent()
	s.on(signalsLost)
}

// follow takes what the servers say of keyspace events by now, and tells whether that is news.
func (s *start) follow(said eventsSaid) (news bool) {
	news = said != eventsUnsaid && s.facts.events != (said == eventsSent)
	if news {
		s.facts.events = !s.facts.events
	}
	return news
}

// bare is for an APPL_DB that lacks the signals. Where no configured port has an interface, the switch software
// starts again, cold, while this daemon goes on (docs/several-asics.md), and PortInitDone waits for its interfaces.
func (s *start) bare(all func(func(*port)), present func(*port) bool) {
	some := false
	all(func(p *port) { some = some || s.configured(p) && present(p) })
	if !some {
		s.anew(all)
	}
}

// compare takes what APPL_DB was found to have of the signals. A Redis that came back as it was some time ago may have
// only one of them, or another count. It tells whether ports and signals have to be announced again.
func (s *start) compare(found signals) (lost bool) {
	if !found.known {
		return false
	}
	if s.observes {
		s.watch(found)
		return false
	}
	if !found.configDone {
		return s.mayAnnounce()
	}
	if s.done() && !found.initDone {
		s.log.Warn("APPL_DB has lost PortInitDone: sending it again")
		s.again = s.initWasSent()
		s.on(initDoneLost)
	}
	if s.state == publishing && found.initDone && !s.facts.warm { // it was sent, and the answer lost
		s.sentInitDone()
	}
	if found.count != s.count { // or is no number
		s.count = found.count
		s.wantLook(false)
	}
	return false
}

// watch takes what another portsyncd has sent.
func (s *start) watch(found signals) {
	s.facts.signals = found
	switch {
	case s.state == publishing && found.initDone:
		s.on(initDoneSent)
	case s.done() && !found.initDone:
		s.on(initDoneLost)
	}
	s.show()
}

// told notes that ports and PortConfigDone are in APPL_DB, and were read at the same time.
func (s *start) told(a announcement) {
	s.config.ports, s.count = a.ports, len(a.ports)
	s.sent++
	if len(a.refused) > 0 {
		s.log.Error("APPL_DB refuses ports, which are not announced", "ports", fmt.Sprint(a.refused), "remedy",
			"delete the keys _PORT_TABLE:<port>, which are no hashes, and configure the ports again")
	}
	s.log.Log(ctxNone, levelNotice, "PortConfigDone sent", "count", s.count)
	s.on(announced)
}

// warmHush is longer than an orchagent that starts warm takes to compare the count with what it finds.
const warmHush = 5 * time.Minute

// decided notes when it was decided what kind of start this is.
func (s *start) decided(mode startMode, now time.Time) {
	if !mode.goesOn {
		s.handed = nil
	}
	s.again = !s.moved && s.handed != nil && s.handed.initDone
	if s.facts.warm {
		s.hush = now.Add(warmHush)
	}
}

// wrongCount says that the last PortConfigDone had another number of ports than CONFIG_DB has: the next warm restart of
// orchagent goes by it. What CONFIG_DB has is not known while it is to be read again. A warm start sends none while
// orchagent may still be going by the one that is there.
func (s *start) wrongCount(now time.Time) bool {
	return !s.observes && (s.done() || s.state == publishing && !now.Before(s.hush)) && !s.look && !s.looking &&
		len(s.config.ports) != s.count
}

// rightCount says that the last PortConfigDone had the number of ports that CONFIG_DB has.
func (s *start) rightCount() bool { return s.current() && len(s.config.ports) == s.count }

// restWait is how long PortInitDone rests after it was refused.
func (s *start) restWait(now time.Time) time.Duration {
	if wait := s.rest.Sub(now); s.state == publishing && wait > 0 {
		return wait
	}
	return beatInterval
}

// counted notes that PortConfigDone was sent with another count.
func (s *start) counted(count int) {
	was := "not known"
	if s.count != unknownCount {
		was = strconv.Itoa(s.count)
	}
	s.log.Log(ctxNone, levelNotice, "PortConfigDone sent again", "count", count, "was", was)
	s.count = count
	s.sent++
}

// uncounted notes that a count may have been sent, or not: the answer is lost, and CONFIG_DB may have the number of
// before by the time that it can be sent again.
func (s *start) uncounted() { s.count = unknownCount }

// times is how often PortConfigDone was sent: what is found of the signals meanwhile may be older.
func (s *start) times() uint32 { return s.sent }

// sentInitDone notes that PortInitDone is acknowledged. It tells whether APPL_DB lacked the other signal when a warm
// start began, which is ours to announce from now on.
func (s *start) sentInitDone() (lacks bool) {
	if s.on(initDoneSent) {
		s.moved = false
		s.log.Log(ctxNone, levelNotice, "PortInitDone sent")
	}
	return s.facts.warm && !s.facts.configDone
}

// configure sets which ports are configured, and returns those that are not any more: nothing waits for their
// interfaces. present tells whether a port has an interface, which is no left-over.
func (s *start) configure(ports []*port, all func(func(*port)), present func(*port) bool) (dropped []*port) {
	s.m.portsConfigured.Set(float64(len(ports)))
	for _, p := range ports {
		row := s.rows.of(p)
		row.listed = true
		if row.configured {
			continue
		}
		row.configured = true
		p.series.pending.Set(1)
		s.unseen++
		s.m.showPending(p.series)
		if present(p) {
			s.saw(p)
		}
	}
	all(func(p *port) {
		row := s.rows.of(p)
		if row.configured && !row.listed {
			s.unconfigure(p, row)
			dropped = append(dropped, p)
		}
		row.listed = false
	})
	return dropped
}

func (s *start) unconfigure(p *port, row *startRow) {
	if !row.seen {
		s.unseen--
	}
	*row = startRow{}
	s.m.hidePending(p.series)
}

// configured says that CONFIG_DB has a port.
func (s *start) configured(p *port) bool { return s.rows.of(p).configured }

// saw notes that a port has an interface that is no left-over, in whatever state the start is. Only the first one of a
// configured port matters.
func (s *start) saw(p *port) {
	row := s.rows.of(p)
	if !row.configured || row.seen {
		return
	}
	row.seen = true
	p.series.pending.Set(0)
	s.unseen--
}

// anew is for interfaces that are to come again, all of them: no port has one, whatever was seen before.
func (s *start) anew(all func(func(*port))) {
	s.again, s.moved = false, true
	all(func(p *port) {
		if row := s.rows.of(p); row.configured && row.seen {
			row.seen = false
			p.series.pending.Set(1)
			s.unseen++
		}
	})
}

func (s *start) forget(p *port) { s.rows.drop(p) }

// portsToAnnounce are those that were read recently, or those of a CONFIG_DB that lost them together with APPL_DB.
func (s *start) portsToAnnounce(now time.Time) (recent, fallback []portConfig) {
	if s.state == reannouncing {
		return nil, s.config.ports
	}
	if now.Sub(s.readAt) < recently {
		recent = s.config.ports
	}
	return recent, nil
}

// mode tells left-overs of the switch software's previous run from interfaces that are current because only this daemon
// was restarted: a cold start of the switch flushes APPL_DB and STATE_DB, so what they hold is of this run (SONIC.md,
// "How a switch starts and stops it"). The run before wrote down which it took for old before it announced anything:
// that holds, whenever the daemon ended afterwards. option is -old-interfaces.
func (s *start) mode(option string) startMode {
	f := s.facts
	// only announced, nothing published: old ones may still be there
	restarted := f.initDone || f.configDone && len(f.held) > 0
	switch {
	case s.observes && f.old != nil:
		return startMode{old: f.old.has, what: "adopted", why: "-observe: STATE_DB has which interfaces are old"}
	case s.observes:
		return startMode{old: none, what: "adopted", why: "-observe"}
	case f.warm:
		return startMode{old: none, what: "adopted", why: "warm restart"}
	case option == "down":
		return startMode{old: every, announce: true, what: "old", why: "-old-interfaces down"}
	case option == "adopt":
		return startMode{old: none, announce: !f.configDone, what: "adopted", why: "-old-interfaces adopt"}
	case f.old != nil && (f.configDone || f.initDone || len(f.held) > 0):
		return startMode{old: f.old.has, announce: !f.configDone, goesOn: true, what: "adopted",
			why: "only this daemon was restarted: STATE_DB has which interfaces were old before, " +
				"and APPL_DB a signal or STATE_DB entries"}
	case restarted:
		return startMode{old: none, goesOn: true, what: "adopted",
			why: fmt.Sprintf("only this daemon was restarted: APPL_DB has the signals and STATE_DB %d entries",
				len(f.held))}
	case s.handed != nil && f.old == nil: // a cold start leaves our row
		return startMode{old: s.handed.old.has, announce: !f.configDone, goesOn: true, what: "adopted",
			why: "handed over by a portsyncd that had announced the ports, and the databases are lost since"}
	case s.config.switchType == "dpu":
		return startMode{old: none, announce: true, what: "adopted", why: "switch_type is dpu"}
	}
	return startMode{old: every, announce: true, cold: true, what: "old", why: "cold start"}
}
