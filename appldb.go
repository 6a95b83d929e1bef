package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// APPL_DB's PORT_TABLE: the producer's side of its protocol, the signals, and what a start finds there.

// pushPort is the producer-state-table protocol of SONIC.md for one port, as a function in Lua. Consumers pop a bounded
// number of keys a notification, so each key that was not waiting already gets a notification of its own. The fields
// come before the key set: a key without fields would be a deletion. They are set a thousand at a time, because Lua's
// stack takes some thousands. A list is called name@ in CONFIG_DB, and there alone: swss-common cuts the mark off
// wherever it reads a hash. It returns an error, or true as its second value if the pending hash is of another type.
const pushPort = `
local function push(set, channel, pending, port, fields)
	for at = 1, #fields, 2 do fields[at] = string.match(fields[at], '^[^@]*') end
	for at = 1, #fields, 1000 do
		local put = redis.pcall('HSET', pending, unpack(fields, at, math.min(at + 999, #fields)))
		if type(put) == 'table' then
			if string.find(put.err, 'WRONGTYPE', 1, true) then return nil, true end
			return put
		end
	end
	local added = redis.pcall('SADD', set, port)
	if type(added) == 'table' then return added end
	if added == 1 then redis.call('PUBLISH', channel, 'G') end
end
`

// producerSet pushes many ports in one call. KEYS: the key set, the channel, then each port's pending hash. ARGV: for
// each port its name, and the packed list of field, value, field, value… It returns the names of the ports whose
// pending hash is of another type.
const producerSet script = pushPort + `
local names = {}
for i = 3, #KEYS do
	local port, fields = ARGV[2 * i - 5], cmsgpack.unpack(ARGV[2 * i - 4])
	local failed, refused = push(KEYS[1], KEYS[2], KEYS[i], port, fields)
	if failed then return failed end
	if refused then names[#names + 1] = port end
end
return names
`

// initDoneFields are those of PortInitDone: lanes, 0.
const initDoneFields packedTexts = "\x92\xa5lanes\xa10"

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
	for len(ports) > 0 {
		part := ports[:min(len(ports), portsPerCall)]
		ports = ports[len(part):]
		keys, args := d.producerKeys(), make([]any, 0, 2*len(part))
		for i := range part {
			p := &part[i]
			keys = append(keys, "_"+d.applKey(p.name))
			args = append(args, &p.name, (*string)(&p.fields)) // texts would be copied to point to them
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
	for len(ports) > 0 {
		part := ports[:min(len(ports), portsPerCall)]
		ports = ports[len(part):]
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
