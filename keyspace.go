package main

import (
	"context"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Keyspace events: what others do to the databases, heard at once where the server tells.

// eventsCommand asks a server for, and sendsEvents reads, whether it publishes keyspace events about hashes and
// deletions. One that does not let us ask counts as one that does not.
func eventsCommand(ctx context.Context) *redis.StringSliceCmd {
	return redis.NewStringSliceCmd(ctx, "config", "get", "notify-keyspace-events")
}

// askEvents asks APPL_DB's server whether it sends events. One that does not let us ask is not asked again. A CONFIG_DB
// on another server is asked at the start only: no port waits for it.
func (d *sonicDB) askEvents(ctx context.Context) eventsSaid {
	if d.eventsRefused {
		return eventsUnsaid
	}
	answer := eventsCommand(ctx)
	_ = pipeline(ctx, d.m, d.appl, []redis.Cmder{answer})
	switch err := answer.Err(); {
	case redis.HasErrorPrefix(err, "NOPERM") || redis.HasErrorPrefix(err, "unknown command"):
		d.eventsRefused = true
	case err != nil:
		return eventsUnsaid
	case sendsEvents(answer) && (d.configSends || d.applAddr.server() == d.cfgAddr.server()):
		return eventsSent
	}
	return eventsOff
}

func sendsEvents(answer *redis.StringSliceCmd) bool {
	set := answer.Val()
	if len(set) != 2 {
		return false
	}
	return strings.Contains(set[1], "K") &&
		(strings.Contains(set[1], "A") || strings.Contains(set[1], "h") && strings.Contains(set[1], "g"))
}

// Watch follows keyspace events until ctx ends: APPL_DB's PORT_TABLE, CONFIG_DB's PORT and LOGGER|portsyncd, and
// STATE_DB's PORT_OPERR_TABLE.
// Databases of one server share a subscription.
func (d *sonicDB) Watch(ctx context.Context, w watcher) {
	filter := d.filter
	filter.tell(w)
	configs := []string{keyspace(d.cfgAddr, d.configKey(portConfigTable, "*")),
		keyspace(d.cfgAddr, d.configKey(loggerTable, appName))}
	faults := keyspace(d.stateAddr, d.operrKey(""))
	event := func(channel, payload string) {
		if port, ofFaults := strings.CutPrefix(channel, faults); ofFaults {
			if payload == "hset" {
				d.tellFault(ctx, w, port)
			}
			return
		}
		filter.event(channel, payload)
	}
	var followed sync.WaitGroup
	follow := func(c redisConn, connected func(bool, error), patterns ...string) {
		followed.Go(func() { followEvents(ctx, c, patterns, connected, event) })
	}
	onAppl, together := []string{filter.ports()}, d.stateAddr.server() == d.applAddr.server()
	onState := []string{faults + "*"}
	if w.state != nil {
		onState = append(onState, filter.followState(keyspace(d.stateAddr, d.stateKey(""))))
	}
	if together {
		onAppl = append(onAppl, onState...)
	} else { // a client has one subscription, which is nudged. What was missed of the one is as if it were of the other
		follow(d.state, filter.connected, onState...)
	}
	onApplHeard := filter.connected
	if d.cfgAddr.server() == d.applAddr.server() {
		onAppl, onApplHeard = append(configs, onAppl...), func(up bool, err error) {
			filter.connected(up, err)
			filter.configConnected(up, err)
		}
	} else {
		follow(d.config, filter.configConnected, configs...)
	}
	followEvents(ctx, d.appl, onAppl, onApplHeard, event) // here: a goroutine that only waits is one too many
	followed.Wait()
}

// Nudge asks the servers of the subscriptions.
func (d *sonicDB) Nudge() {
	for _, c := range []redisConn{d.appl, d.config, d.state} {
		c.Nudge()
	}
}

// followEvents has a subscription until ctx ends, and tells of each event, and whenever it stands or breaks: when all
// of its patterns are confirmed. One that does not answer until the next beat counts as broken.
func followEvents(ctx context.Context, c redisConn, patterns []string, connected func(bool, error),
	event func(channel, payload string)) {
	var pauses backoff
	confirmed := func() {
		pauses = backoff{}
		connected(true, nil)
	}
	for ctx.Err() == nil {
		if err := c.Subscribe(ctx, patterns, confirmed, event); ctx.Err() == nil {
			connected(false, err)
			pauses.sleep(ctx)
		}
	}
}
