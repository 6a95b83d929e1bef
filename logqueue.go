package main

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Bounds of the queue. A line takes its text and what is noted of it.
const (
	logRoom     = 256 << 10 // bytes of lines that may wait
	logRoomCrit = 1 << 20   // the same for CRIT and above: a goroutine dump finds room in a full queue
	logLineCost = 64        // bytes beside its text
	logKeep     = 16 << 10  // a larger buffer is given back when its lines are written

	logTail = 500 * time.Millisecond // for the last lines of a daemon that ends
)

// logQueue is what was logged and is not written yet. Adding a line waits for nobody: not for a syslog daemon that is
// stopped, not for a terminal. What does not fit is dropped and counted, and a line says so in its place.
type logQueue struct {
	mu       sync.Mutex
	out      logOutput
	filling  logBatch
	flushers []chan struct{} // closed when every line is written
	wake     chan struct{}
	lost     *counter
}

// logBatch is lines in the order they came.
type logBatch struct {
	text    []byte // of all lines, each with its newline
	lines   []logLine
	dropped int // after these
}

type logLine struct {
	at    time.Time
	level slog.Level
	out   logOutput
	end   int // in text, without the newline
}

// Write is for the formatter of the line that is being added.
func (b *logBatch) Write(p []byte) (int, error) {
	b.text = append(b.text, p...)
	return len(p), nil
}

// newLogQueue makes a queue and starts its writer, which stays for good. lost counts lines that were dropped, or that
// no output took.
func newLogQueue(out logOutput, lost *counter) *logQueue {
	q := &logQueue{out: out, wake: make(chan struct{}, 1), lost: lost}
	go q.run()
	return q
}

// SetOutput decides where lines go from now on; those before go where they would have.
func (q *logQueue) SetOutput(out logOutput) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.out = out
}

// Add appends the line that format writes into filling, if there is room.
func (q *logQueue) Add(at time.Time, level slog.Level, format func() error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	b, room := &q.filling, logRoom
	if level >= levelCrit {
		room = logRoomCrit
	}
	if len(b.text)+len(b.lines)*logLineCost >= room {
		b.dropped++
		q.lost.Inc()
		return nil
	}
	if err := format(); err != nil {
		return err
	}
	b.lines = append(b.lines, logLine{at, level, q.out, len(b.text) - 1})
	q.rouse()
	return nil
}

func (q *logQueue) rouse() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run is the writer: the only goroutine that may ever wait for an output.
func (q *logQueue) run() {
	var batch logBatch
	untold := 0 // lines lost that the log does not tell of yet
	for range q.wake {
		for q.take(&batch) {
			refused := batch.write()
			q.lost.Add(uint64(refused))
			untold += refused + batch.dropped
			if untold > 0 && batch.tell(untold) == nil {
				untold = 0
			}
		}
	}
}

// take moves what has gathered into batch, whose lines are written. If there is nothing, whoever waits for that is
// told.
func (q *logQueue) take(batch *logBatch) bool {
	if cap(batch.text) > logKeep {
		*batch = logBatch{}
	}
	clear(batch.lines)
	*batch = logBatch{text: batch.text[:0], lines: batch.lines[:0]}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.filling.lines) > 0 {
		q.filling, *batch = *batch, q.filling
		return true
	}
	for _, written := range q.flushers {
		close(written)
	}
	q.flushers = nil
	return false
}

// write writes the lines out, each where it belongs, and returns how many were refused.
func (b *logBatch) write() (refused int) {
	start := 0
	for _, l := range b.lines {
		if l.out.write(l.at, l.level, b.text[start:l.end]) != nil {
			refused++
		}
		start = l.end + 1
	}
	return refused
}

// tell writes that lines are missing, where the last line went.
func (b *logBatch) tell(missing int) error {
	text := fmt.Appendf(nil, `msg="log lines were dropped" lines=%d`, missing)
	return b.lines[len(b.lines)-1].out.write(time.Now(), slog.LevelWarn, text)
}

// Flush waits until every line so far is written, but no longer than limit.
func (q *logQueue) Flush(limit time.Duration) {
	written := make(chan struct{})
	q.mu.Lock()
	q.flushers = append(q.flushers, written)
	q.mu.Unlock()
	q.rouse()
	select {
	case <-written:
	case <-time.After(limit):
	}
}
