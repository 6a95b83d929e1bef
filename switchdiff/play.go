package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"portsyncd/internal/switchtest"
)

// side is a switch with one of the two daemons.
type side struct {
	sw      *switchtest.Switch
	command []string
	daemon  *switchtest.Daemon
	events  []*redis.PubSub // one of each server
	heard   []<-chan *redis.Message
	told    map[string]int // what was published, and keyspace events, since the operation began
}

// finding is what came of a history.
type finding struct {
	at        int // the operation after which they differed, or how many there were
	differs   []difference
	explained map[string]int
}

func (f finding) String() string {
	var b strings.Builder
	for _, d := range f.differs {
		fmt.Fprintln(&b, " ", d)
	}
	return b.String()
}

// like says that one of the same things differs.
func (f finding) like(other finding) bool {
	return slices.ContainsFunc(f.differs, func(d difference) bool {
		return slices.ContainsFunc(other.differs, func(e difference) bool { return d.what == e.what })
	})
}

func newSide(ctx context.Context, command string, o switchtest.Options) (s *side, err error) {
	s = &side{command: strings.Fields(command), told: map[string]int{}}
	if s.sw, err = switchtest.New(o); err != nil {
		return nil, err
	}
	err = s.subscribe(ctx, s.sw.Appl, "PORT_TABLE_CHANNEL@0", "__keyspace@0__:*PORT_TABLE*", "__keyspace@6__:PORT_TABLE*")
	if err == nil && o.Split {
		err = s.subscribe(ctx, s.sw.State, "__keyspace@6__:PORT_TABLE*")
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *side) subscribe(ctx context.Context, server *redis.Client, patterns ...string) error {
	events := server.PSubscribe(ctx, patterns...)
	s.events = append(s.events, events)
	for range patterns {
		if _, err := events.Receive(ctx); err != nil {
			return err
		}
	}
	s.heard = append(s.heard, events.Channel(redis.WithChannelSize(10000)))
	return nil
}

func (s *side) close() {
	if s.daemon != nil {
		s.daemon.Stop()
	}
	for _, events := range s.events {
		_ = events.Close()
	}
	s.sw.Close()
}

// switchOf takes what kind of switch it is from a history that begins with that.
func switchOf(h history) (o switchtest.Options) {
	if len(h) > 0 && h[0][0] == "switch" {
		o.Split = slices.Contains(h[0], "split")
		o.ApartConfig = slices.Contains(h[0], "apart")
		o.NoEvents = slices.Contains(h[0], "eventless")
	}
	return o
}

// play plays a history to both, until they differ. Where A has ended, or would do what no switch can bear, B goes on
// without it, and A is back with the next start that both can make.
func (o options) play(ctx context.Context, h history) (f finding, err error) {
	f.explained = map[string]int{}
	var sides [2]*side
	for i := range sides {
		if sides[i], err = newSide(ctx, o.daemons[i], switchOf(h)); err != nil {
			return f, err
		}
		defer sides[i].close()
	}
	sides[1].command = append(sides[1].command, "-reconcile-interval", compareEvery.String())
	p := newPast()
	var last map[difference]string
	halted := false
	for f.at = range h {
		op := h[f.at]
		halted = op[0] == "halt" || halted && op[0] != "go"
		hasty := op[0] == "quick"
		if hasty { // the next one follows at once
			op = op[1:]
		}
		if err := o.both(ctx, op, sides, p, f.explained); err != nil {
			return f, err
		}
		if hasty || halted {
			p.hasty = true
			continue
		}
		if f.differs, last, err = o.compare(ctx, sides, p, last, f.explained); err != nil || len(f.differs) > 0 {
			return f, err
		}
		p.hasty = false
	}
	f.at++
	return f, ctx.Err()
}

// both carries out an operation on both switches.
func (o options) both(ctx context.Context, op operation, sides [2]*side, p *past, explained map[string]int) error {
	now, err := sides[1].look(ctx)
	if err != nil {
		return err
	}
	first := op[0] == "start" && !p.runs
	p.before(op, now)
	if first {
		if p.alone {
			explained[stays]++
		} else if p.absent {
			err = sides[0].resume(ctx, sides[1])
		}
		p.absent = p.alone
	}
	if slices.Contains([]string{"redis", "cut"}, op[0]) && sides[0].daemon != nil { // it would end, sooner or later
		p.absent = true
		err = sides[0].stop(syscall.SIGKILL)
	}
	var refused [2]error
	for i, s := range sides {
		if !p.hasty {
			clear(s.told)
		}
		if i == 1 || !p.absent || !slices.Contains([]string{"start", "stop", "kill"}, op[0]) {
			refused[i] = s.do(ctx, op)
		}
	}
	if (refused[0] == nil) != (refused[1] == nil) && !p.absent {
		err = fmt.Errorf("%s: %v, and %v", op, refused[0], refused[1])
	}
	if err != nil {
		return err
	}
	switch op[0] {
	case "start":
		time.Sleep(starting)
		if p.lost { // what it finds at its start B compares soon
			time.Sleep(returning)
		}
	case "redis":
		time.Sleep(returning)
	}
	if o.verbose {
		fmt.Println(op, refused[0])
	}
	if now, err = sides[1].look(ctx); err == nil {
		p.after(op, now)
	}
	return err
}

const (
	starting     = 500 * time.Millisecond // longer than a daemon takes from its start to its first words in a database
	returning    = 2 * time.Second        // than B to find a Redis that is back
	compareEvery = 5 * time.Second        // B's comparisons
)

// compare waits until both are quiet and agree, or until the limit.
func (o options) compare(ctx context.Context, sides [2]*side, p *past, was map[difference]string,
	explained map[string]int) ([]difference, map[difference]string, error) {
	var last [2]picture
	begun, quiet := time.Now(), false
	for {
		time.Sleep(o.settle)
		var now [2]picture
		for i, s := range sides {
			var err error
			if now[i], err = s.look(ctx); err != nil {
				return nil, nil, err
			}
		}
		quiet = last[0].same(now[0]) && last[1].same(now[1])
		last = now
		differs, names := p.explain(now[0], now[1], was)
		late := time.Since(begun) > o.limit
		if quiet && len(differs) == 0 || late {
			o.tell(names, explained)
			for _, name := range names {
				if name == ends {
					p.absent = true
					_ = sides[0].stop(syscall.SIGKILL)
				}
			}
			p.settled(now[0], now[1])
			return differs, names, ctx.Err()
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
	}
}

// tell counts what differs on purpose: each name once.
func (o options) tell(names map[difference]string, explained map[string]int) {
	said := map[string]bool{}
	for d, name := range names {
		if !said[name] {
			explained[name]++
		}
		said[name] = true
		if o.verbose && name != ownRows {
			fmt.Println("    ", name, d)
		}
	}
}

// pops is what orchagent does at a notification: waiting keys go from the producer's side into the table.
var pops = redis.NewScript(`
for _, key in ipairs(redis.call('SPOP', KEYS[1], 1000)) do
	if redis.call('SREM', KEYS[2], key) == 1 then redis.call('DEL', KEYS[3] .. key) end
	local fields = redis.call('HGETALL', '_' .. KEYS[3] .. key)
	for i = 1, #fields, 2 do redis.call('HSET', KEYS[3] .. key, fields[i], fields[i + 1]) end
	redis.call('DEL', '_' .. KEYS[3] .. key)
end
return 1
`)

// do carries out one operation.
func (s *side) do(ctx context.Context, op operation) error {
	args := make([]any, len(op)-1)
	for i, word := range op[1:] {
		args[i] = word
	}
	switch op[0] {
	case "near":
		return s.sw.IP(op[1:]...)
	case "far":
		return s.sw.Batch(s.sw.FarNS, strings.Join(op[1:], " "))
	case "cable": // a port, and its cable's far end
		return s.sw.IP("link", "add", op[1], "type", "veth", "peer", "name", op[2], "netns", s.sw.FarNS)
	case "batch": // as fast as ip(8) can
		return s.sw.Batch(s.sw.NetNS, op[1:]...)
	case "stall":
		return s.stall(op[1:])
	case "cut":
		return s.cut(ctx)
	case "halt":
		return s.signal(syscall.SIGSTOP)
	case "go":
		return s.signal(syscall.SIGCONT)
	case "away": // to another namespace
		return s.sw.IP("link", "set", op[1], "netns", s.sw.FarNS)
	case "back":
		return s.sw.Batch(s.sw.FarNS, "link set "+op[1]+" netns "+s.sw.NetNS)
	case "appl":
		return s.sw.Appl.Do(ctx, args...).Err()
	case "config":
		return s.sw.Config.Do(ctx, args...).Err()
	case "state":
		return s.sw.State.Do(ctx, args...).Err()
	case "wipe":
		return s.wipe(ctx, op[1])
	case "consume":
		return pops.Run(ctx, s.sw.Appl, []string{"PORT_TABLE_KEY_SET", "PORT_TABLE_DEL_SET", "PORT_TABLE:"}).Err()
	case "compared": // B has compared
		time.Sleep(compareEvery + compareEvery/10)
		return nil
	case "redis": // one server is started again, and has nothing but CONFIG_DB
		return s.restartRedis(ctx, op[1])
	case "switch":
		return nil
	case "start":
		return s.start()
	case "stop", "kill":
		return s.stop(map[string]os.Signal{"stop": syscall.SIGTERM, "kill": syscall.SIGKILL}[op[0]])
	}
	return fmt.Errorf("what is the operation %s?", op)
}

func (s *side) start() (err error) {
	if s.daemon != nil {
		return fmt.Errorf("it runs already")
	}
	s.daemon, err = s.sw.StartInside(s.command...)
	return err
}

func (s *side) stop(signal os.Signal) error {
	if s.daemon == nil {
		return fmt.Errorf("it does not run")
	}
	_ = s.daemon.Signal(signal)
	_, err := s.daemon.Wait(5 * time.Second)
	s.daemon = nil
	return err
}

// wipe empties STATE_DB of some keys, as the service's start and the reboot script do.
func (s *side) wipe(ctx context.Context, pattern string) error {
	keys, err := s.sw.State.Keys(ctx, pattern).Result()
	if err == nil && len(keys) > 0 {
		err = s.sw.State.Del(ctx, keys...).Err()
	}
	return err
}

// restartRedis starts Redis again, empty, and fills CONFIG_DB as it was.
func (s *side) restartRedis(ctx context.Context, which string) error {
	kept, err := dump(ctx, s.sw.Config)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(which)
	if err != nil || n >= len(s.sw.Redis) {
		return fmt.Errorf("there is no Redis %s", which)
	}
	s.sw.Redis[n].Stop()
	if err := s.sw.Redis[n].Start(); err != nil || s.sw.Config.DBSize(ctx).Val() > 0 {
		return err
	}
	return restore(ctx, s.sw.Config, kept)
}

// resume makes a switch like another one, for its daemon to start there: all databases are.
func (s *side) resume(ctx context.Context, like *side) error {
	ours, theirs := []*redis.Client{s.sw.Appl, s.sw.Config, s.sw.State}, []*redis.Client{like.sw.Appl, like.sw.Config,
		like.sw.State}
	for i, db := range ours {
		kept, err := dump(ctx, theirs[i])
		if err == nil {
			err = db.FlushDB(ctx).Err()
		}
		if err == nil {
			err = restore(ctx, db, kept)
		}
		if err != nil {
			return err
		}
	}
	time.Sleep(settled)
	s.listen() // to what that made of keyspace events, which the caller forgets
	return nil
}

// settled is longer than an event takes.
const settled = 50 * time.Millisecond

func dump(ctx context.Context, db *redis.Client) (kept map[string]string, err error) {
	kept = map[string]string{}
	keys, err := db.Keys(ctx, "*").Result()
	for _, key := range keys {
		if kept[key], err = db.Dump(ctx, key).Result(); err != nil {
			return nil, err
		}
	}
	return kept, err
}

func restore(ctx context.Context, db *redis.Client, kept map[string]string) error {
	for key, value := range kept {
		if err := db.Restore(ctx, key, 0, value).Err(); err != nil {
			return err
		}
	}
	return nil
}
