package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// STATE_DB's PORT_TABLE: what a port's entry holds, and how it is read and written.

// deletion is whether a port's entry is to be deleted.
type deletion uint8

const (
	delNone    deletion = iota
	delIfOurs           // only a suspicion: an entry that is ours, one with the field state, and no other
	delCertain          // the interface was seen to go: whatever the entry holds
)

// portWrite is a question about one port's entry, and what came of it. It stays with its port, so that a flush makes no
// strings.
type portWrite struct {
	port  string
	state portState
	del   deletion // before set
	set   bool     // publish state
	ask   bool     // only if APPL_DB has the port: ask now
	check bool     // what STATE_DB holds is not known: read it, and write only if it differs
	oper  bool     // ask for orchagent's oper_status, too

	outcome
	stateKey, applKey string
	mtu               uint32
	mtuText           string
}

// outcome is what came of a portWrite.
type outcome struct {
	err     error  // the outcome is unknown, or the key was refused; nil: as asked
	exists  bool   // APPL_DB has the port (if asked)
	heard   bool   // APPL_DB has answered about oper_status,
	applUp  string // which is this; empty: it does not say
	deleted bool   // a DEL was sent and acknowledged
	written bool   // an HSET was sent and acknowledged
	same    bool   // STATE_DB held this state already
	found   string // what STATE_DB held, if it was read and is not as it should be
	// of an observer: the entry was looked at, or need not be, and how it differs; empty: it does not
	compared bool
	differs  string
}

// flush is one round trip's worth of work for the databases.
type flush struct {
	writes   []*portWrite
	confirm  []*portWrite // ports believed to be in APPL_DB, to be counted there
	initDone bool         // send PortInitDone after the writes
	list     bool         // list the ports that STATE_DB has entries of
	signals  bool         // look what APPL_DB has of the signals
	warm     string       // write this state of the warm restart, after everything else
	ready    readyWord    // and whether the switch can rely on the ports; readyUnsaid: not
	readyAt  time.Time    // since when

	record bool      // write down which interfaces are old:
	old    leftovers // these

	refused error      // out: APPL_DB refused PortInitDone's key
	unready error      // out: STATE_DB refused the row that says ready
	missing bool       // out: not all of confirm are in APPL_DB
	listed  []string   // out
	found   signals    // out, if asked for and answered
	events  eventsSaid // out, the same
}

// eventsSaid is what the servers say of keyspace events. Somebody may switch them off, or a server be started again
// without them.
type eventsSaid uint8

const (
	eventsUnsaid eventsSaid = iota
	eventsSent
	eventsOff
)

// begin takes away what came of it last time.
func (f *flush) begin() {
	f.refused, f.unready, f.missing, f.listed, f.found, f.events = nil, nil, false, nil, signals{}, eventsUnsaid
	for _, w := range f.writes {
		w.outcome = outcome{}
	}
}

// wanted says that a port's state is to be published, as far as is known by now.
func (w *portWrite) wanted() bool { return w.err == nil && w.set && !w.same && (w.exists || !w.ask) }

// picked are the writes of some kind. A flush that only writes has none, and costs nothing here.
func picked(writes []*portWrite, is func(w *portWrite) bool) (some []*portWrite) {
	for i, w := range writes {
		if !is(w) {
			continue
		}
		if some == nil {
			some = make([]*portWrite, 0, len(writes)-i)
		}
		some = append(some, w)
	}
	return some
}

// entryCommands read our four fields of entries, and entriesFrom reads the answers.
func entryCommands(ctx context.Context, keys []*string) []redis.Cmder {
	return hashCommands(ctx, keys, "state", "netdev_oper_status", "admin_status", "mtu")
}

func entriesFrom(m *metrics, answers []redis.Cmder, keys int, each func(key int, entry *hashAnswer)) error {
	return hashesFrom(m, answers, keys, 4, each)
}

// stateFrom reads a state from our four fields; whole says that all of them are there and make sense.
func stateFrom(entry *hashAnswer) (state portState, whole bool) {
	found := entry.fields
	if len(found) != 4 || found[0].text != "ok" {
		return state, false
	}
	oper, admin := found[1].text, found[2].text
	n, err := strconv.ParseUint(found[3].text, 10, 32)
	state = portState{oper: oper == "up", admin: admin == "up", mtu: uint32(n)}
	return state, err == nil && (state.oper || oper == "down") && (state.admin || admin == "down")
}

