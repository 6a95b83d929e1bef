package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// The flight recorder as whoever asks reads it: by the file, never by the loop, so that it answers whatever the daemon
// does, or when there is none any more.

// happened is one thing that happened, to a port or, without a port's name, to the daemon. Of a port's record without
// an interface, the state is what it was.
type happened struct {
	Time      time.Time     `json:"time"`
	Since     time.Duration `json:"since_boot_ns"`
	Namespace string        `json:"namespace,omitempty"` // of several
	Port      string        `json:"port,omitempty"`
	What      string        `json:"what"`
	Text      string        `json:"text,omitempty"`
	Ifindex   int32         `json:"ifindex,omitempty"`
	Now       *linkSide     `json:"now,omitempty"`
	Before    *linkSide     `json:"before,omitempty"`
	Carrier   *carriers     `json:"carrier,omitempty"`
	Missed    uint32        `json:"missed_losses"`
	Faults    []string      `json:"faults,omitempty"`
	Outcome   string        `json:"outcome,omitempty"`
	Sent      *int64        `json:"sent_after_us,omitempty"`
	Answered  *int64        `json:"acknowledged_after_us,omitempty"`

	boot   byte // as it is counted; a larger one is later
	number uint32
}

// linkSide is an interface's state.
type linkSide struct {
	Admin string `json:"admin"`
	Oper  string `json:"oper"`
	MTU   uint32 `json:"mtu"`
}

// carriers are the kernel's counts.
type carriers struct {
	Up   uint32 `json:"up"`
	Down uint32 `json:"down"`
}

func sideOf(s portState) *linkSide { return &linkSide{upDown(s.admin), upDown(s.oper), s.mtu} }

// described is a port's record as it is told.
func (r *portRecord) described(port string) happened {
	h := happened{Time: r.at, Since: r.since, Port: port, What: r.cause.String(), Ifindex: r.index, Missed: r.missed,
		Faults:  r.faults.words(),
		Outcome: r.outcome.String(), boot: r.boot, number: r.number}
	if r.present {
		h.Now = sideOf(r.now)
	}
	if r.before != (portState{}) {
		h.Before = sideOf(r.before)
	}
	if r.counted {
		h.Carrier = &carriers{r.carrierUp, r.carrierDown}
	}
	for _, t := range []struct {
		after time.Duration
		to    **int64
	}{{r.written, &h.Sent}, {r.acknowledged, &h.Answered}} {
		if us := t.after.Microseconds(); t.after >= 0 {
			*t.to = &us
		}
	}
	return h
}

// recordReader reads a recorder's file, whoever writes to it meanwhile.
type recordReader struct {
	from  io.ReaderAt
	rings int
	torn  int // records of which only half is there: a process was killed as it wrote
}

// openRecordReader opens the file by its name.
func openRecordReader(path string) (*recordReader, *os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // opening a pipe would wait
	if err != nil {
		return nil, nil, err
	}
	r, err := newRecordReader(file)
	if err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, file, nil
}

func newRecordReader(file *os.File) (*recordReader, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	head := make([]byte, recordHead)
	if _, err := file.ReadAt(head, 0); err != nil || !info.Mode().IsRegular() || !wholeHead(head, int(info.Size())) {
		return nil, errNoRecorder
	}
	return &recordReader{from: file, rings: (int(info.Size()) - recordFixed) / portRing}, nil
}

// records reads part of the file, as often as it takes until no record in it is being written.
func (r *recordReader) records(b []byte, offset int64, skip, size int) error {
	var never [ownEvent]byte // a record that was never written; no record is longer
	torn := 0
	for range 5 {
		if _, err := r.from.ReadAt(b, offset); err != nil {
			return fmt.Errorf("read the flight recorder: %w", err)
		}
		torn = 0
		for rest := b[skip:]; len(rest) >= size; rest = rest[size:] {
			record := rest[:size]
			if !sealed(record) && !bytes.Equal(record, never[:size]) {
				torn++
			}
		}
		if torn == 0 {
			return nil
		}
		time.Sleep(100 * time.Microsecond)
	}
	r.torn += torn
	return nil
}

// cutoff is the moment after which what happened is asked for, by both clocks; the zero value asks for all.
type cutoff struct {
	wall    time.Time
	machine time.Duration // since the boot
}

