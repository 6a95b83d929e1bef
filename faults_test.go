package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// Faults that a switch really has: a daemon that was stopped or killed, a Redis that hangs, dies, refuses or comes back empty.

// kernelLink is what the kernel says of a link, by ip(8).
type kernelLink struct {
	Name  string   `json:"ifname"`
	Flags []string `json:"flags"`
	MTU   int      `json:"mtu"`
	State string   `json:"operstate"`
}

func (l kernelLink) up(flag string) string { return upDown(slices.Contains(l.Flags, flag)) }

// oper is IFF_RUNNING, which ip(8) does not print but which follows the operational state (RFC 2863). The carrier, LOWER_UP, is up to a second
// ahead of it.
func (l kernelLink) oper() string {
	return upDown(slices.Contains(l.Flags, "UP") && (l.State == "UP" || l.State == "UNKNOWN"))
}

func (s *testSwitch) kernel() map[string]kernelLink {
	s.t.Helper()
	out, err := exec.Command("ip", "-n", s.NetNS, "-j", "link", "show").Output()
	s.must(err)
	var links []kernelLink
	s.must(json.Unmarshal(out, &links))
	ports := map[string]kernelLink{}
	for _, l := range links {
		if strings.HasPrefix(l.Name, "Ethernet") {
			ports[l.Name] = l
		}
	}
	return ports
}

// difference says where STATE_DB is not what the kernel says; empty is good news.
func (s *testSwitch) difference() string {
	s.t.Helper()
	links := s.kernel()
	ctx := context.Background()
	for name, l := range links {
		got, err := s.State.HMGet(ctx, s.StateKey(name), "state", "netdev_oper_status", "admin_status", "mtu").Result()
		if err != nil {
			return err.Error()
		}
		want := []any{"ok", l.oper(), l.up("UP"), strconv.Itoa(l.MTU)}
		if inAppl := s.Appl.Exists(ctx, "PORT_TABLE:"+name).Val() == 1; inAppl && !slices.Equal(got, want) {
			return fmt.Sprintf("%s is %v, the kernel says %v", name, got, want)
		}
	}
	keys, err := s.State.Keys(ctx, s.StateKey("*")).Result()
	if err != nil {
		return err.Error()
	}
	for _, key := range keys {
		name := strings.TrimPrefix(key, s.StateKey(""))
		if _, exists := links[name]; !exists && s.State.HExists(ctx, key, "state").Val() {
			return name + " has an entry and no interface"
		}
	}
	return ""
}

// waitAgreement waits until STATE_DB is what the kernel says, and returns how long that took.
func (s *testSwitch) waitAgreement(what string) time.Duration {
	s.t.Helper()
	start := time.Now()
	var difference string
	err := switchtest.WaitFor(patience, "agreement "+what, func() bool { difference = s.difference(); return difference == "" })
	if err != nil {
		s.t.Fatalf("%v: %s", err, difference)
	}
	return time.Since(start)
}

func (s *testSwitch) number(d *switchtest.Daemon, metric string) float64 {
	s.t.Helper()
	n, err := strconv.ParseFloat(s.metric(d, metric), 64)
	if err != nil {
		s.t.Fatalf("%s: %v", metric, err)
	}
	return n
}

// TestStoppedDaemonCatchesUp is what leaves the reference wrong for good: every port changes 40 times while nobody reads.
func TestStoppedDaemonCatchesUp(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	const n = 256
	d, _ := s.start(n)
	names := portNames(n)
	s.must(d.Signal(syscall.SIGSTOP))
	s.must(s.Flap(39, names...))
	var last []string
	for i, p := range names {
		last = append(last, "link set "+p+" "+[]string{"down", "mtu 1400"}[i%2])
	}
	s.must(s.Batch(s.NetNS, append(last, "link del "+names[n-1])...))
	s.must(d.Signal(syscall.SIGCONT))
	t.Logf("right again %v after it went on", s.waitAgreement("afterwards").Round(time.Millisecond))
	if got := s.metric(d, "portsyncd_netlink_overruns_total"); got == "0" {
		t.Error("nothing overran: the test did not test anything")
	}
	s.waitMetric(d, `portsyncd_health_status`, "1")
}

