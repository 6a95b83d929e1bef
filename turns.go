package main

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// Turns: what answers that take memory and processor time cost together, however many ask for them.

const (
	smallAnswer = 64 << 10 // so much of one is nothing to count
	largeMost   = 4        // larger ones that are not read to the end yet,
	largePeer   = 2        // and of these those that one address reads
	largeLook   = 20 * time.Millisecond
	turnLimit   = 8 * time.Second  // how long an answer waits for its turn
	readLimit   = 10 * time.Second // and how long whoever reads it may take
)

// turns has answers made one at a time, and keeps a few large ones for those who read them slowly, or not at all.
type turns struct {
	making chan struct{} // has a token while one is made

	mu    sync.Mutex
	large map[string]int // how many of the large ones each address reads
	all   int
}

func newTurns() *turns { return &turns{making: make(chan struct{}, 1), large: map[string]int{}} }

// turn is an answer that is made in its turn.
type turn struct {
	http.ResponseWriter
	of    *turns
	r     *http.Request
	peer  string
	has   bool // it is being made,
	holds bool // and counts as a large one
	code  int
	body  []byte
}

// in has a page's answers made in turn. One that turns out to be large while there are enough of these is made again
// when there are not.
func (t *turns) in(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a := &turn{ResponseWriter: w, of: t, r: r, code: http.StatusOK}
		a.peer, _, _ = net.SplitHostPort(r.RemoteAddr)
		defer a.free()
		defer a.leave() // also where the page panics
		end := time.Now().Add(turnLimit)
		for a.take(time.Until(end)) {
			serve(a, r)
			if len(a.body) <= smallAnswer || a.count() {
				break
			}
			a.code, a.body = http.StatusOK, nil
			a.leave()
			if !a.await(end) {
				a.refuse()
				break
			}
		}
		a.leave()
		a.send()
	}
}

// take waits for the turn. false: it has not come, and the answer says so.
func (a *turn) take(limit time.Duration) bool {
	select {
	case a.of.making <- struct{}{}: // also when the daemon ends
		a.has = true
		return true
	default:
	}
	select {
	case a.of.making <- struct{}{}:
		a.has = true
	case <-a.r.Context().Done(): // the client has gone, or the daemon ends
		a.refuse()
	case <-time.After(limit):
		a.refuse()
	}
	return a.has
}

// leave lets the next one be made.
func (a *turn) leave() {
	if a.has {
		a.has = false
		<-a.of.making
	}
}

func (a *turn) refuse() {
	a.code, a.body = http.StatusOK, nil
	answerJSON(a, http.StatusServiceUnavailable, errorAnswer{"too many ask at a time; ask again soon"})
}

// count has it count as a large one, if there are not too many.
func (a *turn) count() bool {
	t := a.of
	t.mu.Lock()
	defer t.mu.Unlock()
	if !a.holds && t.all < largeMost && t.large[a.peer] < largePeer {
		t.all++
		t.large[a.peer]++
		a.holds = true
	}
	return a.holds
}

// await waits until it counts as a large one.
func (a *turn) await(end time.Time) bool {
	for !a.count() {
		if a.r.Context().Err() != nil || time.Now().After(end) {
			return false
		}
		time.Sleep(largeLook)
	}
	return true
}

// free has it not count any more.
func (a *turn) free() {
	if !a.holds {
		return
	}
	t := a.of
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.large[a.peer]--; t.large[a.peer] == 0 {
		delete(t.large, a.peer)
	}
}

func (a *turn) WriteHeader(code int) { a.code = code }

func (a *turn) Write(b []byte) (int, error) {
	a.body = append(a.body, b...)
	return len(b), nil
}

// send sends what was made. Waiting for the turn takes nothing from the time to read it.
func (a *turn) send() {
	if w, limited := a.ResponseWriter.(interface{ SetWriteDeadline(time.Time) error }); limited {
		_ = w.SetWriteDeadline(time.Now().Add(readLimit))
	}
	a.ResponseWriter.WriteHeader(a.code)
	_, _ = a.ResponseWriter.Write(a.body)
}
