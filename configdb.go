package main

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// CONFIG_DB, as far as it concerns a port sync daemon.

// portConfig is one port of CONFIG_DB: its name and its fields as name, value, name, value… The fields of all ports are
// where the answer is that they were read from, packed as they came: whatever outlives them is a clone.
type portConfig struct {
	name   string
	fields packedTexts
}

// switchConfig is CONFIG_DB as one reading found it.
type switchConfig struct {
	ports      []portConfig
	odd        []string // keys of the PORT table that are no hashes
	complete   bool     // CONFIG_DB_INITIALIZED is 1
	lost       bool     // it was before, and now there is nothing
	switchType string   // DEVICE_METADATA; "dpu" has no old interfaces
	logger     logSettings
	eoiu       time.Duration // WARM_RESTART|swss portsyncd_timer, 0: not set
}

const recently = 50 * time.Millisecond // so old may ports be that are pushed without being read again

// logSettings are the fields of LOGGER|portsyncd; empty: missing.
type logSettings struct{ level, output string }

// alias is what operators call the port, empty: nothing else.
func (p *portConfig) alias() string { return p.fields.after("alias") }

// byPort sorts ports. An instance of slices.SortFunc has 12 KB for each type, of which the binary can spare few.
type byPort []portConfig

func (b byPort) Len() int           { return len(b) }
func (b byPort) Less(i, j int) bool { return comparePorts(b[i].name, b[j].name) < 0 }
func (b byPort) Swap(i, j int)      { b[i], b[j] = b[j], b[i] }

func namesOf(ports []portConfig) (names []string) {
	for _, p := range ports {
		names = append(names, p.name)
	}
	return names
}

// filled is the settings with SONiC's defaults for what is missing.
func (l logSettings) filled() logSettings {
	if l.level == "" {
		l.level = "NOTICE"
	}
	if l.output == "" {
		l.output = "SYSLOG"
	}
	return l
}

// configReading reads all of CONFIG_DB that matters in one step, so that it is never seen half rewritten: whether it is
// complete, DEVICE_METADATA's switch_type, the timer of a warm restart, the log's settings, and each port's key with
// its fields; a key that is no hash gives an empty string for its fields. KEYS: the four keys in this order. ARGV: the
// pattern of the ports' keys, the digest of the last answer. It leaves that in out, the same packed in all, or false if
// the digest is that of the last answer, and the digest in digest: nearly every reading finds what the one before has
// found.
const configReading = `
local function field(key, name)
	local value = redis.pcall('HGET', key, name)
	return type(value) == 'string' and value
end
local ready = redis.pcall('GET', KEYS[1])
local out = {type(ready) == 'string' and ready, field(KEYS[2], 'switch_type'), field(KEYS[3], 'portsyncd_timer'),
	field(KEYS[4], 'LOGLEVEL'), field(KEYS[4], 'LOGOUTPUT')}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
	local fields = redis.pcall('HGETALL', key)
	out[#out + 1] = key
	out[#out + 1] = fields.err and '' or fields
end
local all = cmsgpack.pack(out)
local digest = redis.sha1hex(all)
all = digest ~= ARGV[2] and all
`

// readConfig returns the digest, and what was read if it is another one.
const readConfig script = configReading + `
return {digest, all or nil}
`

// configHead is how many answers of configReading come before the ports, and firstPort where these begin in Lua.
const (
	configHead = 5
	firstPort  = "6"
)

// configKeys are the keys of configReading.
func (d *sonicDB) configKeys() []string {
	return []string{configReady, d.configKey(metadataTable, "localhost"), d.configKey("WARM_RESTART", dockerName),
		d.configKey(loggerTable, appName)}
}

// Load reads CONFIG_DB. It may still be filled, or be filled again, by others: errConfigLoading. Where nothing ever
// said that it is complete, it is taken as it is.
func (d *sonicDB) Load(ctx context.Context) (*switchConfig, error) {
	read := readConfig.run(ctx, d.m, d.config, d.configKeys(), d.configKey(portConfigTable, "*"), d.lastConfig.digest)
	answer, err := read.StringSlice()
	if err != nil {
		return nil, fmt.Errorf("read CONFIG_DB: %w", err)
	}
	return d.loaded(answer)
}

// loaded is what an answer of readConfig says.
func (d *sonicDB) loaded(answer []string) (*switchConfig, error) {
	last := &d.lastConfig
	if same := len(answer) == 1 && last.digest != "" && answer[0] == last.digest; !same {
		says, makesSense := d.takeConfig(answer)
		if !makesSense {
			return nil, fmt.Errorf("read CONFIG_DB: %w", errGarbled)
		}
		*last = lastAnswer{answer[0], says}
	}
	says, _ := last.says.(configAnswer)
	c := &says.config
	switch ready := says.ready; {
	case ready == "1":
		c.complete, d.ready = true, true
	case ready != "" || d.ready && len(c.ports) > 0:
		return nil, errConfigLoading
	default:
		c.lost = d.ready
	}
	return c, nil
}

// known is how many ports CONFIG_DB had when it was last read, 0 if it never was.
func (d *sonicDB) known() int {
	says, _ := d.lastConfig.says.(configAnswer)
	return len(says.config.ports)
}

// configAnswer is what an answer of readConfig says.
type configAnswer struct {
	ready  string
	config switchConfig
}

// takeConfig reads an answer; ok is false for one that makes no sense.
func (d *sonicDB) takeConfig(answer []string) (says configAnswer, ok bool) {
	if len(answer) != 2 {
		return says, false
	}
	out := packed{rest: answer[1]}
	_, items, list := out.next()
	out.bad = out.bad || !list || items < configHead || (items-configHead)%2 != 0
	var head [configHead]string
	for i := range head {
		head[i] = out.text()
	}
	c := switchConfig{switchType: strings.Clone(head[1]),
		logger: logSettings{strings.Clone(head[3]), strings.Clone(head[4])}}
	if seconds, err := strconv.Atoi(head[2]); err == nil && seconds >= 1 && seconds <= 9999 {
		c.eoiu = time.Duration(seconds) * time.Second
	}
	c.ports = make([]portConfig, 0, min(items, uint64(len(out.rest)))/2) // an item takes a byte at least
	for i := uint64(configHead); i+1 < items && !out.bad; i += 2 {
		name := strings.Clone(strings.TrimPrefix(out.text(), d.configKey(portConfigTable, "")))
		if fields, isHash := out.list(); isHash {
			c.ports = append(c.ports, portConfig{name, fields})
		} else {
			c.odd = append(c.odd, name)
		}
	}
	sort.Sort(byPort(c.ports))
	slices.Sort(c.odd)
	c.ports = slices.Clip(c.ports) // it is given out more than once
	return configAnswer{head[0], c}, !out.bad && out.rest == ""
}

// SetLogger writes LOGGER|portsyncd, for an operator to find and change. A key of another type stays as it is.
func (d *sonicDB) SetLogger(ctx context.Context, l logSettings) error {
	set := redis.NewIntCmd(ctx, "hset", d.configKey(loggerTable, appName), "LOGLEVEL", l.level, "LOGOUTPUT", l.output)
	return pipeline(ctx, d.m, d.config, []redis.Cmder{set})
}
