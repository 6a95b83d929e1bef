package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What goes from one portsyncd that writes to the next: nothing that the databases or the kernel have, only what was
// counted.

// carriedPort is what was counted of a port.
type carriedPort struct {
	Port        string
	Flaps       uint64
	Ifindex     int32 // 0: it had no interface
	CarrierDown uint32
	Counted     bool // the kernel has told that
	UpSeen      bool
	Admin       bool
	Oper        bool
	MTU         uint32
	Changed     float64 // when its state did, Unix time
}

// MarshalText is a port as a line of words: the next one reads hundreds of them before it writes anything. They are
// flaps, ifindex, losses of carrier, counted, up seen, admin, oper, MTU, changed and the name, which may have any
// characters.
func (c carriedPort) MarshalText() ([]byte, error) {
	b := strconv.AppendUint(make([]byte, 0, 96), c.Flaps, 10)
	b = strconv.AppendInt(append(b, ' '), int64(c.Ifindex), 10)
	b = strconv.AppendUint(append(b, ' '), uint64(c.CarrierDown), 10)
	for _, on := range [...]bool{c.Counted, c.UpSeen, c.Admin, c.Oper} {
		b = strconv.AppendBool(append(b, ' '), on)
	}
	b = strconv.AppendUint(append(b, ' '), uint64(c.MTU), 10)
	b = strconv.AppendFloat(append(b, ' '), c.Changed, 'g', -1, 64)
	return append(append(b, ' '), c.Port...), nil
}

// carriedWords is how many words a port is.
const carriedWords = 10

// UnmarshalText reads what MarshalText wrote.
func (c *carriedPort) UnmarshalText(text []byte) error {
	words := strings.SplitN(string(text), " ", carriedWords)
	if len(words) < carriedWords {
		return fmt.Errorf("%q is not %d words", text, carriedWords)
	}
	var problem error
	var numbers [4]uint64
	for i, of := range [...]struct{ word, bits int }{{0, 64}, {1, 31}, {2, 32}, {7, 32}} {
		n, err := strconv.ParseUint(words[of.word], 10, of.bits)
		numbers[i], problem = n, cmp.Or(problem, err)
	}
	*c = carriedPort{Port: words[9], Flaps: numbers[0], Ifindex: int32(numbers[1]), CarrierDown: uint32(numbers[2]),
		MTU: uint32(numbers[3])}
	for i, is := range [...]*bool{&c.Counted, &c.UpSeen, &c.Admin, &c.Oper} {
		on, err := strconv.ParseBool(words[3+i])
		*is, problem = on, cmp.Or(problem, err)
	}
	changed, err := strconv.ParseFloat(words[8], 64)
	c.Changed = changed
	return cmp.Or(problem, err)
}

// handoverRecord is the file that a holder leaves for the next one.
type handoverRecord struct {
	BootID string        `json:"boot_id"`
	At     time.Duration `json:"at_ns"`  // since the machine's boot
	To     string        `json:"to"`     // the instance that is to take over, empty: whoever is first
	Ports  []carriedPort `json:"counts"` // before there were lines of them they were "ports"
	// PortConfigDone was sent, and which interfaces were old then. It matters where the databases are lost just now
	Announced bool     `json:"announced"`
	InitDone  bool     `json:"init_done"` // PortInitDone was sent
	Old       []string `json:"old"`
}

// predecessor is a holder that has handed over a moment ago, and had announced the ports.
type predecessor struct {
	old      recordedOld // the interfaces that it took for left-overs
	initDone bool        // it had sent PortInitDone
}

// nothingOld says that it took none for one.
func (p *predecessor) nothingOld() bool { return p == nil || p.old.empty() }

// wordOf is the record of a turn, but for what was counted.
func wordOf(old leftovers, announced, initDone bool) handoverRecord {
	r := handoverRecord{Announced: announced, InitDone: initDone}
	for _, l := range old {
		r.Old = append(r.Old, l.String())
	}
	return r
}

