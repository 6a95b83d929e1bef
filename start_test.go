package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"portsyncd/internal/switchtest"
)

// The start and what may happen in the middle of it, on the real thing: answers that come late, configuration that
// changes while it is announced, a daemon that ends between two steps.

// proxied puts a proxy before the first server.
func (s *testSwitch) proxied(judge func(request []byte) switchtest.Verdict) {
	s.t.Helper()
	stop, err := s.Redis[0].Proxy(judge)
	s.must(err)
	s.t.Cleanup(stop)
	s.must(s.WriteConfigFile())
}

// announces says that a request is the script that carries a key to APPL_DB.
func announces(request []byte, key string) bool {
	return bytes.Contains(request, []byte("PORT_TABLE_KEY_SET")) && bytes.Contains(request, []byte("\r\n"+key+"\r\n"))
}

// TestInterfacesThatAppearWhilePortConfigDoneIsAnnounced: they exist long before its acknowledgement is read, at the
// start and when it is announced again.
func TestInterfacesThatAppearWhilePortConfigDoneIsAnnounced(t *testing.T) {
	for _, late := range []time.Duration{20 * time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond} {
		t.Run(late.String(), func(t *testing.T) {
			s := newSwitch(t, switchtest.Options{})
			s.proxied(func(request []byte) (v switchtest.Verdict) {
				if announces(request, portConfigDone) {
					v.Hold = late
				}
				return v
			})
			d, o := s.start(4)
			s.must(s.Appl.FlushAll(t.Context()).Err())
			s.must(s.Configure(t.Context(), 5))
			s.waitFor("PortInitDone again", func() bool {
				popped := o.Popped()
				return len(slices.DeleteFunc(popped, func(key string) bool { return key != portInitDone })) == 2
			})
			s.waitMetric(d, "portsyncd_port_init_done", "1")
			if got := o.Signal("PortConfigDone")["count"]; got != "5" {
				t.Errorf("count is %s", got)
			}
		})
	}
}

// TestWhatIsAnnouncedIsWhatCONFIGDBHasThen: portmgrd has pushed a newer speed while the announcement failed, and in the
// middle of it.
func TestWhatIsAnnouncedIsWhatCONFIGDBHasThen(t *testing.T) {
	s := newSwitch(t, switchtest.Options{ApartConfig: true})
	ctx := t.Context()
	s.must(s.Configure(ctx, 2))
	push := func(port, speed string) { // as an operator and portmgrd do
		s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", port), "speed", speed).Err())
		s.must(s.Appl.HSet(ctx, "_PORT_TABLE:"+port, "speed", speed).Err())
	}
	var tries atomic.Int32
	s.proxied(func(request []byte) (v switchtest.Verdict) {
		if !announces(request, "Ethernet0") {
			return v
		}
		switch tries.Add(1) {
		case 1:
			v.Cut = true
			push("Ethernet0", "40000")
		case 2:
			push("Ethernet4", "25000") // after it was read, before it is written
		}
		return v
	})
	d := s.daemon()
	s.waitMetric(d, "portsyncd_port_config_done", "1")
	for port, want := range map[string]string{"Ethernet0": "40000", "Ethernet4": "25000"} {
		if got := s.Appl.HGet(ctx, "_PORT_TABLE:"+port, "speed").Val(); got != want {
			t.Errorf("%s has speed %s in APPL_DB, want %s", port, got, want)
		}
	}
}

// TestPortsThatWereReadAMomentAgo are pushed at once, and put right by the reading that follows: what is announced is
// what CONFIG_DB has. Ports that were read longer ago are read again first.
func TestPortsThatWereReadAMomentAgo(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	db, m := s.openDB()
	ctx := t.Context()
	s.must(s.Configure(ctx, 3))
	c, err := db.Load(ctx)
	s.must(err)
	read := time.Now()
	states := start{m: m, log: discard(), state: announcing}
	states.loaded(c, startFacts{signals: signals{count: -1}}, read)
	if late, _ := states.portsToAnnounce(read.Add(recently)); late != nil {
		t.Errorf("%d ports are pushed without being read again", len(late))
	}
	recent, fallback := states.portsToAnnounce(read.Add(recently / 2))
	if len(recent) != 3 || fallback != nil {
		t.Fatalf("%d ports were read a moment ago, and %d in the run before", len(recent), len(fallback))
	}
	s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", "Ethernet0"), "speed", "40000").Err())
	s.must(s.Config.Del(ctx, s.ConfigKey("PORT", "Ethernet4")).Err())
	s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", "Ethernet12"), "speed", "25000").Err())
	told, err := db.Announce(ctx, recent, fallback, nil)
	s.must(err)
	if names := namesOf(told.ports); !slices.Equal(names, []string{"Ethernet0", "Ethernet8", "Ethernet12"}) {
		t.Errorf("announced: %v", names)
	}
	for port, want := range map[string]string{"Ethernet0": "40000", "Ethernet4": "", "Ethernet8": "100000", "Ethernet12": "25000"} {
		if got := s.Appl.HGet(ctx, "_PORT_TABLE:"+port, "speed").Val(); got != want {
			t.Errorf("%s has speed %q in APPL_DB, want %q", port, got, want)
		}
	}
	if got := s.Appl.HGet(ctx, "_PORT_TABLE:PortConfigDone", "count").Val(); got != "3" {
		t.Errorf("the count is %q", got)
	}
	states.state = reannouncing
	if recent, fallback = states.portsToAnnounce(read); recent != nil || len(fallback) != 3 {
		t.Errorf("announced again are %d ports unread, and %d of an empty CONFIG_DB", len(recent), len(fallback))
	}
}

