package switchtest

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Orchagent stands in for the consumer of APPL_DB's PORT_TABLE. Like the real one it pops at most 128 keys for each
// notification, and it creates host interfaces only after PortConfigDone.
type Orchagent struct {
	sw *Switch

	mu     sync.Mutex
	ports  map[string]bool // true: its interface is to be created
	order  []string        // keys as they were popped
	done   map[string]map[string]string
	popped int
	create bool
}

const popBatch = 128

// pops moves waiting keys from the producer's side into the table: a key whose pending hash is empty was deleted.
var pops = redis.NewScript(`
local out = {}
for _, key in ipairs(redis.call('SPOP', KEYS[1], ARGV[1])) do
	if redis.call('SREM', KEYS[2], key) == 1 then redis.call('DEL', KEYS[3] .. key) end
	local fields = redis.call('HGETALL', '_' .. KEYS[3] .. key)
	for i = 1, #fields, 2 do redis.call('HSET', KEYS[3] .. key, fields[i], fields[i + 1]) end
	redis.call('DEL', '_' .. KEYS[3] .. key)
	out[#out + 1] = {key, fields}
end
return out
`)

// StartOrchagent runs the stand-in until ctx ends. With create it makes the ports' interfaces once PortConfigDone came.
func (s *Switch) StartOrchagent(ctx context.Context, create bool) (*Orchagent, error) {
	o := &Orchagent{sw: s, ports: map[string]bool{}, done: map[string]map[string]string{}, create: create}
	sub := s.Appl.Subscribe(ctx, "PORT_TABLE_CHANNEL@"+strconv.Itoa(s.ApplID))
	if _, err := sub.Receive(ctx); err != nil {
		return nil, fmt.Errorf("subscribe to APPL_DB's PORT_TABLE: %w", err)
	}
	waiting := func() { // from before the subscription
		for s.Appl.SCard(ctx, "PORT_TABLE_KEY_SET").Val() > 0 {
			o.pop(ctx)
		}
	}
	waiting()
	notifications := sub.ChannelWithSubscriptions(redis.WithChannelSize(100000))
	go func() {
		defer sub.Close()
		for {
			select {
			case news, open := <-notifications:
				if !open {
					return
				}
				if _, anew := news.(*redis.Subscription); anew { // its connection was lost
					waiting()
				} else {
					o.pop(ctx)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return o, nil
}

func (o *Orchagent) pop(ctx context.Context) {
	got, err := pops.Run(ctx, o.sw.Appl, []string{"PORT_TABLE_KEY_SET", "PORT_TABLE_DEL_SET", "PORT_TABLE:"}, popBatch).Slice()
	if err != nil {
		return
	}
	var due []string
	o.mu.Lock()
	o.popped++
	for _, item := range got {
		pair, _ := item.([]any)
		key, _ := pair[0].(string)
		fields := map[string]string{}
		list, _ := pair[1].([]any)
		for i := 0; i+1 < len(list); i += 2 {
			fields[fmt.Sprint(list[i])] = fmt.Sprint(list[i+1])
		}
		o.order = append(o.order, key)
		switch key {
		case "PortConfigDone", "PortInitDone":
			o.done[key] = fields
		default:
			if _, known := o.ports[key]; !known { // told again of a port, the real one does not create it again, either
				o.ports[key] = true
			}
		}
	}
	if o.done["PortConfigDone"] != nil && o.create {
		for port, fresh := range o.ports {
			if fresh {
				due = append(due, port)
				o.ports[port] = false
			}
		}
	}
	o.mu.Unlock()
	_ = o.sw.AddPorts(due...)
}

// Signal returns the fields of PortConfigDone or PortInitDone, nil if it did not come.
func (o *Orchagent) Signal(name string) map[string]string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.done[name]
}

// Ports returns how many ports were popped, and with how many notifications.
func (o *Orchagent) Ports() (ports, notifications int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.ports), o.popped
}

// Popped returns every key in the order of arrival.
func (o *Orchagent) Popped() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.order...)
}
