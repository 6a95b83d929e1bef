package main

import (
	"context"
	"fmt"
	"os"
	"slices"
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
	events  *redis.PubSub
	heard   <-chan *redis.Message
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

func newSide(ctx context.Context, command string) (s *side, err error) {
	s = &side{command: strings.Fields(command), told: map[string]int{}}
	if s.sw, err = switchtest.New(switchtest.Options{}); err != nil {
		return nil, err
	}
	s.events = s.sw.Appl.PSubscribe(ctx, "PORT_TABLE_CHANNEL@0", "__keyspace@0__:*PORT_TABLE*",
		"__keyspace@6__:PORT_TABLE*")
	for range 3 {
		if _, err := s.events.Receive(ctx); err != nil {
			s.close()
			return nil, err
		}
	}
	s.heard = s.events.Channel(redis.WithChannelSize(10000))
	return s, nil
}

func (s *side) close() {
	if s.daemon != nil {
		s.daemon.Stop()
	}
	if s.events != nil {
		_ = s.events.Close()
	}
	s.sw.Close()
}

// play plays a history to both, until they differ.
func (o options) play(ctx context.Context, h history) (f finding, err error) {
	f.explained = map[string]int{}
	var sides [2]*side
	for i := range sides {
		if sides[i], err = newSide(ctx, o.daemons[i]); err != nil {
			return f, err
		}
		defer sides[i].close()
	}
	p := newPast()
	for f.at = range h {
		op := h[f.at]
		p.before(op, sides[1])
		var refused [2]error
		for i, s := range sides {
			clear(s.told)
			refused[i] = s.do(ctx, op)
		}
		if (refused[0] == nil) != (refused[1] == nil) {
			return f, fmt.Errorf("%s: %v, and %v", op, refused[0], refused[1])
		}
		p.after(op, sides[1])
		if p.alone {
			f.explained[stays]++
		}
		if op[0] == "start" {
			time.Sleep(starting)
		}
		if f.differs, err = o.compare(ctx, sides, p, f.explained); err != nil || len(f.differs) > 0 {
			return f, err
		}
		if o.verbose {
			fmt.Println(op, refused[0])
		}
		if f.explained[ends]+f.explained[stays] > 0 {
			break
		}
	}
	f.at++
	return f, ctx.Err()
}

// starting is longer than a daemon takes from its start to its first words in a database.
const starting = 500 * time.Millisecond

// compare waits until both are quiet and agree, or until the limit.
func (o options) compare(ctx context.Context, sides [2]*side, p *past, explained map[string]int) ([]difference, error) {
	var last [2]picture
	begun, quiet := time.Now(), false
	for {
		time.Sleep(o.settle)
		var now [2]picture
		for i, s := range sides {
			var err error
			if now[i], err = s.look(ctx); err != nil {
				return nil, err
			}
		}
		quiet = last[0].same(now[0]) && last[1].same(now[1])
		last = now
		differs, names := p.explain(now[0], now[1])
		late := time.Since(begun) > o.limit
		if quiet && len(differs) == 0 || late {
			for _, name := range names {
				explained[name]++
			}
			if o.verbose {
				for _, name := range names {
					fmt.Println("    ", name)
				}
			}
			return differs, ctx.Err()
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
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
	case "away": // to another namespace
		return s.sw.IP("link", "set", op[1], "netns", s.sw.FarNS)
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