// TestPortThatIsDroppedWhileItIsAnnouncedIsTakenBack: CONFIG_DB drops it after we have read it, and portmgrd deletes it
// from APPL_DB before we write it. The second time our try fails afterwards, and the next one has never read the port.
func TestPortThatIsDroppedWhileItIsAnnouncedIsTakenBack(t *testing.T) {
	t.Parallel()
	for _, answered := range []bool{true, false} {
		t.Run(fmt.Sprintf("answered %v", answered), func(t *testing.T) {
			s := newSwitch(t, switchtest.Options{ApartConfig: true})
			ctx := t.Context()
			s.must(s.Configure(ctx, 3))
			var dropped atomic.Bool
			s.proxied(func(request []byte) (v switchtest.Verdict) {
				if announces(request, "Ethernet4") && !dropped.Swap(true) {
					s.must(s.Config.Del(ctx, s.ConfigKey("PORT", "Ethernet4")).Err())
					if !answered {
						v.Hold = dbTimeout + 200*time.Millisecond
					}
				}
				return v
			})
			o := s.orchagent(false)
			d := s.daemon()
			s.waitMetric(d, "portsyncd_port_config_done", "1")
			s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
			if got := o.Signal("PortConfigDone")["count"]; got != "2" {
				t.Errorf("count is %s", got)
			}
			for port, want := range map[string]int64{"Ethernet0": 1, "Ethernet4": 0, "Ethernet8": 1} {
				key := "PORT_TABLE:" + port
				if got := s.Appl.Exists(ctx, key, "_"+key).Val(); got != want {
					t.Errorf("APPL_DB has %s: %d, want %d", port, got, want)
				}
			}
		})
	}
}

// TestWhatAKilledDaemonPushedIsTakenBack: CONFIG_DB drops a port while it is announced, portmgrd deletes it from APPL_DB
// before we write it, and kill -9 comes before we have looked again. A row of STATE_DB tells the next daemon.
func TestWhatAKilledDaemonPushedIsTakenBack(t *testing.T) {
	s := newSwitch(t, switchtest.Options{ApartConfig: true})
	ctx := t.Context()
	s.must(s.Configure(ctx, 3))
	pushed := make(chan struct{})
	var once sync.Once
	s.proxied(func(request []byte) (v switchtest.Verdict) {
		if announces(request, "Ethernet4") {
			s.must(s.Config.Del(ctx, s.ConfigKey("PORT", "Ethernet4")).Err())
			v.Hold = 200 * time.Millisecond // it is carried out, and its answer comes too late
			once.Do(func() { close(pushed) })
		}
		return v
	})
	d := s.daemon()
	<-pushed
	s.waitFor("the push", func() bool { return s.Appl.Exists(ctx, "_PORT_TABLE:Ethernet4").Val() == 1 })
	s.must(d.Signal(os.Kill))
	s.waitFor("its end", func() bool { return !d.Running() })
	o := s.orchagent(false)
	d = s.daemon()
	s.waitMetric(d, "portsyncd_port_config_done", "1")
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	for port, want := range map[string]int64{"Ethernet0": 1, "Ethernet4": 0, "Ethernet8": 1} {
		key := "PORT_TABLE:" + port
		if got := s.Appl.Exists(ctx, key, "_"+key).Val(); got != want {
			t.Errorf("APPL_DB has %s: %d, want %d", port, got, want)
		}
	}
	if left := s.State.HKeys(ctx, "PORTSYNCD_START_TABLE|pushed_ports").Val(); len(left) > 0 {
		t.Errorf("the row of an announcement that is complete still has %v", left)
	}
}

