package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// picture is everything that is compared, by name: "state PORT_TABLE|Ethernet0 mtu" is 9100.
type picture map[string]string

func (p picture) same(other picture) bool { return maps.Equal(p, other) }

// difference is one thing that differs.
type difference struct{ what, a, b string }

func (d difference) String() string { return fmt.Sprintf("%s: A %q, B %q", d.what, d.a, d.b) }

// nothing is what a picture has where there is nothing.
const nothing = "-"

func (p picture) of(what string) string {
	if value, there := p[what]; there {
		return value
	}
	return nothing
}

func (p picture) has(what string) bool { _, there := p[what]; return there }

// everything reads all keys of a database with what they hold.
var everything = redis.NewScript(`
local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
	local kind, held = redis.call('TYPE', key).ok, {}
	if kind == 'hash' then held = redis.call('HGETALL', key)
	elseif kind == 'set' then held = redis.call('SMEMBERS', key)
	elseif kind == 'string' then held = {redis.call('GET', key)} end
	all[#all + 1] = {key, kind, held}
end
return all
`)

// look takes a picture of a switch.
func (s *side) look(ctx context.Context) (picture, error) {
	p := picture{}
	for name, db := range map[string]*redis.Client{"appl": s.sw.Appl, "config": s.sw.Config, "state": s.sw.State} {
		all, err := everything.Run(ctx, db, nil).Slice()
		if err != nil {
			return nil, err
		}
		for _, one := range all {
			entry := one.([]any)
			key, held := name+" "+entry[0].(string), entry[2].([]any)
			p[key] = entry[1].(string)
			switch entry[1] {
			case "hash":
				for i := 0; i < len(held); i += 2 {
					p[key+" "+held[i].(string)] = held[i+1].(string)
				}
			case "set", "string":
				for _, member := range held {
					p[key+" "+member.(string)] = "there"
				}
			}
		}
	}
	if err := s.links(p); err != nil {
		return nil, err
	}
	s.listen()
	for told, n := range s.told {
		p[told] = fmt.Sprint(n)
	}
	if s.daemon != nil && s.daemon.Running() {
		p["daemon"] = "runs"
	}
	return p, nil
}

// links adds the interfaces: their flags and MTU.
func (s *side) links(p picture) error {
	return s.sw.Inside(func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			flags := i.Flags & (net.FlagUp | net.FlagRunning)
			p["link "+i.Name] = fmt.Sprintf("%d %v %d", i.Index, flags, i.MTU)
		}
		return err
	})
}

// listen takes in what was published by now. A keyspace event counts once an operation: how many commands it takes to
// write a hash is nobody's business.
func (s *side) listen() {
	for _, heard := range s.heard {
		s.hear(heard)
	}
}

func (s *side) hear(heard <-chan *redis.Message) {
	for {
		select {
		case m := <-heard:
			key, isEvent := strings.CutPrefix(m.Channel, "__keyspace@")
			if !isEvent {
				s.told["published "+m.Channel+" "+m.Payload]++
				continue
			}
			db, key, _ := strings.Cut(key, "__:")
			if strings.HasSuffix(key, "_SET") { // what is waiting there says the same
				continue
			}
			s.told["event "+map[string]string{"0": "appl", "6": "state"}[db]+" "+key+" "+m.Payload] = 1
		default:
			return
		}
	}
}
