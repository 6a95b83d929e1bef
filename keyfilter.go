package main

import (
	"strings"
	"sync"
)

// applChange tells that a port's entry in APPL_DB came into being or went away.
type applChange struct {
	port   string
	exists bool
}

// watcher is told what keyspace events say.
type watcher struct {
	appl      func(applChange)  // a port's entry in APPL_DB came into being or went away
	config    func(ports bool)  // CONFIG_DB's ports changed, or false: the log's settings did, or anything may have
	state     func(port string) // an entry of STATE_DB was written or deleted; nil: nobody wants to know
	connected func(bool, error) // the subscription to APPL_DB's events stands or broke
	// orchagent says why a port went down; nil: nobody wants to know
	fault func(port string, seen faults)
}

// keyFilter lets through of all keyspace events what the loop has to know, so that the many field changes of a busy
// switch wake nobody. It keeps its own set of the ports that APPL_DB has.
type keyFilter struct {
	w        watcher
	applKey  string // the channel of a port's key in APPL_DB, up to the port's name
	logKey   string // the channel of CONFIG_DB's row about the log
	stateKey string // the channel of a port's key in STATE_DB, up to the port's name; empty: it is not followed

	mu     sync.Mutex      // two goroutines tell of events where there are two servers, and doubt is the loop's
	exists map[string]bool // a port that is not in it may be either
}

func newKeyFilter(applKey, logKey string) *keyFilter {
	return &keyFilter{applKey: applKey, logKey: logKey, exists: make(map[string]bool)}
}

// ports is the pattern of the channels that tell of APPL_DB's ports.
func (f *keyFilter) ports() string { return f.applKey + "*" }

// followState has events about entries of STATE_DB told, too: all of them, for who writes one may write it wrong. It
// returns the pattern of their channels.
func (f *keyFilter) followState(stateKey string) string {
	f.stateKey = stateKey
	return stateKey + "*"
}

// tell sets who is told.
func (f *keyFilter) tell(w watcher) { f.w = w }

// doubt forgets whether a port exists. It comes before APPL_DB is asked: what the answer misses is then told as an
// event, whatever was told before (a database that is flushed sends none).
func (f *keyFilter) doubt(port string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.exists, port)
}

// connected is told whether the subscription to APPL_DB's events stands.
func (f *keyFilter) connected(up bool, err error) {
	f.mu.Lock()
	clear(f.exists)
	f.mu.Unlock()
	f.w.connected(up, err)
}

// configConnected is told the same of CONFIG_DB's. A server that refuses it is asked at each try: no event tells more.
func (f *keyFilter) configConnected(up bool, err error) {
	if _, no := err.(refused); up || no {
		f.w.config(false)
	}
}

// event takes an event about a key: the channel that names it, and what happened.
func (f *keyFilter) event(channel, event string) {
	now, relevant := existsAfter(event)
	if port, ofState := strings.CutPrefix(channel, f.stateKey); ofState && f.stateKey != "" {
		f.w.state(port)
		return
	}
	port, ofAppl := strings.CutPrefix(channel, f.applKey)
	if !ofAppl {
		if relevant || event == "hdel" {
			f.w.config(channel != f.logKey)
		}
		return
	}
	if relevant && f.news(port, now) {
		f.w.appl(applChange{port, now})
	}
}

// news notes that a port exists or not, and tells whether that was known.
func (f *keyFilter) news(port string, now bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	was, known := f.exists[port]
	f.exists[port] = now
	return !known || was != now
}

// existsAfter tells whether a key exists after a keyspace event, and whether the event says so at all.
func existsAfter(event string) (exists, relevant bool) {
	switch event {
	case "hset", "rename_to", "restore", "copy_to", "move_to":
		return true, true
	case "del", "expired", "evicted", "rename_from", "move_from":
		return false, true
	}
	return false, false
}