// TestPortsAreAnnouncedAgainAsTheyAreNow: after a breakout, Redis loses everything, CONFIG_DB too.
func TestPortsAreAnnouncedAgainAsTheyAreNow(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	ctx := t.Context()
	d, o := s.start(3)
	s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", "Ethernet40"), "lanes", "41", "speed", "10000").Err())
	s.must(s.Config.Del(ctx, s.ConfigKey("PORT", "Ethernet8")).Err())
	s.waitFor("the breakout to be seen", func() bool {
		return s.metric(d,
			`portsyncd_port_pending{port="Ethernet40"}`) == "1"
	})
	s.waitFor("", func() bool { return s.metric(d, `portsyncd_port_pending{port="Ethernet8"}`) == "" })
	before := len(o.Popped())
	s.must(s.Appl.FlushAll(ctx).Err())
	s.must(s.Appl.ClientKillByFilter(ctx, "TYPE", "pubsub", "SKIPME", "yes").Err())
	s.waitFor("PortConfigDone again", func() bool { return slices.Contains(o.Popped()[before:], portConfigDone) })
	if got := o.Signal("PortConfigDone")["count"]; got != "3" {
		t.Errorf("count is %s", got)
	}
	if got := s.Appl.HGet(ctx, "PORT_TABLE:Ethernet40", "speed").Val(); got != "10000" {
		t.Errorf("Ethernet40 is announced with speed %q", got)
	}
	if s.Appl.Exists(ctx, "PORT_TABLE:Ethernet8").Val() != 0 {
		t.Error("Ethernet8 is announced, which CONFIG_DB had dropped")
	}
}

// TestPortThatReturnsToAPPLDBAfterFLUSHDB: flushing a database sends no events, and nobody is disconnected.
func TestPortThatReturnsToAPPLDBAfterFLUSHDB(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	ctx := t.Context()
	const port = "Ethernet40" // CONFIG_DB does not have it, so it is forgotten when its interface goes
	d, _ := s.start(2, "-reconcile-interval", "0")
	s.waitFor("the events", func() bool { return s.Appl.PubSubNumPat(ctx).Val() >= 1 })
	s.must(s.Appl.HSet(ctx, "PORT_TABLE:"+port, "lanes", "1").Err())
	s.must(s.AddPorts(port))
	s.waitEntry(port, fields("up", "up", 1500))
	s.must(s.Appl.FlushDB(ctx).Err())
	s.must(s.IP("link", "del", port))
	s.waitFor("the entry to go", func() bool { return s.State.Exists(ctx, s.StateKey(port)).Val() == 0 })
	s.waitMetric(d, "portsyncd_queue_depth", "0")
	events := s.number(d, "portsyncd_events_processed_total")
	s.must(s.AddPorts(port))
	s.waitFor("APPL_DB to be asked", func() bool { return s.number(d, "portsyncd_events_processed_total") > events })
	if s.State.Exists(ctx, s.StateKey(port)).Val() == 1 {
		t.Fatal("published although APPL_DB does not have it: the test tests nothing")
	}
	s.must(s.Appl.HSet(ctx, "PORT_TABLE:"+port, "lanes", "1").Err())
	s.waitEntry(port, fields("up", "up", 1500))
}

// TestKeyThatRefusesConcernsItsPortAlone: a string where a hash should be, at the start and later.
func TestKeyThatRefusesConcernsItsPortAlone(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	ctx := t.Context()
	s.must(s.Configure(ctx, 4))
	s.must(s.State.Set(ctx, s.StateKey("Ethernet0"), "not a hash", 0).Err())
	s.must(s.Config.Set(ctx, s.ConfigKey("PORT", "Ethernet90"), "not a hash", 0).Err())
	o := s.orchagent(true)
	d := s.daemon("-reconcile-interval", "0")
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	if got := o.Signal("PortConfigDone")["count"]; got != "4" {
		t.Errorf("count is %s", got)
	}
	for i, port := range []string{"Ethernet4", "Ethernet8", "Ethernet12"} {
		s.waitEntry(port, fields("up", "up", 1500))
		s.must(s.IP("link", "set", port, "mtu", strconv.Itoa(1400+i)))
		s.waitEntry(port, fields("up", "up", 1400+i))
	}
	s.waitMetric(d, `portsyncd_health_check{check="redis"}`, "0.5")
	s.waitMetric(d, "portsyncd_redis_connected", "1")
	if d.Logged("refuses a port's entry", "port=Ethernet0") != 1 || d.Logged("Ethernet90", "no hashes") != 1 {
		t.Error("the log does not name the port and the key, once")
	}
	s.must(s.State.Del(ctx, s.StateKey("Ethernet0")).Err())
	s.waitEntry("Ethernet0", fields("up", "up", 1500))
	s.waitMetric(d, "portsyncd_health_status", "1")
}

