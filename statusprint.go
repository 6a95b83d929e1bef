package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What portsyncd status prints.

const (
	statusLines = 24 // of a terminal: however many ports there are
	reasonLines = 10
	worstShown  = 10
	namesShown  = 4

	instancesShown = 4
)

// Colours of a terminal.
const (
	green  = "32"
	yellow = "33"
	red    = "31"
	bold   = "1"
)

// remedies is what to do about each check that is not ok.
var remedies = [...][2]string{
	{"netlink", "the log says more; what holds rtnl is in: cat /proc/*/stack"},
	{"overrun", "it mends itself; is the switch short of CPU?"},
	{"redis", "see that the server runs and answers: redis-cli ping"},
	{"queue", "is Redis slow? portsyncd diff says what differs"},
	{"reconcile", `the log's lines "repaired" name the entries and what was there`},
	{"differs", "portsyncd diff says who writes each side, and what to do; see that the portsyncd that writes runs"},
	{"lock", "look at the process or folder that it names; nobody may take the lock away from a process that lives"},
	{"loop", "start it again: " + restart},
	{"memory", "start it again, or give it more with -memory-limit"},
	{"recorder", "is its file cut short, or its disk full? -recorder.file names another place"},
	{"web", "free the address or path, or correct the flag; ports are synchronized meanwhile"},
	{portInitCheck, "look for them in the logs of orchagent and syncd; portsyncd diff says what differs"},
}

const restart = "supervisorctl restart portsyncd in the swss container, systemctl restart portsyncd elsewhere"

func remedy(check string) string {
	for _, r := range remedies {
		if r[0] == check {
			return r[1]
		}
	}
	return "the log says more"
}

func colourOf(level string) string {
	switch level {
	case ok.String():
		return green
	case degraded.String():
		return yellow
	}
	return red
}

// text is at most statusLines lines.
func (s *statusAnswer) text(colours bool) string {
	now, _ := time.Parse(time.RFC3339, s.Time)
	p := &paper{colours: colours}
	p.line(colourOf(s.Verdict), "%s", s.Verdict)
	reasons := s.Reasons
	if len(reasons) > reasonLines {
		reasons = reasons[:reasonLines-1]
	}
	for _, r := range reasons {
		p.line(colourOf(r.Level), "  %s: %s; %s", qualified(r.Namespace, r.Check), r.Reason, remedy(r.Check))
	}
	if more := len(s.Reasons) - len(reasons); more > 0 {
		p.line(colourOf(s.Verdict), "  and %d more reasons: portsyncd status -json", more)
	}
	p.line("", "portsyncd      %s, process %d, started %s", s.Version, s.PID, ago(&s.Started, now))
	if s.Role == roleStandby {
		p.line("", "role           standby, which writes nothing; %s", s.heldBy())
	}
	if s.Role == roleObserver {
		p.line("", "role           observer, which writes nothing; %s", describeDaemons(s.Writers))
	}
	if s.Standalone {
		p.line("", "databases      none: -standalone")
	} else {
		p.line("", "PortInitDone   %s", s.initDone())
		p.line("", "databases      %s", s.databases())
	}
	p.line("", "overruns       %d", s.Overruns)
	p.line("", "repairs        %d", s.Repairs)
	if len(s.Namespaces) > 0 {
		p.line("", "namespaces     %s", s.namespaces())
	}
	s.instanceLines(p)
	c := &s.Ports
	p.line("", "ports          %d configured, %d present: %d up, %d down, %d set down; %d pending",
		c.Configured, c.Present, c.Up, c.Down, c.AdminDown, c.Pending)
	if len(s.Worst) == 0 {
		return p.String()
	}
	shown := min(worstShown, len(s.Worst), statusLines-p.lines-2)
	p.line("", "")
	rows := make([][]string, shown)
	for i, w := range s.Worst[:shown] {
		rows[i] = []string{w.Namespace, w.Port, w.Alias, w.Why, ago(w.Since, now), w.Detail}
	}
	for _, row := range columns(rows) {
		p.line("", "%s", row)
	}
	if more := len(s.Worst) - shown; more > 0 {
		p.line("", "and %d more ports to look at, the rest is well: portsyncd status -ports", more)
	}
	return p.String()
}

// belowInstances are the lines that come after those of instances: of ports, an empty one, the worst of them, and how
// many more there are.
const belowInstances = 4

// instanceLines is one for each instance, as far as there is room: those that are up first.
func (s *statusAnswer) instanceLines(p *paper) {
	shown, room := 0, min(instancesShown, statusLines-p.lines-belowInstances-1) // a line says how many more there are
	for _, up := range []bool{true, false} {
		for n := range s.Instances {
			if a := &s.Instances[n]; a.Up == up && shown < room {
				p.line("", "instance       %s: %s", a.Instance, a.says())
				shown++
			}
		}
	}
	if more := len(s.Instances) - shown; more > 0 {
		p.line("", "instance       and %d more: portsyncd status -json", more)
	}
}

