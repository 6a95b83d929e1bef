package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// SONiC's warm restart: the switch software starts again while ports go on forwarding (SONIC.md, "Warm restart").

const (
	warmEnableTable  = "WARM_RESTART_ENABLE_TABLE"
	warmRestartTable = "WARM_RESTART_TABLE"
	appName          = "portsyncd"
	dockerName       = "swss"
)

// decideWarmStart finds out whether a warm restart was asked for, and keeps the restore_count as every swss daemon does:
// 0 on a cold start, one more on a warm one, and without a count there is no warm start.
func (d *sonicDB) decideWarmStart(ctx context.Context) (warm bool, err error) {
	separator := d.stateAddr.separator
	row := warmRestartTable + separator + appName
	system := redis.NewStringCmd(ctx, "hget", warmEnableTable+separator+"system", "enable")
	docker := redis.NewStringCmd(ctx, "hget", warmEnableTable+separator+dockerName, "enable")
	restored := redis.NewStringCmd(ctx, "hget", row, "restore_count")
	if err := pipeline(ctx, d, d.state, []redis.Cmder{system, docker, restored}); err != nil {
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
	if err := pipeline(ctx, d, d.state, []redis.Cmder{write}); err != nil {
		return false, fmt.Errorf("write restore_count to STATE_DB: %w", err)
	}
	return warm, nil
}

func (d *sonicDB) setWarmState(ctx context.Context, state string) error {
	write := redis.NewIntCmd(ctx, "hset", warmRestartTable+d.stateAddr.separator+appName, "state", state)
	if err := pipeline(ctx, d, d.state, []redis.Cmder{write}); err != nil {
		return fmt.Errorf("write the warm restart's state %s to STATE_DB: %w", state, err)
	}
	return nil
}

// warmRestart is how far a start has come, for the loop.
type warmRestart struct {
	state   string // as STATE_DB has it
	wanted  string // to be written with the next flush
	begun   time.Time
	eoiu    time.Duration // end of initial update: the first dump has to end within this time
	reached bool          // it did: from here on "not in the kernel" means gone
	counted bool          // entries kept, repaired and removed are being counted
}

// enterWarm shows a state, and has it written with the next flush if STATE_DB does not have it yet.
func (s *syncer) enterWarm(state string, write bool) {
	s.warm.state = state
	if write {
		s.warm.wanted = state
	}
	for i, name := range warmStates {
		s.m.warmState[i].SetBool(name == state)
	}
	s.notice("warm restart state", "state", state)
}

// restore takes STATE_DB's entries as the baseline: only what the kernel says otherwise is written.
func (s *syncer) restore(f startFacts) {
	for name, state := range f.held {
		p := s.port(name)
		p.held, p.known, p.baseline = state, true, true
		if p.index != 0 && f.warm && p.link == state {
			s.m.warmKept.Inc()
		}
	}
	if f.warm {
		s.warm.counted = true
		s.enterWarm(warmInitialized, false)
		s.enterWarm(warmRestored, true)
	}
}

// advanceWarm ends a warm restart once the kernel was listed, every configured port was seen, and nothing is left to write or to compare.
func (s *syncer) advanceWarm() {
	if s.warm.state == warmRestored && s.warm.reached && s.initDone && len(s.dirty) == 0 && len(s.flying) == 0 && len(s.audits) == 0 && !s.auditList {
		s.warm.counted = false
		s.enterWarm(warmReconciled, true)
	}
}

// reachEOIU notes the end of the initial update: the first dump was complete.
func (s *syncer) reachEOIU() {
	s.warm.reached = true
	took := s.now().Sub(s.warm.begun)
	s.m.eoiuReached.Set(1)
	s.m.eoiuSeconds.Set(took.Seconds())
	s.log.Info("links listed: end of initial update", "ports", len(s.byIndex), "existing", len(s.listed), "took", took)
}

// advanceEOIU asks for the first dump again if it does not end in time, and returns how long there is nothing to do about it.
func (s *syncer) advanceEOIU(now time.Time) time.Duration {
	if s.warm.reached || !s.dumping {
		return beatInterval
	}
	if due := s.dumpBegun.Add(s.warm.eoiu).Sub(now); due > 0 {
		return due
	}
	s.log.Warn("the first listing of all links does not end, asking for it again", "timeout", s.warm.eoiu)
	s.dumping = false
	s.wantDump(&s.m.resyncFailed, 0)
	return 0
}
