package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// An observer: it runs beside the portsyncd that writes, reads what that one writes, and tells what differs. That it
// writes nothing is held in three places, of which each would be enough: the loop asks for nothing that is written, its
// database is this one, and its connections refuse whatever is no reading.

const observeUsage = "read, compare and tell: nothing is written to a database or set down, " +
	"and another portsyncd does the work"

// errObserves is what an observer answers to what would change something.
var errObserves = errors.New("-observe: nothing is changed")

// readingConn is a connection that only reads. What it refuses is not sent, nor is what goes along with it.
type readingConn struct{ redisConn }

func (c readingConn) Exec(ctx context.Context, commands []redis.Cmder) error {
	for _, command := range commands {
		if !onlyReads(command.Args()) {
			err := fmt.Errorf("%w: %v is refused", errObserves, command.Args()[0])
			for _, all := range commands {
				all.SetErr(err)
			}
			return err
		}
	}
	return c.redisConn.Exec(ctx, commands)
}

// onlyReads says that a command changes nothing: it is one of those that the daemon reads with. Of scripts they are
// those that read CONFIG_DB, hashes and keys.
func onlyReads(args []any) bool {
	name, _ := args[0].(string)
	switch name {
	case "exists", "get", "hget", "hgetall", "hkeys", "hmget":
		return true
	case "eval":
		reading := []any{string(readConfig), string(readHashes), string(scanKeys)}
		return len(args) > 1 && slices.Contains(reading, args[1])
	case "config":
		return len(args) > 1 && args[1] == "get"
	}
	return false
}

// observedDB is the databases of an observer.
type observedDB struct{ *sonicDB }

// observed makes databases that are only read.
func observed(d *sonicDB) *observedDB {
	onlyRead(d)
	return &observedDB{d}
}

// onlyRead has all connections refuse to write.
func onlyRead(d *sonicDB) {
	d.appl, d.config, d.state = readingConn{d.appl}, readingConn{d.config}, readingConn{d.state}
}

// LookBack takes no part in a warm restart: whoever writes counts it.
func (d *observedDB) LookBack(ctx context.Context, ports []portConfig) (startFacts, error) {
	f, _, err := d.lookBack(ctx, ports)
	return f, err
}

func (d *observedDB) Announce(context.Context, []portConfig, []portConfig, leftovers) (a announcement, err error) {
	return a, errObserves
}

func (d *observedDB) Recount(context.Context, int) (lost bool, err error) { return false, errObserves }

func (d *observedDB) SetLogger(context.Context, logSettings) error { return errObserves }

// Flush compares what it should write with what is there.
func (d *observedDB) Flush(ctx context.Context, f *flush) error {
	f.begin()
	err := d.askAppl(ctx, f)
	if readErr := d.compareState(ctx, f.writes); err == nil {
		err = readErr
	}
	if err == nil && f.list {
		f.listed, err = d.listState(ctx)
	}
	return err
}

// compareState reads the entries that would be written or deleted. One that is compared counts as the same: what is
// known of the kernel is said, and differs tells the rest.
func (d *observedDB) compareState(ctx context.Context, writes []*portWrite) error {
	read := picked(writes, func(w *portWrite) bool {
		w.compared = w.err == nil && (w.set || w.del != delNone)
		return w.compared && (w.wanted() || !w.set)
	})
	return d.readState(ctx, read, func(w *portWrite, entry *hashAnswer) {
		if w.err = entry.err; w.err != nil {
			w.compared = false
			return
		}
		w.found, w.differs = entry.String(), w.difference(entry)
		w.same = w.set
	})
}

// difference says how an entry is not what it should be; empty: it is.
func (w *portWrite) difference(entry *hashAnswer) string {
	published := entry.fields[0].there
	switch {
	case !w.set && published:
		return "STATE_DB has an entry, and the interface is gone"
	case !w.set:
		return ""
	case !published:
		return "the interface exists, and STATE_DB has no entry"
	}
	var says []string
	for i, f := range [...]struct{ about, right string }{{"state", "ok"}, {"oper", upDown(w.state.oper)},
		{"admin", upDown(w.state.admin)}, {"mtu", w.mtuString()}} {
		if found := entry.fields[i]; found.text != f.right {
			has := found.text
			if !found.there {
				has = "-"
			}
			says = append(says, fmt.Sprintf("%s: STATE_DB has %s, right is %s", f.about, has, f.right))
		}
	}
	return strings.Join(says, ", ")
}
