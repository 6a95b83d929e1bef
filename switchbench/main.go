// Command switchbench measures a portsyncd, ours or any other, on a small SONiC switch made of veth ports, a private Redis and a stand-in for
// orchagent. The daemon is given as a command line and runs as on a real switch: in the switch's network namespace, with
// database_config.json in its usual place. With -vs a second one is measured in turns with the first, A B A B, so that a noisy
// machine disturbs both alike, and the ratios are those of neighbours. With -rates it measures what a link message
// costs at each of them instead.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"portsyncd/internal/switchtest"
)

func main() {
	var o options
	daemon := flag.String("daemon", "./portsyncd", "`command` line of the portsyncd to measure")
	versus := flag.String("vs", "", "`command` line of a second one to measure beside it")
	flag.IntVar(&o.ports, "ports", 256, "`number` of front-panel ports")
	flag.IntVar(&o.runs, "runs", 3, "`number` of runs of each; the figures are medians")
	flag.IntVar(&o.rounds, "rounds", 10, "`times` that the storm sets every port down and up")
	flag.IntVar(&o.changes, "changes", 200, "`number` of single changes whose latency is taken")
	flag.DurationVar(&o.idle, "idle", 10*time.Second, "`time` to watch the idle daemon")
	flag.DurationVar(&o.limit, "limit", 10*time.Second, "`time` after which what is not right yet is taken for never")
	flag.DurationVar(&o.quietTime, "settle", 1500*time.Millisecond, "`time` between measurements, for late messages of the kernel")
	flag.Func("rates", "sweep instead: what changes of ports cost at these `rates` a second, such as 30,300,max",
		func(text string) (err error) {
			o.rates, err = parseRates(text)
			return err
		})
	flag.DurationVar(&o.sweepTime, "sweep-time", 5*time.Second, "`time` of toggles at each of the -rates")
	flag.IntVar(&o.sweepChanges, "sweep-changes", 60, "`number` of single changes whose latency is taken at each rate")
	flag.StringVar(&o.svg, "svg", "", "`file` for a plot of the sweep: processor time a message over the rate")
	flag.BoolVar(&o.calls, "calls", false, "count system calls, too, at each of the -rates (with strace)")
	flag.Func("scraped", "measure instead what scrapes do to single changes while ports are toggled at this `rate` a second, or max",
		func(text string) error {
			rates, err := parseRates(text)
			if err == nil && len(rates) != 1 {
				err = errors.New("give one rate")
			}
			if err == nil {
				o.scraped = rates[0]
			}
			return err
		})
	flag.IntVar(&o.asics, "asics", 0, "measure instead a box of so many ASICs, -ports each: one process for all, and one for each")
	flag.DurationVar(&o.restAfter, "rest", atRest, "`time` from a box's start until its idle daemons are looked at")
	file := flag.String("json", "", "`file` for the figures of every run; - is standard output, without the table")
	flag.BoolVar(&o.verbose, "v", false, "print what the daemons print")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "switchbench: what is %q? The command line to measure is given with -daemon.\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var err error
	if o.asics != 0 {
		if err = o.validate(); err == nil {
			err = runBox(ctx, o, strings.Fields(*daemon), strings.Fields(*versus), os.Stdout)
		}
	} else {
		err = run(ctx, o, [2]string{*daemon, *versus}, *file, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "switchbench:", err)
		os.Exit(1)
	}
}

type options struct {
	ports, runs, rounds, changes int
	asics                        int // 0: no box
	idle, limit, quietTime       time.Duration
	restAfter                    time.Duration // of a box
	verbose                      bool
	scraped                      rate // 0: no
	sweepOptions
}

func (o *options) validate() error {
	switch {
	case o.ports < 2 || o.ports > 10000:
		return fmt.Errorf("-ports: %d is not between 2 and 10000", o.ports)
	case o.runs < 1 || o.rounds < 1 || o.changes < 1:
		return fmt.Errorf("-runs, -rounds and -changes: at least 1 each")
	case o.idle < time.Second || o.limit < time.Second:
		return fmt.Errorf("-idle and -limit: at least a second each")
	}
	if o.restAfter < 0 {
		return fmt.Errorf("-rest: %v is negative", o.restAfter)
	}
	if o.quietTime < 0 {
		return fmt.Errorf("-settle: %v is negative", o.quietTime)
	}
	if o.scraped > 0 && len(o.rates) > 0 {
		return errors.New("-scraped: it is a measurement of its own: leave -rates out")
	}
	if o.asics != 0 && (o.asics < 2 || o.asics > 16 || o.scraped > 0 || len(o.rates) > 0) {
		return errors.New("-asics: give 2 to 16, and neither -rates nor -scraped")
	}
	return o.sweepOptions.validate()
}

