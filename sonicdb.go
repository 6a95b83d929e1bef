package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
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

// errNoDBConfig says that database_config.json does not exist yet; a booting switch is still to write it.
var errNoDBConfig = errors.New("no database configuration")

// dbAddress is one database of database_config.json.
type dbAddress struct {
	name      string
	network   string // unix or tcp
	address   string
	id        int
	separator string
}

// server is the same for databases of one Redis.
func (a dbAddress) server() string { return a.network + " " + a.address }

// dbConfig is database_config.json, as far as it concerns us.
type dbConfig struct {
	Instances map[string]struct {
		Hostname       string `json:"hostname"`
		Port           int    `json:"port"`
		UnixSocketPath string `json:"unix_socket_path"`
	} `json:"INSTANCES"`
	Databases map[string]struct {
		ID        int    `json:"id"`
		Separator string `json:"separator"`
		Instance  string `json:"instance"`
	} `json:"DATABASES"`
}

// readDBConfig reads database_config.json. A file that does not exist gives errNoDBConfig; one that does not make sense gives errConfig.
func readDBConfig(path string) (*dbConfig, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %v", errNoDBConfig, err)
	}
	c := new(dbConfig)
	if err == nil {
		err = json.Unmarshal(text, c)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: -db.config %s: %v", errConfig, path, err)
	}
	for _, name := range []string{"APPL_DB", "CONFIG_DB", "STATE_DB"} {
		if _, err := c.address(name); err != nil {
			return nil, fmt.Errorf("%w: -db.config %s: %v", errConfig, path, err)
		}
	}
	return c, nil
}

// address finds a database by name; its unix socket is preferred over TCP.
func (c *dbConfig) address(name string) (dbAddress, error) {
	db, ok := c.Databases[name]
	if !ok {
		return dbAddress{}, fmt.Errorf("DATABASES has no %s", name)
	}
	instance, ok := c.Instances[db.Instance]
	if !ok {
		return dbAddress{}, fmt.Errorf("%s is on instance %q, which INSTANCES does not have", name, db.Instance)
	}
	a := dbAddress{name: name, id: db.ID, separator: db.Separator}
	switch {
	case db.Separator == "":
		return a, fmt.Errorf("%s has no separator", name)
	case db.ID < 0:
		return a, fmt.Errorf("%s has id %d", name, db.ID)
	case instance.UnixSocketPath != "":
		a.network, a.address = "unix", instance.UnixSocketPath
	case instance.Hostname != "" && instance.Port > 0 && instance.Port < 1<<16:
		a.network, a.address = "tcp", net.JoinHostPort(instance.Hostname, strconv.Itoa(instance.Port))
	default:
		return a, fmt.Errorf("instance %q has neither unix_socket_path nor hostname and port", db.Instance)
	}
	return a, nil
}

// portState is what STATE_DB says about a port, beside state=ok.
type portState struct {
	admin, oper bool
	mtu         uint32
}

// deletion is whether a port's entry is to be deleted.
type deletion uint8

const (
	delNone    deletion = iota
	delIfOurs           // only a suspicion: an entry that is ours, one with the field state, and no other
	delCertain          // the interface was seen to go: whatever the entry holds
)

// portWrite is a question about one port's entry, and what came of it. It stays with its port, so that a flush makes no strings.
type portWrite struct {
	port  string
	state portState
	del   deletion // before set
	set   bool     // publish state
	ask   bool     // only if APPL_DB has the port: ask now
	check bool     // what STATE_DB holds is not known: read it, and write only if it differs

	outcome
	stateKey, applKey string
	mtu               uint32
	mtuText           string
	args              [10]any
}

// outcome is what came of a portWrite.
type outcome struct {
	err     error  // the outcome is unknown, or the key was refused; nil: as asked
	exists  bool   // APPL_DB has the port (if asked)
	deleted bool   // a DEL was sent and acknowledged
	written bool   // an HSET was sent and acknowledged
	same    bool   // STATE_DB held this state already
	found   string // what STATE_DB held, if it was read and is not as it should be
}

// flush is one round trip's worth of work for the databases.
type flush struct {
	writes   []*portWrite
	confirm  []*portWrite // ports believed to be in APPL_DB, to be counted there
	initDone bool         // send PortInitDone after the writes
	list     bool         // list the ports that STATE_DB has entries of
	signals  bool         // look whether APPL_DB still has PortConfigDone
	warm     string       // write this state of the warm restart, after everything else

	refused     error    // out: APPL_DB refused PortInitDone's key
	missing     bool     // out: not all of confirm are in APPL_DB
	listed      []string // out
	signalsGone bool     // out: it has not
}

