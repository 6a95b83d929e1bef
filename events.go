package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
)

// portsyncd events: what happened, from the flight recorder's file. It needs no daemon.

const recorderUsage = "flight recorder's `file`; empty, or where it cannot be made: in memory only"

type eventsOptions struct {
	file         string
	since        time.Duration // 0: all
	follow, json bool
	ports        []string // empty: all, and the daemon
}

func parseEvents(args []string, stderr io.Writer) (*eventsOptions, error) {
	o := new(eventsOptions)
	f := flag.NewFlagSet(appName+" events", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.file, "recorder.file", defaultRecorderFile, "flight recorder's `file`")
	f.DurationVar(&o.since, "since", 0, "only what is `younger` than that, such as 90s or 1h; 0: all")
	f.BoolVar(&o.follow, "follow", false, "go on, until interrupted")
	f.BoolVar(&o.json, "json", false, "print JSON, an object a line, instead of text")
	f.Usage = func() {
		fmt.Fprintf(stderr, "Usage: %s events [flags] [port...]\n\nShows what happened to ports and to the daemon, "+
			"the newest last.\n%d events of each port are kept.\nExit code 0: shown, 2: it cannot.\n\n",
			appName, portEvents)
		f.PrintDefaults()
	}
	for rest := args; ; { // flags may stand before and after ports
		if err := f.Parse(rest); err != nil {
			return nil, err
		}
		if f.NArg() == 0 {
			break
		}
		o.ports, rest = append(o.ports, f.Arg(0)), f.Args()[1:]
	}
	if o.since < 0 {
		err := fmt.Errorf("-since %v: give a duration that is not negative, such as 1h", o.since)
		fmt.Fprintln(stderr, "portsyncd events:", err)
		return nil, err
	}
	return o, nil
}

// runEvents is the command without the process: it returns the exit code.
func runEvents(args []string, stdout, stderr io.Writer) int {
	o, err := parseEvents(args, stderr)
	return command("events", stderr, err, func(ctx context.Context) (int, error) {
		return exitOK, showEvents(ctx, o, stdout)
	})
}

// followInterval is how often the file is read for what is new.
const followInterval = 200 * time.Millisecond

// showEvents prints what happened, and with -follow what happens.
func showEvents(ctx context.Context, o *eventsOptions, w io.Writer) error {
	files, err := openRecords(o.file)
	if err != nil {
		return err
	}
	defer func() { files.close() }()
	if err := files.know(o.ports); err != nil {
		return err
	}
	var after cutoff
	if o.since > 0 {
		after = younger(o.since)
	}
	out := eventPrinter{w: bufio.NewWriterSize(w, 64<<10), json: o.json, told: map[[2]string]toldEvent{}}
	for {
		all, torn, err := files.read(o.ports, after)
		if err != nil {
			return err
		}
		if o.follow {
			all = final(all, machineClock(), 0)
		}
		if err := out.print(all); err != nil {
			return err
		}
		if !o.follow {
			return out.end(torn)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followInterval):
		}
		files = files.renew(o.file)
	}
}

// eventPrinter prints what it has not printed yet.
type eventPrinter struct {
	w    *bufio.Writer
	json bool
	told map[[2]string]toldEvent // the newest one, by namespace and port
	last toldEvent               // the line before
	n    int
}

// toldEvent is one that was printed. Numbers begin anew in a ring that was another port's meanwhile, and so does the
// clock in another boot: the next one of a boot has either a higher number or a later time.
type toldEvent struct {
	boot   byte
	number uint32 // 0: there is none
	since  time.Duration
}

// after says that it comes after another one of the same port.
func (e toldEvent) after(other toldEvent) bool {
	if e.boot != other.boot {
		return int8(e.boot-other.boot) > 0
	}
	return newer(e.number, other.number) || e.since > other.since
}

func (p *eventPrinter) print(all []happened) error {
	for i := range all {
		h := &all[i]
		of, is := [2]string{h.Namespace, h.Port}, toldEvent{h.boot, h.number, h.Since}
		if told, any := p.told[of]; any && !is.after(told) {
			continue
		}
		p.told[of] = is
		p.n++
		if p.json {
			if err := json.NewEncoder(p.w).Encode(h); err != nil {
				return err
			}
			continue
		}
		step := ""
		if last := p.last; last.number != 0 && h.boot == last.boot && h.Since >= last.since {
			step = "+" + shortDuration(h.Since-last.since)
		}
		p.last = is
		if _, err := fmt.Fprintf(p.w, "%s %9s  %-*s %s\n", h.Time.Local().Format("2006-01-02 15:04:05.000000 MST"),
			step, 12+len(h.Namespace), plain(h.who()), plain(h.line())); err != nil {
			return err
		}
	}
	return p.w.Flush()
}

// end says that there was nothing, or that records are broken.
func (p *eventPrinter) end(torn int) (err error) {
	if p.json {
		return nil
	}
	if p.n == 0 {
		_, err = fmt.Fprintln(p.w, "nothing is recorded for that time")
	}
	if torn > 0 {
		_, err = fmt.Fprintf(p.w, "%d events are only half written, and are left out\n", torn)
	}
	return cmp.Or(err, p.w.Flush())
}

// who is what it happened to, where a box has several namespaces behind that one's name: ports are named alike there.
func (h *happened) who() string {
	who := cmp.Or(h.Port, appName)
	if h.Namespace != "" {
		who = h.Namespace + " " + who
	}
	return who
}

// line is an event for people.
func (h *happened) line() string {
	if h.Port == "" {
		return strings.TrimSpace(h.What + " " + h.Text)
	}
	return fmt.Sprintf("%-18s %s", h.What, h.state())
}

// state is what a port's interface is since then, and what became of that; of the daemon, more about what happened.
func (h *happened) state() string {
	if h.Port == "" {
		return h.Text
	}
	var words []string
	switch {
	case h.Now != nil:
		words = append(words, fmt.Sprintf("admin %s, oper %s, MTU %d", h.Now.Admin, h.Now.Oper, h.Now.MTU))
	case h.Ifindex == 0:
		words = append(words, "no interface")
	case h.What == causeLeftOver.String():
		words = append(words, fmt.Sprintf("ifindex %d", h.Ifindex))
	default:
		words = append(words, fmt.Sprintf("ifindex %d is gone", h.Ifindex))
	}
	switch {
	case h.Before != nil && h.What == causeRepaired.String():
		words = append(words, fmt.Sprintf("(STATE_DB had admin %s, oper %s, MTU %d)", h.Before.Admin, h.Before.Oper,
			h.Before.MTU))
	case h.Now == nil:
	case h.Before == nil:
		words = append(words, fmt.Sprintf("(ifindex %d)", h.Ifindex))
	case h.Before.MTU != h.Now.MTU:
		words = append(words, fmt.Sprintf("(MTU was %d)", h.Before.MTU))
	}
	words = append(words, "-", h.Outcome)
	if h.Answered != nil && h.Outcome == outcomeWritten.String() {
		words = append(words, "after "+shortDuration(time.Duration(*h.Answered)*time.Microsecond))
	}
	if h.Missed == 1 {
		words = append(words, "- 1 more loss of carrier in between")
	} else if h.Missed > 1 {
		words = append(words, fmt.Sprintf("- %d more losses of carrier in between", h.Missed))
	}
	if len(h.Faults) > 0 {
		words = append(words, "- orchagent says "+strings.Join(h.Faults, ", "))
	}
	return strings.Join(words, " ")
}

// shortDuration is a duration with three digits or so.
func shortDuration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
