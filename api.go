package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sort"
	"sync"
	"time"
)

// The JSON under /api/v1/, on the control socket and wherever the metrics are served: docs/api.md. It is made of what
// the loop has published in atomics, so a loop that is stuck, or a Redis that hangs, keeps no answer back.

// The paths.
const (
	statusPath = "/api/v1/status"
	portsPath  = "/api/v1/ports"
	eventsPath = "/api/v1/events"
	diffPath   = "/api/v1/diff"
)

// diffTurn is how long a diff waits for the one under way: one at a time, for each has sockets and a thread of its own.
// Together with what a diff takes, 8 s at most, it is less than requestLimit.
const diffTurn = time.Second

// api answers.
type api struct {
	box        *box
	standalone bool
	looking    chan struct{}
	lookCosts  func() *metrics // what a diff costs is not the daemon's own traffic
}

func newAPI(b *box, standalone bool) *api {
	return &api{box: b, standalone: standalone, looking: make(chan struct{}, 1),
		lookCosts: sync.OnceValue(func() *metrics { return newMetrics("") })}
}

// statusAnswer is the answer under statusPath. Times are RFC 3339 in UTC.
type statusAnswer struct {
	Version        string         `json:"version"`
	PID            int            `json:"pid"`
	Time           string         `json:"time"`
	Started        string         `json:"started"`
	Standalone     bool           `json:"standalone"`
	Verdict        string         `json:"verdict"` // ok, degraded or failed
	Reasons        []reasonAnswer `json:"reasons"`
	PortConfigDone bool           `json:"port_config_done"`
	PortInitDone   bool           `json:"port_init_done"`
	WaitingFor     []string       `json:"waiting_for"`
	Databases      struct {
		Connected bool   `json:"connected"`
		Error     string `json:"error"`
	} `json:"databases"`
	Overruns  uint64           `json:"overruns"`
	Repairs   uint64           `json:"repairs"`
	Ports     countAnswer      `json:"ports"`
	Worst     []worstAnswer    `json:"worst"`
	Role      string           `json:"role"`    // writer, observer or standby
	Holder    string           `json:"holder"`  // who holds the lock, as its file says; empty: not known
	Writers   []otherDaemon    `json:"writers"` // an observer: who else is there
	Differs   []differAnswer   `json:"differs"`
	Instances []instanceAnswer `json:"instances,omitempty"` // that know of each other
	// of several, each by itself; what is above is of all of them together
	Namespaces []namespaceAnswer `json:"namespaces,omitempty"`

	level level
}

// differAnswer is a port about which two sources have disagreed for some time.
type differAnswer struct {
	Namespace string `json:"namespace,omitempty"`
	Port      string `json:"port"`
	Says      string `json:"says"`
	Since     string `json:"since"`
}

// namespaceAnswer is one namespace of several.
type namespaceAnswer struct {
	Namespace      string      `json:"namespace"`
	Verdict        string      `json:"verdict"`
	PortConfigDone bool        `json:"port_config_done"`
	PortInitDone   bool        `json:"port_init_done"`
	Connected      bool        `json:"databases_connected"`
	Ports          countAnswer `json:"ports"`
	Role           string      `json:"role"`
	Holder         string      `json:"holder"`
}

// reasonAnswer is a check that is not ok.
type reasonAnswer struct {
	Namespace string `json:"namespace,omitempty"`
	Check     string `json:"check"`
	Level     string `json:"level"`
	Reason    string `json:"reason"`
}

// countAnswer is how many ports there are. Those that are present are up, down or admin_down.
type countAnswer struct {
	Configured int `json:"configured"`
	Present    int `json:"present"`
	Up         int `json:"up"`
	Down       int `json:"down"`
	AdminDown  int `json:"admin_down"`
	Pending    int `json:"pending"`
}

// worstAnswer is a port to look at.
type worstAnswer struct {
	Namespace string  `json:"namespace,omitempty"`
	Port      string  `json:"port"`
	Alias     string  `json:"alias"`
	Why       string  `json:"why"` // one of whys
	Since     *string `json:"since"`
	Detail    string  `json:"detail"`
}

