package main

import (
	"net/http"
	"sync"
	"time"
)

// Turns: what answers that take memory and processor time cost together, however many ask for them.

const (
	readyMost  = 4                // answers that are made, or not read to the end yet
	turnLimit  = 8 * time.Second  // how long an answer waits for its turn
	pieceSize  = 64 << 10         // how much of one is sent at a time
	pieceLimit = time.Second      // how long whoever reads may take for that
	readLimit  = 10 * time.Second // and for the whole
)

// turns has answers made one at a time, and keeps a few that are ready: whoever reads none of his holds up the others
// for no longer than pieceLimit.
type turns struct {
	making sync.Mutex
	ready  chan struct{} // has a token for each answer that is made or sent
}

func newTurns() *turns { return &turns{ready: make(chan struct{}, readyMost)} }

// turn is an answer that is made in its turn. It is kept until the next one may be made.
type turn struct {
	http.ResponseWriter
	of   *turns
	r    *http.Request
	held bool // it has a token
	has  bool // it is being made
	code int
	body []byte
}

// in has a page's answers made in turn.
func (t *turns) in(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a := &turn{ResponseWriter: w, of: t, r: r, code: http.StatusOK}
		defer a.leave() // also where the page panics
		if a.take() {
			serve(a, r)
		}
		a.send()
	}
}

// take waits for the turn. false: it has not come, and the answer says so.
func (a *turn) take() bool {
	select {
	case a.of.ready <- struct{}{}:
	default:
		select {
		case a.of.ready <- struct{}{}:
		case <-a.r.Context().Done(): // the client has gone, or the daemon ends
			return a.refuse()
		case <-time.After(turnLimit):
			return a.refuse()
		}
	}
	a.of.making.Lock()
	a.held, a.has = true, true
	return true
}

func (a *turn) refuse() bool {
	answerJSON(a, http.StatusServiceUnavailable, errorAnswer{"too many ask at a time; ask again soon"})
	return false
}

// made lets the next one be made.
func (a *turn) made() {
	if a.has {
		a.has = false
		a.of.making.Unlock()
	}
}

// leave gives back what take took, for the rest of the answer or until take is called again.
func (a *turn) leave() {
	a.made()
	if a.held {
		a.held = false
		<-a.of.ready
	}
}

func (a *turn) WriteHeader(code int) { a.code = code }

func (a *turn) Write(b []byte) (int, error) {
	a.body = append(a.body, b...)
	return len(b), nil
}

// send sends what was made. Whoever reads none of it for pieceLimit gets no more.
func (a *turn) send() {
	a.made()
	a.ResponseWriter.WriteHeader(a.code)
	w, limited := a.ResponseWriter.(interface{ SetWriteDeadline(time.Time) error })
	for end := time.Now().Add(readLimit); len(a.body) > 0; {
		if now := time.Now(); limited && now.Before(end) {
			_ = w.SetWriteDeadline(now.Add(pieceLimit))
		}
		n, err := a.ResponseWriter.Write(a.body[:min(pieceSize, len(a.body))])
		if err != nil {
			return
		}
		a.body = a.body[n:]
	}
}
