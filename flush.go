package main

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// A flush: one round trip to each database for everything that is to be written or asked.

// Flush carries out f. Each write has its own outcome; the error is the first that concerned a server, or the way to
// it, and not one port's key alone.
func (d *sonicDB) Flush(ctx context.Context, f *flush) error {
	f.begin()
	err := d.askAppl(ctx, f)
	if checkErr := d.checkState(ctx, f.writes); err == nil {
		err = checkErr
	}
	if writeErr := d.writeState(ctx, f.writes); err == nil {
		err = writeErr
	}
	if err == nil && f.initDone {
		var refused []string
		if refused, err = d.produce(ctx, []portConfig{{portInitDone, []string{"lanes", "0"}}}); len(refused) > 0 {
			f.refused = fmt.Errorf("%s: %w", refused[0], errWrongType)
		} else if err != nil && !unavailable(err) { // the key set: no port's entry waits for it
			f.refused, err = err, nil
		}
	}
	if err == nil && f.list {
		f.listed, err = d.listState(ctx)
	}
	if err == nil && f.record {
		err = d.recordOld(ctx, f.old)
	}
	if err == nil && f.warm != "" {
		err = d.setWarmState(ctx, f.warm)
	}
	if err == nil && f.ready != readyUnsaid {
		f.unready, err = d.setReady(ctx, f.ready, f.readyAt)
	}
	return err
}

// askAppl finds out which of the ports exist in APPL_DB, right before they are written.
func (d *sonicDB) askAppl(ctx context.Context, f *flush) error {
	var commands []redis.Cmder
	var asked []*portWrite
	for _, w := range f.writes {
		if w.ask {
			d.filter.doubt(w.port)
			commands = append(commands, redis.NewIntCmd(ctx, "exists", d.keyInAppl(w)))
			asked = append(asked, w)
		}
	}
	var heard []*portWrite
	for _, w := range f.writes {
		if w.oper {
			commands = append(commands, redis.NewSliceCmd(ctx, "hmget", d.keyInAppl(w), "oper_status"))
			heard = append(heard, w)
		}
	}
	if len(f.confirm) > 0 {
		args := []any{"exists"}
		for _, w := range f.confirm {
			args = append(args, d.keyInAppl(w))
		}
		commands = append(commands, redis.NewIntCmd(ctx, args...))
	}
	if f.signals {
		commands = append(commands, d.signalCommands(ctx)...)
	}
	if len(commands) == 0 {
		return nil
	}
	err := pipeline(ctx, d.m, d.appl, commands)
	for i, w := range asked {
		w.exists, w.err = intOf(commands[i]) > 0, commands[i].Err()
	}
	rest := commands[len(asked):]
	for i, w := range heard {
		w.heard, w.applUp = rest[i].Err() == nil, fieldsOf(rest[i], 1)[0]
	}
	rest = rest[len(heard):]
	if len(f.confirm) > 0 {
		f.missing = rest[0].Err() != nil || intOf(rest[0]) != int64(len(f.confirm))
		rest = rest[1:]
	}
	if f.signals && err == nil {
		f.found = signalsFrom(rest)
	}
	return err
}

func (d *sonicDB) keyInAppl(w *portWrite) string {
	if w.applKey == "" {
		w.applKey = d.applKey(w.port)
	}
	return w.applKey
}
