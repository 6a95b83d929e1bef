package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"portsyncd/internal/switchtest"
)

// With -asics a switch of several ASICs is measured: one process for all of them, beside one process for each, ours and
// with -vs another. What one ASIC goes through is held against what the others feel of it.

// boxBench is one run of one way to look after a box.
type boxBench struct {
	options
	ctx     context.Context
	box     *switchtest.Box
	asics   []*bench
	daemons []*switchtest.Daemon
	figures []figure
	begun   time.Time
}

// boxWay is one way: a command for the whole box, or one for each ASIC.
type boxWay struct {
	name  string
	whole bool
	start func(b *boxBench) error
}

func (o *options) boxWays(command, versus []string) []boxWay {
	each := func(program []string) func(b *boxBench) error {
		return func(b *boxBench) error {
			for _, a := range b.asics {
				d, err := a.sw.StartInside(program...)
				if err != nil {
					return err
				}
				b.daemons = append(b.daemons, d)
			}
			return nil
		}
	}
	ways := []boxWay{
		{"one " + strings.Join(command, " "), true, func(b *boxBench) error {
			d, err := b.box.StartDaemon(command)
			if err != nil {
				return err
			}
			b.daemons = append(b.daemons, d)
			return nil
		}},
		{fmt.Sprintf("%d × %s", o.asics, strings.Join(command, " ")), false, each(command)}}
	if len(versus) > 0 {
		ways = append(ways, boxWay{fmt.Sprintf("%d × %s", o.asics, strings.Join(versus, " ")), false, each(versus)})
	}
	return ways
}