// TestCONFIGDBRewrittenInPlaceIsNotBelievedHalfway: config reload flushes it, fills it port by port, and says when it
// is done.
func TestCONFIGDBRewrittenInPlaceIsNotBelievedHalfway(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	ctx := t.Context()
	d, o := s.start(4, "-reconcile-interval", "1s")
	before := s.number(d, "portsyncd_redis_commands_total")
	s.must(s.Config.Del(ctx, configReady).Err())
	for _, port := range portNames(4) {
		s.must(s.Config.Del(ctx, s.ConfigKey("PORT", port)).Err())
	}
	for i := range 5 {
		s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", switchtest.PortName(i)), "lanes", strconv.Itoa(i)).Err())
		s.waitFor("a look at it", func() bool {
			now := s.number(d, "portsyncd_redis_commands_total")
			looked := now > before+1
			if looked {
				before = now
			}
			return looked
		})
	}
	s.must(s.Config.Set(ctx, configReady, "1", 0).Err())
	s.waitFor("the new count", func() bool { return o.Signal("PortConfigDone")["count"] == "5" })
	signals := slices.DeleteFunc(o.Popped(), func(key string) bool { return key != portConfigDone })
	if len(signals) != 2 {
		t.Errorf("PortConfigDone was sent %d times, want at the start and at the end", len(signals))
	}
}

// TestDaemonThatEndsAfterPortConfigDoneKnowsTheOldInterfaces: nothing is in STATE_DB yet that would tell.
func TestDaemonThatEndsAfterPortConfigDoneKnowsTheOldInterfaces(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.must(s.AddPorts("Ethernet0")) // a left-over
	s.must(s.Configure(t.Context(), 2))
	o := s.orchagent(false)
	d := s.daemon()
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	s.must(d.Signal(syscall.SIGKILL))
	if _, err := d.Wait(patience); err != nil {
		t.Fatal(err)
	}
	s.must(s.AddPorts("Ethernet4")) // orchagent's
	d = s.daemon()
	s.waitEntry("Ethernet4", fields("up", "up", 1500))
	s.waitFor("the left-over to be set down", func() bool { return !s.adminUp("Ethernet0") })
	if got := s.metric(d, `portsyncd_port_pending{port="Ethernet0"}`); got != "1" || o.Signal("PortInitDone") != nil {
		t.Errorf("pending of the port whose left-over exists is %s, and PortInitDone %v", got, o.Signal("PortInitDone"))
	}
	if !s.adminUp("Ethernet4") {
		t.Error("orchagent's interface was set down")
	}
	s.must(s.IP("link", "del", "Ethernet0"))
	s.must(s.AddPorts("Ethernet0"))
	s.waitEntry("Ethernet0", fields("up", "up", 1500))
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
}

// TestRenamedLeftOverStaysOne: a left-over that is renamed while the daemon runs is still one to the next daemon, which would publish it under the
// name of a port that orchagent has no interface for.
func TestRenamedLeftOverStaysOne(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.must(s.AddPorts("Ethernet0")) // a left-over
	s.must(s.Configure(t.Context(), 3))
	o := s.orchagent(false)
	d := s.daemon()
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	s.waitFor("the left-over to be set down", func() bool { return !s.adminUp("Ethernet0") })
	s.must(s.IP("link", "set", "Ethernet0", "name", "Ethernet4"))
	s.must(s.AddPorts("Ethernet8")) // orchagent's
	s.waitEntry("Ethernet8", fields("up", "up", 1500))
	d.Stop()
	d = s.daemon()
	s.waitMetric(d, "portsyncd_ports_present", "1")
	if got := s.metric(d, `portsyncd_port_pending{port="Ethernet4"}`); got != "1" || len(s.entry("Ethernet4")) > 0 {
		t.Errorf("pending of the port whose name a left-over has is %s, and its entry %v", got, s.entry("Ethernet4"))
	}
}

// TestCONFIGDBsOutageDoesNotTouchThePorts: it is on a server of its own, which is down, and ports are written as ever,
// without being compared all the time.
func TestCONFIGDBsOutageDoesNotTouchThePorts(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{ApartConfig: true})
	d, _ := s.start(8, "-reconcile-interval", "1s")
	s.Redis[1].Stop()
	s.waitMetric(d, "portsyncd_redis_connected", "0")
	commands := s.number(d, "portsyncd_redis_commands_total")
	resyncs := func() float64 { return s.number(d, `portsyncd_resyncs_total{reason="reconcile"}`) }
	from := resyncs()
	for i := 0; resyncs() < from+3; i++ {
		s.must(s.IP("link", "set", "Ethernet0", "mtu", strconv.Itoa(1400+i)))
		start := time.Now()
		s.waitEntry("Ethernet0", fields("up", "up", 1400+i))
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("a change took %v", took)
		}
	}
	if d.Logged("level=WARN", "CONFIG_DB does not answer") != 1 || d.Logged("answer again") != 0 {
		t.Error("the outage is not in the log once")
	}
	t.Logf("%v commands through three comparisons", s.number(d, "portsyncd_redis_commands_total")-commands)
	s.must(s.Redis[1].Start())
	s.must(s.Configure(t.Context(), 9))
	s.waitFor("the new port", func() bool { return s.metric(d, `portsyncd_port_pending{port="Ethernet32"}`) == "1" })
	s.waitMetric(d, "portsyncd_redis_connected", "1")
}

