// Package switchtest is a small SONiC switch on this machine: a network namespace with veth front-panel ports, a private
// Redis with SONiC's databases, and a stand-in for orchagent. The demo, the end-to-end tests and the benchmarks share it.
// It needs root, iproute2 and redis-server, and touches nothing outside its own namespaces and folder.
package switchtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Missing says what this machine lacks to be a switch; nil is good news.
func Missing() error {
	var missing []error
	if os.Geteuid() != 0 {
		missing = append(missing, errors.New("root is needed to make network namespaces"))
	}
	for program, pkg := range map[string]string{"ip": "iproute2", "redis-server": "redis-server"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, fmt.Errorf("%s is missing: apt-get install %s", program, pkg))
		}
	}
	return errors.Join(missing...)
}

// Options are what a switch may differ in.
type Options struct {
	Split        bool // STATE_DB on a Redis of its own
	ApartConfig  bool // CONFIG_DB on a Redis of its own
	NoEvents     bool // the servers send no keyspace events
	Odd          bool // ids and separators that no real switch has: they are to be read, never assumed
	TCP          bool // the databases are reached over TCP on loopback
	KeepAwayDBs  bool // do not start Redis yet
	NoConfigFile bool // do not write database_config.json yet
}

// Switch is a running one. Close it.
type Switch struct {
	Dir        string // holds everything it writes
	NetNS      string // of the front-panel ports
	FarNS      string // of the other ends of their cables
	ConfigFile string // database_config.json
	Redis      []*Redis
	Appl       *redis.Client
	Config     *redis.Client
	State      *redis.Client
	Echo       io.Writer // what daemons print also goes here, if it is set
	ApplID     int
	ConfigID   int
	StateID    int
	separator  string // of CONFIG_DB and STATE_DB
	options    Options

	enter    sync.Once // Inside's thread
	inside   chan func()
	entered  chan error
	enterErr error
}

