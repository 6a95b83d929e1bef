package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"portsyncd/internal/switchtest"
)

// openSonicDB connects to the databases that a file names.
func openSonicDB(path string, m *metrics, slow func()) (*sonicDB, error) {
	c, err := readDBConfig(path)
	if err != nil {
		return nil, err
	}
	return connectDatabases(c, m, slow), nil
}

// openDB connects to a switch's databases as the daemon does.
func (s *testSwitch) openDB() (*sonicDB, *metrics) {
	s.t.Helper()
	m := newMetrics("test")
	d, err := openSonicDB(s.ConfigFile, m, func() {})
	s.must(err)
	s.t.Cleanup(d.Close)
	return d, m
}

// TestProducerProtocol looks at what a consumer sees, between the producer's write and the consumer's pop.
func TestProducerProtocol(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, m := s.openDB()
	ctx := t.Context()
	channel := s.Appl.Subscribe(ctx, "PORT_TABLE_CHANNEL@0")
	defer channel.Close()
	if _, err := channel.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	const n = portsPerCall + 44
	var ports []portConfig
	for i := range n {
		ports = append(ports, portConfig{switchtest.PortName(i), packedFields("lanes", fmt.Sprint(i), "speed", "100000")})
	}
	notified := func(want int) {
		t.Helper()
		for range want {
			if got, err := channel.ReceiveMessage(ctx); err != nil || got.Payload != "G" {
				t.Fatalf("notification %v, %v", got, err)
			}
		}
		s.must(s.Appl.Publish(ctx, "PORT_TABLE_CHANNEL@0", "end").Err())
		if got, err := channel.ReceiveMessage(ctx); err != nil || got.Payload != "end" {
			t.Fatalf("more than %d notifications (%v)", want, err)
		}
	}
	produce := func(ports []portConfig) {
		t.Helper()
		refused, err := d.produce(ctx, ports)
		s.must(err)
		if len(refused) > 0 {
			t.Errorf("refused: %v", refused)
		}
	}
	produce(ports)
	notified(n)
	if calls := m.redisCommands.Load(); calls != 2 { // portsPerCall
		t.Errorf("%d commands for %d ports, want 2", calls, n)
	}
	if waiting := s.Appl.SCard(ctx, "PORT_TABLE_KEY_SET").Val(); waiting != n {
		t.Errorf("%d keys wait", waiting)
	}
	if got := s.Appl.HGetAll(ctx, "_PORT_TABLE:Ethernet8").Val(); len(got) != 2 || got["lanes"] != "2" {
		t.Errorf("pending fields are %v", got)
	}
	if s.Appl.Exists(ctx, "PORT_TABLE:Ethernet8").Val() != 0 {
		t.Error("the producer wrote to the table itself")
	}
	produce(append(ports[:3:3], portConfig{"Ethernet9999", packedFields("lanes", "7")}))
	notified(1) // the others wait already
}

func TestKeyspaceEvents(t *testing.T) {
	for event, want := range map[string][2]bool{
		"hset": {true, true}, "del": {false, true}, "rename_from": {false, true}, "rename_to": {true, true}, "expired": {false, true},
		"hdel": {false, false}, "expire": {false, false}, "new": {false, false},
	} {
		if exists, relevant := existsAfter(event); exists != want[0] || relevant != want[1] {
			t.Errorf("after %s: exists %v, relevant %v", event, exists, relevant)
		}
	}
}

