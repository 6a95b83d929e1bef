package main

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// STATE_DB's FEATURE table, in which a container says whether it is ready (SONiC's HLD "System Ready").

const featureTable = "FEATURE"

// readyWord is what the row says.
type readyWord uint8

const (
	readyUnsaid readyWord = iota
	readyNo
	readyYes
)

// fields are up_status and fail_reason. A start that is under way is neither true nor false: sysmonitor waits for it
// then, and false is, by sonic-buildimage#18817, a container that has failed, after which no system is ready any more.
func (w readyWord) fields() (up, reason string) {
	if w == readyYes {
		return "true", ""
	}
	return "", "portsyncd has not sent PortInitDone yet"
}

// setReady writes the three fields, unless the row says the same already, and leaves others alone. refused concerns the
// key, err the server or the way there.
func (d *sonicDB) setReady(ctx context.Context, word readyWord, at time.Time) (refused, err error) {
	key := featureTable + d.stateAddr.separator + dockerName
	up, reason := word.fields()
	read := redis.NewSliceCmd(ctx, "hmget", key, "up_status", "fail_reason", "update_time")
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{read}); err != nil {
		return nil, fmt.Errorf("read %s of STATE_DB: %w", key, err)
	}
	if found := read.Val(); len(found) == 3 && found[0] == up && found[1] == reason && found[2] != nil {
		return nil, nil
	}
	write := redis.NewIntCmd(ctx, "hset", key, "up_status", up, "fail_reason", reason,
		"update_time", fmt.Sprintf("%d.%06d", at.Unix(), at.Nanosecond()/1000))
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{write}); err != nil {
		return nil, fmt.Errorf("write %s to STATE_DB: %w", key, err)
	}
	return write.Err(), nil
}
