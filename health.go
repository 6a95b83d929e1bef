package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Health: a small table of checks over what the loop tells of itself. Anyone may look at it without waiting for the
// loop, which is the point: the loop may be what is wrong.

const (
	stuckAfter  = 10 * time.Second // a loop that has not turned for so long is stuck
	behindAfter = 2 * time.Second  // so long a port may wait to be written
	kernelAfter = 2 * time.Second  // so long the kernel may keep a request
	failedAfter = 30 * time.Second // degraded for so long is failed
)

// level is how a check stands.
type level int

const (
	ok level = iota
	degraded
	failed
)

func (l level) String() string { return [...]string{"ok", "degraded", "failed"}[l] }

// score is portsyncd_health_status.
func (l level) score() float64 { return [...]float64{1, 0.5, 0}[l] }

// check is one row's outcome. The reason says what is wrong and names what to look at.
type check struct {
	name   string
	level  level
	reason string
}

// health is written by the loop and read by anyone.
type health struct {
	turns      atomic.Uint64 // of the loop
	turned     atomic.Int64  // when it last turned, or came back from the kernel, an instant
	kernel     atomic.Int64  // since when it is in a call that may wait for rtnl, an instant, 0: it is not
	behind     atomic.Int64  // since when there are unwritten ports, an instant, 0: there are none
	resync     atomic.Bool   // a listing of all links is owed or under way
	resyncAt   atomic.Int64  // since when, an instant
	listed     atomic.Bool   // the first listing is complete
	linksEnded atomic.Bool   // the subscription is dead
	dbDown     atomic.Int64  // since when the databases do not answer, or refuse; an instant, 0: they do
	dbError    atomic.Value  // string: the last error
	noDB       atomic.Bool   // standalone: there are none
	initDone   atomic.Bool
	repaired   atomic.Int64 // entries put right by the last reconciliation
	fights     atomic.Int64 // ports over whose entries another program fights us
	fightOver  atomic.Value // string: the first of them

	differ  disagreements          // what sources disagree about
	web     atomic.Pointer[string] // why the metrics are not served as the flags say; nil or empty: they are
	awaited atomic.Pointer[string] // what the loop cannot begin without, nil: nothing
	lock    atomic.Pointer[string] // what is wrong with the lock of whoever writes, nil: nothing
	config  atomic.Pointer[string] // what CONFIG_DB has to become before there are ports, nil: nothing
	away    atomic.Pointer[string] // why the links of a namespace are not known any more, nil: they are

	record      *recorder     // takes down how it changes; nil: nobody does
	heart       *heart        // prints the loop's beats for supervisord; nil: nobody does
	memoryLimit uint64        // bytes, 0: none
	bell        *bell         // tells the watchdog of the loop's beat; nil: nobody listens
	begun       chan struct{} // closed once the loop has turned, and so asked for the first listing; nil: nobody waits

	mu   sync.Mutex
	last string // what was last logged
}

// turn notes that the loop turns, and since when a port waits to be written, zero: none does.
func (h *health) turn(now, oldest time.Time) {
	if h.turns.Add(1) == 1 && h.begun != nil {
		close(h.begun)
	}
	h.turned.Store(instant(now))
	if oldest.IsZero() {
		h.behind.Store(0)
	} else {
		h.behind.Store(instant(oldest))
	}
}

// enterKernel and leaveKernel go around a system call that waits as long as somebody holds rtnl, the kernel's lock on
// all links: a slow driver, thousands of deletions. Such a loop is not stuck, and starting again would not help.
func (h *health) enterKernel(now time.Time) { h.kernel.Store(instant(now)) }

func (h *health) leaveKernel(now time.Time) {
	h.turned.Store(instant(now))
	h.kernel.Store(0)
}

// await notes what the loop cannot begin without; nil: it can.
func (h *health) await(what error) {
	if what == nil {
		h.awaited.Store(nil)
		return
	}
	why := what.Error()
	h.awaited.Store(&why)
}

// anew is for a loop that has ended, and another one that begins.
func (h *health) anew() {
	for _, on := range []*atomic.Bool{&h.resync, &h.listed, &h.initDone} {
		on.Store(false)
	}
	for _, since := range []*atomic.Int64{&h.behind, &h.resyncAt, &h.dbDown, &h.repaired} {
		since.Store(0)
	}
	h.away.Store(nil)
	h.lock.Store(nil)
	h.config.Store(nil)
	for kind := range h.differ.of {
		h.differ.tell(disagreeKind(kind), nil)
	}
}

// complain notes what is wrong with the lock, empty: nothing.
func (h *health) complain(why string) {
	if why == "" {
		h.lock.Store(nil)
		return
	}
	h.lock.Store(&why)
}

