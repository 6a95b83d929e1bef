package main

import (
	"fmt"
)

// What four sources say about a port, and what it means when they disagree (SONIC.md, "What orchagent says about the
// same port").

// side is what one source says about a port, in the words of the databases; empty: it does not say.
type side struct {
	Ifindex  int32  `json:"ifindex,omitempty"` // the kernel's
	State    string `json:"state,omitempty"`   // STATE_DB's
	Admin    string `json:"admin,omitempty"`
	Oper     string `json:"oper,omitempty"`
	MTU      string `json:"mtu,omitempty"`
	leftOver bool   // the kernel's, and portsyncd has written down that it is old (rule 5)
	inLAG    bool   // the kernel's, and a PortChannel's member: its MTU is that one's
}

// sides is a port as all four have it; nil: that one does not have it.
type sides struct {
	Kernel *side `json:"kernel"`
	State  *side `json:"state_db"`
	Appl   *side `json:"appl_db"`
	Config *side `json:"config_db"`
}

// difference is one thing about which two sources disagree.
type difference struct {
	About   string    `json:"about"`   // presence, admin, oper or mtu
	Between [2]string `json:"between"` // two of kernel, STATE_DB, APPL_DB and CONFIG_DB
	Says    string    `json:"says"`
	Do      string    `json:"do"` // what to do next
}

// What to look at next, by who writes the side that is wrong.
const (
	doPortsyncd = "portsyncd writes STATE_DB: see that it runs and what it logs (supervisorctl status portsyncd in " +
		"the swss container); restarting it alone (supervisorctl restart portsyncd) publishes every port anew"
	doOrchagent = "orchagent makes the interface through syncd: look for the port in the logs of both"
	doOper      = "orchagent sets the interface's carrier to what the ASIC says: look for the port in the logs of " +
		"orchagent and syncd; setting it down and up (config interface shutdown, startup) has both said anew"
	doPortmgrd = "portmgrd carries CONFIG_DB out with ip link: look for the port in its log (supervisorctl status " +
		"portmgrd in the swss container)"
)

// What portmgrd takes a port for that CONFIG_DB says nothing of (portmgr.h of sonic-swss).
const (
	defaultAdmin = "down"
	defaultMTU   = "9100"
)

// differences are what the sources disagree about, the worst first.
func (s *sides) differences() (all []difference) {
	add := func(about, one, other, says, do string) {
		all = append(all, difference{about, [2]string{one, other}, says, do})
	}
	k, a, c := s.Kernel, s.Appl, s.Config
	published := s.State != nil && s.State.State != ""
	switch {
	case published && k == nil:
		add("presence", "STATE_DB", "kernel", "STATE_DB says that the interface exists, and the kernel has none",
			doPortsyncd)
	case !published && k != nil && a != nil && k.leftOver:
		add("presence", "STATE_DB", "kernel", fmt.Sprintf("the interface (ifindex %d) is a left-over of the switch "+
			"software's previous run, and orchagent has not made the port's own yet", k.Ifindex), doOrchagent)
	case !published && k != nil && a != nil:
		add("presence", "STATE_DB", "kernel", "the interface exists, and STATE_DB has not been told", doPortsyncd)
	}
	if published && k != nil && a != nil {
		s.compareFields("STATE_DB", s.State, doPortsyncd, add)
	}
	switch {
	case c != nil && a == nil:
		add("presence", "CONFIG_DB", "APPL_DB", "the port is configured, and orchagent has not been told",
			"portsyncd announces ports when it starts, portmgrd those that are configured later: look at both logs")
	case c == nil && a != nil:
		add("presence", "CONFIG_DB", "APPL_DB", "the port is not configured, and orchagent still has it",
			"portmgrd takes ports back that CONFIG_DB drops: look at its log")
	}
	if a != nil && k == nil {
		add("presence", "APPL_DB", "kernel", "orchagent was told of the port, and there is no interface", doOrchagent)
	}
	if a != nil && k != nil && a.Oper != "" && (a.Oper == "up") != (k.Oper == "up") { // unknown, not_present
		s.compareFields("APPL_DB", &side{Oper: a.Oper}, doOper, add)
	}
	if c != nil && k != nil && published && !k.leftOver { // portmgrd waits for STATE_DB
		wanted := side{Admin: c.Admin, MTU: c.MTU}
		if wanted.Admin == "" {
			wanted.Admin = defaultAdmin
		}
		if wanted.MTU == "" {
			wanted.MTU = defaultMTU
		}
		if k.inLAG {
			wanted.MTU = ""
		}
		s.compareFields("CONFIG_DB", &wanted, doPortmgrd, add)
	}
	return all
}

// compareFields compares what a database says of an interface with the kernel.
func (s *sides) compareFields(database string, d *side, do string, add func(about, one, other, says, do string)) {
	for _, f := range []struct{ about, database, kernel string }{
		{"oper", d.Oper, s.Kernel.Oper}, {"admin", d.Admin, s.Kernel.Admin}, {"mtu", d.MTU, s.Kernel.MTU},
	} {
		if f.database != "" && f.database != f.kernel {
			add(f.about, database, "kernel", fmt.Sprintf("%s: %s has %s, the kernel %s", f.about, database, f.database,
				f.kernel), do)
		}
	}
}

// same says that two differences are about the same, so that the one has lasted since the other was seen.
func (d difference) same(other difference) bool {
	return d.About == other.About && d.Between == other.Between
}

// columns are a port's sides, each in a line.
func (s *sides) columns() (rows []string) {
	for _, row := range []struct {
		name, writer string
		side         *side
	}{
		{"kernel", "", s.Kernel}, {"STATE_DB", "portsyncd", s.State}, {"APPL_DB", "orchagent, portmgrd", s.Appl},
		{"CONFIG_DB", "the operator", s.Config},
	} {
		if row.side == nil {
			rows = append(rows, fmt.Sprintf("  %-10s does not have it", row.name))
			continue
		}
		dash := func(text string) string {
			if text == "" {
				return "-"
			}
			return text
		}
		writer := "written by " + row.writer
		if row.writer == "" {
			writer = fmt.Sprintf("ifindex %d", row.side.Ifindex)
		}
		rows = append(rows, fmt.Sprintf("  %-10s admin %-4s  oper %-4s  mtu %-5s  %s", row.name, dash(row.side.Admin),
			dash(row.side.Oper), dash(row.side.MTU), writer))
	}
	return rows
}