// predecessor is whoever left the record, nil: it had not announced.
func (r *handoverRecord) predecessor() *predecessor {
	if !r.Announced {
		return nil
	}
	p := &predecessor{recordedOld{map[int32]leftover{}}, r.InitDone}
	for _, text := range r.Old {
		if l, err := parseLeftover(text); err == nil {
			p.old.byIndex[l.index] = l
		}
	}
	return p
}

// lastWord is how old a record may be to tell that the switch goes on.
const lastWord = 2 * time.Second

// recordLife is how old it may be: an older one was left for somebody else.
const recordLife = 30 * time.Second

// leaveRecord writes the file.
func leaveRecord(files lockFolder, path string, r handoverRecord) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return files.put(path, text)
}

// readRecord reads the file, with its ports or without, and how old it is in this boot, at a time since that.
func readRecord(files lockFolder, path, boot string, at time.Duration, ports bool) (r handoverRecord, age time.Duration,
	err error) {
	text, _, err := files.look(path)
	if err != nil {
		return r, 0, err
	}
	if !ports {
		text = headOf(text)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, 0, fmt.Errorf("%s: %w", path, err)
	}
	if age = at - r.At; r.BootID != boot || age < 0 || age > recordLife {
		return r, age, errors.New(path + " is an old one")
	}
	return r, age, nil
}

// headOf is a record without its ports, and what comes after them: to read 512 takes a busy machine milliseconds.
func headOf(text []byte) []byte {
	head, _, found := bytes.Cut(text, []byte(`,"counts":`))
	if !found {
		return text
	}
	return slices.Concat(head, []byte{'}'})
}

// leftSince says that a holder has handed over to us, who stood by since then. Whoever writes here without a lock did
// so beside that one, too: a look at all processes, which takes a busy machine long, would only keep ports waiting.
func leftSince(then time.Duration, l *writerLock, folder, boot string, at time.Duration) bool {
	r, _, err := readRecord(l.files, l.in(folder, handoverSuffix), boot, at, false)
	return err == nil && r.At > then
}

// findRecord takes the file.
func findRecord(files lockFolder, path, boot string, at time.Duration) (r handoverRecord, err error) {
	r, age, err := readRecord(files, path, boot, at, true)
	files.remove(path)
	if err != nil {
		return handoverRecord{}, err
	}
	r.Announced = r.Announced && age < lastWord
	return r, nil
}

// joinCarried is what we have counted ourselves and what the holder before us had: whoever has heard of a port longer
// has the larger count. The kernel's own count of losses, of the same interface, bridges the time between the two.
func joinCarried(own, theirs []carriedPort) []carriedPort {
	at := make(map[string]int, len(own))
	for i, p := range own {
		at[p.Port] = i
	}
	for _, p := range theirs {
		i, known := at[p.Port]
		if !known {
			own = append(own, p)
			continue
		}
		ours := &own[i]
		flaps := p.Flaps
		if p.UpSeen && p.Counted && ours.Counted && p.Ifindex == ours.Ifindex && p.Ifindex != 0 {
			flaps += lossesSince(ours.CarrierDown, p.CarrierDown)
			ours.CarrierDown = later(ours.CarrierDown, p.CarrierDown)
		}
		ours.Flaps = max(ours.Flaps, flaps)
		ours.UpSeen = ours.UpSeen || p.UpSeen && p.Ifindex == ours.Ifindex
	}
	return own
}

func (c *carriedPort) state() portState { return portState{admin: c.Admin, oper: c.Oper, mtu: c.MTU} }

// carriedOf is what was counted of a port whose state is this.
func carriedOf(p *port, state portState, now time.Time) carriedPort {
	return carriedPort{Port: p.name, Flaps: p.series.flaps.Load(), Admin: state.admin, Oper: state.oper,
		MTU: state.mtu, Changed: p.series.lastChange.On(now)}
}
