package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// The tables of a warm restart in STATE_DB (SONIC.md, "Warm restart").

const (
	warmEnableTable  = "WARM_RESTART_ENABLE_TABLE"
	warmRestartTable = "WARM_RESTART_TABLE"
	dockerName       = "swss"
)

// warmCommands ask whether a warm restart is wanted, and how many there were.
func (d *sonicDB) warmCommands(ctx context.Context) []redis.Cmder {
	enabled := warmEnableTable + d.stateAddr.separator
	return []redis.Cmder{redis.NewStringCmd(ctx, "hget", enabled+"system", "enable"),
		redis.NewStringCmd(ctx, "hget", enabled+dockerName, "enable"),
		redis.NewStringCmd(ctx, "hget", d.warmKey(), "restore_count"),
		redis.NewStringCmd(ctx, "hget", d.warmKey(), "state")}
}

func (d *sonicDB) warmKey() string { return warmRestartTable + d.stateAddr.separator + appName }

// decideWarmStart finds out from the answers whether a warm restart was asked for, and keeps the restore_count as every
// swss daemon does: 0 on a cold start, one more on a warm one, and without a count there is no warm start.
func (d *sonicDB) decideWarmStart(ctx context.Context, answers []redis.Cmder) (warm bool, err error) {
	if !d.warm.made {
		handed := d.warm.handed
		if d.warm = warmFrom(answers); handed && d.warm.warm {
			d.warm = warmDecision{made: true, handed: true}
		}
	}
	if d.warm.handed {
		return false, nil
	}
	state := warmDisabled
	if d.warm.warm {
		state = warmInitialized
	}
	count := strconv.FormatUint(d.warm.count, 10)
	if answers[2].(*redis.StringCmd).Val() == count && answers[3].(*redis.StringCmd).Val() == state {
		return d.warm.warm, nil // who takes over writes only what differs
	}
	write := redis.NewIntCmd(ctx, "hset", d.warmKey(), "restore_count", count, "state", state)
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{write}); err != nil {
		return false, fmt.Errorf("write restore_count to STATE_DB: %w", err)
	}
	return d.warm.warm, nil
}

// warmFrom makes the decision from what STATE_DB has.
func warmFrom(answers []redis.Cmder) warmDecision {
	answer := func(i int) string { return answers[i].(*redis.StringCmd).Val() }
	count, err := strconv.ParseUint(answer(2), 10, 32)
	w := warmDecision{made: true, warm: err == nil && (answer(0) == "true" || answer(1) == "true")}
	if w.warm {
		w.count = count + 1
	}
	return w
}

func (d *sonicDB) setWarmState(ctx context.Context, state string) error {
	write := redis.NewIntCmd(ctx, "hset", d.warmKey(), "state", state)
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{write}); err != nil {
		return fmt.Errorf("write the warm restart's state %s to STATE_DB: %w", state, err)
	}
	return nil
}