// runBox measures each way in turns, and prints a table of medians.
func runBox(ctx context.Context, o options, command, versus []string, out io.Writer) error {
	ways := o.boxWays(command, versus)
	runs := make([]daemonRuns, len(ways))
	for i := range o.runs {
		for w := range ways {
			fmt.Fprintf(os.Stderr, "run %d of %d: %s\n", i+1, o.runs, ways[w].name)
			figures, err := o.measureBox(ctx, ways[w])
			if err != nil {
				return fmt.Errorf("%s: %w", ways[w].name, err)
			}
			runs[w].Runs = append(runs[w].Runs, figures)
		}
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer t.Flush()
	fmt.Fprintf(t, "%d ASICs of %d ports, medians of %d\tunit\t", o.asics, o.ports, o.runs)
	for w := range ways {
		fmt.Fprintf(t, "%c\t", 'A'+w)
	}
	fmt.Fprintln(t)
	for i, f := range runs[0].Runs[0] {
		fmt.Fprintf(t, "%s\t%s\t", f.Name, f.Unit)
		for w := range ways {
			fmt.Fprintf(t, "%s\t", display(median(runs[w].column(i))))
		}
		fmt.Fprintln(t)
	}
	for w := range ways {
		fmt.Fprintf(t, "%c is %s\n", 'A'+w, ways[w].name)
	}
	return nil
}

// measureBox is one run on a fresh box.
func (o *options) measureBox(ctx context.Context, way boxWay) (_ []figure, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	b := &boxBench{options: *o, ctx: ctx}
	if b.box, err = switchtest.NewBox(o.asics, switchtest.Options{}); err != nil {
		return nil, err
	}
	defer b.box.Close()
	defer b.close()
	if o.verbose {
		b.box.Echo = os.Stderr
		for _, sw := range b.box.ASICs {
			sw.Echo = os.Stderr
		}
	}
	for _, step := range []func() error{func() error { return b.start(way) }, b.rest, b.troubles} {
		if err := attempt(ctx, step); err != nil {
			return nil, err
		}
		for _, d := range b.daemons {
			if !d.Running() {
				return nil, fmt.Errorf("a daemon ended; it printed:\n%s", d.Log())
			}
		}
	}
	return b.figures, nil
}

func (b *boxBench) close() {
	for _, d := range b.daemons {
		d.Stop()
	}
	for _, a := range b.asics {
		if a.admin != nil {
			a.admin.Close()
		}
	}
}

// take moves what was noted of one ASIC to the figures of the box.
func (b *boxBench) take(a *bench) {
	b.figures = append(b.figures, a.figures...)
	a.figures = nil
}

// start measures until every ASIC's PortConfigDone is on its way, and waits until all ports are published.
func (b *boxBench) start(way boxWay) error {
	done := make(chan time.Time, 100*b.options.asics)
	for _, sw := range b.box.ASICs {
		a := &bench{options: b.options, ctx: b.ctx, sw: sw}
		b.asics = append(b.asics, a)
		for i := range b.ports {
			a.names = append(a.names, switchtest.PortName(i))
		}
		if err := sw.Configure(b.ctx, b.ports); err != nil {
			return err
		}
		if _, err := sw.StartOrchagent(b.ctx, true); err != nil {
			return err
		}
		var err error
		if a.admin, err = sw.SetAdmin(); err != nil {
			return err
		}
		first := true
		stop, err := sw.Redis[0].Events(sw.ApplID, "_PORT_TABLE:PortConfigDone", func(e switchtest.KeyEvent) {
			if e.Operation == "hset" && first {
				first = false
				done <- e.At
			}
		})
		if err != nil {
			return err
		}
		defer stop()
	}
	b.begun = time.Now()
	if err := way.start(b); err != nil {
		return err
	}
	var last time.Time
	for range b.asics {
		select {
		case at := <-done:
			last = at
		case <-time.After(time.Minute):
			return errors.New("PortConfigDone did not come within a minute")
		case <-b.ctx.Done():
			return b.ctx.Err()
		}
	}
	b.asics[0].note("start to the last PortConfigDone", "ms", ms(last.Sub(b.begun)))
	b.take(b.asics[0])
	for _, a := range b.asics {
		if _, wrong := a.converge(time.Minute, a.expect(nil)); len(wrong) > 0 {
			return fmt.Errorf("%v were never published", wrong)
		}
	}
	return b.asics[0].settle()
}

// atRest is how long after their start daemons are looked at while nothing happens: ours gives back what its start took
// after a minute, and then compares.
const atRest = 66 * time.Second

// rest is what they take when nothing happens, all processes together.
func (b *boxBench) rest() error {
	select {
	case <-time.After(time.Until(b.begun.Add(b.restAfter))):
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
	cpu := func() (sum time.Duration, err error) {
		for _, d := range b.daemons {
			one, failed := d.CPU()
			sum, err = sum+one, errors.Join(err, failed)
		}
		return sum, err
	}
	before, err := cpu()
	if err != nil {
		return err
	}
	select {
	case <-time.After(b.idle):
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
	after, err := cpu()
	if err != nil {
		return err
	}
	a := b.asics[0]
	a.note("idle: processor time in 10 s", "ms", ms(after-before)*10/b.idle.Seconds())
	var resident, anonymous float64
	for _, d := range b.daemons {
		r, anon, err := d.Memory()
		if err != nil {
			return err
		}
		resident, anonymous = resident+float64(r), anonymous+float64(anon)
	}
	a.note("resident memory", "MiB", resident/(1<<20))
	a.note("anonymous memory", "MiB", anonymous/(1<<20))
	b.take(a)
	return nil
}

// troubles hurts the first ASIC, and takes the latency of changes of the second: first without any trouble.
func (b *boxBench) troubles() error {
	hurt, well := b.asics[0], b.asics[1]
	server := hurt.sw.Redis[0]
	signal := func(s syscall.Signal) func() error { return func() error { return server.Process().Signal(s) } }
	nothing := func() error { return nil }
	var storm chan error
	var over chan struct{}
	down := hurt.names[:len(hurt.names)/2] // in a namespace made again: what STATE_DB had would be right otherwise
	for _, trouble := range []boxTrouble{
		{"alone", nothing, nothing, nil},
		{"a Redis hangs", signal(syscall.SIGSTOP), signal(syscall.SIGCONT), nil},
		{"a storm at 2500/s", func() error {
			storm, over = make(chan error, 1), make(chan struct{})
			t := &toggler{rate: 2500, set: hurt.admin.Set}
			for _, p := range hurt.names {
				index, err := hurt.sw.Index(p)
				if err != nil {
					return err
				}
				t.ports = append(t.ports, index)
			}
			go func() {
				_, _, err := t.run(endless, func() bool {
					select {
					case <-over:
						return true
					default:
						return false
					}
				})
				storm <- err
			}()
			return nil
		}, func() error { close(over); return <-storm }, nil},
		{"a CONFIG_DB loads", func() error { return hurt.sw.Config.Del(b.ctx, "CONFIG_DB_INITIALIZED").Err() },
			func() error { return hurt.sw.Config.Set(b.ctx, "CONFIG_DB_INITIALIZED", "1", 0).Err() }, nil},
		{"a Redis is killed", func() error { server.Stop(); return nil }, func() error {
			return errors.Join(server.Start(), hurt.sw.Configure(b.ctx, b.ports), b.announced(hurt))
		}, nil},
		{"a namespace is made again", hurt.sw.DropNetNS, func() error {
			indexes := map[string]int{}
			for i, p := range hurt.names {
				indexes[p] = 1000 + i
			}
			lines := make([]string, len(down))
			for i, p := range down {
				lines[i] = fmt.Sprintf("link set %s down", p)
			}
			return errors.Join(hurt.sw.MakeNetNS(indexes), hurt.sw.Batch(hurt.sw.NetNS, lines...))
		}, down},
	} {
		if err := b.endure(hurt, well, trouble); err != nil {
			return err
		}
	}
	b.figures = slices.DeleteFunc(b.figures, func(f figure) bool { return strings.HasPrefix(f.Name, "alone: its end") })
	return nil
}

// boxTrouble is what happens to one ASIC of a box, and which ports are down when it has ended.
type boxTrouble struct {
	name       string
	begin, end func() error
	down       []string
}

// endure measures what a trouble of one ASIC is to another one, and how long it lasts after its end.
func (b *boxBench) endure(hurt, well *bench, trouble boxTrouble) error {
	if err := trouble.begin(); err != nil {
		return err
	}
	sent, err := well.redisCommands()
	if err != nil {
		return err
	}
	took, err := well.change(well.names, b.changes, b.changes)
	if err != nil {
		return err
	}
	now, err := well.redisCommands()
	if err != nil {
		return err
	}
	if err := trouble.end(); err != nil {
		return err
	}
	converged, wrong := hurt.converge(b.limit, hurt.expect(trouble.down))
	well.noteLatency(trouble.name+": a change of another", took)
	well.note(trouble.name+": Redis commands a change of another", "", float64(now-sent)/float64(b.changes))
	well.noteConverged(trouble.name, converged, wrong)
	b.take(well)
	return well.settle()
}

// announced lets a new orchagent take what an emptied APPL_DB is sent again.
func (b *boxBench) announced(a *bench) error {
	_, err := a.sw.StartOrchagent(b.ctx, false)
	return err
}
