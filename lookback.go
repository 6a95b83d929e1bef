package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
)

// What a start finds in the databases.

// startFacts is what the databases tell about the run before, and about themselves.
type startFacts struct {
	warm bool // a warm restart was asked for, and can be had
	signals
	held   map[string]portState // what STATE_DB has of ours about configured ports, as far as that was read
	old    *recordedOld         // which interfaces the run before took for old, nil: it has not said
	events bool                 // the servers of APPL_DB and CONFIG_DB send keyspace events
	split  bool                 // CONFIG_DB is on another server than APPL_DB
}

// LookBack reads what the run before left. It decides about a warm start, and counts it: call it once a start.
func (d *sonicDB) LookBack(ctx context.Context, ports []portConfig) (f startFacts, err error) {
	f, warm, err := d.lookBack(ctx, ports)
	if err != nil {
		return f, err
	}
	if f.warm, err = d.decideWarmStart(ctx, warm); err != nil || !f.warm || f.old == nil || len(f.old.byIndex) == 0 {
		return f, err
	}
	// A warm start makes current what a cold one took for old, from now on, however it goes on.
	f.old = new(recordedOld)
	return f, d.recordOld(ctx, nil)
}

// lookBack only reads. warm is what was answered about a warm restart.
func (d *sonicDB) lookBack(ctx context.Context, ports []portConfig) (f startFacts, warm []redis.Cmder, err error) {
	asked, events := d.signalCommands(ctx), eventsCommand(ctx)
	_ = pipeline(ctx, d.m, d.appl, append(asked, events))
	for _, c := range asked {
		if err := c.Err(); unavailable(err) {
			return f, nil, fmt.Errorf("look for the signals in APPL_DB: %w", err)
		}
	}
	f.signals = signalsFrom(asked)
	if d.follows && f.initDone { // the entries are compared: whoever took over does not wait for all of them
		ports = nil
	}
	entries := entryCommands(ctx, d.stateKeys(namesOf(ports)))
	warm = d.warmCommands(ctx)
	old, pushed := d.oldCommand(ctx), d.pushedCommand(ctx)
	held := slices.Concat(entries, warm, []redis.Cmder{old, pushed})
	if err := pipeline(ctx, d.m, d.state, held); err != nil {
		return f, nil, fmt.Errorf("read what the run before left in STATE_DB: %w", err)
	}
	f.held, f.old = make(map[string]portState), d.recalledOld(old)
	if d.pushed == nil {
		d.recalledPushed(pushed)
	}
	err = entriesFrom(d.m, entries, len(ports), func(i int, entry *hashAnswer) {
		if state, whole := stateFrom(entry); whole { // of another type, or not whole, it is not ours
			f.held[ports[i].name] = state
		}
	})
	if err != nil {
		return f, nil, fmt.Errorf("read the entries of STATE_DB: %w", err)
	}
	f.split = d.applAddr.server() != d.cfgAddr.server()
	if f.events = sendsEvents(events); f.split {
		events = eventsCommand(ctx)
		_ = pipeline(ctx, d.m, d.config, []redis.Cmder{events})
		d.configSends = sendsEvents(events)
		f.events = f.events && d.configSends
	}
	return f, warm, nil
}
