package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// The announcement: the configured ports, and then PortConfigDone, for APPL_DB's consumers.

// readings is how often CONFIG_DB is read while ports are being announced, before a pause is made.
const readings = 8

// errPortsChange says that CONFIG_DB, or APPL_DB, changed at every reading.
var errPortsChange = errors.New("the ports change faster than they can be announced")

// popBatch is how many keys orchagent takes from the key set for one notification, at random, unless its option -b says
// otherwise (SONIC.md, "APPL_DB"; swss-common, DEFAULT_POP_BATCH_SIZE).
const popBatch = 128

// awaitConsumer waits until orchagent will take PortConfigDone after all ports, or together with the last ones. A port
// that it takes later is not configured to it: it removes the port from the switch chip, and makes it anew when it
// comes. An orchagent that takes none for patience has not begun, and is not waited for, as the C++ daemon does not:
// SONiC has it take 1,024 keys at a time. It returns what is left of patience.
func (d *sonicDB) awaitConsumer(ctx context.Context, patience time.Duration) (time.Duration, error) {
	least, pause, idle := int64(math.MaxInt64), consumerPause, time.Duration(0)
	for idle < patience {
		ask := redis.NewIntCmd(ctx, "scard", d.producerKeys()[0])
		if err := pipeline(ctx, d.m, d.appl, []redis.Cmder{ask}); err != nil {
			return 0, fmt.Errorf("ask APPL_DB how many ports orchagent has still to take: %w", err)
		}
		waiting := intOf(ask)
		if waiting < popBatch {
			return patience, nil
		}
		if waiting < least {
			least, pause, idle = waiting, consumerPause, 0
		}
		if err := d.rest(ctx, pause); err != nil {
			return 0, err
		}
		idle += pause
		pause = min(2*pause, consumerPauseMost)
	}
	return 0, nil
}

// rest lets time pass.
func (d *sonicDB) rest(ctx context.Context, pause time.Duration) error {
	if d.sleep != nil {
		d.sleep(pause)
		return ctx.Err()
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
	return ctx.Err()
}

// The time between looks whether orchagent takes ports, and how long it is waited for while it takes none.
const (
	consumerPause     = time.Millisecond
	consumerPauseMost = 32 * time.Millisecond
	consumerPatience  = 250 * time.Millisecond
)

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

// announceAll is an announcement as one step of a server that has CONFIG_DB and APPL_DB: nobody changes a port between
// its being read and PortConfigDone. It does nothing unless CONFIG_DB is complete, and a consumer will take all that
// waits then at once. KEYS: those of configReading, the key set, the channel, the signal's pending hash. ARGV: those of
// configReading, the ids of CONFIG_DB and APPL_DB, what a port's key begins with in CONFIG_DB and its pending hash in
// APPL_DB, the signal, how many keys a consumer takes. It returns 1 if it did it, the digest and what was read if it is
// another one, else nothing, and the names of ports whose pending hash is of another type.
const announceAll script = pushPort + `
redis.call('SELECT', ARGV[3])` + configReading + `
redis.call('SELECT', ARGV[4])
local did, count = {'', digest, all or ''}, 0
for i = ` + firstPort + `, #out, 2 do
	if out[i + 1] ~= '' then count = count + 1 end
end
if out[1] ~= '1' or redis.call('SCARD', KEYS[5]) + count >= tonumber(ARGV[8]) then return did end
for i = ` + firstPort + `, #out, 2 do
	local fields = out[i + 1]
	if fields ~= '' then
		local port = string.sub(out[i], #ARGV[5] + 1)
		local failed, refused = push(KEYS[5], KEYS[6], ARGV[6] .. port, port, fields)
		if failed then return failed end
		if refused then did[#did + 1] = port end
	end
end
local failed, refused = push(KEYS[5], KEYS[6], KEYS[7], ARGV[7], {'count', count})
if failed then return failed end
if refused then return redis.error_reply('WRONGTYPE of ' .. KEYS[7]) end
did[1] = '1'
return did
`

// announceAtOnce does what Announce promises by announceAll; done is false if that cannot be.
func (d *sonicDB) announceAtOnce(ctx context.Context, old leftovers) (a announcement, done bool, err error) {
	if err := d.recordOld(ctx, old); err != nil {
		return a, false, err
	}
	keys := append(append(d.configKeys(), d.producerKeys()...), "_"+d.applKey(portConfigDone))
	answer, err := announceAll.run(ctx, d.m, d.appl, keys, d.configKey(portConfigTable, "*"), d.lastConfig.digest,
		d.cfgAddr.id, d.applAddr.id, d.configKey(portConfigTable, ""), "_"+d.applKey(""), portConfigDone,
		popBatch).StringSlice()
	if err == nil && len(answer) < 3 {
		err = errGarbled
	}
	if err != nil {
		return a, false, fmt.Errorf("announce the ports to APPL_DB: %w", err)
	}
	did, read, refused := answer[0], answer[1:3], answer[3:]
	if did == "" {
		return a, false, nil
	}
	if read[1] == "" {
		read = read[:1]
	}
	c, err := d.loaded(read)
	if err != nil {
		return a, false, err
	}
	a.refuse(refused)
	a.took(c.ports)
	return a, true, nil
}

// Announce pushes the configured ports to APPL_DB, and then PortConfigDone with their number: in one step where it can.
// Otherwise they are read at that moment, or are those that were read a moment ago (recent), and are read again
// afterwards until nothing has changed: whoever changes CONFIG_DB later finds our words in APPL_DB, and overwrites them
// with its own. A port that CONFIG_DB drops between our reading and our writing is taken back, because whoever else
// deletes it from APPL_DB may have done so before we wrote. Where CONFIG_DB has no ports, and does not say that it is
// complete, the fallback serves if there is one. Before anything else it writes down which interfaces are old, and
// before each push what is pushed: a daemon that ends amid it leaves that to the next one.
func (d *sonicDB) Announce(ctx context.Context, recent, fallback []portConfig, old leftovers) (a announcement,
	err error) {
	if d.pushed == nil {
		if err := d.recallPushed(ctx); err != nil {
			return a, err
		}
	}
	if len(d.pushed) == 0 && d.cfgAddr.server() == d.applAddr.server() && d.known() < popBatch {
		a, done, err := d.announceAtOnce(ctx, old)
		if done || err != nil {
			return a, err
		}
	}
	if err := d.recordStart(ctx, old, recent); err != nil {
		return a, err
	}
	if err := d.push(ctx, recent, nil, &a); err != nil {
		return a, err
	}
	sent, patience := recent, cmp.Or(d.patience, consumerPatience)
	for range readings {
		if patience, err = d.awaitConsumer(ctx, patience); err != nil {
			return a, err
		}
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
	before := make(map[string]string, len(sent))
	for _, p := range sent {
		before[p.name] = string(p.fields)
	}
	for _, p := range now {
		if fields, known := before[p.name]; !known || fields != string(p.fields) {
			due = append(due, p)
		}
	}
	return due
}
