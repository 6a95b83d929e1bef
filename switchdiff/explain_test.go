package main

import (
	"strings"
	"testing"
)

// TestWhatDiffersOnPurpose has each rule excuse what it is about, and nothing beside it.
func TestWhatDiffersOnPurpose(t *testing.T) {
	config := "config PORT|Ethernet0=hash,config PORT|Ethernet0 mtu=9100,config PORT|Ethernet4=hash"
	for _, test := range []struct {
		rule string // empty: a finding
		past func(p *past)
		what string
		a, b string
		bHas string // beside it: what=is,what=is
	}{
		{rule: countFollows, past: configedNow, what: "appl _PORT_TABLE:PortConfigDone count", a: "1", b: "2"},
		{past: func(*past) {}, what: "appl _PORT_TABLE:PortConfigDone count", a: "1", b: "2"},
		{past: configedNow, what: "appl _PORT_TABLE:Ethernet0 mtu", a: "1", b: "2"},
		{past: configedNow, what: "appl _PORT_TABLE:Ethernet0 mtu", a: nothing, b: "9100"},
		{past: configedNow, what: "published PORT_TABLE_CHANNEL@0 G", a: nothing, b: "1"},
		{rule: countFollows, past: configedNow, what: "published PORT_TABLE_CHANNEL@0 G", a: nothing, b: "1",
			bHas: "event appl _PORT_TABLE:PortConfigDone hset=1"},
		{past: configedNow, what: "published PORT_TABLE_CHANNEL@0 G", a: nothing, b: "2",
			bHas: "event appl _PORT_TABLE:PortConfigDone hset=1"},
		{rule: announced, past: lostNow, what: "appl _PORT_TABLE:Ethernet0 mtu", a: nothing, b: "9100"},
		{rule: announced, past: lostNow, what: "event appl _PORT_TABLE:Ethernet4 hset", a: nothing, b: "1"},
		{past: lostNow, what: "appl _PORT_TABLE:Ethernet0 mtu", a: nothing, b: "1500"},
		{past: lostNow, what: "appl _PORT_TABLE:Ethernet0 mtu", a: "1500", b: "9100"},
		{past: lostNow, what: "appl _PORT_TABLE:Ethernet8", a: nothing, b: "hash"},
		{past: lostNow, what: "state PORT_TABLE|Ethernet0 mtu", a: nothing, b: "1500"},
		{rule: announced, past: linkedNow, what: "state PORT_TABLE|Ethernet0 mtu", a: nothing, b: "1500", bHas: published + ",appl PORT_TABLE:Ethernet0=hash"},
		{rule: levels, past: linkedNow, what: "state PORT_TABLE|Ethernet0 mtu", a: nothing, b: "1500", bHas: published},
		{past: linkedNow, what: "state PORT_TABLE|Ethernet0 mtu", a: nothing, b: "9100", bHas: published + ",appl PORT_TABLE:Ethernet0=hash"},
		{rule: ownRows, past: func(*past) {}, what: "state WARM_RESTART_TABLE|portsyncd state", a: nothing, b: "disabled"},
		{past: func(*past) {}, what: "state WARM_RESTART_TABLE|portsyncd state", a: nothing, b: "reconciled"},
		{past: func(*past) {}, what: "state WARM_RESTART_TABLE|portsyncd restore_count", a: "0", b: "1"},
	} {
		a, b := pictureOf(config), pictureOf(config+","+test.bHas)
		for p, is := range map[string]picture{test.a: a, test.b: b} {
			if p != nothing {
				is[test.what] = p
			}
		}
		p := newPast()
		p.at = operation{"consume"}
		p.note(b)
		test.past(p)
		if got := p.why(difference{test.what, test.a, test.b}, a, b, nil); got != test.rule {
			t.Errorf("%s: A %s, B %s, beside %q: %q, want %q", test.what, test.a, test.b, test.bHas, got, test.rule)
		}
	}
}

func configedNow(p *past) { p.configed = true }
func lostNow(p *past)     { p.lost = true }
func linkedNow(p *past)   { p.kernel = map[string]string{"Ethernet0": "5"} }

// published is an interface, and what its entry has beside an MTU.
const published = "link Ethernet0=5 up|running 1500,state PORT_TABLE|Ethernet0 state=ok," +
	"state PORT_TABLE|Ethernet0 admin_status=up,state PORT_TABLE|Ethernet0 netdev_oper_status=up"

func pictureOf(text string) picture {
	p := picture{}
	for one := range strings.SplitSeq(text, ",") {
		if what, is, ok := strings.Cut(one, "="); ok {
			p[what] = is
		}
	}
	return p
}

// TestUnsound: what one daemon has made wrong is seen without another one.
func TestUnsound(t *testing.T) {
	right := "daemon=runs,config PORT|Ethernet0=hash,link Ethernet0=7 up|running 1500,appl PORT_TABLE:Ethernet0=hash," +
		"state PORT_TABLE|Ethernet0=hash,state PORT_TABLE|Ethernet0 state=ok,state PORT_TABLE|Ethernet0 mtu=1500," +
		"state PORT_TABLE|Ethernet0 admin_status=up,state PORT_TABLE|Ethernet0 netdev_oper_status=up," +
		"appl _PORT_TABLE:PortConfigDone=hash,appl _PORT_TABLE:PortConfigDone count=1,appl PORT_TABLE:PortInitDone=hash"
	for _, test := range []struct{ change, want string }{
		{"", ""},
		{"daemon=", "daemon"},
		{"state PORT_TABLE|Ethernet0 mtu=9100", "as the kernel has it"},
		{"state PORT_TABLE|Ethernet4 state=ok", "state PORT_TABLE|Ethernet4 state"},
		{"state PORT_TABLE|Ethernet0.10 state=ok", ""},
		{"state PORT_TABLE|Ethernet4 host_tx_ready=true", ""},
		{"appl _PORT_TABLE:PortConfigDone count=2", "count"},
		{"appl PORT_TABLE:PortInitDone=", "nothing is missing"},
		{"config PORT|Ethernet4=hash", "count"},
	} {
		b := pictureOf(right)
		what, is, _ := strings.Cut(test.change, "=")
		if b[what] = is; is == "" {
			delete(b, what)
		}
		p := newPast()
		p.runs, p.kernel = true, b.indexes()
		p.note(b)
		var wrong strings.Builder
		for _, d := range p.unsound(b) {
			wrong.WriteString(d.String())
		}
		if (wrong.Len() > 0) != (test.want != "") || !strings.Contains(wrong.String(), test.want) {
			t.Errorf("%s: found is %q, want %q", test.change, wrong.String(), test.want)
		}
	}
}
