package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
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

// readDBConfig reads database_config.json. A file that does not exist gives errNoDBConfig; one that does not make sense
// gives errConfig.
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
	d.filter = newKeyFilter(keyspace(d.applAddr, d.applKey("")))
	d.appl, d.config, d.state = connect(d.applAddr, m), connect(d.cfgAddr, m), connect(d.stateAddr, m)
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

// keyspace is the channel on which a server tells of events about a key, or with a pattern the pattern of channels.
func keyspace(a dbAddress, key string) string {
	return "__keyspace@" + strconv.Itoa(a.id) + "__:" + key
}
