package main

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// What a portsyncd that holds the lock does with it: nothing is written without a look at it.

// guardedConn is a connection that writes only while the lock is ours. What is not sent has an error.
type guardedConn struct {
	redisConn
	lock *writerLock
}

func (c guardedConn) Exec(ctx context.Context, commands []redis.Cmder) error {
	if onlyReading(commands) {
		return c.redisConn.Exec(ctx, commands)
	}
	if err := c.lock.enter(); err != nil {
		for _, command := range commands {
			command.SetErr(err)
		}
		return err
	}
	defer c.lock.leave()
	return c.redisConn.Exec(ctx, commands)
}

// onlyReading says that none of the commands changes anything.
func onlyReading(commands []redis.Cmder) bool {
	for _, command := range commands {
		if !onlyReads(command.Args()) {
			return false
		}
	}
	return true
}

// guard has all connections look at a lock.
func guard(d *sonicDB, lock *writerLock) {
	for _, c := range []*redisConn{&d.appl, &d.config, &d.state} {
		*c = guardedConn{*c, lock}
	}
}
