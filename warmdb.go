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

// decideWarmStart finds out whether a warm restart was asked for, and keeps the restore_count as every swss daemon
// does: 0 on a cold start, one more on a warm one, and without a count there is no warm start.
func (d *sonicDB) decideWarmStart(ctx context.Context) (warm bool, err error) {
	row := warmRestartTable + d.stateAddr.separator + appName
	if !d.warm.made {
		if d.warm, err = d.askedWarm(ctx, row); err != nil {
			return false, err
		}
	}
	state := warmDisabled
	if d.warm.warm {
		state = warmInitialized
	}
	count := strconv.FormatUint(d.warm.count, 10)
	write := redis.NewIntCmd(ctx, "hset", row, "restore_count", count, "state", state)
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{write}); err != nil {
		return false, fmt.Errorf("write restore_count to STATE_DB: %w", err)
	}
	return d.warm.warm, nil
}

// askedWarm makes the decision from what STATE_DB has.
func (d *sonicDB) askedWarm(ctx context.Context, row string) (w warmDecision, err error) {
	enabled := warmEnableTable + d.stateAddr.separator
	system := redis.NewStringCmd(ctx, "hget", enabled+"system", "enable")
	docker := redis.NewStringCmd(ctx, "hget", enabled+dockerName, "enable")
	restored := redis.NewStringCmd(ctx, "hget", row, "restore_count")
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{system, docker, restored}); err != nil {
		return w, fmt.Errorf("read the warm restart tables of STATE_DB: %w", err)
	}
	count, err := strconv.ParseUint(restored.Val(), 10, 32)
	w.made, w.warm = true, err == nil && (system.Val() == "true" || docker.Val() == "true")
	if w.warm {
		w.count = count + 1
	}
	return w, nil
}

func (d *sonicDB) setWarmState(ctx context.Context, state string) error {
	write := redis.NewIntCmd(ctx, "hset", warmRestartTable+d.stateAddr.separator+appName, "state", state)
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{write}); err != nil {
		return fmt.Errorf("write the warm restart's state %s to STATE_DB: %w", state, err)
	}
	return nil
}
