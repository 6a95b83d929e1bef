package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// operation is a word that says what is done (play.go), and its arguments.
type operation []string

func (o operation) String() string {
	words := slices.Clone(o)
	for i, word := range words {
		if quoted := strconv.Quote(word); word == "" || strings.Contains(word, " ") || quoted != `"`+word+`"` {
			words[i] = quoted
		}
	}
	return strings.Join(words, " ")
}

// history is what happens to a switch. It can be printed, one operation a line, and read again.
type history []operation

func (h history) String() string {
	var b strings.Builder
	for _, op := range h {
		fmt.Fprintln(&b, op)
	}
	return b.String()
}

func parseHistory(text string) (h history, err error) {
	for line := range strings.Lines(text) {
		var op operation
		for rest := strings.TrimSpace(line); rest != "" && rest[0] != '#'; rest = strings.TrimLeft(rest, " ") {
			word, quoteErr := strconv.QuotedPrefix(rest)
			if rest[0] != '"' {
				word, _, _ = strings.Cut(rest, " ")
				op, rest = append(op, word), rest[len(word):]
				continue
			}
			text, unquoteErr := strconv.Unquote(word)
			if quoteErr != nil || unquoteErr != nil {
				return nil, fmt.Errorf("what is %s?", rest)
			}
			op, rest = append(op, text), rest[len(word):]
		}
		if op != nil {
			h = append(h, op)
		}
	}
	return h, nil
}

// maker makes up a history.
type maker struct {
	*rand.Rand
	h        history
	servers  []string // of Redis
	troubles int      // the weight of trouble
}

var (
	ports = []string{"Ethernet0", "Ethernet4", "Ethernet8", "Ethernet12", "Ethernet-BP0", "Ethernet-Rec0", "EthernetX"}
	odd   = []string{"Ethernet", "Ethernet0.10", "PortChannel1", "PortChannel1.10", "eth0", "Loopback0", "Vlan10", "Eth4"}
	// what CONFIG_DB, and other daemons, write
	fields = map[string][]string{
		"admin_status": {"up", "down"}, "alias": {"Eth1/1", "", "é \"x\"\x00\n"}, "lanes": {"1,2,3,4", "9"},
		"speed": {"100000", "40000"}, "mtu": {"9100", "1500", ""}, "fec": {"rs", "none"}, "index": {"1"},
		"description": {"", "to \"leaf 1\" @rack", "\xff\xfe", strings.Repeat("x", 300)},
		"role":        {"Dpc", "Inb", "Rec", "Ext"},
		"adv_speeds@": {"1000,10000", "all"}, "pt_interface_id": {"7"}, "pt_timestamp_template": {"template1"},
		"NULL": {"NULL"}, "tpid": {"0x8100"}, "autoneg": {"on"}, "": {"", "x"}, "a field": {"b c"},
	}
	// keys that a mistake could make
	oddKeys = []string{"Ethernet 4", "Ethernet\xff", "Éthernet0", "Ethernet0:1", "Ethernet@0", "Ethernet4\n",
		"Ethernet" + strings.Repeat("9", 300), "a*?[b]", "%s"}
	// what changes nothing that is published
	idle = []string{"promisc on", "multicast off", "arp off", "alias x", "group 7", "txqueuelen 5", "mode dormant",
		"allmulticast on"}
	others = map[string][]string{
		"host_tx_ready": {"true", "false"}, "supported_speeds": {"100000,40000"}, "speed": {"100000"},
		"NPU_SI_SETTINGS_SYNC_STATUS": {"NPU_SI_SETTINGS_DEFAULT"}, "CMIS_REINIT_REQUIRED": {"false"},
	}
)

func (m *maker) add(words ...string) { m.h = append(m.h, words) }

func (m *maker) chance(percent int) bool { return m.IntN(100) < percent }

func (m *maker) one(of []string) string { return of[m.IntN(len(of))] }

// name is mostly a port's.
func (m *maker) name() string {
	switch {
	case m.chance(15):
		return m.one(odd)
	case m.chance(70):
		return m.one(ports[:4])
	}
	return m.one(ports)
}

