package main

import "time"

// listing is the one listing of all links that may be under way, and the next one that is due: why, when, and which of
// its lines count. A line can be older than a live message that is read before it, and after an overrun the queue holds
// messages older than what was lost.
type listing struct {
	m      *metrics
	random random
	limit  time.Duration // how long one may take before it is asked for again

	due      *counter // the next one's reason, nil: none is due
	dueAt    time.Time
	reason   *counter // that of the one under way
	underWay bool
	late     bool // one that was given up may still bring lines
	begun    time.Time
	lines    map[int32]struct{} // ifindexes of the one under way, or of the last one
	news     map[int32]struct{} // every ifindex of which a live message was read since it began

	whole       bool    // one has ended that was not interrupted
	interrupted int     // how many in a row were
	failures    backoff // after listings that failed
	calm        backoff // between listings that links keep changing under
	storm       backoff // between listings in a storm of overruns
	lastLost    time.Time
}

const (
	// so many interrupted listings a start sits out before it makes do with what they and the live messages gave
	patientListings = 5
	calmAfter       = 5 * time.Second // so long without an overrun is the end of a storm
)

func newListing(m *metrics, r random, limit time.Duration) *listing {
	return &listing{m: m, random: r, limit: limit, lines: make(map[int32]struct{}), news: make(map[int32]struct{})}
}

// within sets how long a listing may take, unless that is 0, and returns it.
func (l *listing) within(limit time.Duration) time.Duration {
	if limit > 0 {
		l.limit = limit
	}
	return l.limit
}

// hopeless says that the first listing was interrupted so often that a start no longer waits for a whole one.
func (l *listing) hopeless() bool { return l.interrupted >= patientListings }

// want asks for a listing after a pause, unless one is due sooner. That links are to be compared is no reason beside
// one that says that something of them is not known.
func (l *listing) want(reason *counter, now time.Time, pause time.Duration) {
	at, reconcile := now.Add(pause), &l.m.resyncReconcile
	switch {
	case l.due != nil && l.due != reconcile && reason == reconcile:
	case l.due == nil || at.Before(l.dueAt):
		l.due, l.dueAt = reason, at
	case l.due == reconcile:
		l.due = reason
	}
}

// lost asks for a listing because live messages were lost: at once, but in a storm of overruns after growing pauses.
// Any number of them before it begins cause one. It tells whether this is the first overrun of a storm, which is worth
// a line in the log.
func (l *listing) lost(now time.Time) (first bool) {
	if now.Sub(l.lastLost) > calmAfter {
		l.storm = backoff{}
	}
	l.lastLost = now
	if l.due == &l.m.resyncOverrun {
		return false
	}
	var pause time.Duration
	if first = l.storm.skip(); !first {
		pause = l.storm.next(l.random)
	}
	l.want(&l.m.resyncOverrun, now, pause)
	return first
}

// wait is how long there is nothing to begin or to give up.
func (l *listing) wait(now time.Time) time.Duration {
	wait := beatInterval
	if l.underWay {
		wait = min(wait, l.begun.Add(l.limit).Sub(now))
	} else if l.due != nil {
		wait = min(wait, l.dueAt.Sub(now))
	}
	return max(0, wait)
}

// isDue says that one is to begin now.
func (l *listing) isDue(now time.Time) bool {
	return l.due != nil && !l.underWay && !now.Before(l.dueAt)
}

// retell begins a listing that the kernel is not asked for.
func (l *listing) retell(now time.Time) {
	l.reason, l.due = &l.m.resyncStart, nil
	l.underWay, l.begun = true, now
}

// ask ends it without a result: the kernel is to be asked.
func (l *listing) ask(now time.Time) {
	l.underWay = false
	l.want(&l.m.resyncStart, now, 0)
}

// settled says that a listing was whole, and that none is owed or under way.
func (l *listing) settled() bool {
	return l.whole && !l.underWay && (l.due == nil || l.due == &l.m.resyncReconcile)
}

// begin notes that the kernel is being asked.
func (l *listing) begin(now time.Time) {
	l.reason, l.due = l.due, nil
	l.reason.Inc()
	l.underWay, l.late, l.begun = true, false, now
	clear(l.lines)
	clear(l.news)
}

// giveUp ends one that has not ended within its limit, and asks for another. It tells whether it did.
func (l *listing) giveUp(now time.Time) bool {
	if !l.underWay || now.Before(l.begun.Add(l.limit)) {
		return false
	}
	l.underWay, l.late = false, true
	l.want(&l.m.resyncFailed, now, 0)
	return true
}

// hear notes a live message about a device: whatever rule it falls under, it is newer than any line of the same
// ifindex.
func (l *listing) hear(index int32) {
	if l.underWay || l.late {
		l.news[index] = struct{}{}
	}
}

// counts notes a line, and tells whether it counts.
func (l *listing) counts(index int32) bool {
	l.lines[index] = struct{}{}
	_, late := l.news[index]
	return !late
}

// mentioned tells whether the last listing had an ifindex, or a live message did meanwhile.
func (l *listing) mentioned(index int32) bool {
	if _, listed := l.lines[index]; listed {
		return true
	}
	_, heard := l.news[index]
	return heard
}

// failed ends one with an error, and asks for another after a pause, which it returns.
func (l *listing) failed(now time.Time) time.Duration {
	l.underWay, l.late = false, false
	pause := l.failures.next(l.random)
	l.want(&l.m.resyncFailed, now, pause)
	return pause
}

// done ends one. One that links changed under is completed by the live messages, but what it lacks may exist all the
// same: it is repeated when things are calm.
func (l *listing) done(interrupted bool, now time.Time) {
	l.underWay, l.late = false, false
	l.failures = backoff{}
	if !interrupted {
		l.whole, l.interrupted, l.calm = true, 0, backoff{}
		return
	}
	l.interrupted++
	l.want(&l.m.resyncInterrupted, now, 5*l.calm.next(l.random)) // half a second to five
}

// anew begins anew, for links of another namespace: what was listed, or heard, says nothing any more.
func (l *listing) anew(now time.Time) {
	l.underWay, l.late, l.whole, l.interrupted = false, false, false, 0
	l.failures, l.calm = backoff{}, backoff{}
	clear(l.lines)
	clear(l.news)
	l.want(&l.m.resyncNamespace, now, 0)
	l.due = &l.m.resyncNamespace
}

// tells says that what no listing and no message has mentioned does not exist.
func (l *listing) tells() bool { return l.whole && !l.owed() }

// owed says that one is due or under way because messages were lost, or because one before was not whole.
func (l *listing) owed() bool {
	return l.due != nil && l.due != &l.m.resyncReconcile ||
		l.underWay && (l.reason == &l.m.resyncOverrun || l.reason == &l.m.resyncNamespace)
}
