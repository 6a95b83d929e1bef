package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"
)

// The rows of instances in STATE_DB: PORTSYNCD_INSTANCE_TABLE|<name>, and a set of the names, so that nobody has to
// look through all keys for them.

const (
	instanceTable = "PORTSYNCD_INSTANCE_TABLE"
	instanceSet   = "PORTSYNCD_INSTANCE_SET"
	peerLife      = 24 * time.Hour         // so long a row stays of one that was killed
	farewellLimit = 200 * time.Millisecond // for taking our row back
)

// tellPeers writes a row and reads all, as one step.
// KEYS: the row, the set. ARGV: what rows begin with, name, seconds to live, fields and values.
const tellPeers script = `
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('SADD', KEYS[2], ARGV[2])
local all = {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[2])) do
	local row = redis.call('HGETALL', ARGV[1] .. name)
	if #row == 0 then
		redis.call('SREM', KEYS[2], name)
	else
		all[#all + 1] = name
		all[#all + 1] = row
	end
end
return all`

// peerTeller tells the others of us, at each beat, over a connection of its own: a standby's others write nothing.
type peerTeller struct {
	namespace string
	name      string
	config    *dbConfigFile
	m         *metrics
	log       *slog.Logger
	self      func(now time.Time) peer
	book      *peerBook
	beats     chan struct{}
	db        *sonicDB
	failing   bool // and that was said
}

// beat has it told. It never waits.
func (t *peerTeller) beat() {
	select {
	case t.beats <- struct{}{}:
	default:
	}
}

// run tells until ctx ends, and then takes our row back.
func (t *peerTeller) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			t.farewell()
			return
		case <-t.beats:
		}
		err := t.tell(ctx)
		if now := err != nil && ctx.Err() == nil; now && !t.failing {
			t.log.Warn("the other instances are not told of this one", "err", err)
		}
		t.failing = err != nil
	}
}

// tell is one round trip.
func (t *peerTeller) tell(ctx context.Context) (err error) {
	if t.db == nil {
		if t.db, err = openSonicDB(t.config, t.m, func() {}); err != nil {
			t.db = nil
			return err
		}
	}
	p := t.self(time.Now())
	args := []any{t.row(""), t.name, int(peerLife.Seconds())}
	for _, field := range p.fields() {
		args = append(args, field)
	}
	answer := tellPeers.run(ctx, t.m, t.db.state, []string{t.row(t.name), instanceSet}, args...)
	all, err := answer.Slice()
	if err != nil {
		t.book.miss(time.Now())
		return err
	}
	var peers []peer
	for i := 0; i+1 < len(all); i += 2 {
		name, isText := all[i].(string)
		row, isRow := all[i+1].([]any)
		if isText && isRow {
			peers = append(peers, readPeer(name, texts(row)))
		}
	}
	t.book.take(t.namespace, peers, time.Now())
	return nil
}

// row is the key of an instance's.
func (t *peerTeller) row(name string) string { return instanceTable + t.db.stateAddr.separator + name }

// farewell takes our row back.
func (t *peerTeller) farewell() {
	if t.db == nil {
		return
	}
	defer t.db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), farewellLimit)
	defer cancel()
	err := pipeline(ctx, t.m, t.db.state, []redis.Cmder{redis.NewIntCmd(ctx, "del", t.row(t.name)),
		redis.NewIntCmd(ctx, "srem", instanceSet, t.name)})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.log.Info("our row stays in STATE_DB", "err", err)
	}
}