// homeless notes why nothing is known of links that had a namespace; empty: they are known.
func (h *health) homeless(why string) {
	if why == "" {
		h.away.Store(nil)
		return
	}
	h.away.Store(&why)
}

// excused tells whether a loop that does not turn has a reason.
func (h *health) excused() bool { return h.kernel.Load() != 0 || h.awaited.Load() != nil }

// beat notes that the loop is at one of its beats.
func (h *health) beat(now time.Time) {
	h.heart.beat()
	h.bell.ring(now)
}

// since keeps in at the time from which on holds.
func since(at *atomic.Int64, on bool, now time.Time) {
	switch {
	case !on:
		at.Store(0)
	case at.Load() == 0:
		at.Store(instant(now))
	}
}

// database notes whether the databases answer, and what CONFIG_DB has to become before there are ports.
func (h *health) database(err, waits error, now time.Time) {
	if err != nil {
		h.dbError.Store(err.Error())
	}
	since(&h.dbDown, err != nil, now)
	if waits != nil {
		why := waits.Error()
		h.config.Store(&why)
	} else {
		h.config.Store(nil)
	}
}

// notSent is why PortInitDone is not sent, where no interface is missing.
func (h *health) notSent() string {
	if why := h.config.Load(); why != nil {
		return "not sent yet: " + *why
	}
	return "not sent yet"
}

// databaseError is why the databases do not answer, or what they refuse; empty: they do.
func (h *health) databaseError() string {
	if h.dbDown.Load() == 0 {
		return ""
	}
	why, _ := h.dbError.Load().(string)
	return why
}

// published says that all ports were, and PortInitDone is sent.
func (h *health) published() bool { return h.initDone.Load() }

// Checks evaluates the table. resident is the process's memory in bytes.
func (h *health) Checks(now time.Time, resident float64) (checks [len(checkNames)]check) {
	ago := func(at *atomic.Int64) time.Duration {
		if t := at.Load(); t != 0 {
			return time.Duration(instant(now) - t)
		}
		return 0
	}
	lasting := func(d, tolerated time.Duration) level {
		switch {
		case d > failedAfter:
			return failed
		case d > tolerated:
			return degraded
		}
		return ok
	}
	for i, name := range checkNames {
		c := check{name: name}
		switch name {
		case "netlink":
			c.level, c.reason = h.netlink(ago(&h.kernel))
		case "overrun":
			if d := ago(&h.resyncAt); h.resync.Load() && d > 0 {
				c.level, c.reason = max(degraded, lasting(d, 0)),
					"link messages were lost, and the links are being listed again"
			}
		case "redis":
			if d := ago(&h.dbDown); d > 0 {
				c.level = max(degraded, lasting(d, 0))
				c.reason, _ = h.dbError.Load().(string)
			}
		case "queue":
			d := ago(&h.behind)
			if c.level = lasting(d, behindAfter); c.level != ok {
				c.reason = fmt.Sprintf("ports wait to be written since %s", now.Add(-d).UTC().Format(time.RFC3339))
			}
		case "reconcile":
			c.level, c.reason = h.reconcile()
		case "differs":
			if c.reason = h.differ.differing(now); c.reason != "" {
				c.level = degraded
			}
		case "lock":
			if why := h.lock.Load(); why != nil {
				c.level, c.reason = degraded, *why
			}
		case "loop":
			if h.excused() { // asked first: who comes back from the kernel says so after it has turned
				break
			}
			if d := ago(&h.turned); d > stuckAfter {
				c.level, c.reason = failed, fmt.Sprintf("has not turned for %v", d.Round(time.Second))
			}
		case "memory":
			if h.memoryLimit > 0 && resident > float64(h.memoryLimit) {
				c.level, c.reason = degraded, fmt.Sprintf("%.1f MiB are in use, -memory-limit is %.1f MiB",
					resident/(1<<20), float64(h.memoryLimit)/(1<<20))
			}
		case "recorder":
			if why := h.record.failing(); why != "" {
				c.level, c.reason = degraded, "nothing is recorded until it is opened again: "+why
			}
		case "web":
			if why := h.web.Load(); why != nil && *why != "" {
				c.level, c.reason = degraded, *why
			}
		}
		checks[i] = c
	}
	return checks
}

// fighting notes over how many ports' entries another program fights us, and which is the first of them.
func (h *health) fighting(first string, ports int) {
	if was, _ := h.fightOver.Load().(string); was != first {
		h.fightOver.Store(first)
	}
	h.fights.Store(int64(ports))
}

// andMore is a name, and how many there are beside it.
func andMore(first string, more int) string {
	if more > 0 {
		return fmt.Sprintf("%s and %d more", first, more)
	}
	return first
}

