package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"portsyncd/internal/switchtest"
)

// An observer beside a daemon that writes.

var observeTime = flag.Duration("observe.time", 3*time.Second, "how long TestObserverWritesNothing goes on")

// observer starts one beside whatever writes.
func (s *testSwitch) observer(flags ...string) *switchtest.Daemon {
	s.t.Helper()
	return s.daemon(append([]string{"-observe", "-recorder.file", filepath.Join(s.Dir, "observed")}, flags...)...)
}

// statusAnswer is what a daemon answers under statusPath.
func (s *testSwitch) statusAnswer(d *switchtest.Daemon) (a statusAnswer) {
	s.t.Helper()
	code, text := ask(s.t, d, "GET", statusPath)
	if err := json.Unmarshal([]byte(text), &a); err != nil || code != http.StatusOK {
		s.t.Fatalf("%d, %v: %s", code, err, text)
	}
	return a
}

// differing are the ports that a daemon says differ.
func (s *testSwitch) differing(d *switchtest.Daemon) (ports []string) {
	for _, p := range s.statusAnswer(d).Differs {
		ports = append(ports, p.Port)
	}
	return ports
}

// TestObserverNamesWhatDiffers: a writer that is stopped during a storm leaves ports wrong, and these are named.
func TestObserverNamesWhatDiffers(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	const n = 32
	writer, _ := s.start(n)
	d := s.observer()
	_, out := s.waitStatus(d, "ok\n", "PortInitDone   sent", "32 present: 32 up",
		"observer, which writes nothing; process ")
	if !strings.Contains(out, fmt.Sprintf("process %d ", writer.PID())) && os.Getenv("PORTSYNCD") == "" {
		t.Errorf("it does not find process %d:\n%s", writer.PID(), out)
	}
	names := portNames(n)
	s.must(writer.Signal(syscall.SIGSTOP))
	s.must(s.Flap(20, names...))
	var last, wrong []string
	for i, p := range names {
		switch i % 4 {
		case 1:
			last = append(last, "link set "+p+" down")
		case 2:
			last = append(last, "link set "+p+" mtu 1400")
		case 3:
			last = append(last, "link del "+p)
		default:
			continue
		}
		wrong = append(wrong, p)
	}
	s.must(s.Batch(s.NetNS, last...))
	begun := time.Now()
	var got []string
	// until then the kernel still says of some that their carriers are gone: it tells of their return late, the more so
	// where others flap, too
	settled := false
	back := func() bool {
		for p, l := range s.kernel() {
			if !slices.Contains(wrong, p) && l.oper() != "up" {
				return false
			}
		}
		return true
	}
	err := switchtest.WaitFor(patience, "the wrong ports", func() bool {
		got = s.differing(d)
		right := slices.IndexFunc(got, func(p string) bool { return !slices.Contains(wrong, p) })
		if right >= 0 && settled {
			t.Fatalf("%s is named, and is right", got[right])
		}
		settled = settled || right < 0 && back()
		return right < 0 && len(got) == len(wrong)
	})
	t.Logf("%d wrong ports are named %v after the storm", len(got), time.Since(begun).Round(10*time.Millisecond))
	if err != nil || !slices.Equal(got, wrong) {
		t.Fatalf("%v: named are %v, wrong are %v", err, got, wrong)
	}
	s.waitStatus(d, "degraded\n", "differs: 24 ports differ, the first is Ethernet")
	if code, text := ask(t, d, "GET", "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "differs: 24") {
		t.Errorf("/readyz: %d %s", code, text)
	}
	s.must(writer.Signal(syscall.SIGCONT))
	s.waitAgreement("after the writer went on")
	s.waitStatus(d, "ok\n")
	if got := s.differing(d); len(got) > 0 {
		t.Errorf("%v are named, and the writer is right again", got)
	}
}

