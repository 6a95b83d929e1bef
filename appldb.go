package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// APPL_DB's PORT_TABLE: the producer's side of its protocol, the signals, and what a start finds there.

// producerSet is the producer-state-table protocol of SONIC.md for many ports in one call. Consumers pop a bounded
// number of keys a notification, so each key that was not waiting already gets a notification of its own. The fields
// come before the key set: a key without fields would be a deletion. KEYS: the key set, the channel, then each port's
// pending hash. ARGV: for each port its name, the number of strings that follow, and these: field, value, field, value…
// It returns the names of the ports whose pending hash is of another type.
const producerSet script = `
local at, refused = 1, {}
for i = 3, #KEYS do
	local port, n = ARGV[at], tonumber(ARGV[at + 1])
	local set = redis.pcall('HSET', KEYS[i], unpack(ARGV, at + 2, at + 1 + n))
	if type(set) == 'table' and set.err then
		if not string.find(set.err, 'WRONGTYPE', 1, true) then return set end
		refused[#refused + 1] = port
	else
		local added = redis.pcall('SADD', KEYS[1], port)
		if type(added) == 'table' then return added end
		if added == 1 then redis.call('PUBLISH', KEYS[2], 'G') end
	end
	at = at + 2 + n
end
return refused
`

// producerDel is the same protocol's deletion, of ports that CONFIG_DB does not have: one that it has again by now is
// left alone, because others may have announced it again, with fields of their own. KEYS: the key set, the set of
// deletions, the channel, then each port's pending hash. ARGV: the id of CONFIG_DB, or nothing where it is on another
// server and cannot be asked here, the id of APPL_DB, what a port's key in CONFIG_DB begins with, each port's name.
const producerDel script = `
for i = 4, #KEYS do
	local port, again = ARGV[i], false
	if ARGV[1] ~= '' then
		redis.call('SELECT', ARGV[1])
		again = redis.call('EXISTS', ARGV[3] .. port) == 1
		redis.call('SELECT', ARGV[2])
	end
	if not again then
		local added = redis.call('SADD', KEYS[1], port)
		redis.call('SADD', KEYS[2], port)
		redis.call('DEL', KEYS[i])
		if added == 1 then redis.call('PUBLISH', KEYS[3], 'G') end
	end
end
return #KEYS - 3
`

// portsPerCall is how many ports one script call carries.
const portsPerCall = 256

// produce hands ports to the consumers of APPL_DB's PORT_TABLE, and returns the names of those that it refused.
func (d *sonicDB) produce(ctx context.Context, ports []portConfig) (refused []string, err error) {
	for part := range slices.Chunk(ports, portsPerCall) {
		words := 0
		for _, p := range part {
			words += 2 + len(p.fields)
		}
		keys, args := d.producerKeys(), make([]any, 0, words)
		for i := range part {
			p := &part[i]
			keys = append(keys, "_"+d.applKey(p.name))
			args = append(args, &p.name, len(p.fields))
			for i := range p.fields { // a text would be copied to where an interface can point to
				args = append(args, &p.fields[i])
			}
		}
		names, err := producerSet.run(ctx, d.m, d.appl, keys, args...).StringSlice()
		if err != nil {
			return nil, fmt.Errorf("write %s and %d more ports to APPL_DB: %w", part[0].name, len(part)-1, err)
		}
		refused = append(refused, names...)
	}
	return refused, nil
}

// withdraw takes ports back from the consumers of APPL_DB's PORT_TABLE.
func (d *sonicDB) withdraw(ctx context.Context, ports []string) error {
	ask := ""
	if d.cfgAddr.server() == d.applAddr.server() {
		ask = strconv.Itoa(d.cfgAddr.id)
	}
	for part := range slices.Chunk(ports, portsPerCall) {
		own := d.producerKeys()
		keys := []string{own[0], portTable + "_DEL_SET", own[1]}
		args := []any{ask, d.applAddr.id, d.configKey(portConfigTable, "")}
		for _, name := range part {
			keys, args = append(keys, "_"+d.applKey(name)), append(args, name)
		}
		if err := producerDel.run(ctx, d.m, d.appl, keys, args...).Err(); err != nil {
			return fmt.Errorf("take %s and %d more ports back from APPL_DB: %w", part[0], len(part)-1, err)
		}
	}
	return nil
}

