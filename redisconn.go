package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// The way to a Redis: connections, round trips, scripts, and what an error concerns.

// redisConn is the way to one database. *redisClient is the real one; the simulator has its own.
type redisConn interface {
	// Exec sends commands in one round trip. Each has its own answer or error afterwards; the error returned is that of
	// the round trip, or the first command's.
	Exec(ctx context.Context, commands []redis.Cmder) error
	// Subscribe follows channels by patterns, see subscribe.
	Subscribe(ctx context.Context, patterns []string, confirmed func(), event func(channel, payload string)) error
	Nudge() // asks the server of a subscription whether it is there, see promptConn
	Close() error
}

// redisClient is the way to a real server.
type redisClient struct {
	*redis.Client
	m         *metrics
	server    dbAddress
	listening atomic.Pointer[promptConn] // the subscription's connection, nil: there was none yet
}

// Exec sends commands as one pipeline.
func (c *redisClient) Exec(ctx context.Context, commands []redis.Cmder) error {
	pipe := c.Pipeline()
	for _, command := range commands {
		_ = pipe.Process(ctx, command)
	}
	_, err := pipe.Exec(ctx)
	return err
}

// Subscribe has a connection of its own, which is silent most of the time, and parks.
func (c *redisClient) Subscribe(ctx context.Context, patterns []string, confirmed func(),
	event func(channel, payload string)) error {
	conn, err := dialPrompt(dbDialTimeout, 0, func() {})(ctx, c.server.network, c.server.address)
	if err != nil {
		return err
	}
	prompt := conn.(*promptConn)
	if ctx.Err() == nil && c.listening.Swap(prompt) != nil {
		c.m.redisReconnects.Inc()
	}
	_ = prompt.SetWriteDeadline(time.Now().Add(dbTimeout))
	err = subscribe(ctx, prompt, patterns, confirmed, event)
	if ctx.Err() != nil { // it did not break
		c.listening.CompareAndSwap(prompt, nil)
	}
	return err
}

func (c *redisClient) Nudge() {
	if conn := c.listening.Load(); conn != nil {
		conn.nudge(dbTimeout)
	}
}

// Time-outs: a switch's Redis answers in microseconds, and a hanging one should be noticed before supervisors are.
const (
	dbDialTimeout = time.Second
	dbTimeout     = 2 * time.Second
	// two connections are used at most, one for each lane of the courier; but after so many dials that failed the
	// client would not dial for a second
	poolSize    = 256
	pipelineLen = 1024 // commands written before their answers are read
	// of each connection, and there are three for a namespace: CONFIG_DB is only asked
	readBuffer  = 2 << 10
	askBuffer   = 1 << 10
	writeBuffer = 4 << 10
)

// connect makes a client; it dials when first used. Handshakes that SONiC's Redis does not know are off, and
// so are the client's own retries: they would hide an outage from the metrics. slow is told, from any goroutine, before
// a round trip waits for longer than a moment. So much is written at once as buffer has.
func connect(a dbAddress, m *metrics, slow func(), buffer int) redisConn {
	var connected atomic.Bool
	client := redis.NewClient(&redis.Options{
		Dialer: dialPrompt(dbDialTimeout, promptTime, slow), Network: a.network, Addr: a.address, DB: a.id,
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: noMaintenance,
		MaxRetries:               -1,
		DialerRetries:            1,
		DialTimeout:              dbDialTimeout,
		ReadTimeout:              dbTimeout,
		WriteTimeout:             dbTimeout,
		ContextTimeoutEnabled:    true,
		PoolSize:                 poolSize,
		ConnMaxIdleTime:          -1,
		ReadBufferSize:           readBuffer,
		WriteBufferSize:          buffer,
		OnConnect: func(context.Context, *redis.Conn) error {
			if connected.Swap(true) {
				m.redisReconnects.Inc()
			}
			return nil
		},
	})
	return &redisClient{Client: client, m: m, server: a}
}

// noMaintenance also has the client not resolve the address, were it a socket's path, to tell which notifications it
// would ask for.
var noMaintenance = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled,
	EndpointType: maintnotifications.EndpointTypeNone}

// hushRedis has the Redis client log nothing. It may be called more than once.
var hushRedis = sync.OnceFunc(func() { redis.SetLogger(quiet{}) })

// quiet is where the Redis client's own log lines go: it writes one for every attempt, and the daemon's log has one for
// every change of state. The client knows only one logger for the whole process.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// errWrongType is a key of another type than the one that it should have: somebody else's.
var errWrongType = errors.New("the key is of another type")

// unavailable tells an error that concerns a server, or the way to it, from one that concerns a single key: one of
// another type than ours.
func unavailable(err error) bool {
	return err != nil && !errors.Is(err, redis.Nil) && !errors.Is(err, errWrongType) &&
		!redis.HasErrorPrefix(err, "WRONGTYPE")
}

// account counts the commands of one round trip, its duration and its failure.
func account(m *metrics, start time.Time, commands int, err error) {
	m.redisLatency.Observe(time.Since(start))
	m.redisCommands.Add(uint64(commands))
	if err != nil && !errors.Is(err, redis.Nil) {
		m.redisErrors.Inc()
	}
}

// pipeline sends commands, at most pipelineLen at a time, and returns the first error that makes the server
// unavailable. The answer to each, or that its key was refused, is in the command itself.
func pipeline(ctx context.Context, m *metrics, c redisConn, commands []redis.Cmder) error {
	var first error
	for len(commands) > 0 {
		part := commands[:min(len(commands), pipelineLen)]
		commands = commands[len(part):]
		start := time.Now()
		err := c.Exec(ctx, part)
		account(m, start, len(part), err)
		blame(part, err)
		for _, command := range part {
			if first == nil && unavailable(command.Err()) {
				first = command.Err()
			}
		}
	}
	return first
}

// blame gives a round trip's error to its commands if none of them has one. The client leaves them without when it
// could not get a connection, and a command that was never sent must not pass for one that was answered with nothing.
func blame(commands []redis.Cmder, err error) {
	if err == nil {
		return
	}
	for _, command := range commands {
		if command.Err() != nil {
			return
		}
	}
	for _, command := range commands {
		command.SetErr(err)
	}
}

// script is a Lua script that a server carries out as one step.
type script string

// run carries out a script. Its text goes along each time: a kilobyte over a socket costs less than to be told that the
// server does not know the digest (any more), which a start would be for each of them.
func (s script) run(ctx context.Context, m *metrics, c redisConn, keys []string, args ...any) *redis.Cmd {
	all := append(make([]any, 0, 3+len(keys)+len(args)), "eval", string(s), len(keys))
	for _, key := range keys {
		all = append(all, key)
	}
	command := redis.NewCmd(ctx, append(all, args...)...)
	_ = pipeline(ctx, m, c, []redis.Cmder{command})
	return command
}

// intOf is the integer that a command was answered with.
func intOf(c redis.Cmder) int64 { return c.(*redis.IntCmd).Val() }

// texts are the fields found, - for one that was not there.
func texts(found []any) []string {
	texts := make([]string, len(found))
	for i, f := range found {
		switch f := f.(type) {
		case nil:
			texts[i] = "-"
		case string:
			texts[i] = f
		default:
			texts[i] = fmt.Sprint(f)
		}
	}
	return texts
}
