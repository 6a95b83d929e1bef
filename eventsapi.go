package main

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// eventsAnswer is the answer under eventsPath. Next is what to ask for as after, to have only what is newer.
type eventsAnswer struct {
	Events []happened `json:"events"`
	Next   int64      `json:"next"`
}

// followLimit is how long an answer waits for something to tell: less than requestLimit.
const followLimit = 8 * time.Second

// eventsMost is how many events one answer has at most, the newest ones.
const eventsMost = 4096

// events are what happened, in order: to the ports that are asked for, or to all and the daemon; younger than since,
// and after a time of the machine's clock, if that is not 0. Where one of several namespaces has no recorder, the
// others' are told.
func (a *api) events(ports []string, since cutoff, after time.Duration, most int) (all []happened, err error) {
	units := a.box.units()
	for _, u := range units {
		of, failed := u.events(ports, since, after, most)
		if failed != nil {
			err = failed
		}
		all = append(all, of...)
	}
	if len(units) > 1 {
		all = newest(all, most)
	}
	if len(all) > 0 {
		err = nil
	}
	return all, err
}

func (u *unit) events(ports []string, since cutoff, after time.Duration, most int) ([]happened, error) {
	reader, err := u.record.reader()
	if err != nil {
		return nil, err
	}
	wanted := func(name string) bool { return len(ports) == 0 || slices.Contains(ports, name) }
	all, err := reader.read(wanted, len(ports) == 0, since, most)
	if after > machineClock() { // it is of another boot
		after = 0
	}
	kept := all[:0]
	boot, _ := reader.present()
	for _, h := range all {
		if after == 0 || h.Since > after && h.boot == boot {
			h.Namespace = u.namespace
			h.boot -= boot // each recorder counts for itself
			kept = append(kept, h)
		}
	}
	return kept, err
}

// changed grows with whatever is recorded.
func (a *api) changed() (n uint64) {
	for _, u := range a.box.units() {
		n += u.record.changed()
	}
	return n
}

// serveEvents answers with what happened. ?port= may be repeated; since= is a duration, after= the next of an answer
// before, follow=1 waits for something newer than that.
func (a *api) serveEvents(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var since cutoff
	var after int64
	if text := q.Get("since"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			refuse(w, fmt.Sprintf("since=%q: give a duration, such as 90s or 1h", text))
			return
		}
		since = younger(d)
	}
	if text := q.Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseInt(text, 10, 64); err != nil {
			refuse(w, fmt.Sprintf("after=%q: give the next of an answer before", text))
			return
		}
	}
	slices.Sort(q["port"])
	ports := slices.Compact(q["port"])
	if name := a.stranger(ports); name != "" {
		answerJSON(w, http.StatusNotFound,
			errorAnswer{fmt.Sprintf("%v %q: nothing is recorded of it", errNoPort, name)})
		return
	}
	var all []happened
	read, held := uint64(0), true // how much had changed at the last look, and whether something was kept back then
	for limit := time.Now().Add(followLimit); ; {
		if changes := a.changed(); held || changes != read {
			recent, err := a.events(ports, since, time.Duration(after), eventsMost)
			if err != nil {
				answerJSON(w, http.StatusServiceUnavailable, errorAnswer{err.Error()})
				return
			}
			all = final(recent, machineClock(), arrivalTime)
			read, held = changes, len(all) < len(recent)
		}
		if len(all) > 0 || q.Get("follow") != "1" || time.Now().After(limit) {
			answer := eventsAnswer{Events: append([]happened{}, all...), Next: after}
			if len(all) > 0 {
				last := &all[len(all)-1]
				if answer.Next = int64(last.Since); last.boot != 0 { // whatever is of the present one is newer
					answer.Next = 1
				}
			}
			answerJSON(w, http.StatusOK, answer)
			return
		}
		t, inTurn := w.(*turn)
		if inTurn {
			t.leave() // others need not wait
		}
		select {
		case <-r.Context().Done(): // the client has gone, or the daemon ends
			limit = time.Time{}
		case <-time.After(followInterval):
		}
		if inTurn && !t.take(turnLimit) {
			return
		}
	}
}

// stranger is the first of some ports of which nothing is recorded, empty: there is none.
func (a *api) stranger(ports []string) string {
	if len(ports) == 0 {
		return ""
	}
	var names []string
	for _, u := range a.box.units() {
		reader, err := u.record.reader()
		if err != nil {
			return "" // what is asked next says why
		}
		known, err := reader.ports()
		if err != nil {
			return ""
		}
		names = append(names, known...)
	}
	for _, port := range ports {
		if !slices.Contains(names, port) {
			return readable(port)
		}
	}
	return ""
}

// refuse answers a question that makes no sense.
func refuse(w http.ResponseWriter, why string) {
	answerJSON(w, http.StatusBadRequest, errorAnswer{why})
}