// TestWatchTellsOnlyWhatChanges: a busy switch changes fields of its ports all the time, and that is no news.
func TestWatchTellsOnlyWhatChanges(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.openDB()
	ctx := t.Context()
	changes, connected := make(chan applChange, 100), make(chan bool, 100)
	config := make(chan bool, 100)
	go d.Watch(ctx, watcher{appl: func(c applChange) { changes <- c }, config: func(event bool) { config <- event }, connected: func(up bool, _ error) { connected <- up }})
	next := func(what string) (c applChange) {
		t.Helper()
		select {
		case c = <-changes:
		case <-time.After(patience):
			t.Fatal("waited in vain for ", what)
		}
		return c
	}
	if !<-connected {
		t.Fatal("the subscription broke")
	}
	for range 20 {
		s.must(s.Appl.HSet(ctx, "PORT_TABLE:Ethernet0", "oper_status", "up", "flap_count", "1").Err())
	}
	s.must(s.Appl.HSet(ctx, "LAG_TABLE:PortChannel1", "mtu", "9100").Err())
	s.must(s.Appl.Del(ctx, "PORT_TABLE:Ethernet0").Err())
	s.must(s.Appl.HSet(ctx, "PORT_TABLE:Ethernet4", "lanes", "5").Err())
	s.must(s.Appl.HDel(ctx, "PORT_TABLE:Ethernet4", "lanes").Err()) // the last field: the key goes, too
	for _, want := range []applChange{{"Ethernet0", true}, {"Ethernet0", false}, {"Ethernet4", true}, {"Ethernet4", false}} {
		if got := next("a change"); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	for _, r := range s.Redis {
		r.Stop()
		s.must(r.Start())
	}
	if <-connected || !<-connected {
		t.Error("the server's restart was not told as lost and found")
	}
	s.must(s.Appl.HSet(ctx, "PORT_TABLE:Ethernet4", "lanes", "5").Err())
	if got := next("a change after the restart"); got != (applChange{"Ethernet4", true}) {
		t.Errorf("%+v", got)
	}
}

// TestWatchOfServerThatHangs: a subscription that is silent breaks when its server does not answer, and so does the next one.
func TestWatchOfServerThatHangs(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.openDB()
	connected := make(chan bool, 100)
	go d.Watch(t.Context(), watcher{appl: func(applChange) {}, config: func(bool) {}, connected: func(up bool, _ error) { connected <- up }})
	if !<-connected {
		t.Fatal("the subscription broke")
	}
	for range 3 {
		d.Nudge()
		time.Sleep(dbTimeout + 100*time.Millisecond)
	}
	select {
	case up := <-connected:
		t.Errorf("a server that answers: connected %v", up)
	default:
	}
	s.must(s.Redis[0].Process().Signal(syscall.SIGSTOP))
	for range 2 {
		s.waitFor("the end of the subscription", func() bool {
			d.Nudge()
			select {
			case up := <-connected:
				if up {
					t.Error("a server that hangs confirms a subscription")
				}
				return true
			default:
				return false
			}
		})
	}
	s.must(s.Redis[0].Process().Signal(syscall.SIGCONT))
	s.waitFor("a subscription", func() bool { return <-connected })
}

// TestWatchOnTwoServers: events of CONFIG_DB and APPL_DB come on a goroutine each if they are on two servers, and share nothing but what they tell.
func TestWatchOnTwoServers(t *testing.T) {
	s := newSwitch(t, switchtest.Options{Split: true})
	d, _ := s.openDB()
	d.cfgAddr = d.stateAddr
	d.cfgAddr.id = s.ConfigID
	d.config = connect(d.cfgAddr, d.m, func() {}, askBuffer)
	ctx := t.Context()
	var appl, config atomic.Int64
	connected := make(chan bool, 10)
	go d.Watch(ctx, watcher{appl: func(applChange) { appl.Add(1) }, config: func(event bool) { config.Add(1) }, connected: func(up bool, _ error) { connected <- up }})
	for range 2 { // APPL_DB's and STATE_DB's
		if !<-connected {
			t.Fatal("a subscription broke")
		}
	}
	s.waitFor("CONFIG_DB's subscription", func() bool { return config.Load() == 1 })
	other := s.Redis[1].Client(s.ConfigID)
	defer other.Close()
	const n = 200
	var writers sync.WaitGroup
	writers.Go(func() {
		for range n {
			other.HSet(ctx, s.ConfigKey("PORT", "Ethernet0"), "mtu", "9100")
		}
	})
	for range n / 2 {
		s.must(s.Appl.HSet(ctx, "PORT_TABLE:Ethernet0", "lanes", "1").Err())
		s.must(s.Appl.Del(ctx, "PORT_TABLE:Ethernet0").Err())
	}
	writers.Wait()
	s.waitFor("every event", func() bool { return appl.Load() == n && config.Load() == n+1 })
}

// TestNothingPassesForWritten: where no connection can be had, every write has an error, of whatever kind that makes it.
func TestNothingPassesForWritten(t *testing.T) {
	for name, harm := range map[string]func(s *testSwitch){
		"refused": func(s *testSwitch) { s.Redis[0].Stop() },
		"NOAUTH":  func(s *testSwitch) { s.must(s.Appl.ConfigSet(t.Context(), "requirepass", "secret").Err()) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSwitch(t, switchtest.Options{})
			harm(s)
			d, _ := s.openDB()
			f := &flush{initDone: true, list: true, signals: true}
			for _, w := range []portWrite{{set: true, ask: true}, {set: true}, {set: true, check: true}, {del: delCertain}, {del: delIfOurs}, {del: delCertain, set: true}} {
				w.port = "Ethernet0"
				f.writes = append(f.writes, &w)
			}
			if err := d.Flush(t.Context(), f); err == nil || !unavailable(err) {
				t.Errorf("the flush gives %v", err)
			}
			for i, w := range f.writes {
				if w.err == nil || w.written || w.same || w.deleted {
					t.Errorf("write %d passes: %+v", i, w)
				}
			}
			if f.found.known {
				t.Error("the signals pass for gone")
			}
		})
	}
}