// listState names the ports that STATE_DB has entries of, ours or not.
func (d *sonicDB) listState(ctx context.Context) (ports []string, err error) {
	for cursor := "0"; ; {
		if cursor != "0" { // each answer may be prompt, and there be many: STATE_DB holds more than ports
			d.slow()
		}
		answer, err := scanKeys.run(ctx, d.m, d.state, nil, cursor, d.stateKey("*"), pipelineLen).Text()
		keys, next := keysFrom(answer)
		if err == nil && next == "" {
			err = errGarbled
		}
		if err != nil {
			return nil, fmt.Errorf("list the entries of STATE_DB: %w", err)
		}
		for i, key := range keys {
			keys[i] = strings.TrimPrefix(key, d.stateKey(""))
		}
		if ports == nil {
			ports = keys
		} else {
			ports = append(ports, keys...)
		}
		if cursor = next; cursor == "0" {
			return ports, nil
		}
	}
}

// checkState reads the entries that are in doubt, and drops the writes that would change nothing.
func (d *sonicDB) checkState(ctx context.Context, writes []*portWrite) error {
	checked := picked(writes, func(w *portWrite) bool {
		return w.err == nil && w.del == delIfOurs || w.check && w.wanted()
	})
	return d.readState(ctx, checked, func(w *portWrite, entry *hashAnswer) {
		if w.err = entry.err; w.err != nil {
			if !w.set && !unavailable(w.err) {
				w.err = nil // no hash, so no entry of ours
			}
			return
		}
		w.deleted = w.del == delIfOurs && entry.fields[0].there // to be, until writeState has done it
		state, whole := stateFrom(entry)
		w.same = w.set && !w.deleted && whole && state == w.state
		if !w.same {
			w.found = entry.String()
		}
	})
}

// readState reads the entries of ports.
func (d *sonicDB) readState(ctx context.Context, ports []*portWrite, each func(w *portWrite, entry *hashAnswer)) error {
	if len(ports) == 0 {
		return nil
	}
	keys := make([]*string, len(ports))
	for i, w := range ports {
		keys[i] = d.keyInState(w)
	}
	commands := entryCommands(ctx, keys)
	err := pipeline(ctx, d.m, d.state, commands)
	said := entriesFrom(d.m, commands, len(ports), func(i int, entry *hashAnswer) { each(ports[i], entry) })
	return cmp.Or(err, said)
}

func (d *sonicDB) keyInState(w *portWrite) *string {
	if w.stateKey == "" {
		w.stateKey = d.stateKey(w.port)
	}
	return &w.stateKey
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// upDownWord is the same, where it would be copied to be one of many things.
func upDownWord(up bool) any {
	if up {
		return "up"
	}
	return "down"
}

func (w *portWrite) mtuString() string {
	if w.mtuText == "" || w.mtu != w.state.mtu {
		w.mtu, w.mtuText = w.state.mtu, strconv.FormatUint(uint64(w.state.mtu), 10)
	}
	return w.mtuText
}

const setWords = 10 // of the command that writes the four fields

// sets is how many of these commands there will be.
func sets(writes []*portWrite) (n int) {
	for _, w := range writes {
		if w.wanted() {
			n++
		}
	}
	return n
}

// writeState sends the deletions and the four fields, a port's deletion before its fields.
func (d *sonicDB) writeState(ctx context.Context, writes []*portWrite) error {
	slab, _ := d.words.Get().(*[]any)
	if slab == nil {
		slab = new([]any)
	}
	defer d.words.Put(slab)
	words := slices.Grow((*slab)[:0], setWords*sets(writes))
	*slab = words
	var commands []redis.Cmder
	var owners []*portWrite
	for i, w := range writes {
		if cap(commands) == 0 && (w.wanted() || w.del != delNone) { // most comparisons write nothing
			commands, owners = make([]redis.Cmder, 0, len(writes)-i), make([]*portWrite, 0, len(writes)-i)
		}
		if w.deleted = w.err == nil && (w.deleted || w.del == delCertain); w.deleted {
			commands = append(commands, redis.NewIntCmd(ctx, "del", d.keyInState(w)))
			owners = append(owners, w)
		}
		if w.wanted() {
			w.mtuString()
			oper, admin := upDownWord(w.state.oper), upDownWord(w.state.admin)
			words = append(words, "hset", d.keyInState(w), "state", "ok", "netdev_oper_status", oper,
				"admin_status", admin, "mtu", &w.mtuText)
			commands = append(commands, redis.NewIntCmd(ctx, slices.Clip(words[len(words)-setWords:])...))
			owners = append(owners, w)
			w.written = true
		}
	}
	if len(commands) == 0 {
		return nil
	}
	err := pipeline(ctx, d.m, d.state, commands)
	for i, w := range owners {
		if cmdErr := commands[i].Err(); cmdErr != nil {
			w.err, w.written, w.deleted = cmdErr, false, false
		}
	}
	return err
}

// stateKeys are the keys of ports' entries.
func (d *sonicDB) stateKeys(ports []string) []*string {
	keys := make([]*string, len(ports))
	for i, name := range ports {
		key := d.stateKey(name)
		keys[i] = &key
	}
	return keys
}

// Our own rows of STATE_DB: the interfaces that were old when the ports were announced, and the ports of an
// announcement that is not complete. A daemon that ends between PortConfigDone and the first entry would otherwise take
// for old what orchagent has made meanwhile; one that ends amid an announcement would leave ports that CONFIG_DB drops.
const (
	startRows = "PORTSYNCD_START_TABLE"
	oldRow    = "old_interfaces"
	pushedRow = "pushed_ports"
)

func (d *sonicDB) oldKey() string    { return startRows + d.stateAddr.separator + oldRow }
func (d *sonicDB) pushedKey() string { return startRows + d.stateAddr.separator + pushedRow }

// oldWrite writes the first row.
func (d *sonicDB) oldWrite(ctx context.Context, old leftovers) redis.Cmder {
	words := make([]string, len(old))
	for i, o := range old {
		words[i] = o.String()
	}
	return redis.NewIntCmd(ctx, "hset", d.oldKey(), "boot_id", d.bootID, "ifindexes", strings.Join(words, " "))
}

// recordOld writes the first row alone.
func (d *sonicDB) recordOld(ctx context.Context, old leftovers) error {
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{d.oldWrite(ctx, old)}); err != nil {
		return fmt.Errorf("write %s to STATE_DB: %w", d.oldKey(), err)
	}
	return nil
}