// Why a port is to be looked at, the worst first.
const (
	whyDown     = "down"
	whyFlapping = "flapping"
	whyDiffers  = "differs"
	whyPending  = "pending"
)

var whys = []string{whyDown, whyFlapping, whyDiffers, whyPending}

// portAnswer is a port. What only an interface has is null where there is none.
type portAnswer struct {
	Namespace  string  `json:"namespace,omitempty"`
	Port       string  `json:"port"`
	Alias      string  `json:"alias"`
	Configured bool    `json:"configured"`
	Present    bool    `json:"present"`
	Admin      *string `json:"admin"` // up or down
	Oper       *string `json:"oper"`
	MTU        *int    `json:"mtu"`
	Since      *string `json:"since"`
	Flaps      uint64  `json:"flaps"`
	FlapsHour  uint64  `json:"flaps_last_hour"`
	LastCause  string  `json:"last_cause"`
	Differs    string  `json:"differs"`
	Pending    bool    `json:"pending"`

	flapping bool
}

// portsAnswer is the answer under portsPath.
type portsAnswer struct {
	Ports []portAnswer `json:"ports"`
}

// portInitCheck is a check of the API's own: the switch waits, and the daemon is well.
const portInitCheck = "port_init_done"

// status makes the answer from what is published.
func (a *api) status(now time.Time) *statusAnswer {
	if !a.box.several {
		s := a.box.units()[0].status(now, a.standalone)
		s.Instances = a.box.instances(now)
		return s
	}
	all := newStatus(a.box.m, now, a.standalone)
	all.PortConfigDone, all.PortInitDone, all.Databases.Connected = true, true, true
	all.judge(a.box.health, "", now, a.box.m.process.ReadMemory())
	var of []level
	for _, u := range a.box.units() {
		s := u.status(now, a.standalone)
		of = append(of, s.level)
		all.join(s, u.namespace)
	}
	if len(of) == 0 {
		all.PortConfigDone, all.PortInitDone, all.Databases.Connected = false, false, false
	}
	all.Instances = a.box.instances(now)
	all.orderWorst()
	all.conclude(max(all.level, together(of)))
	return all
}

// newStatus is the part of an answer that is about the process.
func newStatus(m *metrics, now time.Time, standalone bool) *statusAnswer {
	return &statusAnswer{
		Version: m.version, PID: os.Getpid(), Time: utc(now), Started: utc(seconds(m.process.Started(now))),
		Standalone: standalone, Reasons: []reasonAnswer{}, WaitingFor: []string{}, Worst: []worstAnswer{},
		Role: roleWriter, Writers: []otherDaemon{}, Differs: []differAnswer{},
	}
}

// conclude sets the verdict.
func (s *statusAnswer) conclude(l level) { s.level, s.Verdict = l, l.String() }

// judge takes the checks of a health table that are not ok.
func (s *statusAnswer) judge(h *health, namespace string, now time.Time, resident float64) {
	worst := s.level
	for _, c := range h.Checks(now, resident) {
		if c.level != ok {
			worst = max(worst, c.level)
			s.Reasons = append(s.Reasons, reasonAnswer{namespace, c.name, c.level.String(), c.reason})
		}
	}
	s.conclude(worst)
}

// join adds the answer for one namespace.
func (s *statusAnswer) join(u *statusAnswer, namespace string) {
	s.Reasons = append(s.Reasons, u.Reasons...)
	s.WaitingFor = append(s.WaitingFor, u.WaitingFor...)
	s.Worst = append(s.Worst, u.Worst...)
	s.joinRole(u)
	s.Differs = append(s.Differs, u.Differs...)
	for _, w := range u.Writers { // one process may write in several namespaces
		if !slices.Contains(s.Writers, w) {
			s.Writers = append(s.Writers, w)
		}
	}
	s.Overruns += u.Overruns
	s.Repairs += u.Repairs
	s.Ports.add(&u.Ports)
	s.PortConfigDone = s.PortConfigDone && u.PortConfigDone
	s.PortInitDone = s.PortInitDone && u.PortInitDone
	s.Databases.Connected = s.Databases.Connected && u.Databases.Connected
	if why := u.Databases.Error; why != "" {
		if s.Databases.Error != "" {
			s.Databases.Error += "; "
		}
		s.Databases.Error += namespace + ": " + why
	}
	s.Namespaces = append(s.Namespaces, namespaceAnswer{namespace, u.Verdict, u.PortConfigDone, u.PortInitDone,
		u.Databases.Connected, u.Ports, u.Role, u.Holder})
}