// some are fields with values.
func (m *maker) some(of map[string][]string, percent int) (words []string) {
	names := make([]string, 0, len(of))
	for name := range of {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if m.chance(percent) {
			words = append(words, name, m.one(of[name]))
		}
	}
	if words == nil {
		words = []string{names[len(names)-1], m.one(of[names[len(names)-1]])}
	}
	return words
}

// cable adds an interface with a cable, whose far end is named after its place among all names.
func (m *maker) cable(name string) {
	m.add("cable", name, farEnd(name))
	if m.chance(70) {
		m.add("far", "link", "set", farEnd(name), "up")
	}
	if m.chance(70) {
		m.add("near", "link", "set", name, "up")
	}
}

func farEnd(name string) string {
	return "far" + strconv.Itoa(slices.Index(slices.Concat(ports, odd), name))
}

func newHistory(seed uint64, ops int) history {
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 0)), servers: []string{"0"}, troubles: 4}
	if m.chance(25) {
		m.troubles = 60
	}
	if m.chance(30) {
		kind := m.one([]string{"split", "apart", "eventless"})
		m.add("switch", kind)
		if kind != "eventless" {
			m.servers = append(m.servers, "1")
		}
	}
	hasty := m.chance(30)
	m.configure()
	for range m.IntN(4) {
		if m.chance(40) {
			m.cable(m.name())
		}
	}
	for range m.IntN(3) {
		m.add(append([]string{"state", "HSET", "PORT_TABLE|" + m.name()}, m.some(others, 40)...)...)
	}
	if m.chance(20) {
		m.enable()
		m.kept()
	}
	usual := m.chance(60) // a switch whose ports are all there, and published
	for _, name := range ports[:4] {
		if usual {
			m.add(append([]string{"config", "HSET", "PORT|" + name}, m.some(fields, 40)...)...)
		}
	}
	m.add("start")
	if usual || m.chance(80) {
		m.add("consume")
	}
	for _, name := range ports[:4] {
		if usual && m.chance(80) {
			m.cable(name)
		}
	}
	for end := len(m.h) + ops; len(m.h) < end; {
		before := len(m.h)
		m.next()
		waits := []string{"start", "stop", "kill", "redis", "compared", "consume", "stall", "cut"}
		if op := m.h[before]; hasty && len(m.h) == before+1 && !slices.Contains(waits, op[0]) && m.chance(60) {
			m.h[before] = append([]string{"quick"}, op...)
		}
	}
	return m.h
}

// configure fills CONFIG_DB.
func (m *maker) configure() {
	if m.chance(80) {
		m.add("config", "SET", "CONFIG_DB_INITIALIZED", "1")
	}
	for range m.IntN(6) {
		m.port()
	}
	if m.chance(40) {
		m.add("config", "HSET", "DEVICE_METADATA|localhost", "hwsku", "x", "switch_type", m.one([]string{"switch", "dpu",
			"dpu", "voq", ""}))
	}
	if m.chance(20) {
		m.add("config", "HSET", "LOGGER|portsyncd", "LOGLEVEL", m.one([]string{"INFO", "NOTICE", "nonsense"}))
	}
	switch m.IntN(40) {
	case 0:
		m.add("config", "SET", "PORT|odd", "no hash")
	case 1:
		m.add("config", "HSET", "PORT|Ethernet0|x", "lanes", "1")
	case 2:
		m.add("config", "HSET", "PORTS|Ethernet0", "lanes", "1")
	case 3:
		m.add("config", "HSET", "PORT", "lanes", "1")
	}
}

func (m *maker) port() {
	name := m.name()
	if slices.Contains(odd, name) && m.chance(60) { // else hardly any history has a PortInitDone
		name = m.one(ports)
	}
	if m.chance(4) {
		name = m.one(oddKeys)
	}
	if m.chance(4) { // in the order of the fields, which only a small hash keeps
		m.add("config", "HSET", "PORT|EthernetTwice", "adv_speeds@", "1", "adv_speeds", "2", "@x", "3", "lanes@1@2", "4")
	}
	m.add(append([]string{"config", "HSET", "PORT|" + name}, m.some(fields, 40)...)...)
}

// enable asks for a warm restart.
func (m *maker) enable() {
	m.add("state", "HSET", "WARM_RESTART_ENABLE_TABLE|"+m.one([]string{"swss", "system"}), "enable",
		m.one([]string{"true", "true", "true", "true", "true", "true", "true", "true", "false", "True"}))
}

