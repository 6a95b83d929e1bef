package main

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Redis of the simulator's own: the commands that the daemon and its neighbours use, keyspace events, and everything that can go wrong between two
// commands. TestSimulatedRedis holds it against the real one.

// simServer is one server.
type simServer struct {
	*scheduler
	name string
	dbs  map[int]map[string]any // a string, a map[string]string or a map[string]bool

	down      bool      // connections are refused
	hangs     bool      // nothing is answered
	condition string    // an error that every command gets, such as LOADING
	faults    []string  // of the next round trips: "lost", "cut", "refused", or ""
	failed    time.Time // when it last did not do as it was told
	events    func(db int, key, event string)
	messages  map[string]int                                           // published on a channel, and not taken yet
	onCut     func()                                                   // subscriptions break
	watch     func(who *simDaemon, db int, name string, args []string) // sees a daemon's commands before they are carried out
	writes    *simDaemon                                               // has sent an entry that is not there yet
	orphan    func(db int, commands []redis.Cmder)                     // takes what a daemon that is killed has sent
}

func newSimServer(s *scheduler, name string) *simServer {
	return &simServer{scheduler: s, name: name, dbs: map[int]map[string]any{}, messages: map[string]int{}}
}

// simReply is an error as a server sends it.
type simReply string

func (e simReply) Error() string { return string(e) }
func (simReply) RedisError()     {}

const wrongType = simReply("WRONGTYPE Operation against a key holding the wrong kind of value")

// simTimeout is a round trip that took too long.
type simTimeout struct{}

func (simTimeout) Error() string   { return "i/o timeout" }
func (simTimeout) Timeout() bool   { return true }
func (simTimeout) Temporary() bool { return true }

var errSimRefused = errors.New("connection refused")
var errSimReset = errors.New("connection reset by peer")

// simConn is a connection to one database. It is a redisConn.
type simConn struct {
	*simServer
	db   int
	slow func() // the daemon's connection: its commands can fail, are watched, and it is told when they take long; nil: somebody else's
	who  *simDaemon

	closed bool
}

func (c *simConn) Close() error {
	c.closed = true
	return nil
}

func (c *simConn) Nudge() {}

func (c *simConn) Subscribe(context.Context, []string, func(), func(channel, payload string)) error {
	panic("the simulator has a subscription of its own")
}