// TestObserverHearsOfEntries: what somebody writes into STATE_DB, or deletes there, is found without any link message.
func TestObserverHearsOfEntries(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]switchtest.Options{"one server": {}, "two servers": {Split: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSwitch(t, o)
			writer, _ := s.start(4)
			d := s.observer("-reconcile-interval", "0")
			s.waitStatus(d, "ok\n")
			s.must(writer.Signal(syscall.SIGSTOP))
			ctx := t.Context()
			s.must(s.State.HSet(ctx, s.StateKey("Ethernet0"), "netdev_oper_status", "down").Err())
			s.must(s.State.HDel(ctx, s.StateKey("Ethernet4"), "state").Err())
			s.must(s.State.Del(ctx, s.StateKey("Ethernet8")).Err())
			s.must(s.State.HSet(ctx, s.StateKey("Ethernet96"), "state", "ok").Err())
			s.must(s.State.HSet(ctx, s.StateKey("Ethernet12"), "host_tx_ready", "true").Err()) // another daemon's
			want := []string{"Ethernet0", "Ethernet4", "Ethernet8", "Ethernet96"}
			s.waitFor("what differs", func() bool { return slices.Equal(s.differing(d), want) })
			a := s.statusAnswer(d)
			if a.Role != roleObserver || a.Differs[0].Says != "oper: STATE_DB has down, right is up" ||
				a.Differs[2].Says != "the interface exists, and STATE_DB has no entry" ||
				a.Differs[3].Says != "STATE_DB has an entry, and the interface is gone" {
				t.Errorf("%+v", a)
			}
			s.must(s.State.HSet(ctx, s.StateKey("Ethernet0"), "netdev_oper_status", "up").Err())
			s.must(s.State.Del(ctx, s.StateKey("Ethernet96")).Err())
			s.waitFor("what differs", func() bool { return slices.Equal(s.differing(d), want[1:3]) })
		})
	}
}

// monitored is what MONITOR showed of clients that use TCP.
type monitored struct {
	mu   sync.Mutex
	seen map[string]int // commands
	bad  []string       // lines that change something
}

// harmless are commands that only read, or are about the connection itself.
var harmless = regexp.MustCompile(`^(get|hget|hgetall|hkeys|hmget|exists|select|ping|hello|psubscribe|config get|eval readConfig|eval readHashes|eval scanKeys)$`)

// monitor watches a server.
func (s *testSwitch) monitor(r *switchtest.Redis) *monitored {
	s.t.Helper()
	c, err := net.Dial("unix", r.Socket)
	s.must(err)
	s.t.Cleanup(func() { c.Close() })
	_, err = c.Write([]byte("MONITOR\r\n"))
	s.must(err)
	lines := bufio.NewReader(c)
	_, err = lines.ReadString('\n')
	s.must(err)
	m := &monitored{seen: map[string]int{}}
	go func() {
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			m.take(line)
		}
	}()
	return m
}

