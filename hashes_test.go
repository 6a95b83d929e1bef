package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"portsyncd/internal/switchtest"
)

// readAll reads fields a and b of hashes, and says of each what it was answered.
func readAll(t *testing.T, d *sonicDB, keys []string) (says []string, err error) {
	t.Helper()
	pointers := make([]*string, len(keys))
	for i := range keys {
		pointers[i] = &keys[i]
	}
	commands := hashCommands(t.Context(), pointers, "a", "b")
	lost := pipeline(t.Context(), d.m, d.state, commands)
	err = hashesFrom(d.m, commands, len(keys), 2, func(i int, h *hashAnswer) {
		if i != len(says) {
			t.Errorf("key %d is handed out after %d others", i, len(says))
		}
		if text := h.String(); h.err != nil {
			says = append(says, "error "+strings.Split(h.err.Error(), " ")[0]+text)
		} else {
			says = append(says, text)
		}
	})
	if lost != nil && err == nil {
		t.Errorf("the round trip failed with %v, and the answers say nothing of it", lost)
	}
	return says, err
}

// TestHashesOfManyKeys: each key has its own answer, in more than one call, whatever another one is.
func TestHashesOfManyKeys(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.openDB()
	var keys, want []string
	for i := range 3*keysPerRead - 1 {
		key, says := fmt.Sprintf("key %d", i), "- -"
		switch i % 5 {
		case 0:
			s.must(s.State.HSet(t.Context(), key, "a", "", "b", strings.Repeat("x", i)).Err())
			says = " " + strings.Repeat("x", i)
		case 1:
			s.must(s.State.HSet(t.Context(), key, "b", i).Err())
			says = fmt.Sprint("- ", i)
		case 2:
			s.must(s.State.Set(t.Context(), key, "text", 0).Err())
			says = "error WRONGTYPE"
		}
		keys, want = append(keys, key), append(want, says)
	}
	for _, n := range []int{0, 1, keysPerRead - 1, keysPerRead, keysPerRead + 1, len(keys)} {
		if says, err := readAll(t, d, keys[:n]); err != nil || !slices.Equal(says, want[:n]) {
			t.Errorf("of %d keys it is said %.300q, %v", n, says, err)
		}
	}
	d.Close()
	says, err := readAll(t, d, keys)
	if err == nil || len(says) != len(keys) || slices.ContainsFunc(says, func(s string) bool { return !strings.HasPrefix(s, "error") }) {
		t.Errorf("of a closed connection it is said %.300q, %v", says, err)
	}
}

// TestHashesThatMakeNoSense: an answer that is cut, or something else, is an error of each key of which it says nothing.
func TestHashesThatMakeNoSense(t *testing.T) {
	whole := []any{"1", nil}
	for _, c := range []struct {
		answer any
		says   string
	}{
		{pack([]any{whole, "WRONGTYPE x", "ERR x"}), "1 -, error WRONGTYPE, error ERR"},
		{pack([]any{whole, whole}), "error, error, error"},
		{pack([]any{whole, whole, whole, whole}), "error, error, error"},
		{pack([]any{whole, []any{"1"}, whole}), "1 -, error, error"},
		{pack([]any{whole, []any{"1", []any{}}, whole}), "1 -, error, error"},
		{pack([]any{whole, whole, whole})[:8], "1 -, error, error"},
		{pack([]any{whole, nil, whole}), "1 -, error, error"}, {pack([]any{whole, "", whole}), "1 -, error, error"},
		{pack("text"), "error, error, error"}, {"", "error, error, error"}, {int64(1), "error, error, error"},
		{io.EOF, "error, error, error"},
	} {
		d := &sonicDB{m: newMetrics(""), state: answering{c.answer}}
		says, err := readAll(t, d, []string{"x", "y", "z"})
		for i := range says {
			if strings.HasPrefix(says[i], "error") && !strings.Contains(c.says, says[i]) {
				says[i] = "error"
			}
		}
		if got := strings.Join(says, ", "); got != c.says || !unavailable(err) || errors.Is(err, redis.Nil) {
			t.Errorf("%q: it is said %q, %v", c.answer, got, err)
		}
	}
}