// TestHangingCONFIGDBDoesNotDelayPorts: it is on a server of its own, which takes what it is sent and does not answer,
// while it is to be read all the time.
func TestHangingCONFIGDBDoesNotDelayPorts(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{ApartConfig: true})
	d, _ := s.start(8, "-reconcile-interval", "1s")
	server := s.Redis[1].Process()
	s.must(server.Signal(syscall.SIGSTOP))
	defer func() { _ = server.Signal(syscall.SIGCONT) }()
	s.waitMetric(d, "portsyncd_redis_connected", "0") // from here on one try follows the other
	for i := range 60 {
		s.must(s.IP("link", "set", "Ethernet0", "mtu", strconv.Itoa(1400+i)))
		start := time.Now()
		s.waitEntry("Ethernet0", fields("up", "up", 1400+i))
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("a change took %v", took)
		}
		time.Sleep(50 * time.Millisecond) // spread over two tries: a rate, not a wait
	}
	began := time.Now()
	s.must(d.Signal(syscall.SIGTERM))
	if _, err := d.Wait(3 * time.Second); err != nil || time.Since(began) > time.Second+200*time.Millisecond {
		t.Errorf("the daemon took %v to end: %v", time.Since(began), err)
	}
}

// TestReturnOfACONFIGDBOfItsOwnPutsNoPortInDoubt, while that of the ports' databases does.
func TestReturnOfACONFIGDBOfItsOwnPutsNoPortInDoubt(t *testing.T) {
	for _, split := range []bool{false, true} {
		b := runningBench(t)
		b.courier.split = split
		down := errors.New("connection refused")
		b.courier.learn(lookErrand, down, b.clock)
		if back := b.courier.learn(lookErrand, nil, b.clock); back == split {
			t.Errorf("CONFIG_DB on a server of its own: %v, and ports are doubted: %v", split, back)
		}
		b.courier.learn(flushErrand, down, b.clock)
		if !b.courier.learn(flushErrand, nil, b.clock) {
			t.Error("the ports' databases were away, and nothing is doubted")
		}
	}
}

// --- On the bench ---------------------------------------------------------------------------------------------------------------

// TestWhatIsFoundDuringAnAnnouncementSaysNothing: APPL_DB is asked for the signals before they are there again, and
// answers after they were sent.
func TestWhatIsFoundDuringAnAnnouncementSaysNothing(t *testing.T) {
	b := runningBench(t, "Ethernet0")
	b.compare.askSignals()
	b.clock = b.clock.Add(time.Second)
	b.advance(b.clock, false)
	if len(b.jobs) != 1 {
		t.Fatalf("%d jobs are under way", len(b.jobs))
	}
	b.db.signalsGone = true
	b.jobs[0]()
	b.jobs, b.db.signalsGone = nil, false
	b.start.counted(1)
	b.settleDown()
	b.want("an answer that may be older than an announcement")
}

// TestWarmStartLeavesTheCountAloneUntilItHasEnded: orchagent goes by the one that is there.
func TestWarmStartLeavesTheCountAloneUntilItHasEnded(t *testing.T) {
	b := newBench(t, "Ethernet0", "Ethernet4")
	b.db.facts = startFacts{warm: true, signals: signals{configDone: true, count: 1}, events: true}
	b.db.appl["Ethernet0"], b.db.appl["Ethernet4"] = true, true
	b.turn()
	b.dumpDone(false, nil)
	b.settleDown()
	b.want("while a port has no interface yet")
	b.say(news(1, running), "Ethernet0")
	b.say(news(2, running), "Ethernet4")
	b.settleDown()
	if !slices.Contains(b.db.done, "PortConfigDone 2") || !slices.Contains(b.db.done, "PortInitDone") {
		t.Errorf("afterwards the databases got %q", b.db.done)
	}
}

// TestEventAboutTheLogSaysNothingOfThePorts: only one about a port makes it certain that there are none.
func TestEventAboutTheLogSaysNothingOfThePorts(t *testing.T) {
	f := newKeyFilter("__keyspace@0__:PORT_TABLE:", "__keyspace@4__:LOGGER|portsyncd")
	var heard []bool
	f.tell(watcher{config: func(ports bool) { heard = append(heard, ports) }})
	f.event("__keyspace@4__:LOGGER|portsyncd", "hset")
	f.event("__keyspace@4__:PORT|Ethernet0", "del")
	if !slices.Equal(heard, []bool{false, true}) {
		t.Errorf("heard %v", heard)
	}
}