// joinRole takes up one namespace's role: who writes in any is a writer.
func (s *statusAnswer) joinRole(u *statusAnswer) {
	if len(s.Namespaces) == 0 || u.Role == roleWriter {
		s.Role, s.Holder = u.Role, u.Holder
	}
}

func (s *statusAnswer) orderWorst() {
	sort.SliceStable(s.Worst, func(i, j int) bool {
		return slices.Index(whys, s.Worst[i].Why) < slices.Index(whys, s.Worst[j].Why)
	})
}

// status is the answer for one namespace.
func (u *unit) status(now time.Time, standalone bool) *statusAnswer {
	s := newStatus(u.m, now, standalone)
	s.PortConfigDone, s.PortInitDone = u.m.portConfigDone.Load() == 1, u.m.portInitDone.Load() == 1
	s.Overruns = u.m.overruns.Load()
	s.Repairs = u.m.repairChanged.Load() + u.m.repairLost.Load() + u.m.repairStale.Load() + u.m.repairLate.Load()
	s.Role, s.Holder = u.instance.role(), u.instance.holder()
	if u.daemons != nil {
		s.Writers = append(s.Writers, u.daemons.find(now)...)
	}
	for _, d := range u.health.differ.lasting(now) {
		s.Differs = append(s.Differs, differAnswer{u.namespace, readable(d.port), d.says, utc(d.since)})
	}
	s.Databases.Connected = u.m.redisConnected.Load() == 1
	s.Databases.Error = u.health.databaseError()
	ports := u.ports(now)
	for i := range ports {
		p := &ports[i]
		s.Ports.count(p)
		if p.Pending && !s.PortInitDone && !standalone {
			s.WaitingFor = append(s.WaitingFor, p.Port)
		}
		if w := p.trouble(); w != nil {
			s.Worst = append(s.Worst, *w)
		}
	}
	s.orderWorst()
	s.judge(u.health, u.namespace, now, u.m.process.ReadMemory())
	if !s.PortInitDone && !standalone {
		reason := "PortInitDone is " + u.health.notSent()
		if n := len(s.WaitingFor); n > 0 {
			reason = fmt.Sprintf("PortInitDone waits for the interfaces of %d ports", n)
		}
		s.Reasons = append(s.Reasons, reasonAnswer{u.namespace, portInitCheck, degraded.String(), reason})
		s.conclude(max(s.level, degraded))
	}
	return s
}

// add adds the counts of another namespace.
func (c *countAnswer) add(o *countAnswer) {
	c.Configured += o.Configured
	c.Present += o.Present
	c.Up += o.Up
	c.Down += o.Down
	c.AdminDown += o.AdminDown
	c.Pending += o.Pending
}

// count counts one port.
func (c *countAnswer) count(p *portAnswer) {
	if p.Configured {
		c.Configured++
	}
	if p.Pending {
		c.Pending++
	}
	if !p.Present {
		return
	}
	c.Present++
	switch {
	case p.down():
		c.Down++
	case *p.Admin == "up":
		c.Up++
	default:
		c.AdminDown++
	}
}

// down tells whether it should be up, and is not.
func (p *portAnswer) down() bool { return p.Present && *p.Admin == "up" && *p.Oper != "up" }