// TestRedisReturnsEmpty kills the server in a storm and starts it again with nothing in it; CONFIG_DB is loaded again as a switch does, or not.
func TestRedisReturnsEmpty(t *testing.T) {
	t.Parallel()
	for name, refill := range map[string]bool{"and CONFIG_DB is loaded again": true, "and stays empty": false} {
		t.Run(name, func(t *testing.T) {
			s := newSwitch(t, switchtest.Options{})
			const n = 64
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s.must(s.Configure(ctx, n))
			o, err := s.StartOrchagent(ctx, true)
			s.must(err)
			d := s.daemon()
			s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
			s.waitAgreement("at the start")
			storm := make(chan error, 1)
			go func() { storm <- s.Flap(60, slices.Delete(portNames(n), 3, 4)...) }() // all but Ethernet12
			s.Redis[0].Stop()
			cancel()
			s.waitMetric(d, "portsyncd_redis_connected", "0")
			s.must(s.IP("link", "set", "Ethernet8", "mtu", "1400"))
			s.must(s.IP("link", "del", "Ethernet12"))
			s.must(s.Redis[0].Start())
			if refill {
				s.must(s.Configure(t.Context(), n))
			}
			o = s.orchagent(false)
			s.must(<-storm)
			back := time.Now()
			s.waitFor("the signals again", func() bool { return o.Signal("PortConfigDone") != nil && o.Signal("PortInitDone") != nil })
			if got := o.Signal("PortConfigDone")["count"]; got != strconv.Itoa(n) {
				t.Errorf("PortConfigDone count=%s", got)
			}
			s.waitAgreement("after the return")
			t.Logf("right again %v after the storm", time.Since(back).Round(time.Millisecond))
			if got := len(s.entries()); got != n-1 {
				t.Errorf("%d entries", got)
			}
			if !d.Running() || d.Logged("do not answer") != 1 || d.Logged("answer again") != 1 {
				t.Error("the outage is not in the log once")
			}
		})
	}
}

// TestRedisReturnsWithOldData: the server saved, went on, died, and came back with what it had saved.
func TestRedisReturnsWithOldData(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	d, _ := s.start(8)
	s.must(s.State.Save(t.Context()).Err())
	s.must(s.Batch(s.NetNS, "link set Ethernet0 mtu 1400", "link set Ethernet4 down", "link del Ethernet8"))
	s.waitAgreement("before")
	s.Redis[0].Stop()
	s.waitMetric(d, "portsyncd_redis_connected", "0")
	s.must(s.Redis[0].Start())
	s.waitFor("the old data", func() bool { return s.State.DBSize(t.Context()).Val() > 0 })
	s.waitAgreement("afterwards")
	s.waitEntry("Ethernet0", fields("up", "up", 1400))
	s.waitEntry("Ethernet8", nil)
	if d.Logged("lost PortConfigDone") != 0 {
		t.Error("announced again, although APPL_DB has the signals")
	}
}

// TestRedisHangs stops the server for a while under a storm: links are taken in all the same, and memory does not grow with them.
func TestRedisHangs(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.program = plainDaemon(t)
	const n = 64
	d, _ := s.start(n)
	s.must(s.Flap(10, portNames(n)...))
	s.waitAgreement("before")
	for range 10 {
		s.metric(d, "up") // what scrapes take in any case
	}
	memory, messages := s.number(d, "process_resident_memory_bytes"), s.number(d, "portsyncd_netlink_messages_total")
	s.must(s.Redis[0].Process().Signal(syscall.SIGSTOP))
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		s.must(s.Flap(5, portNames(n)...))
	}
	s.must(s.Batch(s.NetNS, "link set Ethernet0 mtu 1400", "link del Ethernet4"))
	s.waitMetric(d, "portsyncd_redis_connected", "0")
	s.waitMetric(d, `portsyncd_port_mtu_bytes{port="Ethernet0"}`, "1400")
	if got := s.number(d, "portsyncd_netlink_messages_total"); got < messages+1000 {
		t.Errorf("%v messages were taken in meanwhile", got-messages)
	}
	t.Logf("memory grew by %.1f MB over %v messages", (s.number(d, "process_resident_memory_bytes")-memory)/1e6, s.number(d, "portsyncd_netlink_messages_total")-messages)
	if grown := s.number(d, "process_resident_memory_bytes") - memory; grown > 2<<20 {
		t.Errorf("memory grew by %v bytes", grown)
	}
	s.must(s.Redis[0].Process().Signal(syscall.SIGCONT))
	t.Logf("right again %v after the server went on", s.waitAgreement("afterwards").Round(time.Millisecond))
	s.waitMetric(d, "portsyncd_redis_connected", "1")
}

