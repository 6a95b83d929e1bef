package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"portsyncd/internal/switchtest"
)

// pack does what cmsgpack.pack does with lists, texts and nil.
func pack(what any) string {
	head := func(n int, short byte, most int, kinds ...byte) string {
		switch {
		case n <= most:
			return string([]byte{short | byte(n)})
		case n < 1<<8 && len(kinds) == 3:
			return string([]byte{kinds[0], byte(n)})
		case n < 1<<16:
			return string(binary.BigEndian.AppendUint16([]byte{kinds[len(kinds)-2]}, uint16(n)))
		}
		return string(binary.BigEndian.AppendUint32([]byte{kinds[len(kinds)-1]}, uint32(n)))
	}
	switch what := what.(type) {
	case string:
		return head(len(what), 0xa0, 31, 0xd9, 0xda, 0xdb) + what
	case []any:
		all := []string{head(len(what), 0x90, 15, 0xdc, 0xdd)}
		for _, item := range what {
			all = append(all, pack(item))
		}
		return strings.Join(all, "")
	}
	return "\xc2"
}

// packedFields is how a port's fields are packed: field, value, field, value…
func packedFields(words ...string) packedTexts {
	list := make([]any, len(words))
	for i, word := range words {
		list[i] = word
	}
	return packedTexts(pack(list))
}

// words are the texts of such a list.
func (l packedTexts) words() []string {
	p := packed{rest: string(l)}
	_, items, _ := p.next()
	return p.texts(items)
}

// unpacked reads a list of texts and lists of texts.
func unpacked(answer string) (all []string, ok bool) {
	p := packed{rest: answer}
	_, n, list := p.next()
	for range n {
		if p.bad {
			return nil, false
		}
		text, items, list := p.next()
		if list {
			text = fmt.Sprint(p.texts(items))
		}
		all = append(all, text)
	}
	return all, list && !p.bad && p.rest == ""
}

// TestPacked: what a real Redis packs is read, whatever its length, and the tests' own packing is the same.
func TestPacked(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	var want []string
	list := []any{nil}
	for _, n := range []int{0, 1, 31, 32, 255, 256, 65535, 65536, 100000} {
		want, list = append(want, strings.Repeat("x", n)), append(list, strings.Repeat("x", n))
	}
	for _, n := range []int{1, 15, 16, 70000} {
		want = append(want, fmt.Sprint(slices.Repeat([]string{"a\x00b"}, n)))
		list = append(list, slices.Repeat([]any{"a\x00b"}, n))
	}
	answer, err := s.State.Eval(t.Context(), `
local out = {false}
for _, n in ipairs({0, 1, 31, 32, 255, 256, 65535, 65536, 100000}) do out[#out + 1] = string.rep('x', n) end
for _, n in ipairs({1, 15, 16, 70000}) do
	local list = {}
	for i = 1, n do list[i] = 'a\0b' end
	out[#out + 1] = list
end
return cmsgpack.pack(out)`, nil).Text()
	s.must(err)
	if answer != pack(list) {
		t.Error("the tests pack something else than Redis does")
	}
	got, ok := unpacked(answer)
	if !ok || len(got) != len(want)+1 || got[0] != "" || !slices.Equal(got[1:], want) {
		t.Errorf("%d of %d texts were read: %v", len(got), len(want)+1, ok)
	}
	for n := range 200 {
		if _, ok := unpacked(answer[:n]); ok {
			t.Errorf("the first %d bytes pass for all", n)
		}
	}
	for _, odd := range []string{"", "\xc1", "\xc3", "\x01", "\xdd\xff\xff\xff\xff", "\xdc\xff\xff\xa0", "\x91\xdb\xff\xff\xff\xff",
		"\x91\xdd\xff\xff\xff\xff", "\xa1x", "\x91\xa1xy"} {
		if got, ok := unpacked(odd); ok {
			t.Errorf("%q was read as %q", odd, got)
		}
	}
}

// TestConfigThatMakesNoSense: an answer that is cut, or something else, is an error that names CONFIG_DB.
func TestConfigThatMakesNoSense(t *testing.T) {
	none := strings.Repeat("\xa0", configHead)
	answers := []any{"", int64(1), []any{}, []any{""}, []any{"x"}, []any{"x", "\x95" + none, "x"}, []any{"x", int64(1)}}
	for _, packed := range []string{"", "\x90", "\x95\xa0", pack([]any{"1"}), pack([]any{"", "", "", "", "", "PORT|Ethernet0"}),
		pack([]any{"", "", "", "", "", "PORT|Ethernet0", []any{[]any{"x"}}}), pack([]any{"", "", "", "", ""}) + "x",
		"\xa0" + none, "\xc0" + none, "\x90" + none, "\x93" + none, "\x96" + none} {
		answers = append(answers, []any{"x", packed})
	}
	for _, answer := range answers {
		d := &sonicDB{m: newMetrics(""), config: answering{answer}}
		if c, err := d.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "read CONFIG_DB") {
			t.Errorf("%q was read as %+v, %v", answer, c, err)
		}
	}
}