// figure is one measured value. Never is a value, too: what did not come within -limit.
type figure struct {
	Name  string   `json:"name"`
	Unit  string   `json:"unit"`
	Value *float64 `json:"value"` // null: never
}

// report is what -json holds.
type report struct {
	Ports   int          `json:"ports"`
	Rounds  int          `json:"rounds,omitempty"` // of the storm; a sweep has none
	Rates   []string     `json:"rates,omitempty"`  // of the sweep
	Daemons []daemonRuns `json:"daemons"`
}

type daemonRuns struct {
	Command string     `json:"command"`
	Runs    [][]figure `json:"runs"`
}

func run(ctx context.Context, o options, commands [2]string, file string, out io.Writer) error {
	if err := o.validate(); err != nil {
		return err
	}
	r := report{Ports: o.ports, Rounds: o.rounds}
	if len(o.rates) > 0 {
		r.Rounds = 0
	}
	for _, one := range o.rates {
		r.Rates = append(r.Rates, one.String())
	}
	for _, c := range commands {
		if c != "" {
			r.Daemons = append(r.Daemons, daemonRuns{Command: c})
		}
	}
	for i := range o.runs {
		for d := range r.Daemons {
			one := &r.Daemons[d]
			fmt.Fprintf(os.Stderr, "run %d of %d: %s\n", i+1, o.runs, one.Command)
			figures, err := measure(ctx, o, strings.Fields(one.Command))
			if err != nil {
				return fmt.Errorf("%s: %w", one.Command, err)
			}
			one.Runs = append(one.Runs, figures)
		}
	}
	if file != "-" {
		r.print(out)
	}
	if err := r.write(file, out); err != nil || o.svg == "" {
		return err
	}
	return r.draw(o.svg, o.rates)
}

func (r *report) write(file string, out io.Writer) error {
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if file == "-" {
		_, err = out.Write(text)
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

// print writes a table of medians, and beside a second daemon's the median of the ratios of neighbouring runs.
func (r *report) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	fmt.Fprintf(w, "%d ports, medians of %d\tunit\tA\t", r.Ports, len(r.Daemons[0].Runs))
	both := len(r.Daemons) == 2
	if both {
		fmt.Fprint(w, "B\tA/B\t")
	}
	fmt.Fprintln(w)
	for i, f := range r.Daemons[0].Runs[0] {
		a := r.Daemons[0].column(i)
		fmt.Fprintf(w, "%s\t%s\t%s\t", f.Name, f.Unit, display(median(a)))
		if both {
			b := r.Daemons[1].column(i)
			ratios := make([]float64, len(a))
			for k := range a {
				ratios[k] = a[k] / b[k]
			}
			ratio := "-"
			if r := median(ratios); !math.IsInf(r, 0) && !math.IsNaN(r) {
				ratio = display(r)
			}
			fmt.Fprintf(w, "%s\t%s\t", display(median(b)), ratio)
		}
		fmt.Fprintln(w)
	}
	for i, d := range r.Daemons {
		fmt.Fprintf(w, "%c is %s\n", 'A'+i, d.Command)
	}
}

// column is one figure of all runs; never is infinite.
func (d *daemonRuns) column(figure int) (values []float64) {
	for _, run := range d.Runs {
		v := math.Inf(1)
		if run[figure].Value != nil {
			v = *run[figure].Value
		}
		values = append(values, v)
	}
	return values
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func display(v float64) string {
	switch {
	case math.IsInf(v, 0):
		return "never"
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// measure runs one daemon on a fresh switch.
func measure(ctx context.Context, o options, command []string) ([]figure, error) {
	sw, err := switchtest.New(switchtest.Options{})
	if err != nil {
		return nil, err
	}
	defer sw.Close()
	if o.verbose {
		sw.Echo = os.Stderr
	}
	m := &bench{options: o, sw: sw, ctx: ctx}
	defer m.close()
	start := func() error { return m.start(command) }
	if o.scraped > 0 {
		if command, err = m.withTLS(command); err != nil {
			return nil, err
		}
	}
	steps := []func() error{start, m.appear, m.latency, m.storm, m.loaded, m.overrun, m.scrape, m.rest, m.resident}
	switch {
	case o.scraped > 0:
		steps = []func() error{start, m.appear, m.amidScrapes, m.resident}
	case len(o.rates) > 0:
		steps = m.sweep(start)
	}
	for _, step := range steps {
		if err := attempt(ctx, step); err != nil {
			return nil, err
		}
		if !m.daemon.Running() {
			return nil, fmt.Errorf("the daemon ended; it printed:\n%s", m.daemon.Log())
		}
	}
	return m.figures, nil
}

func attempt(ctx context.Context, step func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return step()
}
