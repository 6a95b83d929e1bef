package main

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
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
	conns                        dbConns // these, before they were made to look at a lock, or to refuse what writes
	filter                       *keyFilter
	applAddr, cfgAddr, stateAddr dbAddress
	m                            *metrics
	slow                         func() // a call takes longer than some milliseconds; see connect
	bootID                       string // of this boot of the machine: ifindexes mean nothing in another
	ready                        bool   // CONFIG_DB_INITIALIZED was seen to be 1
	lastConfig                   lastAnswer
	follows                      bool // another portsyncd wrote until now
	eventsRefused                bool // a server does not let us ask whether it sends keyspace events
	configSends                  bool // CONFIG_DB's does, which is another one
	// ports of an announcement that was not completed; nil: those of a run before are not known
	pushed map[string]struct{}
	warm   warmDecision
	// how long orchagent is waited for that takes no ports; 0: consumerPatience
	patience time.Duration
	sleep    func(time.Duration) // lets time pass; nil: the clock does
	singly   int                 // how many ports are asked for one by one; 0: askedSingly
	words    sync.Pool           // of *[]any: what the commands of a flush are made of, for the next one
	closed   atomic.Bool
}

// dbConns is the way to the three databases. It goes from a standby to the writer that it becomes: to connect again
// would take milliseconds in which nobody writes.
type dbConns struct {
	appl, config, state redisConn
	slow                *atomic.Pointer[func()] // told when a call takes longer, see connect
}

// newConns is what connections are made with that tell slow.
func newConns(slow func()) (c dbConns) {
	c.slow = new(atomic.Pointer[func()])
	c.slow.Store(&slow)
	return c
}

func (c *dbConns) tellSlow() { (*c.slow.Load())() }

// warmDecision is whether a start is warm, and its restore_count. It is made once: what it writes must not decide the
// next try, where the answer to the first one was lost.
type warmDecision struct {
	made, warm bool
	handed     bool // this portsyncd takes over from another one: that is no warm restart, however many are enabled
	count      uint64
}

// handOver has a start not be a warm one: another portsyncd wrote until now.
func (d *sonicDB) handOver() { d.follows, d.warm.handed = true, true }

// connectDatabases makes the connections, each of which dials when it is first used.
func connectDatabases(c *dbConfig, m *metrics, slow func()) *sonicDB {
	d := &sonicDB{m: m, bootID: bootID()}
	d.applAddr, _ = c.address("APPL_DB")
	d.cfgAddr, _ = c.address("CONFIG_DB")
	d.stateAddr, _ = c.address("STATE_DB")
	conns := newConns(slow)
	conns.appl = connect(d.applAddr, m, conns.tellSlow, writeBuffer)
	conns.config = connect(d.cfgAddr, m, conns.tellSlow, askBuffer)
	conns.state = connect(d.stateAddr, m, conns.tellSlow, writeBuffer)
	d.use(conns)
	return d
}

// use sets the connections.
func (d *sonicDB) use(c dbConns) {
	d.conns, d.slow = c, c.tellSlow
	d.appl, d.config, d.state = c.appl, c.config, c.state
	d.filter = newKeyFilter(keyspace(d.applAddr, d.applKey("")), keyspace(d.cfgAddr, d.configKey(loggerTable, appName)))
}

// handOn makes the same databases for another loop, over the connections that are there, when the loop before has
// ended.
func (d *sonicDB) handOn(slow func()) *sonicDB {
	d.conns.slow.Store(&slow)
	next := &sonicDB{m: d.m, bootID: d.bootID, applAddr: d.applAddr, cfgAddr: d.cfgAddr, stateAddr: d.stateAddr}
	next.use(d.conns)
	return next
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
