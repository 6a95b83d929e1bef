package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// portsyncd diff: where the kernel and the databases disagree about a port. It needs no daemon, and writes nothing.

// diffReport is what -json prints.
type diffReport struct {
	Checked int        `json:"checked"` // ports
	Ports   []portDiff `json:"ports"`   // those that differ
	// of several namespaces those that could not be looked at
	Unsure []unsureAnswer `json:"unsure,omitempty"`

	unknown []string // ports that are asked for, and are nowhere
}

// unsureAnswer is a namespace that could not be looked at.
type unsureAnswer struct {
	Namespace string `json:"namespace"`
	Error     string `json:"error"`
}

// portDiff is a port about which the sources disagree.
type portDiff struct {
	Namespace   string       `json:"namespace,omitempty"` // of several
	Port        string       `json:"port"`
	Since       float64      `json:"seen_for_seconds"` // at least so long
	Sides       sides        `json:"sides"`
	Differences []difference `json:"differences"`
}

// diffOptions are its flags.
type diffOptions struct {
	dbConfig, netns string
	json            bool
	ports           []string // empty: all
	namespace       string   // of several, empty: the only one
	dbGlobal        string   // where these are listed
}

func parseDiff(args []string, stderr io.Writer) (*diffOptions, error) {
	o := new(diffOptions)
	f := flag.NewFlagSet(appName+" diff", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.dbConfig, "db.config", defaultDBConfig, dbConfigUsage)
	f.StringVar(&o.netns, "netns", "", netnsUsage)
	f.StringVar(&o.dbGlobal, "db.global", "", dbGlobalUsage)
	f.BoolVar(&o.json, "json", false, "print JSON instead of text")
	f.Usage = func() {
		fmt.Fprintf(stderr, "Usage: %s diff [flags] [port...]\n\nShows where the kernel, STATE_DB, APPL_DB and "+
			"CONFIG_DB disagree about a port for %v or more.\nExit code 0: nowhere, 1: somewhere, "+
			"2: it cannot tell.\n\n",
			appName, settleTime)
		f.PrintDefaults()
	}
	err := f.Parse(args)
	o.ports = f.Args()
	for _, name := range o.ports {
		if err == nil && strings.HasPrefix(name, "-") {
			err = fmt.Errorf("flag %s after a port: flags come first", name)
			fmt.Fprintln(stderr, "portsyncd diff:", err)
		}
	}
	return o, err
}

// runDiff is the command without the process: it returns the exit code.
func runDiff(args []string, stdout, stderr io.Writer) int {
	o, err := parseDiff(args, stderr)
	return command("diff", stderr, err, func(ctx context.Context) (int, error) {
		hushRedis()
		looks, err := o.each()
		if err != nil {
			return exitUnsure, err
		}
		report, err := diffAll(ctx, looks, o.ports, newMetrics(""), func() {})
		if err != nil {
			return exitUnsure, err
		}
		err = report.print(o, stdout)
		switch {
		case len(report.Unsure) > 0:
			return exitUnsure, err
		case len(report.Ports) > 0:
			return exitDiffer, err
		}
		return exitAgree, err
	})
}

// each is one for every namespace: those of -db.global, or the only one.
func (o *diffOptions) each() ([]diffOptions, error) {
	namespaces, err := listNamespaces(o.dbGlobal)
	if err != nil || namespaces == nil {
		return []diffOptions{*o}, err
	}
	var all []diffOptions
	for _, n := range namespaces {
		all = append(all, diffOptions{dbConfig: n.dbConfig, netns: n.name, namespace: n.name})
	}
	return all, nil
}

// diffAll is diff for each namespace, at the same time, in one report; errNoPort: a port that is asked for is in none.
// An error is one of all.
func diffAll(ctx context.Context, looks []diffOptions, ports []string, m *metrics, over func()) (*diffReport, error) {
	if len(looks) == 0 {
		over()
		return nil, errors.New("no namespace is looked after yet")
	}
	reports, errs := make([]*diffReport, len(looks)), make([]error, len(looks))
	var done, left sync.WaitGroup
	left.Add(len(looks))
	go func() {
		left.Wait()
		over()
	}()
	for i := range looks {
		o := looks[i]
		o.ports = ports
		done.Go(func() { reports[i], errs[i] = diff(ctx, &o, m, left.Done) })
	}
	done.Wait()
	all := &diffReport{Ports: []portDiff{}}
	for i, r := range reports {
		switch err := errs[i]; {
		case err == nil:
			all.add(r, looks[i].namespace)
		case looks[i].namespace == "":
			return nil, err
		default:
			all.Unsure = append(all.Unsure, unsureAnswer{looks[i].namespace, err.Error()})
		}
	}
	if len(all.Unsure) == len(looks) {
		return nil, errors.New(all.unsure())
	}
	for _, name := range ports {
		has := func(r *diffReport) bool { return r == nil || !slices.Contains(r.unknown, name) }
		if !slices.ContainsFunc(reports, has) {
			return nil, fmt.Errorf("%w %q, neither in the kernel nor in a database; names are those of "+
				"CONFIG_DB's PORT table, such as Ethernet0", errNoPort, name)
		}
	}
	return all, nil
}