// signalCommands ask for them, and signalsFrom reads the answers.
func (d *sonicDB) signalCommands(ctx context.Context) []redis.Cmder {
	signal := d.applKey(portConfigDone)
	return []redis.Cmder{redis.NewIntCmd(ctx, d.signalKeys(portConfigDone)...),
		redis.NewIntCmd(ctx, d.signalKeys(portInitDone)...),
		redis.NewStringCmd(ctx, "hget", "_"+signal, "count"), redis.NewStringCmd(ctx, "hget", signal, "count")}
}

func signalsFrom(answers []redis.Cmder) signals {
	s := signals{known: true, configDone: intOf(answers[0]) > 0, initDone: intOf(answers[1]) > 0, count: -1}
	for _, answer := range answers[2:] { // what is on its way counts first
		if count, err := strconv.Atoi(answer.(*redis.StringCmd).Val()); err == nil && s.count < 0 {
			s.count = count
		}
	}
	return s
}

// signalKeys are the keys of a signal: as a consumer has it, and on its way there.
func (d *sonicDB) signalKeys(signal string) []any {
	return []any{"exists", d.applKey(signal), "_" + d.applKey(signal)}
}

// configDone sends PortConfigDone, but only to an APPL_DB that has what it speaks of: alone it would hide from us, and
// from everybody, that the ports were lost. KEYS: the key set, the channel, the signal's pending hash, then in pairs
// what has to be there as a consumer has it or on its way there. ARGV: the signal, its fields. It returns 1 if it did.
const configDone script = `
for i = 4, #KEYS, 2 do
	if redis.call('EXISTS', KEYS[i], KEYS[i + 1]) == 0 then return 0 end
end
redis.call('HSET', KEYS[3], unpack(ARGV, 2))
if redis.call('SADD', KEYS[1], ARGV[1]) == 1 then redis.call('PUBLISH', KEYS[2], 'G') end
return 1
`

// signalConfigDone sends PortConfigDone if APPL_DB has all of needed, keys of its PORT_TABLE, and tells whether it did.
func (d *sonicDB) signalConfigDone(ctx context.Context, count int, needed []string) (sent bool, err error) {
	keys := append(d.producerKeys(), "_"+d.applKey(portConfigDone))
	for _, name := range needed {
		keys = append(keys, d.applKey(name), "_"+d.applKey(name))
	}
	done, err := configDone.run(ctx, d.m, d.appl, keys, portConfigDone, "count", count).Int()
	if err != nil {
		return false, fmt.Errorf("send PortConfigDone to APPL_DB: %w", err)
	}
	return done == 1, nil
}

// Recount sends PortConfigDone with the present number of ports, or says that APPL_DB has lost it.
func (d *sonicDB) Recount(ctx context.Context, count int) (lost bool, err error) {
	sent, err := d.signalConfigDone(ctx, count, []string{portConfigDone})
	return err == nil && !sent, err
}

// producerKeys are the key set and the channel of the protocol.
func (d *sonicDB) producerKeys() []string {
	return []string{portTable + "_KEY_SET", portTable + "_CHANNEL@" + strconv.Itoa(d.applAddr.id)}
}

// readings is how often CONFIG_DB is read while ports are being announced, before a pause is made.
const readings = 8

// errPortsChange says that CONFIG_DB, or APPL_DB, changed at every reading.
var errPortsChange = errors.New("the ports change faster than they can be announced")

// announcement is what APPL_DB was told: the ports of PortConfigDone, and the names of those that it refused.
type announcement struct {
	ports   []portConfig
	refused []string
}

func (a *announcement) refuse(names []string) {
	for _, name := range names {
		if !slices.Contains(a.refused, name) {
			a.refused = append(a.refused, name)
		}
	}
}

