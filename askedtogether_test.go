package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"portsyncd/internal/switchtest"
)

// halfAnswered is an APPL_DB that answers the first command of a round trip, as a server does whose connection breaks while the rest is on its way, and a STATE_DB
// that is well.
type halfAnswered struct {
	redisConn
	has int64    // so many of the ports are there
	cut bool     // and now it is away
	set []string // keys that were written to STATE_DB
}

func (c *halfAnswered) Exec(_ context.Context, commands []redis.Cmder) error {
	if len(commands) > 1 && commands[0].Args()[0] == "exists" {
		if !c.cut {
			commands[0].(*redis.IntCmd).SetVal(c.has)
			c.cut, commands = true, commands[1:]
		}
		for _, command := range commands {
			command.SetErr(io.ErrUnexpectedEOF)
		}
		return nil // the client returns the first command's error
	}
	for _, command := range commands {
		switch args := wordsOf(command.Args()); args[0] {
		case "hset":
			c.set = append(c.set, args[1])
			command.(*redis.IntCmd).SetVal(4)
		case "eval":
			out := []any{}
			for range wordsOf(command.Args()[3:])[:len(args)-7] {
				out = append(out, []any{nil, nil, nil, nil})
			}
			command.(*redis.Cmd).SetVal(pack(out))
		default:
			command.SetErr(io.ErrUnexpectedEOF)
		}
	}
	return nil
}

// TestHalfAnAnswerPublishesNobody: a comparison asks whether 20 ports are in APPL_DB, and what orchagent says of them, in one round trip. It is answered that 19 are
// there, and then the connection breaks. Which one is not there nobody knows (SONIC.md: of a port that APPL_DB lacks nothing is published).
func TestHalfAnAnswerPublishesNobody(t *testing.T) {
	c := &halfAnswered{has: 19}
	d := &sonicDB{m: newMetrics("test"), appl: c, state: c, slow: func() {}, filter: newKeyFilter("", "")}
	d.applAddr.separator, d.stateAddr.separator = ":", "|"
	f := &flush{}
	for i := range 20 {
		f.writes = append(f.writes, &portWrite{port: switchtest.PortName(i), set: true, ask: true, check: true, oper: true, state: portState{mtu: 9100}})
	}
	if err := d.Flush(t.Context(), f); err == nil {
		t.Error("the round trip failed, and Flush says nothing of it")
	}
	exist := 0
	for _, w := range f.writes {
		if w.err == nil && w.exists {
			exist++
		}
	}
	if exist > 0 || len(c.set) > 0 {
		t.Errorf("APPL_DB has said that it has 19 of 20 ports, and not which: %d count as there, and %d entries are written, %s",
			exist, len(c.set), strings.Join(c.set, " "))
	}
}

// TestComparisonThatIsCutPublishesNobody is the same on a real Redis: 120 ports, the last of which CONFIG_DB and APPL_DB have dropped (orchagent leaves its interface
// in the kernel). The comparison's question to APPL_DB is longer than the client's buffer, and its second part does not come through, once.
func TestComparisonThatIsCutPublishesNobody(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	const n = 120
	names := portNames(n)
	last := names[n-1]
	var armed, cut atomic.Bool
	s.proxied(func(request []byte) (v switchtest.Verdict) {
		// the rest of the question: neither a command of its own nor about STATE_DB
		if armed.Load() && !bytes.HasPrefix(request, []byte("*")) && bytes.Contains(request, []byte("oper_status")) && bytes.Contains(request, []byte("PORT_TABLE:")) {
			armed.Store(false)
			time.Sleep(50 * time.Millisecond) // the answer to the first part comes through
			cut.Store(true)
			v.Cut = true
		}
		return v
	})
	d, _ := s.start(n, "-reconcile-interval", "2s")
	s.waitAgreement("at the start")
	ctx := t.Context()
	s.must(s.Config.Del(ctx, s.ConfigKey("PORT", last)).Err())
	s.must(s.Appl.Del(ctx, "PORT_TABLE:"+last).Err())
	s.must(s.State.Del(ctx, s.StateKey(last)).Err()) // as after a cold start
	s.waitMetric(d, "portsyncd_ports_configured", "119")
	time.Sleep(3 * time.Second)
	if got := s.entry(last); len(got) > 0 {
		t.Fatalf("it is published before: %v", got)
	}
	armed.Store(true)
	s.waitFor("a comparison that is cut", cut.Load)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got := s.entry(last); len(got) > 0 {
			time.Sleep(6 * time.Second)
			t.Fatalf("%s is not in APPL_DB, and a comparison that broke amid the answer has published it: %v; three comparisons later it is %v", last, got, s.entry(last))
		}
	}
}