// kept is what a reboot leaves.
func (m *maker) kept() {
	if m.chance(80) {
		m.add("state", "HSET", "WARM_RESTART_TABLE|portsyncd", "restore_count", m.one([]string{"0", "3", ""}))
	}
	if m.chance(50) {
		for _, name := range ports[:4] {
			m.add(append([]string{"appl", "HSET", "PORT_TABLE:" + name}, "admin_status", "up")...)
		}
		m.add("appl", "HSET", "PORT_TABLE:PortConfigDone", "count", m.one([]string{"4", "4", "0", "", "x"}))
		if m.chance(70) {
			m.add("appl", "HSET", m.one([]string{"PORT_TABLE:", "PORT_TABLE:", "_PORT_TABLE:"})+"PortInitDone", "lanes", "0")
		}
	}
	for range m.IntN(4) {
		m.entry()
	}
	if m.chance(50) {
		m.add("state", "HSET", "WARM_RESTART_TABLE|portsyncd", "state", m.one([]string{"initialized", "restored",
			"replayed", "reconciled", "disabled", "unknown", ""}))
	}
}

// entry writes a port's entry of STATE_DB as nobody should.
func (m *maker) entry() {
	words := []string{"state", "HSET", "PORT_TABLE|" + m.name()}
	words = append(words, "state", m.one([]string{"ok", "ok", ""}))
	for _, field := range ourFields[1:3] {
		if m.chance(70) {
			words = append(words, field, m.one([]string{"up", "down", "up", "down", "", "UP"}))
		}
	}
	if m.chance(70) {
		words = append(words, "mtu", m.one([]string{"1500", "9100", "", "-1", "01500", "99999999999"}))
	}
	m.add(words...)
}

// batch is several changes of interfaces at once.
func (m *maker) batch() {
	lines := []string{"batch"}
	for range 2 + m.IntN(6) {
		name := m.one(ports[:3])
		switch m.IntN(8) {
		case 0:
			lines = append(lines, "link del "+name)
		case 1:
			lines = append(lines, "link add "+name+" type veth peer name near"+farEnd(name))
		case 2, 3:
			lines = append(lines, "link set "+name+" "+m.one([]string{"up", "down"}))
		case 4:
			lines = append(lines, "link set "+name+" mtu "+m.one([]string{"1500", "9100"}))
		case 5:
			lines = append(lines, "link set "+name+" down", "link set "+name+" name "+m.one(ports[:4]))
		case 6:
			other := m.one(ports[:3])
			lines = append(lines, "link set "+name+" down", "link set "+other+" down", "link set "+name+" name swap",
				"link set "+other+" name "+name, "link set swap name "+other)
		case 7:
			lines = append(lines, "link add br0 type bridge", "link set "+name+" master br0", "link del br0")
		}
	}
	m.add(lines...)
}

// restart is one of the daemon alone, with something that changes meanwhile.
func (m *maker) restart() {
	m.add(m.one([]string{"stop", "kill"}))
	m.meanwhile()
	m.add("start")
}

// meanwhile is what may happen while the daemon is down.
func (m *maker) meanwhile() {
	for range m.IntN(4) {
		name := m.name()
		switch m.IntN(9) {
		case 0:
			m.add("near", "link", "del", name)
		case 1:
			m.cable(name)
		case 2:
			m.add("near", "link", "set", name, m.one([]string{"up", "down"}))
		case 3:
			m.port()
		case 4:
			m.add("config", "DEL", "PORT|"+name)
		case 5:
			m.add("appl", "DEL", "PORT_TABLE:"+m.one([]string{"PortInitDone", "PortConfigDone", name}))
		case 6:
			m.entry()
		case 7:
			m.add("consume")
		case 8:
			m.add("near", "link", "set", name, "name", m.name())
		}
	}
}