// TestRedisRefuses: each way in which a server answers and does not do as it is told.
func TestRedisRefuses(t *testing.T) {
	for name, c := range map[string]struct{ harm, mend [][]any }{
		"READONLY": {[][]any{{"replicaof", "127.0.0.1", "1"}}, [][]any{{"replicaof", "no", "one"}}},
		"OOM":      {[][]any{{"config", "set", "maxmemory", "1"}}, [][]any{{"config", "set", "maxmemory", "0"}}},
		"NOAUTH":   {[][]any{{"config", "set", "requirepass", "secret"}, {"client", "kill", "type", "normal", "skipme", "yes"}}, [][]any{{"auth", "secret"}, {"config", "set", "requirepass", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSwitch(t, switchtest.Options{})
			d, _ := s.start(2)
			admin := s.Redis[0].Client(0).Conn() // one connection, which stays authenticated
			defer admin.Close()
			do := func(commands [][]any) {
				for _, command := range commands {
					s.must(admin.Do(t.Context(), command...).Err())
				}
			}
			do(c.harm)
			s.must(s.IP("link", "set", "Ethernet0", "mtu", "1400"))
			s.waitMetric(d, "portsyncd_redis_connected", "0")
			s.waitFor("the log to say why", func() bool { return d.Logged("level=WARN", name) >= 1 })
			s.waitMetric(d, `portsyncd_health_check{check="redis"}`, "0.5")
			if failed := s.metric(d, "portsyncd_events_failed_total"); failed == "0" {
				t.Error("no event is counted as failed")
			}
			do(c.mend)
			s.waitEntry("Ethernet0", fields("up", "up", 1400))
			s.waitMetric(d, "portsyncd_redis_connected", "1")
			s.waitMetric(d, "portsyncd_health_status", "1")
		})
	}
}

// TestReconcileAgainstOthers: a real other writer, a real stale entry, and entries that are not ours.
func TestReconcileAgainstOthers(t *testing.T) {
	s := newSwitch(t, switchtest.Options{NoEvents: true})
	d, _ := s.start(2, "-reconcile-interval", "1s")
	ctx := t.Context()
	s.must(s.State.HSet(ctx, s.StateKey("Ethernet200"), "host_tx_ready", "true").Err()) // as the warm reboot script leaves them
	s.must(s.State.HSet(ctx, s.StateKey("Ethernet204"), "state", "ok", "host_tx_ready", "true").Err())
	s.must(s.State.HSet(ctx, s.StateKey("Ethernet0"), "netdev_oper_status", "down", "host_tx_ready", "true").Err())
	s.must(s.State.Del(ctx, s.StateKey("Ethernet4")).Err())
	want := fields("up", "up", 1500)
	want["host_tx_ready"] = "true"
	s.waitEntry("Ethernet0", want)
	s.waitEntry("Ethernet4", fields("up", "up", 1500))
	s.waitEntry("Ethernet204", nil)
	if got := s.entry("Ethernet200"); !maps.Equal(got, map[string]string{"host_tx_ready": "true"}) {
		t.Errorf("an entry that is not ours is %v", got)
	}
	for kind, port := range map[string]string{"changed": "Ethernet0", "lost": "Ethernet4", "stale": "Ethernet204"} {
		s.waitMetric(d, fmt.Sprintf("portsyncd_repairs_total{kind=%q}", kind), "1")
		if d.Logged("repaired:", "port="+port, "found=", "right=") != 1 {
			t.Errorf("the repair of %s is not in the log once", port)
		}
	}
	s.waitMetric(d, "portsyncd_health_status", "1")
}

// TestKilledDaemonComesBack: after kill -9 under load the new process adopts what is there. No admin state changes, nothing is announced twice.
func TestKilledDaemonComesBack(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	const n = 64
	d, o := s.start(n)
	ctx := t.Context()
	for _, p := range portNames(n) {
		s.must(s.State.HSet(ctx, s.StateKey(p), "host_tx_ready", "true").Err())
	}
	popped := len(o.Popped())
	s.must(s.Batch(s.NetNS, "link set Ethernet4 down"))
	storm := make(chan error, 1)
	go func() {
		storm <- s.Batch(s.NetNS, slices.Repeat([]string{"link set Ethernet0 mtu 1400", "link set Ethernet0 mtu 1500"}, 300)...)
	}()
	s.must(d.Signal(syscall.SIGKILL))
	if _, err := d.Wait(patience); err != nil {
		t.Fatal(err)
	}
	s.must(s.Batch(s.NetNS, "link set Ethernet8 mtu 1400", "link del Ethernet12"))
	s.must(s.State.HDel(ctx, s.StateKey("Ethernet12"), "host_tx_ready").Err())
	start := time.Now()
	d = s.daemon()
	s.waitFor("readiness", func() bool { return s.metric(d, "portsyncd_port_init_done") == "1" })
	t.Logf("ready %v after the start", time.Since(start).Round(time.Millisecond))
	s.must(<-storm)
	s.waitAgreement("after the return")
	for name, l := range s.kernel() {
		if want := upDown(name != "Ethernet4"); l.up("UP") != want {
			t.Errorf("%s is set %s", name, l.up("UP"))
		}
		if got := s.entry(name)["host_tx_ready"]; got != "true" {
			t.Errorf("%s has host_tx_ready %q", name, got)
		}
	}
	if got := o.Popped()[popped:]; len(got) != 0 {
		t.Errorf("announced again: %v", got)
	}
	if d.Logged("start decided", "existing_interfaces=adopted", "only this daemon was restarted") != 1 {
		t.Error("the decision is not in the log")
	}
	d.Stop()
	d = s.daemon("-old-interfaces", "down")
	s.waitFor("the interfaces to be set down", func() bool { return !s.adminUp("Ethernet8") })
	s.waitFor("the ports to be announced", func() bool { return len(o.Popped()) >= popped+n+1 })
}

// --- Chaos ------------------------------------------------------------------------------------------------------------------

var (
	chaosTime = flag.Duration("chaos.time", 30*time.Second, "how long TestChaos goes on")
	chaosSeed = flag.Uint64("chaos.seed", 0, "replays a run of TestChaos; 0: a new one")
)

// chaos is one run: a switch, a daemon that may be killed, and dice.
type chaos struct {
	*testSwitch
	dice  *rand.Rand
	names []string
	d     *switchtest.Daemon
	quit  context.CancelFunc // ends the stand-in for orchagent
	lines []string           // what was done in this round
	mtu   int                // of the marker

	flaps  map[string]flapCount // of the ports at the end of the last round
	unsure map[string]bool      // ports whose flaps this round cannot be told from the counts
}

// flapCount is the kernel's count and the daemon's, of one interface.
type flapCount struct {
	index  string
	kernel int
	daemon int
	pid    int
}

// TestChaos does at random what happens to a switch in years, a few things a round, and after each round, once it is quiet, STATE_DB has to be what the kernel
// says. `make soak` runs it for an hour.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	c := &chaos{testSwitch: newSwitch(t, switchtest.Options{}), dice: rand.New(rand.NewPCG(seed, 0)), names: portNames(24)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to run this again: go test -run TestChaos -chaos.seed %d -chaos.time %v\nthe last round: %s", seed, *chaosTime, strings.Join(c.lines, "; "))
		}
	})
	c.program = plainDaemon(t) // its memory is looked at
	c.must(c.Configure(t.Context(), len(c.names)))
	c.orchagentAgain(true)
	c.restart()
	c.must(c.AddPorts(marker))
	var memory, files, goroutines float64
	rounds := 0
	for end := time.Now().Add(*chaosTime); time.Now().Before(end) || rounds <= 15; rounds++ {
		c.lines, c.unsure = nil, map[string]bool{}
		for range 1 + c.dice.IntN(6) {
			c.act()
		}
		c.waitAgreement(fmt.Sprintf("after round %d (%s)", rounds, strings.Join(c.lines, "; ")))
		c.compareFlaps()
		if rounds == 10 {
			memory, files, goroutines = c.number(c.d, "process_resident_memory_bytes"), c.number(c.d, "process_open_fds"), c.number(c.d, "go_goroutines")
		}
	}
	t.Logf("%d rounds", rounds)
	if got := c.number(c.d, "process_resident_memory_bytes"); got > memory+6<<20 {
		t.Errorf("memory grew from %v to %v bytes", memory, got)
	}
	if got := c.number(c.d, "process_open_fds"); got > files+4 {
		t.Errorf("open files grew from %v to %v", files, got)
	}
	if got := c.number(c.d, "go_goroutines"); got > goroutines+4 {
		t.Errorf("goroutines grew from %v to %v", goroutines, got)
	}
}

