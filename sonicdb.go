package main

import (
	"errors"
	"strconv"
	"sync/atomic"
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

	appName = "portsyncd" // our row of tables that every daemon has one of
)

// errConfigLoading says that CONFIG_DB is still being filled.
var errConfigLoading = errors.New("CONFIG_DB is being loaded (" + configReady + " is not 1)")

// sonicDB is the connections to the three databases. One goroutine at a time uses it for flushes, another one for the
// rest, and a third one watches.
type sonicDB struct {
	appl, config, state          redisConn
	filter                       *keyFilter
	applAddr, cfgAddr, stateAddr dbAddress
	m                            *metrics
	slow                         func() // a call takes longer than some milliseconds; see connect
	bootID                       string // of this boot of the machine: ifindexes mean nothing in another
	ready                        bool   // CONFIG_DB_INITIALIZED was seen to be 1
	// ports of an announcement that was not completed; nil: those of a run before are not known
	pushed map[string]struct{}
	warm   warmDecision
	closed atomic.Bool
}

// warmDecision is whether a start is warm, and its restore_count. It is made once: what it writes must not decide the
// next try, where the answer to the first one was lost.
type warmDecision struct {
	made, warm bool
	handed     bool // this portsyncd takes over from another one: that is no warm restart, however many are enabled
	count      uint64
}

// handOver has a start not be a warm one: another portsyncd wrote until now.
func (d *sonicDB) handOver() { d.warm.handed = true }

// openSonicDB reads where the databases are; connections are made when they are first used. slow: see connect.
func openSonicDB(file *dbConfigFile, m *metrics, slow func()) (*sonicDB, error) {
	c, err := file.read()
	if err != nil {
		return nil, err
	}
	return connectDatabases(c, m, slow), nil
}

// connectDatabases makes the connections, each of which dials when it is first used.
func connectDatabases(c *dbConfig, m *metrics, slow func()) *sonicDB {
	d := &sonicDB{m: m, slow: slow}
	d.applAddr, _ = c.address("APPL_DB")
	d.cfgAddr, _ = c.address("CONFIG_DB")
	d.stateAddr, _ = c.address("STATE_DB")
	d.bootID = bootID()
	d.filter = newKeyFilter(keyspace(d.applAddr, d.applKey("")), keyspace(d.cfgAddr, d.configKey(loggerTable, appName)))
	d.appl, d.config = connect(d.applAddr, m, slow), connect(d.cfgAddr, m, slow)
	d.state = connect(d.stateAddr, m, slow)
	return d
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

// keyspace is the channel on which a server tells of events about a key, or with a pattern the pattern of channels.
func keyspace(a dbAddress, key string) string {
	return "__keyspace@" + strconv.Itoa(a.id) + "__:" + key
}
