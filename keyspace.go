package main

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Keyspace events: what others do to the databases, heard at once where the server tells.

// applChange tells that a port's entry in APPL_DB came into being or went away.
type applChange struct {
	port   string
	exists bool
}

// watcher is told what keyspace events say.
type watcher struct {
	appl      func(applChange)  // a port's entry in APPL_DB came into being or went away
	config    func(event bool)  // CONFIG_DB's ports or the log settings changed, or may have where there was no event
	connected func(bool, error) // the subscription to APPL_DB's events stands or broke
	pings     <-chan struct{}   // when to ask the servers whether they are there
}

// keyFilter lets through of all keyspace events what the loop has to know, so that the many field changes of a busy switch wake nobody. It keeps
// its own set of the ports that APPL_DB has.
type keyFilter struct {
	w       watcher
	applKey string // the channel of a port's key in APPL_DB, up to the port's name

	mu     sync.Mutex      // two goroutines tell of events where there are two servers, and doubt is the loop's
	exists map[string]bool // a port that is not in it may be either
}

func newKeyFilter(d *sonicDB) *keyFilter {
	return &keyFilter{applKey: keyspace(d.applAddr, d.applKey("")), exists: make(map[string]bool)}
}

// doubt forgets whether a port exists. It comes before APPL_DB is asked: what the answer misses is then told as an event, whatever was
// told before (a database that is flushed sends none).
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

// configConnected is told the same of CONFIG_DB's.
func (f *keyFilter) configConnected(up bool, _ error) {
	if up {
		f.w.config(false)
	}
}

// event takes an event about a key: the channel that names it, and what happened.
func (f *keyFilter) event(channel, event string) {
	now, relevant := existsAfter(event)
	port, ofAppl := strings.CutPrefix(channel, f.applKey)
	if !ofAppl {
		if relevant || event == "hdel" {
			f.w.config(true)
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

// sendsEvents tells whether a server publishes keyspace events about hashes and deletions. One that does not let us ask counts
// as one that does not.
func (d *sonicDB) sendsEvents(ctx context.Context, c redisConn) bool {
	get := redis.NewStringSliceCmd(ctx, "config", "get", "notify-keyspace-events")
	_ = pipeline(ctx, d, c, []redis.Cmder{get})
	set := get.Val()
	if len(set) != 2 {
		return false
	}
	return strings.Contains(set[1], "K") &&
		(strings.Contains(set[1], "A") || strings.Contains(set[1], "h") && strings.Contains(set[1], "g"))
}

// Watch follows keyspace events until ctx ends: APPL_DB's PORT_TABLE, and CONFIG_DB's PORT and LOGGER|portsyncd. Databases of one server
// share a subscription.
func (d *sonicDB) Watch(ctx context.Context, w watcher) {
	filter := d.filter
	filter.w = w
	ports := filter.applKey + "*"
	configs := []string{keyspace(d.cfgAddr, d.configKey(portConfigTable, "*")), keyspace(d.cfgAddr, d.configKey(loggerTable, appName))}
	var followed sync.WaitGroup
	var subs []*redis.PubSub
	follow := func(c redisConn, connected func(bool, error), patterns ...string) {
		sub := c.Subscribe(ctx, patterns...)
		subs = append(subs, sub)
		followed.Go(func() { d.follow(ctx, sub, len(patterns), connected, filter.event) })
	}
	if d.cfgAddr.server() == d.applAddr.server() {
		follow(d.appl, func(up bool, err error) {
			filter.connected(up, err)
			filter.configConnected(up, err)
		}, append(configs, ports)...)
	} else {
		follow(d.config, filter.configConnected, configs...)
		follow(d.appl, filter.connected, ports)
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-w.pings:
			for _, sub := range subs {
				_ = sub.Ping(ctx) // follow sees what becomes of it
			}
		}
	}
	followed.Wait()
}

// keyspace is the channel on which a server tells of events about a key, or with a pattern the pattern of channels.
func keyspace(a dbAddress, key string) string {
	return "__keyspace@" + strconv.Itoa(a.id) + "__:" + key
}

// follow reads a subscription until ctx ends, and tells of each event, and whenever it stands or breaks: when all of its patterns are
// confirmed. One that is silent for long, although it is pinged at every beat, is asked once more before it counts as broken.
func (d *sonicDB) follow(ctx context.Context, sub *redis.PubSub, patterns int, connected func(bool, error), event func(channel, payload string)) {
	defer sub.Close()
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer stop()
	var pinged bool
	var pauses backoff
	for ctx.Err() == nil {
		got, err := sub.ReceiveTimeout(ctx, silence)
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout() && !pinged:
			pinged = true
			if sub.Ping(ctx) == nil {
				continue
			}
		case err != nil && ctx.Err() == nil:
			connected(false, err)
			pinged = false
			pauses.sleep(ctx)
			continue
		}
		pinged = false
		switch message := got.(type) {
		case *redis.Subscription:
			if message.Count == patterns {
				pauses = backoff{}
				connected(true, nil)
			}
		case *redis.Message:
			event(message.Channel, message.Payload)
		}
	}
}

// silence is longer than a beat: a deadline that passes wakes the process even if what it was for came long ago.
const silence = beatInterval + shortBeat

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