// act does one thing.
func (c *chaos) act() {
	port := c.names[c.dice.IntN(len(c.names))]
	_, exists := c.kernel()[port]
	switch what := c.dice.IntN(22); {
	case what < 9 && exists:
		c.flap(port)
	case what < 9:
		c.do("create "+port, c.AddPorts(port))
	case what < 11 && exists:
		c.do("delete "+port, c.IP("link", "del", port))
	case what < 12 && exists:
		c.unsure[port] = true // the count goes on under another name for a moment
		c.do("rename "+port, c.Batch(c.NetNS, "link set "+port+" down", "link set "+port+" name away0", "link set away0 name "+port, "link set "+port+" up"))
	case what < 13 && exists:
		c.do("bridge "+port, c.Batch(c.NetNS, "link add Bridge type bridge", "link set "+port+" master Bridge", "link set "+port+" nomaster", "link del Bridge"))
	case what < 14 && exists:
		c.do("delete and create "+port, c.IP("link", "del", port))
		c.do("", c.AddPorts(port))
	case what == 14:
		c.do("stop the daemon", c.d.Signal(syscall.SIGSTOP))
		c.do("", c.Flap(c.dice.IntN(200), c.existing()...))
		c.do("", c.d.Signal(syscall.SIGCONT))
	case what == 15:
		c.do("kill the daemon", c.d.Signal(syscall.SIGKILL))
		_, err := c.d.Wait(patience)
		c.must(err)
		c.flap(c.names[0])
		c.restart()
	case what == 16:
		c.do("stop Redis", c.Redis[0].Process().Signal(syscall.SIGSTOP))
		c.do("", c.Flap(5, c.existing()...))
		c.do("", c.Redis[0].Process().Signal(syscall.SIGCONT))
	case what == 17:
		c.do("break the connections", c.State.Do(context.Background(), "client", "kill", "type", "normal", "skipme", "yes").Err())
		_ = c.State.Ping(context.Background()) // the test's own are broken, too
		_ = c.Appl.Ping(context.Background())
	case what == 18:
		c.do("flush the scripts", c.Appl.ScriptFlush(context.Background()).Err())
	case what == 19:
		c.do("kill Redis", nil)
		c.Redis[0].Stop()
		c.flap(port)
		c.do("", c.Redis[0].Start())
		c.do("", c.Configure(context.Background(), len(c.names))) // as a switch does
		c.orchagentAgain(false)
		c.waitFor("the ports to be announced again", func() bool { return c.Appl.Exists(context.Background(), "PORT_TABLE:PortInitDone").Val() == 1 })
	case what == 20:
		c.do("empty Redis", c.State.FlushAll(context.Background()).Err())
		c.do("", c.Configure(context.Background(), len(c.names)))
		c.waitFor("the ports to be announced again", func() bool { return c.Appl.Exists(context.Background(), "PORT_TABLE:PortInitDone").Val() == 1 })
	case what == 21:
		c.do("another writer", c.State.HSet(context.Background(), c.StateKey(port), "state", "ok", "mtu", "1").Err())
	}
}

