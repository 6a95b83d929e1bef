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
	appName          = "portsyncd"
	dockerName       = "swss"
)

// decideWarmStart finds out whether a warm restart was asked for, and keeps the restore_count as every swss daemon
// does: 0 on a cold start, one more on a warm one, and without a count there is no warm start.
func (d *sonicDB) decideWarmStart(ctx context.Context) (warm bool, err error) {
	separator := d.stateAddr.separator
	row := warmRestartTable + separator + appName
	system := redis.NewStringCmd(ctx, "hget", warmEnableTable+separator+"system", "enable")
	docker := redis.NewStringCmd(ctx, "hget", warmEnableTable+separator+dockerName, "enable")
	restored := redis.NewStringCmd(ctx, "hget", row, "restore_count")
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{system, docker, restored}); err != nil {
		return false, fmt.Errorf("read the warm restart tables of STATE_DB: %w", err)
	}
	asked := system.Val() == "true" || docker.Val() == "true"
	count, countErr := strconv.ParseUint(restored.Val(), 10, 32)
	state := warmDisabled
	if warm = asked && countErr == nil; warm {
		count++
		state = warmInitialized
	} else {
		count = 0
	}
	write := redis.NewIntCmd(ctx, "hset", row, "restore_count", strconv.FormatUint(count, 10), "state", state)
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{write}); err != nil {
		return false, fmt.Errorf("write restore_count to STATE_DB: %w", err)
	}
	return warm, nil
}

func (d *sonicDB) setWarmState(ctx context.Context, state string) error {
	write := redis.NewIntCmd(ctx, "hset", warmRestartTable+d.stateAddr.separator+appName, "state", state)
	if err := pipeline(ctx, d.m, d.state, []redis.Cmder{write}); err != nil {
		return fmt.Errorf("write the warm restart's state %s to STATE_DB: %w", state, err)
	}
	return nil
}
