package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

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
		if refused, err = d.produce(ctx, []portConfig{{portInitDone, initDoneFields}}); len(refused) > 0 {
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
	asked := picked(f.writes, func(w *portWrite) bool { return w.ask })
	for _, w := range asked {
		d.filter.doubt(w.port)
	}
	together := len(asked) > cmp.Or(d.singly, askedSingly) // all of them are there most of the time
	if together {
		commands = append(commands, d.countCommand(ctx, asked))
	} else {
		commands = d.existCommands(ctx, asked)
	}
	singly := len(commands)
	heard := picked(f.writes, func(w *portWrite) bool { return w.oper })
	heardKeys := make([]*string, len(heard))
	for i, w := range heard {
		heardKeys[i] = d.keyInAppl(w)
	}
	opers := hashCommands(ctx, heardKeys, "oper_status")
	commands = append(commands, opers...)
	if len(f.confirm) > 0 {
		commands = append(commands, d.countCommand(ctx, f.confirm))
	}
	if f.signals {
		commands = append(commands, d.signalCommands(ctx)...)
	}
	if len(commands) == 0 {
		return nil
	}
	err := pipeline(ctx, d.m, d.appl, commands)
	answers, rest := commands[:singly], commands[singly:]
	if together && intOf(answers[0]) != int64(len(asked)) {
		answers = d.existCommands(ctx, asked)
		if err == nil {
			err = pipeline(ctx, d.m, d.appl, answers)
		} else { // how many are there is said, and which will not be
			for _, answer := range answers {
				answer.SetErr(err)
			}
		}
	}
	for i, w := range asked {
		answer := answers[min(i, len(answers)-1)]
		w.exists, w.err = intOf(answer) > 0, answer.Err()
	}
	said := hashesFrom(d.m, opers, len(heard), 1, func(i int, entry *hashAnswer) {
		if w := heard[i]; entry.err == nil {
			w.heard, w.applUp = true, strings.Clone(entry.fields[0].text)
		}
	})
	err = cmp.Or(err, said)
	rest = rest[len(opers):]
	if len(f.confirm) > 0 {
		f.missing = rest[0].Err() != nil || intOf(rest[0]) != int64(len(f.confirm))
		rest = rest[1:]
	}
	if f.signals && err == nil {
		f.found, f.events = signalsFrom(rest), d.askEvents(ctx)
	}
	return err
}

// askedSingly is how many ports are asked for one by one. A count of all of them costs a server, and us, much less.
const askedSingly = 16

// countCommand counts the ports that are in APPL_DB.
func (d *sonicDB) countCommand(ctx context.Context, ports []*portWrite) redis.Cmder {
	args := make([]any, 1, 1+len(ports))
	args[0] = "exists"
	for _, w := range ports {
		args = append(args, d.keyInAppl(w))
	}
	return redis.NewIntCmd(ctx, args...)
}

// existCommands ask for each.
func (d *sonicDB) existCommands(ctx context.Context, ports []*portWrite) []redis.Cmder {
	commands := make([]redis.Cmder, len(ports))
	for i, w := range ports {
		commands[i] = redis.NewIntCmd(ctx, "exists", d.keyInAppl(w))
	}
	return commands
}

func (d *sonicDB) keyInAppl(w *portWrite) *string {
	if w.applKey == "" {
		w.applKey = d.applKey(w.port)
	}
	return &w.applKey
}