// restart starts a daemon, now and then with a socket buffer that overruns at once.
func (c *chaos) restart() {
	buffer := []string{"4MiB", "16KiB"}[c.dice.IntN(2)]
	c.d = c.daemon("-reconcile-interval", "1s", "-log.level", "NOTICE", "-netlink.receive-buffer", buffer)
	c.waitFor("the daemon to be ready", func() bool { return c.metric(c.d, "portsyncd_port_init_done") == "1" })
}

// orchagentAgain starts the stand-in for orchagent, after Redis died with the one before.
func (c *chaos) orchagentAgain(create bool) {
	if c.quit != nil {
		c.quit()
	}
	ctx, quit := context.WithCancel(context.Background())
	c.t.Cleanup(quit)
	c.quit = quit
	_, err := c.StartOrchagent(ctx, create)
	c.must(err)
}

// compareFlaps: where interface and daemon are the same as a round ago, the daemon's count grows as much as the kernel's. It may take a
// resync: an entry can agree while one is still owed.
func (c *chaos) compareFlaps() {
	c.t.Helper()
	c.settle()
	var now map[string]flapCount
	var wrong string
	err := switchtest.WaitFor(patience, "the flap counts to agree", func() bool {
		now, wrong = c.flapCounts(), ""
		for port, was := range c.flaps {
			is := now[port]
			if is.index == was.index && is.pid == was.pid && !c.unsure[port] && is.daemon-was.daemon != is.kernel-was.kernel {
				wrong = fmt.Sprintf("%s lost its carrier %d times, %d flaps were counted", port, is.kernel-was.kernel, is.daemon-was.daemon)
			}
		}
		return wrong == ""
	})
	if err != nil {
		c.t.Fatalf("%v: %s", err, wrong)
	}
	c.flaps = now
}