// oldBench is a bench in its first listing.
func oldBench(t *testing.T, ports ...string) *bench {
	b := newBench(t, ports...)
	b.db.facts.events = true
	for _, p := range ports {
		b.db.appl[p] = true
	}
	b.turn()
	return b
}

// TestLineOlderThanALiveMessageRevivesNothing: an interface that goes during a listing, and one that is renamed to what
// is no port, whatever rule the live message falls under.
func TestLineOlderThanALiveMessageRevivesNothing(t *testing.T) {
	b := oldBench(t, "Ethernet0", "Ethernet4")
	b.line(news(7, running), "Ethernet0")
	b.dumpDone(false, nil) // 7 is old
	b.settleDown()
	b.say(news(8, running), "Ethernet4")
	b.settleDown()
	b.db.done = nil
	b.lost("test")
	b.turn()
	b.say(gone(7), "Ethernet0")
	b.say(news(8, running), "eth8")
	b.line(news(7, running), "Ethernet0") // late
	b.line(news(8, running), "Ethernet4") // late
	b.dumpDone(false, nil)
	b.settleDown()
	b.want("two lines that were late", "DEL Ethernet4")
	if b.start.done() {
		t.Error("PortInitDone came for an interface that is gone")
	}
}

// TestBridgeMessagesDoNotMakeALineLate: they say nothing of the device, so the line is all there is.
func TestBridgeMessagesDoNotMakeALineLate(t *testing.T) {
	b := listingBench(t)
	for _, m := range []linkMessage{{index: 1, family: 7, mtu: 1500}, {index: 1, family: 7, deleted: true}, {index: 1,
		deleted: true, master: 9}} {
		b.say(m, "Ethernet0")
	}
	b.line(news(1, up), "Ethernet0")
	b.dumpDone(false, nil)
	b.settleDown()
	b.want("a change whose message was lost", "SET Ethernet0 down/up 1500")
}

// TestEveryListingHasALimit, not only the first one.
func TestEveryListingHasALimit(t *testing.T) {
	b := runningBench(t, "Ethernet0")
	b.lost("test")
	b.turn()
	dumps := b.source.dumps
	b.clock = b.clock.Add(b.options.eoiu)
	b.turn()
	if b.source.dumps != dumps+1 {
		t.Errorf("%d listings were asked for, want %d", b.source.dumps, dumps+1)
	}
}

// TestLinkCreatedSinceTheSubscriptionIsNeverOld, however often the first listing is interrupted, and if it is ahead of
// the message.
func TestLinkCreatedSinceTheSubscriptionIsNeverOld(t *testing.T) {
	created := func(index int32) linkMessage { m := news(index, running); m.created = true; return m }
	b := oldBench(t, "Ethernet0", "Ethernet4", "Ethernet8")
	b.line(news(1, running), "Ethernet0")
	b.dumpDone(true, nil)
	b.say(created(2), "Ethernet4")
	b.clock = b.clock.Add(beatInterval)
	b.turn()
	b.line(news(1, running), "Ethernet0")
	b.line(news(2, running), "Ethernet4")
	b.line(news(3, running), "Ethernet8") // its message is still to come
	b.dumpDone(false, nil)
	b.settleDown()
	b.say(created(3), "Ethernet8")
	b.say(news(1, running), "Ethernet0")
	b.settleDown()
	if got := b.db.state; len(got) != 2 || got["Ethernet0"].oper {
		t.Errorf("published are %v", got)
	}
}

// TestWhatIsAskedForDuringAFlushIsNotForgotten: a comparison, and a look at the signals.
func TestWhatIsAskedForDuringAFlushIsNotForgotten(t *testing.T) {
	b := runningBench(t, "Ethernet0")
	b.say(news(1, running), "Ethernet0")
	var asked []flush
	b.db.onFlush = func(f *flush) {
		if asked = append(asked, *f); len(asked) == 1 {
			b.compare.askAll()
		}
	}
	b.compare.askAll()
	b.settleDown()
	if len(asked) < 2 || !asked[1].list || !asked[1].signals {
		t.Errorf("%d flushes, and what was asked for during the first one is lost", len(asked))
	}
}

func TestRestInAFightIsBounded(t *testing.T) {
	last := 0
	for _, repairs := range []int{fightAfter, fightAfter + 1, fightAfter + 5, 43, 75, 1000, math.MaxInt32} {
		rest := restOf(repairs)
		if rest < last || rest < 1 || rest > restAtMost {
			t.Errorf("%d comparisons are sat out after %d repairs", rest, repairs)
		}
		last = rest
	}
	if last != restAtMost {
		t.Errorf("it grows to %d", last)
	}
}