// reconcile evaluates the check of that name. A fight lasts while its port is left alone, too.
func (h *health) reconcile() (level, string) {
	if n := h.fights.Load(); n > 0 {
		first, _ := h.fightOver.Load().(string)
		return degraded, fmt.Sprintf("another program keeps changing the entries of %s: they are repaired less and "+
			"less often", andMore(first, int(n)-1))
	}
	if n := h.repaired.Load(); n > 0 {
		return degraded, fmt.Sprintf("the last comparison put %d entries right: another program writes them, "+
			"or they were lost", n)
	}
	return ok, ""
}

// netlink evaluates the check of that name. inKernel is how long the kernel has had the loop's request, 0: it has
// none. However long that is, it is no more than degraded: failed would have the daemon started again, only to wait
// for the same lock.
func (h *health) netlink(inKernel time.Duration) (level, string) {
	awaited, away := h.awaited.Load(), h.away.Load()
	switch {
	case awaited != nil:
		return degraded, "it is waited for: " + *awaited
	case away != nil:
		return degraded, *away
	case h.linksEnded.Load():
		return failed, "the subscription to link messages is dead"
	case inKernel > kernelAfter:
		return degraded, fmt.Sprintf("the kernel has had a request for %v: something holds its lock on links (rtnl)",
			inKernel.Round(time.Second))
	case !h.listed.Load():
		return degraded, "the first listing of all links is not complete"
	}
	return ok, ""
}

// Update evaluates the checks into their metrics, and logs a change in one line. What all come to is for the caller to
// publish: a process may have more tables.
func (h *health) Update(now time.Time, m *metrics, log *slog.Logger) (checks [len(checkNames)]check, worst level) {
	resident := 0.0
	if h.memoryLimit > 0 {
		resident = m.process.ReadMemory()
	}
	checks = h.Checks(now, resident)
	for i, c := range checks {
		m.healthChecks[i].Set(c.level.score())
		worst = max(worst, c.level)
	}
	if !h.changed(standing(checks)) {
		return checks, worst
	}
	at := levelNotice
	if worst != ok {
		at = slog.LevelWarn
	}
	var reasons []string
	for _, c := range checks {
		if c.level != ok {
			reasons = append(reasons, c.name+": "+c.reason)
		}
	}
	log.Log(ctxNone, at, "health is "+worst.String(), "checks", strings.Join(reasons, "; "))
	h.record.note(ownHealth, strings.TrimSpace(worst.String()+" "+strings.Join(reasons, "; ")), now)
	return checks, worst
}

// changed tells whether the checks stand differently than when it was last asked.
func (h *health) changed(standing string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.last
	h.last = standing
	return standing != was
}

// standing is the levels of all checks as a string, to see whether one changed.
func standing(checks [len(checkNames)]check) string {
	levels := make([]byte, len(checks))
	for i, c := range checks {
		levels[i] = byte('0' + int(c.level))
	}
	return string(levels)
}

// Alive returns why a supervisor should restart the daemon; nothing is good news.
func (h *health) Alive(now time.Time) (failing []string) {
	for _, c := range h.Checks(now, 0) {
		if c.level == failed && (c.name == "loop" || c.name == "netlink") {
			failing = append(failing, c.name+": "+c.reason)
		}
	}
	return failing
}

// besideReady are the checks that say nothing of what is published: the switch can rely on that.
var besideReady = [...]string{"reconcile", "web", "recorder", "lock"}

// unready returns the checks that keep anybody from relying on what is published.
func (h *health) unready(now time.Time) (failing []string) {
	for _, c := range h.Checks(now, 0) {
		if c.level == ok || c.name == "differs" && !h.differ.lasts(stateDisagrees, now) {
			continue // what orchagent says of a port is published as it is
		}
		if !slices.Contains(besideReady[:], c.name) {
			failing = append(failing, c.name+": "+c.reason)
		}
	}
	return failing
}

// standbyReady returns why a standby could not take over. What the holder does, or does not, is no reason.
func (h *health) standbyReady(now time.Time) (failing []string) {
	for _, c := range h.Checks(now, 0) {
		if c.level != ok && (c.name == "netlink" || c.name == "overrun" || c.name == "redis" || c.name == "loop") {
			failing = append(failing, c.name+": "+c.reason)
		}
	}
	return failing
}

// Ready returns why the switch cannot rely on what is published, a line for each reason. pending are the ports that
// PortInitDone waits for.
func (h *health) Ready(now time.Time, pending []string) (failing []string) {
	failing = h.unready(now)
	switch {
	case h.noDB.Load() || h.initDone.Load():
	case len(pending) > 0:
		failing = append(failing, fmt.Sprintf("PortInitDone: %d ports have no interface yet: %s", len(pending),
			strings.Join(pending, " ")))
	default:
		failing = append(failing, "PortInitDone: "+h.notSent())
	}
	return failing
}