// namespaces says how each is.
func (s *statusAnswer) namespaces() string {
	var all []string
	for _, n := range s.Namespaces {
		says := fmt.Sprintf("%s %s (%d of %d ports up)", n.Namespace, n.Verdict, n.Ports.Up, n.Ports.Configured)
		if s.Role == roleWriter && n.Role != roleWriter { // it writes to others
			says += ", " + n.Role
		}
		all = append(all, says)
	}
	return strings.Join(all, "; ")
}

// heldBy says who holds the lock.
func (s *statusAnswer) heldBy() string {
	if s.Holder == "" {
		return "who holds the lock is not known"
	}
	return "the lock is held by " + s.Holder
}

// initDone says whom PortInitDone waits for.
func (s *statusAnswer) initDone() string {
	n := len(s.WaitingFor)
	switch {
	case s.PortInitDone:
		return "sent"
	case !s.PortConfigDone:
		return "not sent, nor is PortConfigDone"
	case n == 0:
		return "not sent yet"
	}
	names := strings.Join(s.WaitingFor[:min(n, namesShown)], ", ")
	if n > namesShown {
		names += fmt.Sprintf(" and %d more", n-namesShown)
	}
	return "waits for " + names
}

func (s *statusAnswer) databases() string {
	switch {
	case s.Databases.Connected:
		return "answer"
	case s.Databases.Error == "":
		return "not asked yet"
	}
	return "do not answer: " + s.Databases.Error
}

// portList is a line for each port.
func (s *statusAnswer) portList(ports []portAnswer, colours bool) string {
	rows := [][]string{{"", "PORT", "ALIAS", "ADMIN", "OPER", "MTU", "SINCE", "FLAPS", "IN 1H", "LAST CAUSE", ""}}
	for _, p := range ports {
		row := []string{p.Namespace, p.Port, p.Alias, "-", "-", "-", "-", fmt.Sprint(p.Flaps), fmt.Sprint(p.FlapsHour),
			p.LastCause, p.Differs}
		if p.Namespace != "" {
			rows[0][0] = "NAMESPACE"
		}
		if p.Present {
			row[3], row[4], row[5] = *p.Admin, *p.Oper, fmt.Sprint(*p.MTU)
		}
		if p.Since != nil {
			row[6] = *p.Since
		}
		if p.Pending {
			row[10] = "no interface yet"
		} else if !p.Present {
			row[10] = "its interface is gone"
		} else if !p.Configured && !s.Standalone {
			row[10] = "not in CONFIG_DB"
		}
		rows = append(rows, row)
	}
	p := &paper{colours: colours}
	for i, line := range columns(rows) {
		colour := ""
		if i == 0 {
			colour = bold
		} else if ports[i-1].down() {
			colour = red
		}
		p.line(colour, "%s", line)
	}
	return p.String()
}

// columns sets rows of equally many cells in columns.
func columns(rows [][]string) (lines []string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			if widths[i] > 0 {
				fmt.Fprintf(&b, "%-*s  ", widths[i], cell)
			}
		}
		lines = append(lines, strings.TrimSpace(b.String()))
	}
	return lines
}

// ago is a time and how long ago it was; nil: never.
func ago(at *string, now time.Time) string {
	if at == nil {
		return "-"
	}
	t, err := time.Parse(time.RFC3339, *at)
	if err != nil {
		return *at
	}
	return t.UTC().Format(time.DateTime) + " UTC (" + max(0, now.Sub(t)).Truncate(time.Second).String() + " ago)"
}

// screen is where it is printed.
type screen struct {
	out     io.Writer
	file    *os.File // nil: it is no terminal
	colours bool
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	if f, isFile := out.(*os.File); isFile {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			s.file = f
		}
	}
	s.colours = s.file != nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return s
}

// show prints a page; with again it takes the place of the one before.
func (s *screen) show(page string, again bool) error {
	switch {
	case again && s.file != nil: // written over, then the rest is cleared: nothing flickers, and no line is broken
		page = "\x1b[?7l\x1b[H" + strings.ReplaceAll(s.fit(page), "\n", "\x1b[K\n") + "\x1b[J\x1b[?7h"
	case again:
		page += "\n"
	}
	_, err := io.WriteString(s.out, page)
	return err
}

// fit leaves out the lines that the terminal has no room for, or the first ones would be out of sight.
func (s *screen) fit(page string) string {
	size, err := unix.IoctlGetWinsize(int(s.file.Fd()), unix.TIOCGWINSZ)
	lines := strings.SplitAfter(strings.TrimSuffix(page, "\n"), "\n")
	if err != nil || size.Row < 3 || len(lines) < int(size.Row) { // the cursor is in a line of its own
		return page
	}
	room := int(size.Row) - 2
	return strings.Join(lines[:room], "") + strconv.Itoa(len(lines)-room) + " more lines\n"
}
