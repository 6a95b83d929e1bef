package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// SONiC's databases: where they are, what the tables and keys are called, and how a port gets into them.
// Rules and names are those of SONIC.md.

// Tables, keys and fields.
const (
	portTable       = "PORT_TABLE" // APPL_DB and STATE_DB
	portConfigDone  = "PortConfigDone"
	portInitDone    = "PortInitDone"
	portConfigTable = "PORT" // CONFIG_DB
	metadataTable   = "DEVICE_METADATA"
	loggerTable     = "LOGGER"
	configReady     = "CONFIG_DB_INITIALIZED" // a plain key
)

// errConfig marks an error that waiting does not cure: the operator has to mend a file.
var errConfig = errors.New("configuration error")

// errConfigLoading says that CONFIG_DB is still being filled.
var errConfigLoading = errors.New("CONFIG_DB is being loaded (" + configReady + " is not 1)")

// portState is what STATE_DB says about a port, beside state=ok.
type portState struct {
	admin, oper bool
	mtu         uint32
}

// portWrite is what one port needs written, and afterwards what came of it. It stays with its port, so that
// a flush makes no strings.
type portWrite struct {
	port  string
	state portState
	del   bool // the interface went away since the last write: delete the key, before set
	set   bool // publish state
	ask   bool // only if APPL_DB has the port: ask now
	check bool // what STATE_DB holds is not known: read it, and write only if it differs
	stale bool // del is only a suspicion: delete an entry that is ours, one with the field state, and no other

	found   string // out: what STATE_DB held, if it was read and is not as it should be
	exists  bool   // out: APPL_DB has the port (if asked)
	written bool   // out: an HSET was sent and acknowledged
	same    bool   // out: STATE_DB held this state already
	err     error  // out: the outcome is unknown, nil: as wanted

	stateKey, applKey string
	mtu               uint32
	mtuText           string
	args              [10]any
}

// flush is one round trip's worth of work for the databases.
type flush struct {
	writes   []*portWrite
	confirm  []*portWrite // ports believed to be in APPL_DB, to be counted there
	initDone bool         // send PortInitDone after the writes
	list     bool         // list the ports that STATE_DB has entries of
	signals  bool         // look whether APPL_DB still has PortConfigDone
	warm     string       // write this state of the warm restart, after everything else

	missing     bool     // out: not all of confirm are in APPL_DB
	listed      []string // out
	signalsGone bool     // out: it has not
}

// portConfig is one port of CONFIG_DB: its name and its fields as name, value, name, value…
type portConfig struct {
	name   string
	fields []string
}

// switchConfig is what a start needs to know from the databases.
type switchConfig struct {
	ports      []portConfig
	switchType string // DEVICE_METADATA; "dpu" has no old interfaces
	events     bool   // the servers of APPL_DB and CONFIG_DB send keyspace events
	logger     logSettings
	eoiu       time.Duration // WARM_RESTART|swss portsyncd_timer, 0: not set
}

// logSettings are the fields of LOGGER|portsyncd; empty: missing.
type logSettings struct{ level, output string }

