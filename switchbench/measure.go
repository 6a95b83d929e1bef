package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"portsyncd/internal/switchtest"
)

// bench is one run: a switch, a daemon on it, and the figures so far. Each step leaves every port up, and waits until the
// databases say so.
type bench struct {
	options
	ctx      context.Context
	sw       *switchtest.Switch
	daemon   *switchtest.Daemon
	links    *switchtest.LinkListener
	admin    *switchtest.AdminSetter
	names    []string
	figures  []figure
	commands int // that the bench itself sent to Redis

	mu   sync.Mutex
	last time.Time // when the latest of the interfaces appeared
	seen map[string]bool
}

const changeGap = 25 * time.Millisecond // between single changes

func (b *bench) note(name, unit string, value float64) {
	f := figure{Name: name, Unit: unit}
	if !math.IsInf(value, 0) {
		f.Value = &value
	}
	b.figures = append(b.figures, f)
}

func (b *bench) close() {
	if b.daemon != nil {
		b.daemon.Stop()
	}
	if b.links != nil {
		b.links.Close()
	}
	if b.admin != nil {
		b.admin.Close()
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// start measures from the start of the process until PortConfigDone is on its way to orchagent, and from the appearance of the last
// interface to PortInitDone. A negative time is a daemon that says so before the interfaces exist.
func (b *bench) start(command []string) error {
	for i := range b.ports {
		b.names = append(b.names, switchtest.PortName(i))
	}
	b.seen = make(map[string]bool)
	if err := b.sw.Configure(b.ctx, b.ports); err != nil {
		return err
	}
	if _, err := b.sw.StartOrchagent(b.ctx, true); err != nil {
		return err
	}
	var err error
	if b.links, err = b.sw.ListenLinks(b.appeared); err != nil {
		return err
	}
	if b.admin, err = b.sw.SetAdmin(); err != nil {
		return err
	}
	signals := map[string]chan time.Time{"_PORT_TABLE:PortConfigDone": make(chan time.Time, 100), "_PORT_TABLE:PortInitDone": make(chan time.Time, 100)}
	stop, err := b.sw.Redis[0].Events(b.sw.ApplID, "_PORT_TABLE:Port*Done", func(e switchtest.KeyEvent) {
		if to := signals[e.Key]; to != nil && e.Operation == "hset" {
			to <- e.At
		}
	})
	if err != nil {
		return err
	}
	defer stop()
	begun := time.Now()
	if b.daemon, err = b.sw.StartInside(command...); err != nil {
		return err
	}
	config, err := b.await("PortConfigDone", signals["_PORT_TABLE:PortConfigDone"])
	if err != nil {
		return err
	}
	b.note("start to PortConfigDone", "ms", ms(config.Sub(begun)))
	init, err := b.await("PortInitDone", signals["_PORT_TABLE:PortInitDone"])
	if err != nil {
		return err
	}
	if err := switchtest.WaitFor(time.Minute, "every interface to appear", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.seen) == b.ports
	}); err != nil {
		return err
	}
	b.note("last interface to PortInitDone", "ms", ms(init.Sub(b.last)))
	return nil
}

func (b *bench) appeared(e switchtest.LinkEvent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.seen[e.Name] && strings.HasPrefix(e.Name, "Ethernet") {
		b.seen[e.Name], b.last = true, e.At
	}
}

func (b *bench) await(what string, signal chan time.Time) (time.Time, error) {
	select {
	case at := <-signal:
		return at, nil
	case <-time.After(time.Minute):
		return time.Time{}, fmt.Errorf("%s did not come within a minute; the daemon printed:\n%s", what, b.daemon.Log())
	case <-b.ctx.Done():
		return time.Time{}, b.ctx.Err()
	}
}

// appear waits until every port is published. One that never is – the C++ daemon looks for it in APPL_DB once, at its link message – is counted, and left out
// of what follows.
func (b *bench) appear() error {
	_, wrong := b.converge(b.limit, b.expect(nil))
	b.note("start: ports not published", "", float64(len(wrong)))
	b.names = slices.DeleteFunc(b.names, func(p string) bool { return slices.Contains(wrong, p) })
	if len(b.names) < 2 {
		return fmt.Errorf("hardly any port was published; the daemon printed:\n%s", b.daemon.Log())
	}
	return b.settle()
}