// trouble is why a port is to be looked at, nil: it is not.
func (p *portAnswer) trouble() *worstAnswer {
	w := &worstAnswer{Namespace: p.Namespace, Port: p.Port, Alias: p.Alias, Since: p.Since}
	switch {
	case p.flapping:
		w.Why = whyFlapping
		w.Detail = fmt.Sprintf("it lost its carrier %d times in %v minutes, %d times since the start, and is %s now",
			flapMemory, flapWindow.Minutes(), p.Flaps, *p.Oper)
	case p.Pending:
		w.Why, w.Detail = whyPending, "it is in CONFIG_DB and has no interface yet"
	case p.Configured && !p.Present:
		w.Why, w.Detail = whyDown, "it is in CONFIG_DB and its interface is gone"
	case p.Differs != "":
		w.Why, w.Detail = whyDiffers, p.Differs
	case p.down():
		w.Why, w.Detail = whyDown, "it is set up and has no carrier"
	default:
		return nil
	}
	return w
}

// ports is every port of every namespace, these in order.
func (a *api) ports(now time.Time) (all []portAnswer) {
	for _, u := range a.box.units() {
		all = append(all, u.ports(now)...)
	}
	return all
}

// ports is every port in natural order.
func (u *unit) ports(now time.Time) []portAnswer {
	all := u.m.ports.all()
	slices.SortFunc(all, func(a, b *portSeries) int { return comparePorts(a.name, b.name) })
	answers := make([]portAnswer, 0, len(all))
	for _, s := range all {
		p := portAnswer{Namespace: u.namespace, Port: s.name, Configured: s.configured.Load(),
			Present: s.present.Load(), Flaps: s.flaps.Load(), FlapsHour: s.flapsLastHour(now),
			LastCause: s.lastCause()}
		if says := s.differs.Load(); says != nil {
			p.Differs = *says
		}
		if alias := s.alias.Load(); alias != nil {
			p.Alias = *alias
		}
		p.Pending = p.Configured && s.pending.Load() == 1
		if p.Present {
			admin, oper, mtu := upDown(s.adminUp.Load() == 1), upDown(s.operUp.Load() == 1), int(s.mtu.Load())
			p.Admin, p.Oper, p.MTU, p.flapping = &admin, &oper, &mtu, s.flapping(now)
		}
		if changed := s.lastChange.On(now); changed > 0 {
			since := utc(seconds(changed))
			p.Since = &since
		}
		answers = append(answers, p)
	}
	return answers
}

func (a *api) serveStatus(w http.ResponseWriter, _ *http.Request) {
	answerJSON(w, http.StatusOK, a.status(time.Now()))
}

// servePorts answers for all ports, or for those of ?port=.
func (a *api) servePorts(w http.ResponseWriter, r *http.Request) {
	asked := map[string]bool{}
	for _, name := range r.URL.Query()["port"] {
		asked[name] = true
	}
	answer := portsAnswer{[]portAnswer{}}
	for _, p := range a.ports(time.Now()) {
		if len(asked) == 0 || asked[p.Port] {
			answer.Ports = append(answer.Ports, p)
		}
	}
	for _, p := range answer.Ports {
		delete(asked, p.Port)
	}
	for name := range asked {
		answerJSON(w, http.StatusNotFound, errorAnswer{fmt.Sprintf("%v %q: it is neither configured nor has it an "+
			"interface; %s has all", errNoPort, name, portsPath)})
		return
	}
	answerJSON(w, http.StatusOK, answer)
}

// serveDiff looks at kernel and databases, as portsyncd diff does.
func (a *api) serveDiff(w http.ResponseWriter, r *http.Request) {
	if a.standalone {
		answerJSON(w, http.StatusServiceUnavailable, errorAnswer{"the daemon runs with -standalone: there are no " +
			"databases that the kernel could be compared with"})
		return
	}
	select {
	case a.looking <- struct{}{}:
	case <-time.After(diffTurn):
		answerJSON(w, http.StatusServiceUnavailable, errorAnswer{"another diff is under way; ask again soon"})
		return
	}
	var looks []diffOptions
	for _, u := range a.box.units() {
		looks = append(looks, u.look)
	}
	report, err := diffAll(r.Context(), looks, r.URL.Query()["port"], a.lookCosts(), func() { <-a.looking })
	switch {
	case errors.Is(err, errNoPort):
		answerJSON(w, http.StatusNotFound, errorAnswer{err.Error()})
	case err != nil:
		answerJSON(w, http.StatusServiceUnavailable, errorAnswer{err.Error()})
	default:
		answerJSON(w, http.StatusOK, report)
	}
}
