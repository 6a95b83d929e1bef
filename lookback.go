package main

import (
	"context"
	"fmt"
)

// What a start finds in the databases.

// startFacts is what the databases tell about the run before, and about themselves.
type startFacts struct {
	warm bool // a warm restart was asked for, and can be had
	signals
	held   map[string]portState // what STATE_DB has of ours about configured ports
	old    *recordedOld         // which interfaces the run before took for old, nil: it has not said
	events bool                 // the servers of APPL_DB and CONFIG_DB send keyspace events
	split  bool                 // CONFIG_DB is on another server than APPL_DB
}

// LookBack reads what the run before left. It decides about a warm start, and counts it: call it once a start.
func (d *sonicDB) LookBack(ctx context.Context, ports []portConfig) (f startFacts, err error) {
	asked := d.signalCommands(ctx)
	if err := pipeline(ctx, d.m, d.appl, asked); err != nil {
		return f, fmt.Errorf("look for the signals in APPL_DB: %w", err)
	}
	f.signals = signalsFrom(asked)
	if f.held, err = d.entries(ctx, ports); err != nil {
		return f, err
	}
	if f.old, err = d.recalledOld(ctx); err != nil {
		return f, err
	}
	f.split = d.applAddr.server() != d.cfgAddr.server()
	f.events = d.sendsEvents(ctx, d.appl) && (!f.split || d.sendsEvents(ctx, d.config))
	if f.warm, err = d.decideWarmStart(ctx); err != nil || !f.warm || f.old == nil || len(f.old.indexes) == 0 {
		return f, err
	}
	// A warm start makes current what a cold one took for old, from now on, however it goes on.
	f.old = new(recordedOld)
	return f, d.recordOld(ctx, nil)
}