// next adds something that happens while the daemon runs, or a restart.
func (m *maker) next() {
	name := m.name()
	steps := []struct {
		weight int
		do     func()
	}{
		{25, func() { m.cable(name) }},
		{8, func() { m.add("near", "link", "del", name) }},
		{15, func() { m.add("near", "link", "set", name, m.one([]string{"up", "down"})) }},
		{8, func() { m.add("near", "link", "set", name, "mtu", m.one([]string{"1500", "9000", "9100", "1280"})) }},
		{8, func() { m.add("far", "link", "set", farEnd(name), m.one([]string{"up", "down"})) }},
		{6, func() { m.add("near", "link", "set", name, "name", m.name()) }},
		{5, func() {
			m.add("near", "link", "add", m.one([]string{"br0", "Vlan10", "PortChannel1", "Ethernet8"}), "type", "bridge")
		}},
		{8, func() { m.add("near", "link", "set", name, "master", m.one([]string{"br0", "Vlan10", "PortChannel1"})) }},
		{5, func() { m.add("near", "link", "set", name, "nomaster") }},
		{3, func() { m.add("near", "link", "property", "add", "dev", name, "altname", "alt"+farEnd(name)) }},
		{2, func() { m.add("near", "link", "set", name, "address", "02:00:00:00:00:0"+strconv.Itoa(m.IntN(9))) }},
		{2, func() { m.add("away", name) }},
		{15, func() { m.add("consume") }},
		{5, m.port},
		{3, func() { m.add("config", "DEL", "PORT|"+name) }},
		{4, func() { m.add("appl", "HSET", "PORT_TABLE:"+name, "oper_status", m.one([]string{"up", "down"})) }},
		{2, func() { m.add("appl", "DEL", "PORT_TABLE:"+name) }},
		{6, func() { m.add(append([]string{"state", "HSET", "PORT_TABLE|" + name}, m.some(others, 30)...)...) }},
		{2, func() { m.add("state", "HDEL", "PORT_TABLE|"+name, "host_tx_ready") }},
		{1, func() { m.add("state", "DEL", "PORT_TABLE|"+name) }},
		{2, func() { m.add("state", "HSET", "PORT_TABLE|"+name, "state", "ok") }},
		{1, m.entry},
		{5, m.cold}, {5, m.warm}, {3, m.restart}, {8, m.batch}, {m.troubles, m.trouble},
		{3, func() { m.add("compared") }},
		{1, func() { m.add("redis", m.one(m.servers)) }},
		{2, func() { m.add("back", name) }},
		{3, func() { m.add("near", "tuntap", "add", "dev", name, "mode", "tap") }},
		{3, func() {
			m.add(append([]string{"near", "link", "set", name}, strings.Fields(m.one(idle))...)...)
		}},
		{1, func() { m.add("appl", "DEL", "PORT_TABLE:"+m.one([]string{"PortInitDone", "PortConfigDone"})) }},
		{1, func() {
			m.add("appl", "HSET", "PORT_TABLE:PortConfigDone", "count", m.one([]string{"99", "0", "", "x"}))
		}},
	}
	if m.chance(1) {
		m.add(m.one([]string{"appl", "state"}), "FLUSHDB")
		return
	}
	sum := 0
	for _, s := range steps {
		sum += s.weight
	}
	at := m.IntN(sum)
	for _, s := range steps {
		if at -= s.weight; at < 0 {
			s.do()
			return
		}
	}
}

// cold is what the service does: it ends everything, empties what is of this run, and starts.
func (m *maker) cold() {
	m.add(m.one([]string{"stop", "kill"}))
	for range m.IntN(3) {
		m.add("near", "link", "del", m.name())
	}
	m.add("appl", "FLUSHDB")
	m.add("wipe", "PORT_TABLE*")
	if m.chance(30) {
		m.configure()
	}
	m.add("start")
	if m.chance(70) {
		m.add("consume")
	}
}

// warm is a warm restart of the service, or of the switch.
func (m *maker) warm() {
	m.enable()
	m.add(m.one([]string{"stop", "kill"}))
	switch m.IntN(3) {
	case 0:
		for _, name := range ports {
			m.add("near", "link", "del", name)
		}
		for _, name := range ports[:4] {
			for _, field := range []string{"state", "netdev_oper_status", "admin_status", "mtu"} {
				m.add("state", "HDEL", "PORT_TABLE|"+name, field)
			}
		}
	case 1:
		for range m.IntN(3) {
			m.add("near", "link", "del", m.name())
		}
	}
	if m.chance(40) {
		m.meanwhile()
	}
	m.add("start")
	m.add("wipe", "WARM_RESTART_ENABLE_TABLE|*")
}
