package main

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

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

// sendsEvents tells whether a server publishes keyspace events about hashes and deletions. One that does not let us ask counts
// as one that does not.
func (d *sonicDB) sendsEvents(ctx context.Context, c *redis.Client) bool {
	start := time.Now()
	set, err := c.ConfigGet(ctx, "notify-keyspace-events").Result()
	d.account(start, 1, nil)
	flags := set["notify-keyspace-events"]
	return err == nil && strings.Contains(flags, "K") &&
		(strings.Contains(flags, "A") || strings.Contains(flags, "h") && strings.Contains(flags, "g"))
}

// Watch follows keyspace events until ctx ends: APPL_DB's PORT_TABLE, and CONFIG_DB's PORT and LOGGER|portsyncd. It keeps its own set of the
// ports that APPL_DB has, so that the many field changes of a busy switch wake nobody. Databases of one server share a subscription.
func (d *sonicDB) Watch(ctx context.Context, w watcher) {
	prefix := keyspace(d.applAddr, d.applKey(""))
	exists := make(map[string]bool) // a port that is not in it may be either
	appl := func(up bool, err error) {
		clear(exists)
		w.connected(up, err)
	}
	config := func(up bool, _ error) {
		if up {
			w.config(false)
		}
	}
	event := func(channel, event string) { // two goroutines call it where there are two servers: exists is APPL_DB's alone
		now, relevant := existsAfter(event)
		port, ofAppl := strings.CutPrefix(channel, prefix)
		if !ofAppl {
			if relevant || event == "hdel" {
				w.config(true)
			}
			return
		}
		if was, known := exists[port]; relevant && (!known || was != now) {
			exists[port] = now
			w.appl(applChange{port, now})
		}
	}
	configs := []string{keyspace(d.cfgAddr, d.configKey(portConfigTable, "*")), keyspace(d.cfgAddr, d.configKey(loggerTable, appName))}
	var followed sync.WaitGroup
	var subs []*redis.PubSub
	follow := func(c *redis.Client, connected func(bool, error), patterns ...string) {
		sub := c.WithTimeout(silence).PSubscribe(ctx, patterns...)
		subs = append(subs, sub)
		followed.Go(func() { d.follow(ctx, sub, len(patterns), connected, event) })
	}
	if d.cfgAddr.server() == d.applAddr.server() {
		follow(d.appl, func(up bool, err error) {
			appl(up, err)
			config(up, err)
		}, append(configs, prefix+"*")...)
	} else {
		follow(d.config, config, configs...)
		follow(d.appl, appl, prefix+"*")
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
