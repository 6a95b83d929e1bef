package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// The same fields of many hashes, and the keys of many, which a script reads and packs: a port costs a few bytes of an
// answer that way, and not a command, a list and a text for each field.

// readHashes reads fields of hashes. KEYS: the hashes. ARGV: the fields. It returns, packed, for each key the list of
// its fields, false for one that is not there, or the error as a text.
const readHashes script = `
local out = {}
for i, key in ipairs(KEYS) do
	local fields = redis.pcall('HMGET', key, unpack(ARGV))
	out[i] = fields.err or fields
end
return cmsgpack.pack(out)
`

// scanKeys lists some of a database's keys. ARGV: the cursor, the pattern, how many keys are looked at. It returns,
// packed, the next cursor and the list of keys.
const scanKeys script = `
local found = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
return cmsgpack.pack({found[1], found[2]})
`

// keysFrom are the keys of such an answer, and the next cursor; that is empty if the answer makes no sense.
func keysFrom(answer string) (keys []string, next string) {
	p := packed{rest: answer}
	_, both, list := p.next()
	next = p.text()
	_, items, listed := p.next()
	keys = p.texts(items)
	if p.bad || !list || both != 2 || !listed || p.rest != "" {
		return nil, ""
	}
	return keys, next
}

// keysPerRead is how many hashes one call reads, so that nobody else waits long for the server meanwhile.
const keysPerRead = 256

// hashAnswer is what a server says of one hash. Its texts share the memory of all of them: whatever outlives them is a
// clone.
type hashAnswer struct {
	err    error // it could not be read, or the key is of another type
	fields []hashField
}

// hashField is a field, or that it is not there.
type hashField struct {
	text  string
	there bool
}

// String is the fields, - for one that is not there.
func (h *hashAnswer) String() string {
	words := make([]string, len(h.fields))
	for i, f := range h.fields {
		if words[i] = f.text; !f.there {
			words[i] = "-"
		}
	}
	return strings.Join(words, " ")
}

// refusal is what a server says about one key.
type refusal string

func (r refusal) Error() string { return string(r) }

// RedisError makes it one of the errors that the client library knows.
func (refusal) RedisError() {}

// hashCommands ask for fields of hashes, and hashesFrom reads the answers.
func hashCommands(ctx context.Context, keys []*string, fields ...any) (commands []redis.Cmder) {
	for part := range slices.Chunk(keys, keysPerRead) {
		args := append(make([]any, 0, 3+len(part)+len(fields)), "eval", string(readHashes), len(part))
		for _, key := range part {
			args = append(args, key)
		}
		commands = append(commands, redis.NewCmd(ctx, append(args, fields...)...))
	}
	return commands
}

// hashesFrom hands out what the answers say of each of so many keys, of which so many fields were asked for. Where
// nothing was said, or it makes no sense, each has that as its error. The fields are valid until each returns. The
// error is the first that concerns the server, or the way to it. A script in which a key was refused is answered, and
// counts as a round trip that failed, as it would have with a command for each key.
func hashesFrom(m *metrics, answers []redis.Cmder, keys, fields int, each func(key int, h *hashAnswer)) (first error) {
	h, refused := hashAnswer{fields: make([]hashField, fields)}, false
	said := h.fields
	for key := 0; key < keys; {
		answer := answers[key/keysPerRead].(*redis.Cmd)
		text, err := answer.Text()
		p, end := packed{rest: text}, min(keys, key+keysPerRead)
		if _, items, list := p.next(); err == nil && (!list || items != uint64(end-key)) {
			err = errGarbled
		}
		for ; key < end; key++ {
			h.fields = said
			if h.err = err; err == nil {
				if h.err = p.hash(said); errors.Is(h.err, errGarbled) {
					err = h.err
				}
			}
			if h.err != nil {
				h.fields, refused = nil, refused || err == nil
			}
			if first == nil && unavailable(h.err) {
				first = h.err
			}
			each(key, &h)
		}
	}
	if refused {
		m.redisErrors.Inc()
	}
	return first
}

// hash reads what is said of one hash.
func (p *packed) hash(fields []hashField) error {
	text, items, list := p.next()
	switch {
	case p.bad || list && items != uint64(len(fields)) || !list && text == "":
		return errGarbled
	case !list:
		return refusal(text)
	}
	for i := range fields {
		fields[i].there = !strings.HasPrefix(p.rest, packedFalse)
		fields[i].text = p.text()
	}
	if p.bad {
		return errGarbled
	}
	return nil
}