// TestCreationsAreTold: the kernel says of a message that the link is new, and of no other.
func TestCreationsAreTold(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	links := s.openLinks()
	s.must(s.AddPorts("Ethernet0"))
	s.must(s.IP("link", "set", "Ethernet0", "mtu", "1400"))
	s.must(s.IP("link", "set", "Ethernet0", "name", "Ethernet4"))
	s.must(s.IP("link", "del", "Ethernet4"))
	var sink creations
	s.waitFor("the deletion", func() bool {
		_, err := links.Receive(&sink)
		s.must(err)
		return sink.deleted
	})
	if sink.created != 1 || sink.others < 3 {
		t.Errorf("%d messages say that the link is new, %d others came", sink.created, sink.others)
	}
}

// creations counts messages about front-panel ports.
type creations struct {
	syncer
	created, others int
	deleted         bool
}

func (r *creations) received(time.Time, int) {}
func (r *creations) live(m *linkMessage) {
	switch name := string(m.name); {
	case name != "Ethernet0" && name != "Ethernet4":
	case m.created:
		r.created++
	case m.deleted:
		r.deleted = true
	default:
		r.others++
	}
}

// losing carries out what writes down the pushed ports, and loses the answer, once.
type losing struct {
	redisConn
	key  string
	lost bool
}

func (l *losing) Exec(ctx context.Context, commands []redis.Cmder) error {
	err := l.redisConn.Exec(ctx, commands)
	last := commands[len(commands)-1].Args()
	if key, _ := last[1].(string); !l.lost && last[0] == "hset" && key == l.key {
		l.lost = true
		for _, c := range commands {
			c.SetErr(io.EOF)
		}
		return io.EOF
	}
	return err
}

// TestPortThatWasNeverPushedIsNotTakenBack: the answer was lost to what writes down the ports, before any was pushed.
func TestPortThatWasNeverPushedIsNotTakenBack(t *testing.T) {
	for _, again := range []bool{false, true} { // an announcement was complete before
		s := newSwitch(t, switchtest.Options{ApartConfig: true})
		ctx := t.Context()
		d, _ := s.openDB()
		s.must(s.Configure(ctx, 4))
		s.must(s.Config.Set(ctx, configReady, "1", 0).Err())
		c, err := d.Load(ctx)
		s.must(err)
		_, err = d.LookBack(ctx, c.ports)
		s.must(err)
		if again {
			_, err = d.Announce(ctx, c.ports, nil, nil)
			s.must(err)
			s.must(s.Appl.FlushDB(ctx).Err())
		}
		d.state = &losing{redisConn: d.state, key: d.pushedKey()}
		if _, err := d.Announce(ctx, c.ports, nil, nil); err == nil {
			t.Fatal("no answer was lost")
		}
		if n := s.Appl.Exists(ctx, "PORT_TABLE_KEY_SET").Val(); n != 0 {
			t.Fatal("ports were pushed")
		}
		s.must(s.Config.Del(ctx, "PORT|"+c.ports[3].name).Err())
		if c, err = d.Load(ctx); err != nil || len(c.ports) != 3 {
			t.Fatal(c, err)
		}
		_, err = d.Announce(ctx, c.ports, nil, nil)
		s.must(err)
		if names := s.Appl.SMembers(ctx, "PORT_TABLE_DEL_SET").Val(); len(names) > 0 {
			t.Errorf("%q, which no portsyncd has pushed, are deleted", names)
		}
	}
}

// TestStandaloneHasNoPortConfigDone: nobody is told anything, and PortInitDoneMissing goes by it.
func TestStandaloneHasNoPortConfigDone(t *testing.T) {
	b := newBench(t)
	m := newMetrics("test")
	s := newSyncer(syncOptions{eoiu: 30 * time.Second, spawn: func(func()) {}}, b.source, nil, m, new(health), discard(), func() time.Time { return b.clock })
	defer s.open(t.Context())()
	s.advance(b.clock, false)
	s.dumpDone(false, nil)
	for range 10 {
		b.clock = b.clock.Add(time.Second)
		s.advance(b.clock, false)
	}
	if m.portConfigDone.Load() == 1 && m.portInitDone.Load() == 0 {
		t.Error("with -standalone portsyncd_port_config_done is 1 and portsyncd_port_init_done 0: PortInitDoneMissing fires after 10 min")
	}
}

