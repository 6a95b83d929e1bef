package main

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"
)

// The rows of instances in STATE_DB: PORTSYNCD_INSTANCE_TABLE|<name>, and a set of the names, so that nobody has to
// look through all keys for them.

const (
	instanceTable = "PORTSYNCD_INSTANCE_TABLE"
	instanceSet   = "PORTSYNCD_INSTANCE_SET"
	peerLife      = 24 * time.Hour         // so long a row stays of one that was killed
	farewellLimit = 200 * time.Millisecond // for taking our row back
)

// tellPeers writes a row and reads all, as one step. A row of ours that is of another type is made anew, and what has
// such a row beside us is no instance.
// KEYS: the row, the set. ARGV: what rows begin with, name, seconds to live, fields and values.
const tellPeers script = `
if type(redis.pcall('HSET', KEYS[1], unpack(ARGV, 4))) == 'table' then
	redis.call('DEL', KEYS[1])
	redis.call('HSET', KEYS[1], unpack(ARGV, 4))
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('SADD', KEYS[2], ARGV[2])
local all = {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[2])) do
	local row = redis.pcall('HGETALL', ARGV[1] .. name)
	if row.err or #row == 0 then
		redis.call('SREM', KEYS[2], name)
	else
		all[#all + 1] = name
		all[#all + 1] = row
	end
end
return all`

// peerTeller tells the others of us, at each beat, over a connection of its own: a standby's others write nothing. That
// wakes nobody: what the others have said is read when somebody asks, or at the next beat.
type peerTeller struct {
	namespace string
	name      string
	config    *dbConfigFile
	m         *metrics
	log       *slog.Logger
	self      func(now time.Time) peer
	book      *peerBook

	mu      sync.Mutex
	until   context.Context // nil: not begun, or over
	line    *peerLine       // nil: there is none
	dialing bool
	state   dbAddress
	asked   time.Time // when the answer that is missing was asked for, zero: none is
	skip    int       // answers that say nothing, before it
	failing bool      // and that was said
}

// run tells until ctx ends, and then takes our row back.
func (t *peerTeller) run(ctx context.Context) {
	t.mu.Lock()
	t.until = ctx
	t.mu.Unlock()
	<-ctx.Done()
	t.mu.Lock()
	line, owed := t.line, 0
	if !t.asked.IsZero() {
		owed = t.skip + 1
	}
	t.until, t.line, t.asked = nil, nil, time.Time{}
	t.mu.Unlock()
	if line != nil {
		t.farewell(line, owed)
	}
}

// beat has it told. It never waits.
func (t *peerTeller) beat() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.read(now)
	switch {
	case t.until == nil || t.dialing:
	case t.line == nil:
		t.dial()
	case t.asked.IsZero() && hasNews(uintptr(t.line.fd)): // Redis has closed it meanwhile
		t.line.close()
		t.line = nil
		t.dial()
	case t.asked.IsZero():
		t.tell(now)
	case now.Sub(t.asked) > dbTimeout:
		t.lose(errLate)
	}
}

// hear takes what has come in, for anybody who wants to know.
func (t *peerTeller) hear(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.read(now)
}

// dial connects beside, and tells at once.
func (t *peerTeller) dial() {
	t.dialing = true
	ctx := t.until
	go func() {
		line, address, err := t.open(ctx)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.dialing = false
		switch {
		case err != nil:
			t.lose(err)
		case t.until != ctx:
			line.close()
		default:
			t.line, t.state, t.skip, t.asked = line, address, 1, time.Time{}
			err := line.send([]string{"select", strconv.Itoa(address.id)})
			if err != nil {
				t.lose(err)
				return
			}
			t.tell(time.Now())
		}
	}()
}

func (t *peerTeller) open(ctx context.Context) (*peerLine, dbAddress, error) {
	c, err := t.config.read()
	if err != nil {
		return nil, dbAddress{}, err
	}
	address, err := c.address("STATE_DB")
	if err != nil {
		return nil, address, err
	}
	line, err := dialLine(ctx, address)
	return line, address, err
}

// tell sends our row.
func (t *peerTeller) tell(now time.Time) {
	p := t.self(now)
	command := append([]string{"eval", string(tellPeers), "2", t.row(t.name), instanceSet, t.row(""), t.name,
		strconv.Itoa(int(peerLife.Seconds()))}, p.fields()...)
	t.m.redisCommands.Inc()
	t.asked = now
	if err := t.line.send(command); err != nil {
		t.lose(err)
	}
}

// read takes in the answer, if it is there.
func (t *peerTeller) read(now time.Time) {
	for t.line != nil && !t.asked.IsZero() {
		answer, whole, err := t.line.reply()
		switch {
		case err != nil:
			t.lose(err)
			return
		case !whole:
			if now.Sub(t.asked) > dbTimeout {
				t.book.miss(now)
			}
			return
		}
		if why, no := answer.(refused); no {
			err = why
		}
		if t.skip > 0 && err == nil {
			t.skip--
			continue
		}
		if err != nil {
			t.lose(err)
			return
		}
		t.book.take(t.namespace, peersFrom(answer), t.asked)
		t.asked, t.failing = time.Time{}, false
	}
}

// lose gives the connection up. The next beat makes another one.
func (t *peerTeller) lose(err error) {
	t.m.redisErrors.Inc()
	if t.line != nil {
		t.line.close()
	}
	t.line, t.asked = nil, time.Time{}
	t.book.miss(time.Now())
	if !t.failing && t.until != nil {
		t.log.Warn("the other instances are not told of this one", "err", err)
	}
	t.failing = true
}

// peersFrom are the instances of an answer.
func peersFrom(answer any) (peers []peer) {
	all, _ := answer.([]any)
	for i := 0; i+1 < len(all); i += 2 {
		name, isText := all[i].(string)
		row, isRow := all[i+1].([]any)
		if isText && isRow {
			peers = append(peers, readPeer(name, texts(row)))
		}
	}
	return peers
}

// row is the key of an instance's.
func (t *peerTeller) row(name string) string { return instanceTable + t.state.separator + name }

// farewell takes our row back over a connection on which so many answers are owed, and leaves Redis a moment to read
// that.
func (t *peerTeller) farewell(line *peerLine, owed int) {
	defer line.close()
	t.m.redisCommands.Add(2)
	err := line.send([]string{"del", t.row(t.name)}, []string{"srem", instanceSet, t.name})
	if err == nil {
		err = line.await(owed+2, farewellLimit)
	}
	if err != nil {
		t.log.Info("our row may stay in STATE_DB", "err", err)
	}
}