// took notes which ports were announced in the end: of one that was dropped meanwhile nobody has to be told.
func (a *announcement) took(ports []portConfig) {
	a.ports = ports
	names := namesOf(ports)
	a.refused = slices.DeleteFunc(a.refused, func(name string) bool { return !slices.Contains(names, name) })
}

// Announce pushes the configured ports to APPL_DB, and then PortConfigDone with their number. They are read at that
// moment, or are those that were read a moment ago (recent), and are read again afterwards until nothing has changed:
// whoever changes CONFIG_DB later finds our words in APPL_DB, and overwrites them with its own. A port that CONFIG_DB
// drops between our reading and our writing is taken back, because whoever else deletes it from APPL_DB may have done
// so before we wrote. Where CONFIG_DB has no ports, and does not say that it is complete, the fallback serves if there
// is one. Before anything else it writes down which interfaces are old, and before each push what is pushed: a daemon
// that ends amid it leaves that to the next one.
func (d *sonicDB) Announce(ctx context.Context, recent, fallback []portConfig, old leftovers) (a announcement,
	err error) {
	if d.pushed == nil {
		if err := d.recallPushed(ctx); err != nil {
			return a, err
		}
	}
	if err := d.recordStart(ctx, old, recent); err != nil {
		return a, err
	}
	if err := d.push(ctx, recent, nil, &a); err != nil {
		return a, err
	}
	sent := recent
	for range readings {
		c, err := d.Load(ctx)
		if err != nil {
			return a, err
		}
		switch blank := len(c.ports) == 0 && !c.complete; {
		case blank && len(fallback) > 0:
			c.ports = fallback
		case c.lost:
			return a, errConfigLoading
		}
		due, dropped := changed(sent, c.ports), d.droppedSince(c)
		sent = c.ports
		if len(due)+len(dropped) > 0 {
			if len(due) > 0 {
				err = d.recordPushed(ctx, due)
			}
			if err == nil {
				err = d.push(ctx, due, dropped, &a)
			}
			if err != nil {
				return a, err
			}
			continue
		}
		done, err := d.signalConfigDone(ctx, len(sent), namesOf(sent))
		if done || err != nil {
			if done {
				d.forgetPushed(ctx)
			}
			a.took(sent)
			return a, err
		}
		sent = nil // APPL_DB lost some of them since
	}
	return a, errPortsChange
}

// push sends the ports that are due, which are written down, and takes back those that were dropped.
func (d *sonicDB) push(ctx context.Context, due []portConfig, dropped []string, a *announcement) error {
	for _, p := range due {
		d.pushed[p.name] = struct{}{}
	}
	refused, err := d.produce(ctx, due)
	if err != nil {
		return err
	}
	for _, name := range refused { // what is there is somebody else's
		delete(d.pushed, name)
	}
	a.refuse(refused)
	if err := d.withdraw(ctx, dropped); err != nil {
		return err
	}
	for _, name := range dropped {
		delete(d.pushed, name)
	}
	return nil
}

// droppedSince are the ports that this announcement, or tries of it that failed, has sent and CONFIG_DB has no more. A
// CONFIG_DB that does not say that it is complete may just be written anew.
func (d *sonicDB) droppedSince(c *switchConfig) (names []string) {
	if !c.complete || len(d.pushed) == 0 {
		return nil
	}
	has := make(map[string]struct{}, len(c.ports))
	for _, p := range c.ports {
		has[p.name] = struct{}{}
	}
	for name := range d.pushed {
		if _, kept := has[name]; !kept {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// changed are the ports that were not sent yet as they are now.
func changed(sent, now []portConfig) (due []portConfig) {
	before := make(map[string][]string, len(sent))
	for _, p := range sent {
		before[p.name] = p.fields
	}
	for _, p := range now {
		if fields, known := before[p.name]; !known || !slices.Equal(fields, p.fields) {
			due = append(due, p)
		}
	}
	return due
}