// TestPortConfigDoneIsTakenLast: orchagent takes 128 keys at a time, at random. A port that it takes after
// PortConfigDone is no configured one to it. It may be busy between two times; one that takes none does not hold the
// signal up.
func TestPortConfigDoneIsTakenLast(t *testing.T) {
	t.Parallel()
	for _, options := range []switchtest.Options{{}, {ApartConfig: true}} {
		for _, ports := range []int{popBatch - 1, popBatch, 3 * popBatch, 1025} {
			t.Run(fmt.Sprintf("%d ports, CONFIG_DB apart %v", ports, options.ApartConfig), func(t *testing.T) {
				t.Parallel()
				s := newSwitch(t, options)
				d, _ := s.openDB()
				d.patience = 10 * time.Second // this machine may be slow
				ctx := t.Context()
				s.must(s.Configure(ctx, ports))
				done := make(chan error, 1)
				var told announcement
				go func() {
					var err error
					told, err = d.Announce(ctx, nil, nil, nil)
					done <- err
				}()
				s.waitFor("the ports", func() bool { return int(s.Appl.SCard(ctx, "PORT_TABLE_KEY_SET").Val()) >= ports })
				want := ports
				if ports >= popBatch { // then it waits
					want--
					s.must(s.Config.Del(ctx, s.ConfigKey("PORT", "Ethernet0")).Err()) // and portmgrd has not begun
				}
				for dropped, last := false, ""; last != portConfigDone; {
					keys := s.Appl.SPopN(ctx, "PORT_TABLE_KEY_SET", popBatch).Val()
					for _, key := range slices.Sorted(slices.Values(keys)) { // it has them in order, the signals last
						if last == portConfigDone {
							t.Fatalf("%s is taken after PortConfigDone", key)
						}
						dropped, last = dropped || s.Appl.SIsMember(ctx, "PORT_TABLE_DEL_SET", key).Val(), key
					}
					if last == portConfigDone && dropped != (want < ports) {
						t.Error("a port that CONFIG_DB has dropped by then stays announced")
					}
					time.Sleep(20 * time.Millisecond)
				}
				s.must(<-done)
				if got := s.Appl.HGet(ctx, "_PORT_TABLE:PortConfigDone", "count").Val(); len(told.ports) != want || got != strconv.Itoa(want) {
					t.Errorf("%d ports are announced, and the count is %s, want %d", len(told.ports), got, want)
				}
			})
		}
	}
	t.Run("nobody takes them", func(t *testing.T) {
		s := newSwitch(t, switchtest.Options{})
		d, _ := s.openDB()
		s.must(s.Configure(t.Context(), 2*popBatch))
		_, err := d.Announce(t.Context(), nil, nil, nil)
		if s.must(err); s.Appl.Exists(t.Context(), "_PORT_TABLE:PortConfigDone").Val() != 1 {
			t.Error("PortConfigDone does not come")
		}
	})
	t.Run("others wait", func(t *testing.T) { // such as deletions that orchagent has not come to
		s := newSwitch(t, switchtest.Options{})
		d, _ := s.openDB()
		s.must(s.Configure(t.Context(), 2))
		for i := range popBatch {
			s.must(s.Appl.SAdd(t.Context(), "PORT_TABLE_KEY_SET", fmt.Sprint("Ethernet", 1000+i)).Err())
		}
		d.patience = time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := d.Announce(ctx, nil, nil, nil); err == nil {
			t.Error("PortConfigDone is announced while more keys wait than orchagent takes at once")
		}
	})
}

// TestPortOfManyFields is announced like the others: Lua's stack does not take all fields at once.
func TestPortOfManyFields(t *testing.T) {
	for _, options := range []switchtest.Options{{}, {ApartConfig: true}} {
		s := newSwitch(t, options)
		d, _ := s.openDB()
		ctx := t.Context()
		s.must(s.Configure(ctx, 2))
		const n = 5001
		words := make([]any, 0, 2*n)
		for i := range n {
			words = append(words, fmt.Sprint("field", i), i)
		}
		s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", "Ethernet8"), words...).Err())
		_, err := d.Announce(ctx, nil, nil, nil)
		s.must(err)
		if got := s.Appl.HLen(ctx, "_PORT_TABLE:Ethernet8").Val(); got != n {
			t.Errorf("%d of %d fields are announced", got, n)
		}
	}
}

// TestListsOfCONFIGDB: a field that is a list is called name@ there, and there alone.
func TestListsOfCONFIGDB(t *testing.T) {
	for _, options := range []switchtest.Options{{}, {ApartConfig: true}} {
		s := newSwitch(t, options)
		d, _ := s.openDB()
		ctx := t.Context()
		s.must(s.Configure(ctx, 1))
		s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", "Ethernet4"), "adv_speeds@", "10000,25000", "description", "leaf@rack").Err())
		_, err := d.Announce(ctx, nil, nil, nil)
		s.must(err)
		want := map[string]string{"adv_speeds": "10000,25000", "description": "leaf@rack"}
		if got := s.Appl.HGetAll(ctx, "_PORT_TABLE:Ethernet4").Val(); !maps.Equal(got, want) {
			t.Errorf("announced: %v", got)
		}
	}
}