// names are the configured ports' names.
func (c *switchConfig) names() (names []string) {
	for _, p := range c.ports {
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

// startFacts is what the databases tell about the run before.
type startFacts struct {
	warm       bool                 // a warm restart was asked for, and can be had
	configDone bool                 // APPL_DB has PortConfigDone
	initDone   bool                 // and PortInitDone
	count      int                  // of PortConfigDone, -1: not known
	held       map[string]portState // what STATE_DB has of ours about configured ports
}

// sonicDB is the connections to the three databases. One goroutine uses it at a time, but for Watch.
type sonicDB struct {
	appl, config, state          *redis.Client
	applAddr, cfgAddr, stateAddr dbAddress
	m                            *metrics
	closed                       atomic.Bool
}

// Time-outs: a switch's Redis answers in microseconds, and a hanging one should be noticed before supervisors are.
const (
	dbDialTimeout = time.Second
	dbTimeout     = 2 * time.Second
	poolSize      = 256  // never more than one connection is used; but after so many dials that failed the client would not dial for a second
	pipelineLen   = 1024 // commands written before their answers are read
	portsPerCall  = 256  // ports one script call carries
)

func openSonicDB(file *dbConfigFile, m *metrics) (*sonicDB, error) {
	c, err := file.read()
	if err != nil {
		return nil, err
	}
	d := &sonicDB{m: m}
	d.applAddr, _ = c.address("APPL_DB")
	d.cfgAddr, _ = c.address("CONFIG_DB")
	d.stateAddr, _ = c.address("STATE_DB")
	d.appl, d.config, d.state = d.connect(d.applAddr), d.connect(d.cfgAddr), d.connect(d.stateAddr)
	return d, nil
}

// connect makes a client; it dials when first used. Handshakes that SONiC's Redis does not know are off, and
// so are the client's own retries: they would hide an outage from the metrics.
func (d *sonicDB) connect(a dbAddress) *redis.Client {
	var connected atomic.Bool
	return redis.NewClient(&redis.Options{
		Network: a.network, Addr: a.address, DB: a.id,
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		MaxRetries:               -1,
		DialerRetries:            1,
		DialTimeout:              dbDialTimeout,
		ReadTimeout:              dbTimeout,
		WriteTimeout:             dbTimeout,
		ContextTimeoutEnabled:    true,
		PoolSize:                 poolSize,
		ConnMaxIdleTime:          -1,
		ReadBufferSize:           4 << 10,
		WriteBufferSize:          16 << 10,
		OnConnect: func(context.Context, *redis.Conn) error {
			if connected.Swap(true) {
				d.m.redisReconnects.Inc()
			}
			return nil
		},
	})
}

func (d *sonicDB) Close() {
	if d.closed.Swap(true) {
		return
	}
	for _, c := range []*redis.Client{d.appl, d.config, d.state} {
		_ = c.Close()
	}
}

func (d *sonicDB) applKey(port string) string         { return portTable + d.applAddr.separator + port }
func (d *sonicDB) configKey(table, row string) string { return table + d.cfgAddr.separator + row }
func (d *sonicDB) stateKey(port string) string        { return portTable + d.stateAddr.separator + port }

// unavailable tells an error that concerns the server or the way to it from one that concerns a single command.
func unavailable(err error) bool {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return true
	}
	for _, code := range []string{"LOADING", "READONLY", "OOM", "NOAUTH", "WRONGPASS", "NOPERM", "MISCONF", "MASTERDOWN", "BUSY"} {
		if strings.HasPrefix(reply.Error(), code+" ") {
			return true
		}
	}
	return false
}

// account counts the commands of one round trip, its duration and its failure.
func (d *sonicDB) account(start time.Time, commands int, err error) {
	d.m.redisLatency.Observe(time.Since(start))
	d.m.redisCommands.Add(uint64(commands))
	if err != nil && !errors.Is(err, redis.Nil) {
		d.m.redisErrors.Inc()
	}
}

// pipeline sends commands, at most pipelineLen at a time, and returns the first error that was no mere redis.Nil.
// The answer to each is in the command itself.
func pipeline[C redis.Cmder](ctx context.Context, d *sonicDB, c *redis.Client, commands []C) error {
	var first error
	for part := range slices.Chunk(commands, pipelineLen) {
		pipe := c.Pipeline()
		for _, command := range part {
			_ = pipe.Process(ctx, command)
		}
		start := time.Now()
		_, err := pipe.Exec(ctx)
		d.account(start, len(part), err)
		blame(part, err)
		if err != nil && first == nil && !errors.Is(err, redis.Nil) {
			first = err
		}
	}
	return first
}

// blame gives a round trip's error to its commands if none of them has one. The client leaves them without when it could not get a
// connection, and a command that was never sent must not pass for one that was answered with nothing.
func blame[C redis.Cmder](commands []C, err error) {
	if err == nil {
		return
	}
	for _, command := range commands {
		if command.Err() != nil {
			return
		}
	}
	for _, command := range commands {
		command.SetErr(err)
	}
}

// Load reads what a start needs, in two round trips. CONFIG_DB may still be filled by others: errConfigLoading.
func (d *sonicDB) Load(ctx context.Context) (*switchConfig, error) {
	keys := redis.NewStringSliceCmd(ctx, "keys", d.configKey(portConfigTable, "*"))
	ready := redis.NewStringCmd(ctx, "get", configReady)
	switchType := redis.NewStringCmd(ctx, "hget", d.configKey(metadataTable, "localhost"), "switch_type")
	timer := redis.NewStringCmd(ctx, "hget", d.configKey("WARM_RESTART", dockerName), appName+"_timer")
	logger := d.loggerCommand(ctx)
	if err := pipeline(ctx, d, d.config, []redis.Cmder{keys, ready, switchType, timer, logger}); err != nil {
		return nil, fmt.Errorf("read CONFIG_DB: %w", err)
	}
	if ready.Err() == nil && ready.Val() != "1" {
		return nil, errConfigLoading
	}
	names := keys.Val()
	slices.SortFunc(names, comparePorts)
	hashes := make([]*redis.StringSliceCmd, len(names))
	for i, key := range names {
		hashes[i] = redis.NewStringSliceCmd(ctx, "hgetall", key)
	}
	if err := pipeline(ctx, d, d.config, hashes); err != nil {
		return nil, fmt.Errorf("read the ports of CONFIG_DB: %w", err)
	}
	c := &switchConfig{switchType: switchType.Val(), logger: loggerOf(logger)}
	if seconds, err := strconv.Atoi(timer.Val()); err == nil && seconds >= 1 && seconds <= 9999 {
		c.eoiu = time.Duration(seconds) * time.Second
	}
	for i, hash := range hashes {
		if fields := hash.Val(); len(fields) > 0 { // an empty hash was deleted meanwhile
			c.ports = append(c.ports, portConfig{strings.TrimPrefix(names[i], d.configKey(portConfigTable, "")), fields})
		}
	}
	c.events = d.sendsEvents(ctx, d.appl) && (d.applAddr.address == d.cfgAddr.address || d.sendsEvents(ctx, d.config))
	return c, nil
}

func (d *sonicDB) loggerCommand(ctx context.Context) *redis.SliceCmd {
	return redis.NewSliceCmd(ctx, "hmget", d.configKey(loggerTable, appName), "LOGLEVEL", "LOGOUTPUT")
}

func loggerOf(c *redis.SliceCmd) (s logSettings) {
	if fields := c.Val(); len(fields) == 2 {
		s.level, _ = fields[0].(string)
		s.output, _ = fields[1].(string)
	}
	return s
}

// Look reads what may have changed in CONFIG_DB since the start: which ports there are, and the log settings.
func (d *sonicDB) Look(ctx context.Context) (ports []string, logger logSettings, err error) {
	keys, settings := redis.NewStringSliceCmd(ctx, "keys", d.configKey(portConfigTable, "*")), d.loggerCommand(ctx)
	if err := pipeline(ctx, d, d.config, []redis.Cmder{keys, settings}); err != nil {
		return nil, logger, fmt.Errorf("read CONFIG_DB: %w", err)
	}
	for _, key := range keys.Val() {
		ports = append(ports, strings.TrimPrefix(key, d.configKey(portConfigTable, "")))
	}
	return ports, loggerOf(settings), nil
}

// SetLogger writes LOGGER|portsyncd, for an operator to find and change.
func (d *sonicDB) SetLogger(ctx context.Context, l logSettings) error {
	set := redis.NewIntCmd(ctx, "hset", d.configKey(loggerTable, appName), "LOGLEVEL", l.level, "LOGOUTPUT", l.output)
	return pipeline(ctx, d, d.config, []*redis.IntCmd{set})
}

// signalKeys are the keys of a signal: as a consumer has it, and on its way there.
func (d *sonicDB) signalKeys(signal string) []any {
	return []any{"exists", d.applKey(signal), "_" + d.applKey(signal)}
}

// LookBack reads what the run before left. It decides about a warm start, and counts it: call it once a start.
func (d *sonicDB) LookBack(ctx context.Context, ports []portConfig) (f startFacts, err error) {
	configDone, initDone := redis.NewIntCmd(ctx, d.signalKeys(portConfigDone)...), redis.NewIntCmd(ctx, d.signalKeys(portInitDone)...)
	count := redis.NewStringCmd(ctx, "hget", d.applKey(portConfigDone), "count")
	if err := pipeline(ctx, d, d.appl, []redis.Cmder{configDone, initDone, count}); err != nil {
		return f, fmt.Errorf("look for the signals in APPL_DB: %w", err)
	}
	if f.count, err = strconv.Atoi(count.Val()); err != nil {
		f.count = -1
	}
	f.configDone, f.initDone = configDone.Val() > 0, initDone.Val() > 0
	entries := make([]*redis.SliceCmd, len(ports))
	for i, p := range ports {
		entries[i] = d.entryCommand(ctx, d.stateKey(p.name))
	}
	if err := pipeline(ctx, d, d.state, entries); err != nil {
		return f, fmt.Errorf("read the entries of STATE_DB: %w", err)
	}
	f.held = make(map[string]portState)
	for i, entry := range entries {
		if state, whole := stateFrom(entry.Val()); whole {
			f.held[ports[i].name] = state
		}
	}
	f.warm, err = d.decideWarmStart(ctx)
	return f, err
}

// entryCommand reads our four fields of an entry.
func (d *sonicDB) entryCommand(ctx context.Context, key string) *redis.SliceCmd {
	return redis.NewSliceCmd(ctx, "hmget", key, "state", "netdev_oper_status", "admin_status", "mtu")
}

// stateFrom reads a state from our four fields; whole says that all of them are there and make sense.
func stateFrom(found []any) (state portState, whole bool) {
	if len(found) != 4 || found[0] != "ok" {
		return state, false
	}
	mtu, _ := found[3].(string)
	n, err := strconv.ParseUint(mtu, 10, 32)
	state = portState{oper: found[1] == "up", admin: found[2] == "up", mtu: uint32(n)}
	return state, err == nil && (state.oper || found[1] == "down") && (state.admin || found[2] == "down")
}

// producerSet is the producer-state-table protocol of SONIC.md for many ports in one call. Consumers pop a bounded number of
// keys a notification, so each key that was not waiting already gets a notification of its own.
// KEYS: the key set, the channel, then each port's pending hash. ARGV: for each port its name, the number of
// strings that follow, and these: field, value, field, value…
var producerSet = redis.NewScript(`
local at, announced = 1, 0
for i = 3, #KEYS do
	local port, n = ARGV[at], tonumber(ARGV[at + 1])
	local fresh = redis.call('SADD', KEYS[1], port)
	redis.call('HSET', KEYS[i], unpack(ARGV, at + 2, at + 1 + n))
	if fresh == 1 then
		redis.call('PUBLISH', KEYS[2], 'G')
		announced = announced + 1
	end
	at = at + 2 + n
end
return announced
`)

// produce hands ports to the consumers of APPL_DB's PORT_TABLE. The script is loaded again when the server lost it.
func (d *sonicDB) produce(ctx context.Context, ports []portConfig) error {
	for part := range slices.Chunk(ports, portsPerCall) {
		keys := []string{portTable + "_KEY_SET", portTable + "_CHANNEL@" + strconv.Itoa(d.applAddr.id)}
		var args []any
		for _, p := range part {
			keys = append(keys, "_"+d.applKey(p.name))
			args = append(args, p.name, len(p.fields))
			for _, s := range p.fields {
				args = append(args, s)
			}
		}
		start := time.Now()
		err := producerSet.Run(ctx, d.appl, keys, args...).Err()
		d.account(start, 1, err)
		if err != nil {
			return fmt.Errorf("write %s and %d more ports to APPL_DB: %w", part[0].name, len(part)-1, err)
		}
	}
	return nil
}

// Recount sends PortConfigDone with the present number of ports.
func (d *sonicDB) Recount(ctx context.Context, count int) error {
	return d.produce(ctx, []portConfig{{portConfigDone, []string{"count", strconv.Itoa(count)}}})
}

// Announce pushes the configured ports to APPL_DB, and then PortConfigDone with their number.
func (d *sonicDB) Announce(ctx context.Context, ports []portConfig) error {
	done := portConfig{portConfigDone, []string{"count", strconv.Itoa(len(ports))}}
	return d.produce(ctx, append(slices.Clone(ports), done))
}

// Flush carries out f. Each write has its own outcome; the error is the first that concerned the connection
// or the signal.
func (d *sonicDB) Flush(ctx context.Context, f *flush) error {
	for _, w := range f.writes {
		w.found, w.exists, w.written, w.same, w.err = "", false, false, false, nil
	}
	err := d.askAppl(ctx, f)
	if checkErr := d.checkState(ctx, f.writes); err == nil {
		err = checkErr
	}
	if writeErr := d.writeState(ctx, f.writes); err == nil {
		err = writeErr
	}
	if err == nil && f.initDone {
		err = d.produce(ctx, []portConfig{{portInitDone, []string{"lanes", "0"}}})
	}
	if err == nil && f.list {
		f.listed, err = d.listState(ctx)
	}
	if err == nil && f.warm != "" {
		err = d.setWarmState(ctx, f.warm)
	}
	return err
}

// listState names the ports that STATE_DB has entries of, ours or not.
func (d *sonicDB) listState(ctx context.Context) (ports []string, err error) {
	for cursor := uint64(0); ; {
		start := time.Now()
		keys, next, err := d.state.Scan(ctx, cursor, d.stateKey("*"), pipelineLen).Result()
		d.account(start, 1, err)
		if err != nil {
			return nil, fmt.Errorf("list the entries of STATE_DB: %w", err)
		}
		for _, key := range keys {
			ports = append(ports, strings.TrimPrefix(key, d.stateKey("")))
		}
		if cursor = next; cursor == 0 {
			return ports, nil
		}
	}
}

// askAppl finds out which of the ports exist in APPL_DB, right before they are written.
func (d *sonicDB) askAppl(ctx context.Context, f *flush) error {
	var commands []*redis.IntCmd
	var asked []*portWrite
	for _, w := range f.writes {
		if w.ask {
			commands = append(commands, redis.NewIntCmd(ctx, "exists", d.keyInAppl(w)))
			asked = append(asked, w)
		}
	}
	if len(f.confirm) > 0 {
		args := []any{"exists"}
		for _, w := range f.confirm {
			args = append(args, d.keyInAppl(w))
		}
		commands = append(commands, redis.NewIntCmd(ctx, args...))
	}
	if f.signals {
		commands = append(commands, redis.NewIntCmd(ctx, d.signalKeys(portConfigDone)...))
	}
	if len(commands) == 0 {
		return nil
	}
	err := pipeline(ctx, d, d.appl, commands)
	for i, w := range asked {
		w.exists, w.err = commands[i].Val() > 0, commands[i].Err()
	}
	rest := commands[len(asked):]
	if len(f.confirm) > 0 {
		f.missing = rest[0].Err() != nil || rest[0].Val() != int64(len(f.confirm))
		rest = rest[1:]
	}
	f.signalsGone = f.signals && rest[0].Err() == nil && rest[0].Val() == 0
	return err
}

func (d *sonicDB) keyInAppl(w *portWrite) string {
	if w.applKey == "" {
		w.applKey = d.applKey(w.port)
	}
	return w.applKey
}

// wanted says that a port's state is to be published, as far as is known by now.
func (w *portWrite) wanted() bool { return w.err == nil && w.set && !w.same && (w.exists || !w.ask) }

// checkState reads the entries that are in doubt, and drops the writes that would change nothing.
func (d *sonicDB) checkState(ctx context.Context, writes []*portWrite) error {
	var commands []*redis.SliceCmd
	var checked []*portWrite
	for _, w := range writes {
		if w.err == nil && w.del && w.stale || w.check && !w.del && w.wanted() {
			commands = append(commands, d.entryCommand(ctx, d.keyInState(w)))
			checked = append(checked, w)
		}
	}
	if len(commands) == 0 {
		return nil
	}
	err := pipeline(ctx, d, d.state, commands)
	for i, w := range checked {
		if w.err = commands[i].Err(); w.err != nil {
			continue
		}
		found := commands[i].Val()
		w.del = w.del && found[0] != nil
		state, whole := stateFrom(found)
		w.same = w.set && !w.del && whole && state == w.state
		if !w.same {
			w.found = strings.Join(texts(found), " ")
		}
	}
	return err
}

func (d *sonicDB) keyInState(w *portWrite) string {
	if w.stateKey == "" {
		w.stateKey = d.stateKey(w.port)
	}
	return w.stateKey
}

// texts are the fields found, - for one that was not there.
func texts(found []any) (texts []string) {
	for _, f := range found {
		if f == nil {
			f = "-"
		}
		texts = append(texts, fmt.Sprint(f))
	}
	return texts
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

func (w *portWrite) mtuString() string {
	if w.mtuText == "" || w.mtu != w.state.mtu {
		w.mtu, w.mtuText = w.state.mtu, strconv.FormatUint(uint64(w.state.mtu), 10)
	}
	return w.mtuText
}

// writeState sends the deletions and the four fields, a port's deletion before its fields.
func (d *sonicDB) writeState(ctx context.Context, writes []*portWrite) error {
	commands := make([]*redis.IntCmd, 0, len(writes))
	owners := make([]*portWrite, 0, len(writes))
	for _, w := range writes {
		if w.del && w.err == nil {
			commands = append(commands, redis.NewIntCmd(ctx, "del", d.keyInState(w)))
			owners = append(owners, w)
		}
		if w.wanted() {
			w.args = [...]any{"hset", d.keyInState(w), "state", "ok", "netdev_oper_status", upDown(w.state.oper),
				"admin_status", upDown(w.state.admin), "mtu", w.mtuString()}
			commands = append(commands, redis.NewIntCmd(ctx, w.args[:]...))
			owners = append(owners, w)
			w.written = true
		}
	}
	if len(commands) == 0 {
		return nil
	}
	err := pipeline(ctx, d, d.state, commands)
	for i, w := range owners {
		if cmdErr := commands[i].Err(); cmdErr != nil {
			w.err, w.written = cmdErr, false
		}
	}
	return err
}