// recordStart writes the first row, and down which ports are about to be pushed.
func (d *sonicDB) recordStart(ctx context.Context, old leftovers, ports []portConfig) error {
	commands := []redis.Cmder{d.oldWrite(ctx, old)}
	if len(ports) > 0 {
		commands = append(commands, d.pushedWrite(ctx, ports))
	}
	if err := pipeline(ctx, d.m, d.state, commands); err != nil {
		return fmt.Errorf("write %s and %s to STATE_DB: %w", d.oldKey(), d.pushedKey(), err)
	}
	return nil
}

// pushedCommand asks which ports a run before has pushed, and not taken back, in an announcement that it did not end,
// and recalledPushed reads the answer. It is asked before anything is written there: our own words would pass for that
// run's if the answer to them were lost.
func (d *sonicDB) pushedCommand(ctx context.Context) redis.Cmder {
	return redis.NewStringSliceCmd(ctx, "hkeys", d.pushedKey())
}

func (d *sonicDB) recalledPushed(answer redis.Cmder) {
	names := answer.(*redis.StringSliceCmd).Val()
	d.pushed = make(map[string]struct{}, len(names))
	for _, name := range names {
		d.pushed[name] = struct{}{}
	}
}

// recallPushed does that alone, where it was not asked at the start.
func (d *sonicDB) recallPushed(ctx context.Context) error {
	read := d.pushedCommand(ctx)
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{read}); err != nil {
		return fmt.Errorf("read %s from STATE_DB: %w", d.pushedKey(), err)
	}
	d.recalledPushed(read)
	return nil
}

// oldCommand reads the row, and recalledOld the answer; one of another boot means nothing.
func (d *sonicDB) oldCommand(ctx context.Context) redis.Cmder {
	return redis.NewSliceCmd(ctx, "hmget", d.oldKey(), "boot_id", "ifindexes")
}

func (d *sonicDB) recalledOld(answer redis.Cmder) *recordedOld {
	found := answer.(*redis.SliceCmd).Val()
	if len(found) != 2 || found[0] != d.bootID || d.bootID == "" {
		return nil
	}
	indexes, whole := found[1].(string)
	if !whole {
		return nil
	}
	r := &recordedOld{make(map[int32]leftover)}
	for word := range strings.FieldsSeq(indexes) {
		if old, err := parseLeftover(word); err == nil {
			r.byIndex[old.index] = old
		}
	}
	return r
}

// pushedWrite writes down ports before they are pushed to APPL_DB.
func (d *sonicDB) pushedWrite(ctx context.Context, ports []portConfig) redis.Cmder {
	args := append(make([]any, 0, 2+2*len(ports)), "hset", d.pushedKey())
	for i := range ports {
		args = append(args, &ports[i].name, "")
	}
	return redis.NewIntCmd(ctx, args...)
}

// recordPushed does that alone. A row that refuses them is no reason to announce nothing.
func (d *sonicDB) recordPushed(ctx context.Context, ports []portConfig) error {
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{d.pushedWrite(ctx, ports)}); err != nil {
		return fmt.Errorf("write %s to STATE_DB: %w", d.pushedKey(), err)
	}
	return nil
}

// forgetPushed deletes the row, when it is not needed any more. One that stays does no harm: only ports that CONFIG_DB
// does not have are taken back.
func (d *sonicDB) forgetPushed(ctx context.Context) {
	d.pushed = nil
	_ = pipeline(ctx, d.m, d.state, []redis.Cmder{redis.NewIntCmd(ctx, "del", d.pushedKey())})
}