// TestConfigThatIsReadAgain: what has not changed is not read apart again, and whatever has is.
func TestConfigThatIsReadAgain(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.openDB()
	ctx := t.Context()
	load := func(what string) *switchConfig {
		c, err := d.Load(ctx)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return c
	}
	s.must(s.Config.HSet(ctx, "PORT|Ethernet0", "mtu", "9100").Err())
	first, again := load("at first"), load("again")
	if &first.ports[0] != &again.ports[0] || first == again {
		t.Error("the same answer is read apart again, or both have one config")
	}
	s.must(s.Config.HSet(ctx, "PORT|Ethernet0", "mtu", "1500").Err())
	if c := load("after a change"); c.ports[0].fields.after("mtu") != "1500" || first.ports[0].fields.after("mtu") != "9100" {
		t.Errorf("%+v after a change, and before it %+v", c, first)
	}
	s.must(s.Config.Set(ctx, configReady, "1", 0).Err())
	if c := load("complete"); !c.complete {
		t.Error("it is not complete")
	}
	s.must(s.Config.Del(ctx, configReady).Err())
	for range 2 {
		if _, err := d.Load(ctx); !errors.Is(err, errConfigLoading) {
			t.Errorf("while it is loaded: %v", err)
		}
	}
	s.must(s.Config.Del(ctx, "PORT|Ethernet0").Err())
	for range 2 {
		if c := load("empty"); !c.lost || len(c.ports) != 0 {
			t.Errorf("%+v of an empty one that was complete", c)
		}
	}
}

// answering is a database that answers every command with the same.
type answering struct{ with any }

func (a answering) Exec(_ context.Context, commands []redis.Cmder) error {
	for _, c := range commands {
		if err, failed := a.with.(error); failed {
			c.SetErr(err)
			continue
		}
		c.(*redis.Cmd).SetVal(a.with)
	}
	return nil
}

func (answering) Subscribe(context.Context, []string, func(), func(channel, payload string)) error {
	return nil
}
func (answering) Nudge()       {}
func (answering) Close() error { return nil }

// packedHashes are the fields of each of so many hashes as pack takes them, or its error, how many bytes that is of, and whether all makes sense.
func packedHashes(t *testing.T, answer string, keys, fields int) (all []any, said int, sense bool) {
	t.Helper()
	command := redis.NewCmd(t.Context())
	command.SetVal(answer)
	sense = true
	_ = hashesFrom(newMetrics(""), []redis.Cmder{command}, keys, fields, func(key int, h *hashAnswer) {
		if key != len(all) || (h.err == nil) != (len(h.fields) == fields) {
			t.Fatalf("key %d after %d: %+v", key, len(all), h)
		}
		if h.err != nil {
			all, said, sense = append(all, h.err.Error()), said+len(h.err.Error()), sense && !errors.Is(h.err, errGarbled)
			return
		}
		list := []any{}
		for _, f := range h.fields {
			said += len(f.text)
			if list = append(list, nil); f.there {
				list[len(list)-1] = f.text
			}
		}
		all = append(all, list)
	})
	if len(all) != keys {
		t.Fatalf("%d of %d keys have an answer", len(all), keys)
	}
	return all, said, sense
}

// FuzzScriptAnswers: whatever a server says is packed, every key has one answer, made of no more than was said, and what makes sense says the same when the tests pack it again.
func FuzzScriptAnswers(f *testing.F) {
	for _, answer := range []any{[]any{[]any{"ok", "up", nil}, "WRONGTYPE x", []any{nil, nil, nil}}, []any{"1", nil, nil, nil, nil, "PORT|Ethernet0", []any{"mtu", "9100"}},
		[]any{}, strings.Repeat("x", 300), []any{[]any{[]any{}}}} {
		f.Add(pack(answer))
	}
	f.Add("\xdd\xff\xff\xff\xff")
	f.Fuzz(func(t *testing.T, answer string) {
		if all, said, sense := packedHashes(t, answer, 3, 3); sense {
			again, _, _ := packedHashes(t, pack(all), 3, 3)
			if len(answer) < said || !reflect.DeepEqual(all, again) {
				t.Errorf("%q says %q, which are %d bytes, and then %q", answer, all, said, again)
			}
		}
		if keys, next := keysFrom(answer); len(keys) > len(answer) || next == "" && keys != nil {
			t.Errorf("%q has the keys %q, and then %q", answer, keys, next)
		}
		d := &sonicDB{m: newMetrics("")}
		if says, ok := d.takeConfig([]string{"digest", answer}); ok && len(says.config.ports)+len(says.config.odd) > len(answer) {
			t.Errorf("%q has %d ports", answer, len(says.config.ports))
		}
	})
}