// settle lets the kernel's own late messages pass: it reports changes of the carrier at most once a second. Less than
// that second makes some messages count for what is measured next.
func (b *bench) settle() error {
	select {
	case <-time.After(b.quietTime):
		return nil
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}

// expect is the admin status of every port when those in down are down.
func (b *bench) expect(down []string) map[string]string {
	out := make(map[string]string)
	for _, p := range b.names {
		out[p] = "up"
	}
	for _, p := range down {
		out[p] = "down"
	}
	return out
}

// converge waits until STATE_DB says what is expected, and returns how long it took and which ports were still wrong at the limit.
func (b *bench) converge(limit time.Duration, expected map[string]string) (took time.Duration, wrong []string) {
	begun := time.Now()
	ports := slices.Clone(b.names)
	for {
		pipe := b.sw.State.Pipeline()
		got := make([]*redis.StringCmd, len(ports))
		for i, p := range ports {
			got[i] = pipe.HGet(b.ctx, b.sw.StateKey(p), "admin_status")
		}
		_, _ = pipe.Exec(b.ctx) // a port that is missing is an error of its own
		b.commands += len(ports)
		took = time.Since(begun)
		wrong = nil
		for i, p := range ports {
			if got[i].Val() != expected[p] {
				wrong = append(wrong, p)
			}
		}
		if len(wrong) == 0 && len(ports) == len(b.names) {
			return took, nil
		}
		if ports = wrong; len(wrong) == 0 {
			ports = slices.Clone(b.names) // all at once, to be sure
			continue
		}
		if took > limit || b.ctx.Err() != nil {
			return took, wrong
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// latency is one change at a time: from the request to the kernel to the moment when STATE_DB tells its readers. The
// kernel's own part of it, some microseconds, is the same for every daemon; a listener of this process's own, which
// could leave it out, is at times later than the daemon.
func (b *bench) latency() error {
	took, err := b.change(b.names, b.changes, b.changes)
	b.noteLatency("one change", took)
	return err
}

// never is the latency of a change that did not reach STATE_DB within -limit.
const never = time.Duration(math.MaxInt64)

func (b *bench) noteLatency(name string, took []time.Duration) {
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	for _, q := range []struct {
		name string
		of   float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"max", 1}} {
		value := math.Inf(1)
		if d := took[int(q.of*float64(len(took)-1)+0.5)]; d != never {
			value = us(d)
		}
		b.note(name+" to STATE_DB, "+q.name, "us", value)
	}
}

// loaded is the same on one port while all the others flap.
func (b *bench) loaded() error {
	last := len(b.names) - 1
	others, one := b.names[:last], b.names[last:]
	storm := make(chan error, 1)
	ctx, stop := context.WithCancel(b.ctx)
	go func() {
		for ctx.Err() == nil {
			if err := b.sw.Flap(1, others...); err != nil {
				storm <- err
				return
			}
		}
		storm <- nil
	}()
	b.links.Hold(true)
	defer b.links.Hold(false)
	took, err := b.change(one, b.changes, b.changes)
	stop()
	if stormErr := <-storm; err == nil {
		err = stormErr
	}
	b.noteLatency("one change in a storm", took)
	if err != nil {
		return err
	}
	b.converge(b.limit, b.expect(nil))
	return b.settle()
}

// change sets ports down and up, one change at a time in turns, and takes each one's latency. It ends early when as
// many in a row as patience never came.
func (b *bench) change(ports []string, changes, patience int) (took []time.Duration, err error) {
	ports = ports[:min(len(ports), 16)]
	indexes := make([]int, len(ports))
	for i, p := range ports {
		if indexes[i], err = b.sw.Index(p); err != nil {
			return nil, err
		}
	}
	events := make(chan switchtest.KeyEvent, 10000)
	pattern := b.sw.StateKey("Ethernet*")
	if len(ports) == 1 {
		pattern = b.sw.StateKey(ports[0])
	}
	stop, err := b.sw.Redis[0].Events(b.sw.StateID, pattern, func(e switchtest.KeyEvent) { events <- e })
	if err != nil {
		return nil, err
	}
	defer stop()
	vain := 0 // in a row
	for n := 0; n < changes && vain < patience; n++ {
		if err := b.ctx.Err(); err != nil {
			return nil, err
		}
		i, want := n/2%len(ports), [...]string{"down", "up"}[n%2]
		key := b.sw.StateKey(ports[i])
		asked := time.Now()
		if err := b.admin.Set(indexes[i], n%2 == 1); err != nil {
			return nil, err
		}
		took = append(took, follow(asked, b.limit, events, func(e switchtest.KeyEvent) bool {
			return e.Key == key && e.Operation == "hset" && b.sw.State.HGet(b.ctx, key, "admin_status").Val() == want
		}))
		if vain++; took[n] != never {
			vain = 0
		}
		time.Sleep(changeGap)
	}
	if n := len(took); n%2 == 1 { // the last one was down
		err = b.admin.Set(indexes[n/2%len(ports)], true)
	}
	return took, err
}

// follow takes the time from a request to the event behind which STATE_DB has what was asked for; never, if that does
// not come within the limit. An event from before the request is of an earlier change, whatever the database holds by
// now.
func follow(asked time.Time, limit time.Duration, events <-chan switchtest.KeyEvent,
	holds func(switchtest.KeyEvent) bool) time.Duration {
	late := time.After(limit)
	for {
		select {
		case e := <-events:
			if e.At.After(asked) && holds(e) {
				return e.At.Sub(asked)
			}
		case <-late:
			return never
		}
	}
}

// storm sets every port down and up, as fast as the kernel takes it.
func (b *bench) storm() error {
	b.links.Hold(true)
	messages, commands, err := b.links.Messages.Load(), 0, error(nil)
	if commands, err = b.redisCommands(); err != nil {
		return err
	}
	cpu, err := b.daemon.CPU()
	if err != nil {
		return err
	}
	if err := b.sw.Flap(b.rounds, b.names...); err != nil {
		return err
	}
	took, wrong := b.converge(b.limit, b.expect(nil))
	if err := b.settle(); err != nil {
		return err
	}
	after, err := b.daemon.CPU()
	if err != nil {
		return err
	}
	sent, err := b.redisCommands()
	if err != nil {
		return err
	}
	b.links.Hold(false)
	n := b.settledMessages() - messages
	if b.links.Lost.Load() {
		return fmt.Errorf("the storm overran the bench's own listener: take fewer -rounds")
	}
	b.note("storm: link messages", "", float64(n))
	b.note("storm: processor time a message", "us", us(after-cpu)/float64(n))
	b.note("storm: Redis commands a message", "", float64(sent-commands)/float64(n))
	b.noteConverged("storm", took, wrong)
	return nil
}

func (b *bench) noteConverged(name string, took time.Duration, wrong []string) {
	converged := ms(took)
	if len(wrong) > 0 {
		converged = math.Inf(1)
	}
	b.note(name+": its end to all right", "ms", converged)
	b.note(name+": ports left wrong", "", float64(len(wrong)))
}

// settledMessages counts the messages so far when no more come.
func (b *bench) settledMessages() int64 {
	for n := int64(-1); ; time.Sleep(100 * time.Millisecond) {
		now := b.links.Messages.Load()
		if now == n {
			return n
		}
		n = now
	}
}

// redisCommands is how many commands others than the bench have sent.
func (b *bench) redisCommands() (int, error) {
	text, err := b.sw.State.Info(b.ctx, "stats").Result()
	b.commands++
	_, rest, _ := strings.Cut(text, "total_commands_processed:")
	number, _, _ := strings.Cut(rest, "\r\n")
	n, convErr := strconv.Atoi(number)
	if err == nil {
		err = convErr
	}
	return n - b.commands, err
}

// overrun stops the daemon until the kernel has dropped messages for it, leaves half of the ports down, and lets it go on.
func (b *bench) overrun() error {
	if err := b.daemon.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	b.links.Hold(true)
	before := b.links.Messages.Load()
	half := b.names[:len(b.names)/2]
	if err := b.sw.Flap(overrunMessages/(3*len(b.names))+1, b.names...); err != nil {
		return err
	}
	for _, p := range half {
		index, err := b.sw.Index(p)
		if err == nil {
			err = b.admin.Set(index, false)
		}
		if err != nil {
			return err
		}
	}
	if err := b.daemon.Signal(syscall.SIGCONT); err != nil {
		return err
	}
	took, wrong := b.converge(b.limit, b.expect(half))
	b.links.Hold(false)
	b.note("overrun: link messages", "", float64(b.settledMessages()-before))
	b.noteConverged("overrun", took, wrong)
	for _, p := range half {
		if err := b.sw.IP("link", "set", p, "up"); err != nil {
			return err
		}
	}
	b.converge(b.limit, b.expect(nil))
	return b.settle()
}

// overrunMessages is more than any daemon's receive buffer holds.
const overrunMessages = 30000