// Exec carries out a pipeline as the daemon's client does: anything can happen between any two of its commands.
func (c *simConn) Exec(ctx context.Context, commands []redis.Cmder) error {
	fault := ""
	if len(c.faults) > 0 {
		fault, c.faults = c.faults[0], c.faults[1:]
	}
	if c.hangs || c.dice.IntN(4) == 0 {
		c.slow()
	}
	sent := commands
	if c.orphan != nil {
		defer func() {
			if why := recover(); why != nil {
				c.orphan(c.db, sent)
				panic(why)
			}
		}()
	}
	c.writes = c.who
	if !slices.ContainsFunc(commands, func(cmd redis.Cmder) bool { return cmd.Args()[0] == "hset" }) {
		c.writes = nil
	}
	c.nap(300 * time.Microsecond)
	c.writes = nil
	if c.down || c.closed || fault == "refused" {
		return c.fail(commands, errSimRefused)
	}
	if c.hangs {
		c.say("%s hangs", c.name)
		c.slow()
		c.sleep(pause{until: c.now.Add(dbTimeout), ready: func() bool { return !c.hangs || c.closed }})
		if c.hangs || c.down {
			return c.fail(commands, simTimeout{})
		}
	}
	cut := len(commands)
	if fault == "cut" {
		cut = c.dice.IntN(len(commands) + 1)
	}
	for i, command := range commands {
		sent = commands[i:]
		if i == cut || c.down || c.closed {
			c.say("%s is cut before command %d of %d", c.name, i, len(commands))
			return c.fail(commands[i:], errSimReset)
		}
		c.answer(command, c.do(c.db, command.Args()))
		if sent = commands[i+1:]; c.dice.IntN(6) == 0 {
			c.nap(100 * time.Microsecond)
		}
	}
	c.nap(300 * time.Microsecond)
	if fault == "lost" || c.down {
		c.say("%s: %d answers are lost", c.name, len(commands))
		return c.fail(commands, errSimReset)
	}
	for _, command := range commands {
		if err := command.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (c *simConn) fail(commands []redis.Cmder, err error) error {
	c.failed = c.now
	for _, command := range commands {
		command.SetErr(err)
	}
	return err
}

// wordsOf is a command as it is sent.
func wordsOf(args []any) []string {
	words := make([]string, len(args))
	for i, a := range args {
		if text, pointed := a.(*string); pointed {
			a = *text
		}
		words[i] = fmt.Sprint(a)
	}
	return words
}

// do carries out one command of the daemon's.
func (c *simConn) do(db int, args []any) any {
	words := wordsOf(args)
	if c.condition != "" {
		c.failed = c.now
		return simReply(c.condition)
	}
	if c.slow != nil && c.watch != nil {
		c.watch(c.who, db, words[0], words[1:])
	}
	return c.command(db, words[0], words[1:])
}

// answer gives a command its reply, as the client library would.
func (c *simConn) answer(command redis.Cmder, reply any) {
	if err, failed := reply.(error); failed {
		command.SetErr(err)
		return
	}
	if reply == nil {
		command.SetErr(redis.Nil)
		return
	}
	command.SetErr(nil)
	switch command := command.(type) {
	case *redis.IntCmd:
		command.SetVal(reply.(int64))
	case *redis.StringCmd:
		command.SetVal(reply.(string))
	case *redis.SliceCmd:
		command.SetVal(reply.([]any))
	case *redis.StringSliceCmd:
		var texts []string
		for _, v := range reply.([]any) {
			texts = append(texts, v.(string))
		}
		command.SetVal(texts)
	case *redis.Cmd:
		command.SetVal(reply)
	default:
		panic(fmt.Sprintf("no answer for %T", command))
	}
}

// database is the content of one, by key.
func (s *simServer) database(db int) map[string]any {
	if s.dbs[db] == nil {
		s.dbs[db] = map[string]any{}
	}
	return s.dbs[db]
}

func (s *simServer) event(db int, key, what string) {
	if s.events != nil {
		s.events(db, key, what)
	}
}

// hash finds a hash; with make it is made. A key of another type gives no hash and false.
func (s *simServer) hash(db int, key string, make bool) (map[string]string, bool) {
	d := s.database(db)
	switch v := d[key].(type) {
	case map[string]string:
		return v, true
	case nil:
		if !make {
			return nil, true
		}
		h := map[string]string{}
		d[key] = h
		return h, true
	}
	return nil, false
}

func (s *simServer) members(db int, key string) map[string]bool {
	d := s.database(db)
	set, _ := d[key].(map[string]bool)
	if set == nil {
		set = map[string]bool{}
		d[key] = set
	}
	return set
}

func field(h map[string]string, name string) any {
	if v, there := h[name]; there {
		return v
	}
	return nil
}

// command carries out one command: integers are int64, arrays []any, errors errors, nothing nil.
func (s *simServer) command(db int, name string, args []string) any {
	d := s.database(db)
	switch name {
	case "get":
		switch v := d[args[0]].(type) {
		case nil:
			return nil
		case string:
			return v
		}
		return wrongType
	case "set":
		d[args[0]] = args[1]
		s.event(db, args[0], "set")
		return "OK"
	case "hget", "hmget", "hgetall", "hkeys":
		return s.read(db, name, args)
	case "hset":
		return s.hset(db, args)
	case "del":
		n := int64(0)
		for _, key := range args {
			if _, there := d[key]; there {
				delete(d, key)
				n++
				s.event(db, key, "del")
			}
		}
		return n
	case "exists":
		n := int64(0)
		for _, key := range args {
			if _, there := d[key]; there {
				n++
			}
		}
		return n
	case "keys":
		return s.match(db, args[0])
	case "sadd":
		if set := s.members(db, args[0]); !set[args[1]] {
			set[args[1]] = true
			return int64(1)
		}
		return int64(0)
	case "scard":
		return int64(len(s.members(db, args[0])))
	case "publish":
		s.messages[args[0]]++
		return int64(1)
	case "config":
		return []any{"notify-keyspace-events", "AKE"}
	case "eval":
		return s.eval(db, args)
	}
	return simReply("ERR unknown command '" + name + "'")
}

func (s *simServer) read(db int, name string, args []string) any {
	h, ok := s.hash(db, args[0], false)
	if !ok {
		return wrongType
	}
	switch name {
	case "hget":
		return field(h, args[1])
	case "hmget":
		out := []any{}
		for _, f := range args[1:] {
			out = append(out, field(h, f))
		}
		return out
	}
	out := []any{}
	for _, f := range slices.Sorted(maps.Keys(h)) {
		out = append(out, f)
		if name == "hgetall" {
			out = append(out, h[f])
		}
	}
	return out
}

func (s *simServer) hset(db int, args []string) any {
	h, ok := s.hash(db, args[0], true)
	if !ok {
		return wrongType
	}
	n := int64(0)
	for i := 1; i+1 < len(args); i += 2 {
		if _, there := h[args[i]]; !there {
			n++
		}
		h[args[i]] = args[i+1]
	}
	s.event(db, args[0], "hset")
	return n
}

func (s *simServer) match(db int, pattern string) any {
	out := []any{}
	for _, key := range slices.Sorted(maps.Keys(s.database(db))) {
		if ok, _ := path.Match(pattern, key); ok {
			out = append(out, key)
		}
	}
	return out
}

// plainNames cuts the mark of a list off the names of fields, as pushPort does.
func plainNames(fields []string) []string {
	for i := 0; i < len(fields); i += 2 {
		fields[i], _, _ = strings.Cut(fields[i], "@")
	}
	return fields
}

// simScripts carry out what the daemon's scripts say.
var simScripts map[script]func(s *simServer, db int, keys, args []string) any

func init() {
	simScripts = map[script]func(s *simServer, db int, keys, args []string) any{
		producerSet: func(s *simServer, db int, keys, args []string) any {
			refused := []any{}
			for i, key := range keys[2:] {
				port, fields := args[2*i], packedTexts(args[2*i+1])
				if reply := s.hset(db, append([]string{key}, plainNames(fields.words())...)); reply == wrongType {
					refused = append(refused, port)
				} else if s.command(db, "sadd", []string{keys[0], port}) == int64(1) {
					s.messages[keys[1]]++
				}
			}
			return refused
		},
		producerDel: func(s *simServer, db int, keys, args []string) any {
			for i, name := range args[3:] {
				config, ask := strconv.Atoi(args[0])
				if ask == nil && s.command(config, "exists", []string{args[2] + name}) == int64(1) {
					continue
				}
				s.withdraw(db, keys[2], keys[0], keys[1], keys[3+i], name)
			}
			return int64(len(keys) - 3)
		},
		configDone: func(s *simServer, db int, keys, args []string) any {
			if !s.complete(db, keys) {
				return int64(0)
			}
			if reply := s.hset(db, append([]string{keys[2]}, args[1:]...)); reply == wrongType {
				return wrongType
			}
			if s.command(db, "sadd", []string{keys[0], args[0]}) == int64(1) {
				s.messages[keys[1]]++
			}
			return int64(1)
		},
		announceAll: func(s *simServer, db int, keys, args []string) any {
			config, _ := strconv.Atoi(args[2])
			out, digest, all := s.readConfig(config, keys, args)
			did := []any{"", digest, all}
			batch, _ := strconv.Atoi(args[7])
			ports := announcedBy(out)
			if out[0] != "1" || len(s.members(db, keys[4]))+len(ports) >= batch {
				return did
			}
			push := func(key, pending string, fields []any) (refused bool) {
				words := []string{}
				for _, f := range fields {
					words = append(words, f.(string))
				}
				if s.hset(db, append([]string{pending}, plainNames(words)...)) == wrongType {
					return true
				}
				if s.command(db, "sadd", []string{keys[4], key}) == int64(1) {
					s.messages[keys[5]]++
				}
				return false
			}
			for _, key := range slices.Sorted(maps.Keys(ports)) {
				name := strings.TrimPrefix(key, args[4])
				if push(name, args[5]+name, ports[key]) {
					did = append(did, name)
				}
			}
			if push(args[6], keys[6], []any{"count", strconv.Itoa(len(ports))}) {
				return wrongType
			}
			did[0] = "1"
			return did
		},
		readHashes: func(s *simServer, db int, keys, args []string) any {
			out := []any{}
			for _, key := range keys {
				fields := s.read(db, "hmget", append([]string{key}, args...))
				if err, refused := fields.(simReply); refused {
					fields = string(err)
				}
				out = append(out, fields)
			}
			return pack(out)
		},
		scanKeys: func(s *simServer, db int, _, args []string) any {
			return pack([]any{"0", s.match(db, args[1])})
		},
		readConfig: func(s *simServer, db int, keys, args []string) any {
			_, digest, all := s.readConfig(db, keys, args)
			if all == "" {
				return []any{digest}
			}
			return []any{digest, all}
		},
	}
}

// readConfig is configReading.
func (s *simServer) readConfig(db int, keys, args []string) (out []any, digest, all string) {
	text := func(reply any) any {
		if t, ok := reply.(string); ok {
			return t
		}
		return nil
	}
	out = []any{text(s.command(db, "get", keys[:1])), text(s.read(db, "hget", []string{keys[1], "switch_type"})),
		text(s.read(db, "hget", []string{keys[2], "portsyncd_timer"})), text(s.read(db, "hget", []string{keys[3], "LOGLEVEL"})),
		text(s.read(db, "hget", []string{keys[3], "LOGOUTPUT"}))}
	for _, key := range s.match(db, args[0]).([]any) {
		fields := s.read(db, "hgetall", []string{key.(string)})
		if fields == wrongType {
			fields = ""
		}
		out = append(out, key, fields)
	}
	all = pack(out)
	if digest = digestOf(all); digest == args[1] {
		all = ""
	}
	return out, digest, all
}

// announcedBy are the fields of each key of the ports in what configReading has read.
func announcedBy(out []any) map[string][]any {
	ports := map[string][]any{}
	for i := configHead; i < len(out); i += 2 {
		if fields, is := out[i+1].([]any); is {
			ports[out[i].(string)] = fields
		}
	}
	return ports
}

func digestOf(text string) string { return fmt.Sprintf("%x", sha1.Sum([]byte(text))) }

// withdraw deletes a key by the producer's protocol.
func (s *simServer) withdraw(db int, channel, keySet, delSet, pending, name string) {
	added := s.command(db, "sadd", []string{keySet, name})
	s.command(db, "sadd", []string{delSet, name})
	s.command(db, "del", []string{pending})
	if added == int64(1) {
		s.messages[channel]++
	}
}

// complete says that a database has all that configDone asks for.
func (s *simServer) complete(db int, keys []string) bool {
	for i := 3; i < len(keys); i += 2 {
		if s.command(db, "exists", keys[i:i+2]) == int64(0) {
			return false
		}
	}
	return true
}

func (s *simServer) eval(db int, args []string) any {
	n, _ := strconv.Atoi(args[1])
	return simScripts[script(args[0])](s, db, args[2:2+n], args[2+n:])
}

// restart ends the server and starts it again, with what keep leaves.
func (s *simServer) restart(keep func(db int, key string) bool) {
	for db, d := range s.dbs {
		for key := range d {
			if !keep(db, key) {
				delete(d, key)
			}
		}
	}
	s.down = false
}

// stop kills the server.
func (s *simServer) stop() {
	s.down = true
	clear(s.messages)
	if s.onCut != nil {
		s.onCut()
	}
}