// take looks at a line such as 1700000000.1 [6 127.0.0.1:4711] "hmget" "PORT_TABLE|Ethernet0" …
func (m *monitored) take(line string) {
	_, rest, _ := strings.Cut(line, "[")
	who, words, found := strings.Cut(rest, "] ")
	if !found || !strings.Contains(who, "127.0.0.1:") {
		return
	}
	args := strings.Split(strings.Trim(strings.TrimSpace(words), `"`), `" "`)
	command := strings.ToLower(args[0])
	switch {
	case command == "config":
		command += " " + strings.ToLower(args[1])
	case command == "eval":
		shown := strings.NewReplacer("\n", `\n`, "\t", `\t`, `"`, `\"`)
		for name, text := range map[string]script{" readConfig": readConfig, " readHashes": readHashes, " scanKeys": scanKeys} {
			if args[1] == shown.Replace(string(text)) {
				command += name
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[command]++
	if !harmless.MatchString(command) {
		m.bad = append(m.bad, line)
	}
}

// overUnix writes a database_config.json that names the servers' unix sockets.
func (s *testSwitch) overUnix() (file string) {
	s.t.Helper()
	text, err := os.ReadFile(s.ConfigFile)
	s.must(err)
	var c map[string]map[string]map[string]any
	var whole map[string]any
	s.must(json.Unmarshal(text, &whole))
	delete(whole, "VERSION")
	text, err = json.Marshal(whole)
	s.must(err)
	s.must(json.Unmarshal(text, &c))
	for _, r := range s.Redis {
		c["INSTANCES"][r.Name]["unix_socket_path"] = r.Socket
	}
	text, err = json.Marshal(c)
	s.must(err)
	file = filepath.Join(s.Dir, "unix_config.json")
	s.must(os.WriteFile(file, text, 0o644))
	return file
}

// TestObserverWritesNothing, and sets nothing down: alone where a writer would announce ports and set left-overs down,
// and in chaos. It uses TCP, and nobody else does, so MONITOR tells which commands are its own; CONFIG it does not show.
func TestObserverWritesNothing(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{TCP: true})
	const n = 8
	s.must(s.AddPorts("Ethernet96", "Ethernet0")) // left-overs
	s.must(s.Configure(t.Context(), n))
	s.must(s.State.HSet(t.Context(), s.StateRow("WARM_RESTART_ENABLE_TABLE", "swss"), "enable", "true").Err())
	s.must(s.State.HSet(t.Context(), s.StateRow("WARM_RESTART_TABLE", appName), "restore_count", "3").Err())
	m := s.monitor(s.Redis[0])
	var heard []switchtest.LinkEvent
	var mu sync.Mutex
	links, err := s.ListenLinks(func(e switchtest.LinkEvent) {
		if !e.Up || e.Gone { // of carriers the kernel tells up to a second late
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, e)
		}
	})
	s.must(err)
	d := s.observer()
	s.waitFor("the observer to have looked", func() bool { return d.Logged("start decided", "-observe") == 1 })
	s.waitStatus(d, "PortInitDone   not sent, nor is PortConfigDone", "no other portsyncd is to be seen")
	if s.warmField("restore_count") != "3" || s.Appl.DBSize(t.Context()).Val() != 0 || len(s.entries()) != 0 {
		t.Error("it took part in a start")
	}
	links.Close()
	mu.Lock()
	if len(heard) > 0 || !s.adminUp("Ethernet0") || !s.adminUp("Ethernet96") {
		t.Errorf("it changed links: %v", heard)
	}
	mu.Unlock()
	s.must(s.State.Del(t.Context(), s.StateRow("WARM_RESTART_ENABLE_TABLE", "swss")).Err())
	s.must(s.IP("link", "del", "Ethernet0"))
	o := s.orchagent(true)
	unix := s.overUnix()
	writer := s.daemon("-db.config", unix)
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	for end := time.Now().Add(*observeTime); time.Now().Before(end); {
		s.must(s.Flap(10, portNames(n)...))
		s.must(s.State.HSet(t.Context(), s.StateKey("Ethernet4"), "mtu", "1").Err())
		s.must(s.IP("link", "del", "Ethernet8"))
		s.must(s.State.HSet(t.Context(), s.StateKey("Ethernet8"), "state", "ok").Err())
		s.must(s.AddPorts("Ethernet8"))
		s.must(s.Config.HSet(t.Context(), s.ConfigKey("LOGGER", appName), "LOGLEVEL", "INFO").Err())
		s.must(s.Config.HDel(t.Context(), s.ConfigKey("LOGGER", appName), "LOGOUTPUT").Err())
		s.must(writer.Signal(syscall.SIGKILL))
		_, err := writer.Wait(patience)
		s.must(err)
		s.must(s.Appl.FlushDB(t.Context()).Err())
		writer = s.daemon("-db.config", unix)
		s.must(d.Signal(syscall.SIGHUP))
	}
	s.must(d.Signal(syscall.SIGTERM))
	if code, err := d.Wait(patience); err != nil || code != 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t.Logf("commands: %v", m.seen)
	if len(m.bad) > 0 {
		t.Errorf("it sent %d commands that change something, such as %q", len(m.bad), m.bad[0])
	}
	if m.seen["eval readHashes"] < 10 || m.seen["eval readConfig"] == 0 || m.seen["eval scanKeys"] == 0 || m.seen["psubscribe"] == 0 {
		t.Errorf("these are not an observer's commands: %v", m.seen)
	}
}

// refusing is a connection that notes what it was asked to send.
type refusing struct {
	redisConn
	sent []string
}

func (r *refusing) Exec(_ context.Context, commands []redis.Cmder) error {
	for _, c := range commands {
		name := fmt.Sprint(c.Args()[0])
		if name == "config" {
			name += " " + fmt.Sprint(c.Args()[1])
		}
		r.sent = append(r.sent, name)
	}
	return nil
}

// TestReadingConnRefusesEveryWrite that the daemon has: whoever asks for one gets an error, and nothing is sent.
func TestReadingConnRefusesEveryWrite(t *testing.T) {
	conn := new(refusing)
	d := &sonicDB{appl: conn, config: conn, state: conn, m: newMetrics(""), slow: func() {}}
	d.filter = newKeyFilter("", "")
	onlyRead(d)
	ctx := t.Context()
	write := &flush{writes: []*portWrite{{port: "Ethernet0", set: true}, {port: "Ethernet4", del: delCertain}},
		initDone: true, record: true, warm: warmRestored}
	for name, try := range map[string]func() error{
		"Flush":    func() error { return d.Flush(ctx, write) },
		"initDone": func() error { return d.Flush(ctx, &flush{initDone: true}) },
		"record":   func() error { return d.Flush(ctx, &flush{record: true}) },
		"warm":     func() error { return d.Flush(ctx, &flush{warm: warmRestored}) },
		"Announce": func() error { _, err := d.Announce(ctx, nil, nil, nil); return err },
		"Recount":  func() error { _, err := d.Recount(ctx, 1); return err },
		"Logger":   func() error { return d.SetLogger(ctx, logSettings{}) },
		"withdraw": func() error { return d.withdraw(ctx, []string{"Ethernet0"}) },
		"produce":  func() error { _, err := d.produce(ctx, []portConfig{{"Ethernet0", packedFields()}}); return err },
		"pushed":   func() error { return d.recordPushed(ctx, []portConfig{{"Ethernet0", packedFields()}}) },
		"LookBack": func() error { _, err := d.LookBack(ctx, nil); return err },
	} {
		conn.sent = nil
		if err := try(); !errors.Is(err, errObserves) {
			t.Errorf("%s: %v", name, err)
		}
		for _, command := range conn.sent {
			if !harmless.MatchString(command) {
				t.Errorf("%s: %s was sent", name, command)
			}
		}
	}
	d.forgetPushed(ctx)
	for _, args := range [][]any{{"config", "set", "x", "y"}, {"eval", "return 1"}, {"eval"}, {"config"}, {"client", "setname", "x"},
		{"multi"}, {"script", "load", string(readConfig)}, {"flushdb"}} {
		if onlyReads(args) {
			t.Errorf("%v counts as reading", args)
		}
	}
	(&kernelLinks{may: (&instance{observe: true}).may}).SetDown(netNSID{}, []int32{1}, func(_ int32, err error) {
		if !errors.Is(err, errObserves) {
			t.Errorf("a link was set down: %v", err)
		}
	})
}

// TestFlagsThatAreFalse: a daemon with -observe=false writes.
func TestFlagsThatAreFalse(t *testing.T) {
	if !mirrors([]string{"/usr/sbin/portsyncd", "-observe=false"}) {
		t.Error("a daemon with -observe=false counts as none that writes")
	}
	if mirrors([]string{"/usr/sbin/portsyncd", "-observe"}) {
		t.Error("an observer counts as one that writes")
	}
}