// add adds the report about a namespace.
func (r *diffReport) add(of *diffReport, namespace string) {
	for i := range of.Ports {
		of.Ports[i].Namespace = namespace
	}
	r.Checked += of.Checked
	r.Ports = append(r.Ports, of.Ports...)
}

// errNoPort says that nobody knows a port that was asked for.
var errNoPort = errors.New("no port")

// diff looks at everything, and again after settleTime where something differs. What it costs is counted in m. over is
// called when nothing of it is left: where the kernel holds a thread that lists the links, that is long after it has
// returned.
func diff(ctx context.Context, o *diffOptions, m *metrics, over func()) (*diffReport, error) {
	sockets, err := openKernelLinks(o.netns, 0)
	if err != nil {
		over()
		return nil, err
	}
	links := &linkLister{kernelLinks: sockets}
	defer links.end(over)
	c, err := readDBConfig(o.dbConfig)
	if errors.Is(err, errNoDBConfig) {
		err = fmt.Errorf("%w; say with -db.config where it is", err)
	}
	if err != nil {
		return nil, err
	}
	db := connectDatabases(c, m, func() {})
	onlyRead(db)
	defer db.Close()
	ports, err := lookAtAll(ctx, links, db)
	if err != nil {
		return nil, err
	}
	seen := time.Now()
	report := &diffReport{Ports: []portDiff{}}
	for _, name := range o.ports {
		if !knows(ports, name) {
			report.unknown = append(report.unknown, name)
		}
	}
	report.take(ports, o.ports)
	if len(report.Ports) == 0 {
		return report, nil
	}
	select {
	case <-time.After(settleTime):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if ports, err = lookAtAll(ctx, links, db); err != nil {
		return nil, err
	}
	lasting := report.Ports
	report.take(ports, o.ports)
	report.keep(lasting, time.Since(seen))
	return report, nil
}

// take takes what one look has found, of the ports that are asked for.
func (r *diffReport) take(ports map[string]*sides, asked []string) {
	r.Checked, r.Ports = 0, []portDiff{}
	for name, s := range ports {
		name = readable(name) // as the metrics and the rest of the API have it
		if len(asked) > 0 && !slices.Contains(asked, name) {
			continue
		}
		r.Checked++
		if d := s.differences(); len(d) > 0 {
			r.Ports = append(r.Ports, portDiff{Port: name, Sides: *s, Differences: d})
		}
	}
	sort.SliceStable(r.Ports, func(i, j int) bool { return comparePorts(r.Ports[i].Port, r.Ports[j].Port) < 0 })
}

// knows says that a port was seen somewhere.
func knows(ports map[string]*sides, asked string) bool {
	for name := range ports {
		if readable(name) == asked {
			return true
		}
	}
	return false
}

// keep leaves those differences that an earlier look has found, too. The others are of a change that is under way.
func (r *diffReport) keep(earlier []portDiff, age time.Duration) {
	kept := r.Ports[:0]
	for _, p := range r.Ports {
		var lasting []difference
		i := slices.IndexFunc(earlier, func(e portDiff) bool { return e.Port == p.Port })
		for _, d := range p.Differences {
			if i >= 0 && slices.ContainsFunc(earlier[i].Differences, d.same) {
				lasting = append(lasting, d)
			}
		}
		if p.Differences = lasting; len(lasting) > 0 {
			p.Since = age.Truncate(100 * time.Millisecond).Seconds()
			kept = append(kept, p)
		}
	}
	r.Ports = kept
}

// unsure says in one line which namespaces could not be looked at.
func (r *diffReport) unsure() string {
	var all []string
	for _, u := range r.Unsure {
		all = append(all, u.Namespace+" could not be looked at: "+u.Error)
	}
	return strings.Join(all, "; ")
}

func (r *diffReport) print(o *diffOptions, w io.Writer) error {
	if o.json {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	page := new(paper)
	for _, p := range r.Ports {
		page.line("", "%s differs, for %d s or longer", p.Port+inBrackets(p.Namespace), int(p.Since))
		for _, row := range p.Sides.columns() {
			page.line("", "%s", row)
		}
		for _, d := range p.Differences {
			page.line("", "  %s.", d.Says)
			page.line("", "    %s.", d.Do)
		}
		page.line("", "")
	}
	if len(r.Unsure) > 0 {
		page.line("", "%s", r.unsure())
	}
	if len(r.Ports) > 0 {
		page.line("", "%d of %d ports differ", len(r.Ports), r.Checked)
	} else {
		page.line("", "the kernel and the databases agree about %d ports", r.Checked)
	}
	_, err := io.WriteString(w, page.String())
	return err
}
