package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"

	"portsyncd/internal/switchtest"
)

// The simulator's kernel and Redis, held against the real ones: the same operations give the same messages and the same answers.

// told are messages as describeSim says them, of both kernels; what a message says of the link's carrier and of others' links is left out.
type told struct {
	collector
	lines []string
}

func (c *told) live(m *linkMessage) {
	name := string(m.name)
	if strings.HasPrefix(name, "Ethernet") || name == "eth0" {
		c.lines = append(c.lines, describeSim(&simMessage{linkMessage: *m, name: name}))
	}
}

// distinct drops messages that say what the one before said: how often the kernel repeats itself is its own business.
func distinct(lines []string) []string { return slices.Compact(slices.Clone(lines)) }

// TestSimulatedKernel: links that are made, changed, renamed, put into a bridge and out, deleted, and made again with the same ifindex.
func TestSimulatedKernel(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Batch(s.NetNS, "link add br0 type bridge"))
	real := &told{}
	k := s.openLinks()
	ip := func(line string) { s.must(s.Batch(s.NetNS, line)) }
	sched := &scheduler{dice: rand.New(rand.NewPCG(1, 1)), now: simEpoch}
	sim := newSimKernel(sched)
	socket := sim.subscribe(1000)
	var l *simLink
	for _, step := range []struct {
		ip  string
		sim func()
	}{
		{"link add Ethernet0 index 50 type veth peer name far0 netns " + s.FarNS, func() { l = sim.create("Ethernet0", 50, 0) }},
		{"link set Ethernet0 mtu 1400", func() { sim.setMTU(l, 1400) }},
		{"link set Ethernet0 up", func() { sim.set(l, unix.IFF_UP) }},
		{"link set Ethernet0 master br0", func() { sim.enslave(l, 9) }},
		{"link set Ethernet0 nomaster", func() { sim.enslave(l, 0) }},
		{"link set Ethernet0 down", func() { sim.set(l, 0) }},
		{"link set Ethernet0 name eth0", func() { sim.rename(l, "eth0") }},
		{"link set eth0 name Ethernet4", func() { sim.rename(l, "Ethernet4") }},
		{"link del Ethernet4", func() { sim.remove(l) }},
		{"link add Ethernet4 index 50 type veth peer name far4 netns " + s.FarNS, func() { l = sim.create("Ethernet4", 50, 0) }},
		{"link set Ethernet4 up", func() { sim.set(l, unix.IFF_UP) }},
		{"link set Ethernet4 master br0", func() { sim.enslave(l, 9) }},
		{"link del Ethernet4", func() { sim.remove(l) }},
	} {
		ip(step.ip)
		step.sim()
	}
	s.receive(k, real, "the second deletion", func() bool {
		return len(slices.DeleteFunc(slices.Clone(real.lines), func(l string) bool { return !strings.HasPrefix(l, "del family=0") })) == 2
	})
	fake := &told{}
	sched.spawn("reader", 0, func() {
		for more := true; more; {
			more, _ = socket.Receive(fake)
		}
	})
	for sched.step(simEpoch.Add(1e9)) {
	}
	// The real kernel says more of a device on its way into and out of a bridge; what is compared is what the daemon goes by.
	essence := func(lines []string) (kept []string) {
		for _, line := range distinct(lines) {
			if !strings.Contains(line, "family=7") {
				kept = append(kept, line)
			}
		}
		return distinct(kept)
	}
	got, want := essence(fake.lines), essence(real.lines)
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("the real kernel never says %q", line)
		}
	}
	count := func(lines []string, prefix string) (n int) {
		for _, line := range lines {
			if strings.HasPrefix(line, prefix) {
				n++
			}
		}
		return n
	}
	for _, prefix := range []string{"created family=0", "del family=0", "new family=0 eth0", "del family=7"} {
		if a, b := count(fake.lines, prefix) > 0, count(real.lines, prefix) > 0; a != b {
			t.Errorf("%q: the fake kernel says it: %v, the real one: %v", prefix, a, b)
		}
	}
	if a, b := count(fake.lines, "created"), count(real.lines, "created"); a != b || a != 2 {
		t.Errorf("%d and %d messages say that a link is new", a, b)
	}
	if t.Failed() {
		t.Logf("real:\n%s\nfake:\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

// TestSimulatedRedis: every command and script that the daemon sends, and keys of another type.
func TestSimulatedRedis(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, m := s.openDB()
	sched := &scheduler{dice: rand.New(rand.NewPCG(1, 1)), now: simEpoch}
	server := newSimServer(sched, "redis")
	ctx := context.Background()
	both := func(db int, real redisConn, make func() redis.Cmder) {
		t.Helper()
		a, b := make(), make()
		_ = real.Exec(ctx, []redis.Cmder{a})
		(&simConn{simServer: server, db: db}).answer(b, (&simConn{simServer: server, db: db}).do(db, b.Args()))
		x, y := answerText(a), answerText(b)
		if x != y {
			t.Errorf("%q: the real one answers %s, the fake %s", wordsOf(a.Args()), x, y)
		}
	}
	integer := func(args ...any) func() redis.Cmder {
		return func() redis.Cmder { return redis.NewIntCmd(ctx, args...) }
	}
	text := func(args ...any) func() redis.Cmder {
		return func() redis.Cmder { return redis.NewStringCmd(ctx, args...) }
	}
	slice := func(args ...any) func() redis.Cmder {
		return func() redis.Cmder { return redis.NewSliceCmd(ctx, args...) }
	}
	free := func(args ...any) func() redis.Cmder { return func() redis.Cmder { return redis.NewCmd(ctx, args...) } }
	for _, c := range []func() redis.Cmder{
		integer("hset", "h", "a", "1", "b", "2"), integer("hset", "h", "a", "3"), text("hget", "h", "a"), text("hget", "h", "x"), text("hget", "none", "x"),
		slice("hmget", "h", "a", "x", "b"), slice("hmget", "none", "a"), free("hkeys", "h"), free("hkeys", "none"), free("set", "s", "text"), text("get", "s"), text("get", "none"),
		text("get", "h"), text("hget", "s", "a"), integer("hset", "s", "a", "1"), slice("hmget", "s", "a"), integer("exists", "h", "s", "none"),
		integer("del", "h", "none"), integer("exists", "h"), integer("sadd", "set", "x"), integer("sadd", "set", "x"),
		free("nonsense"), integer("hset", "h", "a", "1", "c", ""), free("eval", string(readHashes), 3, "h", "s", "none", "a", "b", "c"),
		free("eval", string(readHashes), 1, "h", "a"), free("eval", string(scanKeys), 0, "0", "h*", 100), free("eval", string(scanKeys), 0, "0", "n*", 100),
	} {
		both(s.StateID, d.state, c)
	}
	producer := func(args ...any) []func() redis.Cmder {
		keys := append([]any{"eval", string(producerSet), 4, "KEYS", "CHANNEL", "_P:a", "_P:b"}, args...)
		return []func() redis.Cmder{free(keys...), slice("hmget", "_P:a", "x", "y"), slice("hmget", "_P:b", "x", "y"), integer("sadd", "KEYS", "a")}
	}
	scripts := append(producer("a", string(packedFields("x", "1")), "b", string(packedFields("x@", "2", "y@@z", "3@4"))), free("set", "_P:b", "text"))
	scripts = append(scripts, producer("a", string(packedFields("x", "9")), "b", string(packedFields("x", "9")))...)
	scripts = append(scripts, free("eval", string(configDone), 5, "KEYS", "CHANNEL", "_P:Done", "P:a", "_P:a", "Done", "count", "1"),
		free("eval", string(configDone), 5, "KEYS", "CHANNEL", "_P:Done", "P:q", "_P:q", "Done", "count", "1"), slice("hmget", "_P:Done", "count"))
	scripts = append(scripts, free("scard", "KEYS"), free("scard", "none"))
	scripts = append(scripts, free("eval", string(producerDel), 5, "KEYS", "DELS", "CHANNEL", "_P:a", "_P:b", "", s.ApplID, "PORT|", "a", "b"), slice("hmget", "_P:a", "x"),
		integer("sadd", "KEYS", "b"), integer("sadd", "DELS", "a"), integer("sadd", "DELS", "c"))
	for _, c := range scripts {
		both(s.ApplID, d.appl, c)
	}
	configs := []func() redis.Cmder{free("set", "READY", "1"), integer("hset", "PORT|a", "speed@", "1"), free("set", "PORT|b", "text"),
		integer("hset", "META", "switch_type", "dpu"), free("eval", string(readConfig), 4, "READY", "META", "WARM", "LOG", "PORT|a*", ""),
		free("eval", string(readConfig), 4, "PORT|a", "READY", "WARM", "LOG", "PORT|b*", "x"),
		free("eval", string(readConfig), 4, "none", "none", "none", "none", "none*", ""),
		free("eval", string(readConfig), 4, "none", "none", "none", "none", "none*", digestOf("\x95\xc2\xc2\xc2\xc2\xc2"))}
	for _, c := range configs {
		both(s.ConfigID, d.config, c)
	}
	announced := func(pattern string, batch int) []func() redis.Cmder {
		call := []any{"eval", string(announceAll), 7, "READY", "META", "WARM", "LOG", "SET", "CHANNEL", "_P:Done", pattern, "", s.ConfigID, s.ApplID, "PORT|", "_P:", "Done", batch}
		return []func() redis.Cmder{free(call...), free("scard", "SET"), slice("hmget", "_P:a", "speed", "x"), slice("hmget", "_P:Done", "count"), integer("exists", "_P:aa")}
	}
	both(s.ConfigID, d.config, free("set", "PORT|ab", "text"))
	both(s.ConfigID, d.config, integer("hset", "PORT|aa", "lanes", "1"))
	both(s.ApplID, d.appl, free("set", "_P:aa", "text"))
	for _, batch := range []int{1, 9} { // too many ports, and all
		for _, pattern := range []string{"PORT|a", "PORT|aa", "PORT|ab"} { // a port, one that is refused, and none
			for _, c := range announced(pattern, batch) {
				both(s.ApplID, d.appl, c)
			}
		}
	}
	both(s.ApplID, d.appl, free("del", "_P:Done"))
	both(s.ApplID, d.appl, free("set", "_P:Done", "text"))
	both(s.ApplID, d.appl, announced("PORT|a", 9)[0])
	both(s.ConfigID, d.config, free("set", "READY", "0"))
	both(s.ApplID, d.appl, announced("PORT|a", 9)[0])
	if m.redisErrors.Load() != 0 {
		t.Error("errors were counted that nobody made")
	}
}

// answerText is what a command was answered with, and whether that is an error of the server's.
func answerText(c redis.Cmder) string {
	if err := c.Err(); err != nil {
		var reply redis.Error
		word, _, _ := strings.Cut(err.Error(), " ")
		return fmt.Sprintf("error %v %s", errors.As(err, &reply), word)
	}
	switch c := c.(type) {
	case *redis.IntCmd:
		return fmt.Sprint(c.Val())
	case *redis.StringCmd:
		return c.Val()
	case *redis.SliceCmd:
		return fmt.Sprint(c.Val())
	case *redis.Cmd:
		return fmt.Sprint(c.Val())
	}
	return "?"
}