// sonicDB is the connections to the three databases. One goroutine uses it at a time, but for Watch.
type sonicDB struct {
	appl, config, state          redisConn
	filter                       *keyFilter
	applAddr, cfgAddr, stateAddr dbAddress
	m                            *metrics
	bootID                       string // of this boot of the machine: ifindexes mean nothing in another
	ready                        bool   // CONFIG_DB_INITIALIZED was seen to be 1
	closed                       atomic.Bool
}

func openSonicDB(path string, m *metrics) (*sonicDB, error) {
	c, err := readDBConfig(path)
	if err != nil {
		return nil, err
	}
	d := &sonicDB{m: m}
	d.applAddr, _ = c.address("APPL_DB")
	d.cfgAddr, _ = c.address("CONFIG_DB")
	d.stateAddr, _ = c.address("STATE_DB")
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	d.bootID = strings.TrimSpace(string(boot))
	d.filter = newKeyFilter(d)
	d.appl, d.config, d.state = d.connect(d.applAddr), d.connect(d.cfgAddr), d.connect(d.stateAddr)
	return d, nil
}

func (d *sonicDB) Close() {
	if d.closed.Swap(true) {
		return
	}
	for _, c := range []redisConn{d.appl, d.config, d.state} {
		_ = c.Close()
	}
}

func (d *sonicDB) applKey(port string) string         { return portTable + d.applAddr.separator + port }
func (d *sonicDB) configKey(table, row string) string { return table + d.cfgAddr.separator + row }
func (d *sonicDB) stateKey(port string) string        { return portTable + d.stateAddr.separator + port }

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

// Flush carries out f. Each write has its own outcome; the error is the first that concerned a server, or the way to it, and not one port's
// key alone.
func (d *sonicDB) Flush(ctx context.Context, f *flush) error {
	f.refused, f.missing, f.listed, f.signalsGone = nil, false, nil, false
	for _, w := range f.writes {
		w.outcome = outcome{}
	}
	err := d.askAppl(ctx, f)
	if checkErr := d.checkState(ctx, f.writes); err == nil {
		err = checkErr
	}
	if writeErr := d.writeState(ctx, f.writes); err == nil {
		err = writeErr
	}
	if err == nil && f.initDone {
		var refused []string
		if refused, err = d.produce(ctx, []portConfig{{portInitDone, []string{"lanes", "0"}}}); len(refused) > 0 {
			f.refused = fmt.Errorf("%s: %w", refused[0], errWrongType)
		}
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
		scan := redis.NewScanCmd(ctx, nil, "scan", cursor, "match", d.stateKey("*"), "count", pipelineLen)
		if err := pipeline(ctx, d, d.state, []redis.Cmder{scan}); err != nil {
			return nil, fmt.Errorf("list the entries of STATE_DB: %w", err)
		}
		keys, next := scan.Val()
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
	var commands []redis.Cmder
	var asked []*portWrite
	for _, w := range f.writes {
		if w.ask {
			d.filter.doubt(w.port)
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
		w.exists, w.err = intOf(commands[i]) > 0, commands[i].Err()
	}
	rest := commands[len(asked):]
	if len(f.confirm) > 0 {
		f.missing = rest[0].Err() != nil || intOf(rest[0]) != int64(len(f.confirm))
		rest = rest[1:]
	}
	f.signalsGone = f.signals && rest[0].Err() == nil && intOf(rest[0]) == 0
	return err
}

// intOf is the integer that a command was answered with.
func intOf(c redis.Cmder) int64 { return c.(*redis.IntCmd).Val() }

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
	var commands []redis.Cmder
	var checked []*portWrite
	for _, w := range writes {
		if w.err == nil && w.del == delIfOurs || w.check && w.wanted() {
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
		found := commands[i].(*redis.SliceCmd).Val()
		w.deleted = w.del == delIfOurs && found[0] != nil // to be, until writeState has done it
		state, whole := stateFrom(found)
		w.same = w.set && !w.deleted && whole && state == w.state
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
	commands := make([]redis.Cmder, 0, len(writes))
	owners := make([]*portWrite, 0, len(writes))
	for _, w := range writes {
		if w.deleted = w.err == nil && (w.deleted || w.del == delCertain); w.deleted {
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
			w.err, w.written, w.deleted = cmdErr, false, false
		}
	}
	return err
}
