package main

import (
	"context"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// What orchagent says is the fault of a port that goes down: STATE_DB's PORT_OPERR_TABLE, which it writes with the
// ASIC's word about the loss, and at no other time. It is told by keyspace events, so it costs nothing while nothing
// fails, and only the recorder wants it.

const operrTable = "PORT_OPERR_TABLE" // STATE_DB

func (d *sonicDB) operrKey(port string) string { return operrTable + d.stateAddr.separator + port }

// tellFault reads which faults a port has, and tells. Where that is not to be had nobody is told.
func (d *sonicDB) tellFault(ctx context.Context, w watcher, port string) {
	read := redis.NewSliceCmd(ctx, "hmget", d.operrKey(port), "oper_error_status")
	_ = pipeline(ctx, d.m, d.state, []redis.Cmder{read})
	bits, err := strconv.ParseUint(fieldsOf(read, 1)[0], 10, 64)
	if seen := faults(bits); err == nil && seen != 0 && w.fault != nil {
		w.fault(port, seen)
	}
}

// faulted joins faults that orchagent tells of to the loss of carrier of the same moment, or to the next one if that
// comes soon.
func (r *recorder) faulted(p *port, seen faults, at time.Time) {
	if r.off() || r.waiting() && r.moving.later(func() { r.faulted(p, seen, at) }) {
		return
	}
	row := r.rows.of(p)
	if row.ring == nil {
		return
	}
	defer r.guard(debug.SetPanicOnFault(true))
	now := r.machine(at)
	for n := row.last.number; n != row.last.number-portEvents; n-- {
		b := eventAt(row.ring, n)
		e, whole := takePortRecord(b)
		if !whole || e.number != n || e.boot != r.boot || now-e.since > faultWindow {
			break
		}
		if e.lost() {
			e.faults |= seen
			e.put(b)
			r.changes.Add(1)
			return
		}
	}
	row.faults, row.faultsAt = seen, now
}