// New makes a switch without ports.
func New(o Options) (_ *Switch, err error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	s := &Switch{options: o, ApplID: 0, ConfigID: 4, StateID: 6, separator: "|"}
	if o.Odd {
		s.ApplID, s.ConfigID, s.StateID, s.separator = 3, 5, 2, "!"
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.Dir, err = os.MkdirTemp("", "portsyncd-switch-"); err != nil {
		return nil, err
	}
	id := strings.TrimPrefix(filepath.Base(s.Dir), "portsyncd-switch-")
	s.ConfigFile = filepath.Join(s.Dir, "database_config.json")
	s.NetNS, s.FarNS = "sw-"+id, "far-"+id
	for _, ns := range []string{s.NetNS, s.FarNS} {
		if err := run("ip", "netns", "add", ns); err != nil {
			return nil, err
		}
	}
	instances := 1
	if o.Split || o.ApartConfig {
		instances = 2
	}
	for i := range instances {
		r, err := newRedis(s.Dir, "redis"+strconv.Itoa(i), o.TCP, !o.NoEvents)
		if err != nil {
			return nil, err
		}
		s.Redis = append(s.Redis, r)
	}
	if !o.KeepAwayDBs {
		if err := s.StartRedis(); err != nil {
			return nil, err
		}
	}
	config, state := s.homes()
	s.Appl, s.Config, s.State = s.Redis[0].Client(s.ApplID), config.Client(s.ConfigID), state.Client(s.StateID)
	if !o.NoConfigFile {
		err = s.WriteConfigFile()
	}
	return s, err
}

// Here makes the machine itself a switch, without ports: the namespace that this process is in, and a Redis that runs on a unix
// socket already, with SONiC's usual ids. Closing it leaves both alone.
func Here(socket string) (_ *Switch, err error) {
	r := &Redis{Name: "redis", Socket: socket}
	s := &Switch{NetNS: "here", FarNS: "far-of-here", Redis: []*Redis{r}, ApplID: 0, ConfigID: 4, StateID: 6, separator: "|"}
	s.Appl, s.Config, s.State = r.Client(s.ApplID), r.Client(s.ConfigID), r.Client(s.StateID)
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.Dir, err = os.MkdirTemp("", "portsyncd-switch-"); err != nil {
		return nil, err
	}
	if err := run("ip", "netns", "attach", s.NetNS, strconv.Itoa(os.Getpid())); err != nil {
		return nil, err
	}
	return s, run("ip", "netns", "add", s.FarNS)
}

// homes are the servers of CONFIG_DB and STATE_DB. APPL_DB's is the first.
func (s *Switch) homes() (config, state *Redis) {
	config, state = s.Redis[0], s.Redis[0]
	if s.options.ApartConfig {
		config = s.Redis[1]
	}
	if s.options.Split {
		state = s.Redis[len(s.Redis)-1]
	}
	return config, state
}

// StartRedis starts the servers and waits until they answer.
func (s *Switch) StartRedis() error {
	for _, r := range s.Redis {
		if err := r.Start(); err != nil {
			return err
		}
	}
	return nil
}

// WriteConfigFile writes database_config.json as SONiC lays it out.
func (s *Switch) WriteConfigFile() error {
	type db map[string]any
	config, state := s.homes()
	instances := map[string]any{}
	for _, r := range s.Redis {
		instance := map[string]any{"hostname": "127.0.0.1", "port": r.Port, "persistence_for_warm_boot": "yes"}
		if r.Port == 0 {
			instance["port"], instance["unix_socket_path"] = 6379, r.front()
		}
		instances[r.Name] = instance
	}
	text, err := json.MarshalIndent(map[string]any{
		"VERSION":   "1.0",
		"INSTANCES": instances,
		"DATABASES": map[string]any{
			"APPL_DB":   db{"id": s.ApplID, "separator": ":", "instance": s.Redis[0].Name},
			"CONFIG_DB": db{"id": s.ConfigID, "separator": s.separator, "instance": config.Name},
			"STATE_DB":  db{"id": s.StateID, "separator": s.separator, "instance": state.Name},
		},
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.ConfigFile, text, 0o644)
}

// Close takes everything down again.
func (s *Switch) Close() {
	for _, c := range []*redis.Client{s.Appl, s.Config, s.State} {
		if c != nil {
			_ = c.Close()
		}
	}
	for _, r := range s.Redis {
		r.Stop()
	}
	for _, ns := range []string{s.NetNS, s.FarNS} {
		_ = run("ip", "netns", "del", ns)
	}
	if s.inside != nil {
		close(s.inside)
	}
	if s.Dir != "" {
		_ = os.RemoveAll(s.Dir)
	}
}

// PortName is the name of the i-th front-panel port: four lanes each, as on most switches.
func PortName(i int) string { return "Ethernet" + strconv.Itoa(4*i) }

// StateKey is the key of a port's entry in STATE_DB, ConfigKey that of a row of CONFIG_DB.
func (s *Switch) StateKey(port string) string { return "PORT_TABLE" + s.separator + port }

func (s *Switch) ConfigKey(table, row string) string { return table + s.separator + row }

// ConfiguredMTU is that of every port in CONFIG_DB.
const ConfiguredMTU = "9100"

// Configure puts n ports into CONFIG_DB, with the fields that a real one has, and says that it is complete.
func (s *Switch) Configure(ctx context.Context, n int) error {
	pipe := s.Config.Pipeline()
	for i := range n {
		lane := strconv.Itoa(4*i + 1)
		pipe.HSet(ctx, s.ConfigKey("PORT", PortName(i)), "admin_status", "up", "alias", "Eth"+strconv.Itoa(i+1), "index", i+1,
			"lanes", lane, "mtu", ConfiguredMTU, "speed", "100000", "fec", "rs")
	}
	pipe.Set(ctx, "CONFIG_DB_INITIALIZED", "1", 0)
	_, err := pipe.Exec(ctx)
	return err
}

// IP runs ip(8) in the front panel's namespace.
func (s *Switch) IP(args ...string) error {
	return run("ip", append([]string{"-n", s.NetNS}, args...)...)
}

// Batch runs lines of ip(8) commands in a namespace, each as fast as the kernel takes it.
func (s *Switch) Batch(netns string, lines ...string) error {
	if len(lines) == 0 {
		return nil
	}
	cmd := exec.Command("ip", "-n", netns, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip -batch: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// FarEnd is the name of the other end of a port's cable, in FarNS.
func FarEnd(port string) string { return "far" + strings.TrimPrefix(port, "Ethernet") }

// AddPorts creates interfaces, with their cables plugged in, and sets them up.
func (s *Switch) AddPorts(ports ...string) error {
	var near, far []string
	for _, p := range ports {
		near = append(near, fmt.Sprintf("link add %s type veth peer name %s netns %s", p, FarEnd(p), s.FarNS))
		far = append(far, fmt.Sprintf("link set %s up", FarEnd(p)))
	}
	for _, p := range ports {
		near = append(near, fmt.Sprintf("link set %s up", p))
	}
	if err := s.Batch(s.NetNS, near...); err != nil {
		return err
	}
	return s.Batch(s.FarNS, far...)
}

// SetCable plugs cables in or pulls them: the ports' carrier follows.
func (s *Switch) SetCable(in bool, ports ...string) error {
	var lines []string
	for _, p := range ports {
		state := "down"
		if in {
			state = "up"
		}
		lines = append(lines, fmt.Sprintf("link set %s %s", FarEnd(p), state))
	}
	return s.Batch(s.FarNS, lines...)
}

// Flap sets ports down and up again, rounds times. Unlike a pulled cable, which the kernel reports at most once a second,
// each of these is reported at once, with two messages or more.
func (s *Switch) Flap(rounds int, ports ...string) error {
	var lines []string
	for range rounds {
		for _, state := range []string{"down", "up"} {
			for _, p := range ports {
				lines = append(lines, "link set "+p+" "+state)
			}
		}
	}
	return s.Batch(s.NetNS, lines...)
}

// Redis is a private server.
type Redis struct {
	proxy  string // the socket that daemons are told of, if it is not the server's own
	Name   string
	Socket string
	Port   int // 0: unix socket only
	dir    string
	events string
	cmd    *exec.Cmd
}

func newRedis(dir, name string, tcp, events bool) (*Redis, error) {
	r := &Redis{Name: name, dir: dir, Socket: filepath.Join(dir, name+".sock")}
	if events {
		r.events = "AKE"
	}
	if tcp {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		r.Port = port
	}
	return r, nil
}

// Start starts the server, empty, and waits until it answers.
func (r *Redis) Start() error {
	r.cmd = exec.Command("redis-server", "--port", strconv.Itoa(r.Port), "--bind", "127.0.0.1", "--unixsocket", r.Socket,
		"--dir", r.dir, "--save", "", "--appendonly", "no", "--notify-keyspace-events", r.events, "--logfile", filepath.Join(r.dir, r.Name+".log"))
	if err := start(r.cmd); err != nil {
		return err
	}
	c := r.Client(0)
	defer c.Close()
	return WaitFor(10*time.Second, "redis-server to answer", func() bool {
		_, err := os.Stat(r.Socket) // the client would say so in the log
		return err == nil && c.Ping(context.Background()).Err() == nil
	})
}

// Stop kills the server, and what it held is lost.
func (r *Redis) Stop() {
	if r.cmd != nil && r.cmd.Process != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

// Process is the running server, for signals.
func (r *Redis) Process() *os.Process { return r.cmd.Process }

// Client connects to one database of the server.
func (r *Redis) Client(id int) *redis.Client {
	return redis.NewClient(&redis.Options{Network: "unix", Addr: r.Socket, DB: id, Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}})
}

// WaitFor polls a condition until it holds, and fails after the limit, naming what it waited for.
func WaitFor(limit time.Duration, what string, holds func() bool) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(2 * time.Millisecond) {
		if holds() {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v in vain for %s", limit, what)
		}
	}
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