// settle waits until every carrier is back, since flaps count from a port's first time up, and until the daemon has heard everything so
// far: a last change, and no resync owed.
func (c *chaos) settle() {
	c.t.Helper()
	var down []kernelLink
	err := switchtest.WaitFor(patience, "the carriers", func() bool {
		down = slices.DeleteFunc(slices.Collect(maps.Values(c.kernel())), func(l kernelLink) bool { return l.oper() == "up" })
		return len(down) == 0
	})
	if err != nil {
		c.t.Fatalf("%v: down are %+v", err, down)
	}
	c.mtu = 1500 + (c.mtu+1)%100
	c.must(c.IP("link", "set", marker, "mtu", strconv.Itoa(c.mtu)))
	c.waitFor("the daemon to have heard everything", func() bool {
		text := c.scrape(c.d)
		return sample(text, fmt.Sprintf("portsyncd_port_mtu_bytes{port=%q}", marker)) == strconv.Itoa(c.mtu) &&
			sample(text, `portsyncd_health_check{check="overrun"}`) == "1"
	})
}

// marker is a port that chaos leaves alone. APPL_DB does not have it.
const marker = "Ethernet400"

// flapCounts reads the counts of every port.
func (c *chaos) flapCounts() map[string]flapCount {
	c.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", c.NetNS, "sh", "-c",
		`cd /sys/class/net && for p in Ethernet*; do echo $p $(cat $p/ifindex $p/carrier_down_count); done`).Output()
	c.must(err)
	text := c.scrape(c.d)
	counts := map[string]flapCount{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 3 {
			kernel, err := strconv.Atoi(f[2])
			c.must(err)
			daemon, _ := strconv.Atoi(sample(text, fmt.Sprintf("portsyncd_port_flaps_total{port=%q}", f[0])))
			counts[f[0]] = flapCount{f[1], kernel, daemon, c.d.PID()}
		}
	}
	return counts
}

func (c *chaos) flap(port string) {
	if _, exists := c.kernel()[port]; exists {
		c.do("flap "+port, c.Flap(1+c.dice.IntN(20), port))
	}
}

func (c *chaos) existing() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(c.kernel())), func(p string) bool { return p == marker })
}

func (c *chaos) do(what string, err error) {
	c.t.Helper()
	if what != "" {
		c.lines = append(c.lines, what)
	}
	c.must(err)
}

// TestFlapsAreExact: through overruns and restarts of Redis, the counters grow as the kernel's do.
func TestFlapsAreExact(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	names := portNames(16)
	d, _ := s.start(len(names))
	before := s.carrierDowns(names)
	s.must(d.Signal(syscall.SIGSTOP))
	s.must(s.Flap(300, names...))
	s.must(d.Signal(syscall.SIGCONT))
	s.must(s.Redis[0].Process().Signal(syscall.SIGSTOP))
	s.must(s.Flap(20, names...))
	s.must(s.Redis[0].Process().Signal(syscall.SIGCONT))
	s.waitAgreement("afterwards")
	for p, n := range s.carrierDowns(names) {
		s.waitMetric(d, fmt.Sprintf("portsyncd_port_flaps_total{port=%q}", p), strconv.Itoa(n-before[p]))
	}
	if s.metric(d, "portsyncd_netlink_overruns_total") == "0" {
		t.Error("nothing overran: the test did not test anything")
	}
}

// carrierDowns reads the kernel's own counts.
func (s *testSwitch) carrierDowns(ports []string) map[string]int {
	s.t.Helper()
	counts := map[string]int{}
	for _, p := range ports {
		text, err := exec.Command("ip", "netns", "exec", s.NetNS, "cat", "/sys/class/net/"+p+"/carrier_down_count").Output()
		s.must(err)
		counts[p], err = strconv.Atoi(strings.TrimSpace(string(text)))
		s.must(err)
	}
	return counts
}