// TestKeysThatMakeNoSense: an answer that is cut, or something else, is no list that has ended.
func TestKeysThatMakeNoSense(t *testing.T) {
	d := &sonicDB{m: newMetrics(""), stateAddr: dbAddress{separator: "|"}, slow: func() {}}
	for _, answer := range []any{pack([]any{"0"}), pack([]any{"0", "x"}), pack([]any{"0", []any{}, "x"}), pack([]any{"", []any{}}), pack([]any{nil, []any{"x"}}),
		pack([]any{"0", []any{[]any{}}}), pack([]any{"0", []any{"x"}})[:4], pack([]any{"0", []any{"x"}}) + "x", "", "x", int64(0), io.EOF} {
		d.state = answering{answer}
		if ports, err := d.listState(t.Context()); err == nil || len(ports) > 0 || !strings.Contains(err.Error(), "list the entries of STATE_DB") {
			t.Errorf("%q is a list of %q, %v", answer, ports, err)
		}
	}
	d.state = answering{pack([]any{"0", []any{"PORT_TABLE|Ethernet0"}})}
	if ports, err := d.listState(t.Context()); err != nil || !slices.Equal(ports, []string{"Ethernet0"}) {
		t.Errorf("%q, %v", ports, err)
	}
}

// TestKeysOfALargeDatabase: more keys than one call looks at, ours among them.
func TestKeysOfALargeDatabase(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.openDB()
	var want []string
	all := s.State.Pipeline()
	for i := range 4 * pipelineLen {
		name := fmt.Sprintf("Ethernet%d", i)
		if i%4 == 0 {
			want = append(want, name)
			all.HSet(t.Context(), s.StateKey(name), "state", "ok")
		}
		all.HSet(t.Context(), "FDB_TABLE|"+name, "type", "dynamic")
	}
	_, err := all.Exec(t.Context())
	s.must(err)
	ports, err := d.listState(t.Context())
	slices.Sort(ports)
	slices.Sort(want)
	if err != nil || !slices.Equal(slices.Compact(ports), want) {
		t.Errorf("%d of %d ports are listed, %v", len(ports), len(want), err)
	}
}

// TestListedNameIsAllThatIsKept: a port that is known from STATE_DB's list does not keep the list.
func TestListedNameIsAllThatIsKept(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.openDB()
	const ports, lists = 512, 200
	all := s.State.Pipeline()
	for i := range ports {
		all.HSet(t.Context(), s.StateKey(switchtest.PortName(i)), "host_tx_ready", "true")
	}
	_, err := all.Exec(t.Context())
	s.must(err)
	loop := newSyncer(syncOptions{eoiu: time.Minute}, &crowd{wake: make(chan struct{}, 1)}, nil, newMetrics("x"), new(health), slog.New(slog.DiscardHandler), time.Now)
	list := func() []string {
		names, err := d.listState(t.Context())
		s.must(err)
		return names
	}
	list()
	before := heapInUse()
	for i := range lists { // each time one name is new
		loop.links.named(list()[i])
	}
	if grown := int(heapInUse()-before) / lists; grown > 4096 {
		t.Errorf("each port that was listed keeps %d bytes", grown)
	}
	runtime.KeepAlive(loop)
}

// TestEntryOfAnotherTypeIsCounted: the script that reads it is answered, and an operator who watches portsyncd_redis_errors_total is told nevertheless, once for each
// round trip: by a start, before a write, and when orchagent's word is asked for.
func TestEntryOfAnotherTypeIsCounted(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, m := s.openDB()
	s.must(s.State.Set(t.Context(), s.StateKey("Ethernet0"), "text", 0).Err())
	s.must(s.Appl.Set(t.Context(), "PORT_TABLE:Ethernet8", "text", 0).Err())
	counted := func(what string, do func() error) {
		t.Helper()
		before := m.redisErrors.Load()
		s.must(do())
		if n := m.redisErrors.Load() - before; n != 1 {
			t.Errorf("%s counts %d errors", what, n)
		}
	}
	counted("a start", func() error {
		_, err := d.LookBack(t.Context(), []portConfig{{name: "Ethernet0"}, {name: "Ethernet4"}})
		return err
	})
	f := &flush{writes: []*portWrite{{port: "Ethernet0", set: true, check: true}, {port: "Ethernet4", set: true, check: true}}}
	counted("a flush", func() error { return d.Flush(t.Context(), f) })
	if f.writes[0].err == nil || f.writes[1].err != nil {
		t.Errorf("the writes' errors are %v and %v", f.writes[0].err, f.writes[1].err)
	}
	f = &flush{writes: []*portWrite{{port: "Ethernet8", oper: true}}}
	counted("orchagent's word", func() error { return d.Flush(t.Context(), f) })
	if f.writes[0].err != nil || f.writes[0].heard {
		t.Errorf("a key that is no hash: %+v", f.writes[0].outcome)
	}
}