// TestWhatMakesADatabaseUnavailable: only an answer about a key of another type concerns that key alone.
func TestWhatMakesADatabaseUnavailable(t *testing.T) {
	for text, want := range map[string]bool{
		"LOADING Redis is loading the dataset in memory": true, "READONLY You can't write against a read only replica.": true,
		"OOM command not allowed when used memory > 'maxmemory'.": true, "NOAUTH Authentication required.": true, "MISCONF Redis is configured to save": true,
		"WRONGTYPE Operation against a key holding the wrong kind of value": false, "ERR unknown command": true, "ERR max number of clients reached": true,
	} {
		if got := unavailable(fmt.Errorf("write: %w", redisReply(text))); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if !unavailable(errors.New("connection refused")) {
		t.Error("a refused connection is an outage")
	}
}

// redisReply is an error as the server sends it.
type redisReply string

func (r redisReply) Error() string { return string(r) }
func (redisReply) RedisError()     {}

// TestOneAnswerOfConfig: what ports have is where the answer is, and what outlives a reading is not.
func TestOneAnswerOfConfig(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.openDB()
	ctx := t.Context()
	for i, port := range []string{"Ethernet0", "Ethernet4"} {
		s.must(s.Config.HSet(ctx, "PORT|"+port, "lanes", fmt.Sprint(i), "mtu", "9100", "alias", "etp"+fmt.Sprint(i)).Err())
	}
	s.must(s.Config.HSet(ctx, "LOGGER|portsyncd", "LOGLEVEL", "NOTICE", "LOGOUTPUT", "STDERR").Err())
	s.must(s.Config.HSet(ctx, "DEVICE_METADATA|localhost", "switch_type", "voq").Err())
	c, err := d.Load(ctx)
	s.must(err)
	at := func(text string) uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(text))) }
	first, last := at(string(c.ports[0].fields)), at(string(c.ports[0].fields))
	for _, p := range c.ports {
		first, last = min(first, at(string(p.fields))), max(last, at(string(p.fields)))
	}
	if last-first > 500 {
		t.Errorf("the fields of two ports are %d bytes apart", last-first)
	}
	var series portSeries
	series.setAlias(c.ports[0].alias())
	for _, text := range []string{c.ports[0].name, c.ports[1].name, c.logger.level, c.logger.output, c.switchType,
		*series.alias.Load()} {
		if text == "" || at(text) >= first-100 && at(text) <= last+100 {
			t.Errorf("%q is a part of the answer, which it would keep in memory", text)
		}
	}
}