// younger is the cutoff for what happened less than age ago.
func younger(age time.Duration) cutoff { return cutoff{time.Now().Add(-age), machineClock() - age} }

// passes says that something happened after the moment. In the present boot of the machine that goes by its own clock:
// the other one may have been set since, by years where a switch boots without a battery.
func (c cutoff) passes(h *happened, present bool) bool {
	switch {
	case c.wall.IsZero():
		return true
	case present:
		return h.Since > c.machine
	}
	return h.Time.After(c.wall)
}

// present is the number of the machine's present boot, if the file knows of it.
func (r *recordReader) present() (boot byte, known bool) {
	head, id := make([]byte, recordHead), bootID()
	if _, err := r.from.ReadAt(head, 0); err != nil {
		return 0, false
	}
	return head[headBoots], id != "" && string(text(head[headBootID:headSum])) == id
}

// read returns what happened to the ports that are wanted, and to the daemon, after a moment and in order, at most the
// last so many; 0: all.
func (r *recordReader) read(
	wanted func(port string) bool, daemon bool, after cutoff, most int) (all []happened, err error) {
	boot, known := r.present()
	keep := func(h happened) {
		if after.passes(&h, known && h.boot == boot) {
			all = append(all, h)
		}
		if most > 0 && len(all) > 4*most {
			all = newest(all, most)
		}
	}
	r.torn = 0
	ring := make([]byte, portRing)
	for i := range r.rings {
		if err := r.records(ring, int64(recordFixed+i*portRing), ringHead, portEvent); err != nil {
			return nil, err
		}
		name := readable(ringName(ring)) // as the metrics and the rest of the API have it
		if name == "" || !wanted(name) {
			continue
		}
		for n := range uint32(portEvents) {
			if e, whole := takePortRecord(eventAt(ring, n)); whole {
				keep(e.described(name))
			}
		}
	}
	if daemon {
		own := make([]byte, ownEvents*ownEvent)
		if err := r.records(own, recordHead, 0, ownEvent); err != nil {
			return nil, err
		}
		for ; len(own) >= ownEvent; own = own[ownEvent:] {
			if e, whole := takeOwnRecord(own[:ownEvent]); whole {
				keep(happened{Time: e.at, Since: e.since, What: e.kind.String(), Text: e.text,
					boot: e.boot, number: e.number})
			}
		}
	}
	return newest(all, most), nil
}

// How long what happened is kept back from whoever reads on, so that it is told once, and with what became of it: as
// long as something before it may be on its way into the file, and as long as it is pending, but not for ever.
const (
	arrivalTime = 250 * time.Millisecond
	pendingTime = time.Second
)

// final is what of all is told by now; the rest comes later, in the same order. What happened in one moment is told
// together: whoever reads on asks for what came after it.
func final(all []happened, now, arrival time.Duration) []happened {
	moment := 0 // where that of i begins
	for i := range all {
		if all[i].Since != all[moment].Since || all[i].boot != all[moment].boot {
			moment = i
		}
		age := now - all[i].Since
		if age >= 0 && (age < arrival || age < pendingTime && all[i].Outcome == outcomes[outcomePending]) {
			return all[:moment]
		}
	}
	return all
}

// ports names the ports that the recorder knows.
func (r *recordReader) ports() (names []string, err error) {
	head := make([]byte, ringHead)
	for i := range r.rings {
		if _, err := r.from.ReadAt(head, int64(recordFixed+i*portRing)); err != nil {
			return nil, fmt.Errorf("read the flight recorder: %w", err)
		}
		if name := readable(ringName(head)); name != "" {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, comparePorts)
	return names, nil
}

// byMoment sorts what happened by the machine's clock, which nobody sets.
type byMoment []happened

func (b byMoment) Len() int      { return len(b) }
func (b byMoment) Swap(i, j int) { b[i], b[j] = b[j], b[i] }
func (b byMoment) Less(i, j int) bool {
	switch a, b := &b[i], &b[j]; {
	case a.boot != b.boot:
		return int8(a.boot-b.boot) < 0
	case a.Since != b.Since:
		return a.Since < b.Since
	default:
		return int32(a.number-b.number) < 0
	}
}

// newest sorts what happened, and keeps the last ones.
func newest(all []happened, most int) []happened {
	sort.Stable(byMoment(all))
	if most > 0 && len(all) > most {
		all = slices.Delete(all, 0, len(all)-most)
	}
	return all
}
