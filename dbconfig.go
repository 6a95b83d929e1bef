package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"time"
)

// database_config.json: where SONiC's databases are (SONIC.md, "Where the databases are").

// errConfig marks an error that waiting does not cure: the operator has to mend a file.
var errConfig = errors.New("configuration error")

// errNoDBConfig says that database_config.json is not there yet, or not yet whole; a booting switch is still to write
// it.
var errNoDBConfig = errors.New("no database configuration")

// errNotJSON says that it is no valid JSON: broken, or just being written.
var errNotJSON = errors.New("not valid JSON")

// halfWrittenLimit is how long a file that is no valid JSON is taken for one that is being written.
const halfWrittenLimit = 30 * time.Second

// The flag that names the file.
const (
	defaultDBConfig = "/var/run/redis/sonic-db/database_config.json"
	dbConfigUsage   = "`file` that says where SONiC's databases are"
)

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

// dbConfigFile is database_config.json while it is looked at again and again: a boot script writes it in place, so
// that it may be caught empty or cut off.
type dbConfigFile struct {
	path   string
	now    func() time.Time
	broken brokenSince
}

// brokenSince is since when a file has been no valid JSON; zero: it is, or is not there.
type brokenSince struct{ time.Time }

// judge takes what reading the file gave for one that is being written (errNoDBConfig), or for broken (errConfig).
func (b *brokenSince) judge(err error, now time.Time) error {
	if !errors.Is(err, errNotJSON) {
		b.Time = time.Time{}
		return err
	}
	if b.IsZero() {
		b.Time = now
	}
	if now.Sub(b.Time) < halfWrittenLimit {
		return fmt.Errorf("%w: %v", errNoDBConfig, err)
	}
	return fmt.Errorf("%w: %v", errConfig, err)
}

// read reads the file. errNoDBConfig: come again; errConfig: what it says makes no sense, or it has not become valid
// JSON in halfWrittenLimit.
func (f *dbConfigFile) read() (*dbConfig, error) {
	c, err := readDBConfig(f.path)
	if err = f.broken.judge(err, f.now()); err != nil {
		return nil, err
	}
	return c, nil
}

// readDBConfig reads database_config.json. A file that does not exist gives errNoDBConfig; one that is no JSON,
// errNotJSON; one that does not make sense, errConfig.
func readDBConfig(path string) (*dbConfig, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %v", errNoDBConfig, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: -db.config %s: %v", errConfig, path, err)
	}
	if !json.Valid(text) {
		return nil, fmt.Errorf("-db.config %s: %d bytes: %w", path, len(text), errNotJSON)
	}
	c := new(dbConfig)
	if err := json.Unmarshal(text, c); err != nil {
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
