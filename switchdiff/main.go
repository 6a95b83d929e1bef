// Command switchdiff looks for differences in behaviour between two portsyncd, ours and the C++ one for example. Each
// has a switch of its own, and the same random history happens to both, one operation after the other: interfaces come,
// go and change, rows of the databases do, the daemon is started and ended. After each operation it waits until both
// are quiet, so that no race of either plays a part, and compares what they have made of it: the databases, what was
// published, the links. What differs on purpose has a name (explain.go) and is counted; anything else is printed with
// the shortest history that has it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

type options struct {
	daemons [2]string // command lines: the one to be held against, and ours
	ops     int
	settle  time.Duration
	limit   time.Duration
	verbose bool
	whole   bool
}

func main() {
	o := options{limit: 1500 * time.Millisecond}
	flag.StringVar(&o.daemons[1], "daemon", "./portsyncd", "`command` line of our portsyncd")
	flag.StringVar(&o.daemons[0], "vs", "/usr/bin/portsyncd", "`command` line of the one that it is held against")
	seed := flag.Uint64("seed", 1, "`number` of the first history")
	histories := flag.Int("histories", 10, "`number` of histories")
	flag.IntVar(&o.ops, "ops", 30, "`number` of operations in each, after the start")
	jobs := flag.Int("jobs", 2, "`number` of histories at a time")
	file := flag.String("history", "", "`file` with the one history to play, as a difference is printed")
	flag.DurationVar(&o.settle, "settle", 25*time.Millisecond, "`time` for the daemons after each operation, at least")
	flag.BoolVar(&o.verbose, "v", false, "print operations, and what differs on purpose")
	flag.BoolVar(&o.whole, "whole", false, "print a history that differs as it was played: do not look for the shortest")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := o.validate()
	switch {
	case err != nil:
	case *histories < 1 || *jobs < 1:
		err = errors.New("-histories and -jobs: at least 1")
	case *file != "":
		err = o.one(ctx, *file)
	default:
		err = o.many(ctx, *seed, *histories, *jobs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "switchdiff:", err)
		os.Exit(1)
	}
}

// validate finds a daemon that cannot be started: two that are not there would agree about everything.
func (o options) validate() error {
	for i, name := range []string{"-vs", "-daemon"} {
		words := strings.Fields(o.daemons[i])
		if len(words) == 0 {
			return fmt.Errorf("%s: give the command line of a portsyncd", name)
		}
		if _, err := exec.LookPath(words[0]); err != nil {
			return fmt.Errorf("%s: %w; give the command line of a portsyncd", name, err)
		}
	}
	return nil
}

// one plays the history of a file.
func (o options) one(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	history, err := parseHistory(string(text))
	if err != nil {
		return err
	}
	found, err := o.play(ctx, history)
	fmt.Print(tally(found.explained))
	if err == nil && len(found.differs) > 0 {
		err = fmt.Errorf("after operation %d, %s:\n%s", found.at+1, history[found.at], found)
	}
	return err
}

// many plays random ones. Its error says how many of them differ, or could not be played.
func (o options) many(ctx context.Context, seed uint64, histories, jobs int) error {
	var mu sync.Mutex
	var wait sync.WaitGroup
	explained, done, played, differing, failed := map[string]int{}, 0, 0, 0, 0
	next := make(chan uint64)
	for range jobs {
		wait.Go(func() {
			for seed := range next {
				history := newHistory(seed, o.ops)
				found, err := o.play(ctx, history)
				if err == nil && len(found.differs) > 0 && o.whole {
					history = history[:found.at+1]
				} else if err == nil && len(found.differs) > 0 {
					history, found, err = o.shorten(ctx, history, found)
				}
				mu.Lock()
				for name, n := range found.explained {
					explained[name] += n
				}
				played += found.at
				done++
				switch {
				case ctx.Err() != nil:
				case err != nil:
					failed++
					fmt.Printf("seed %d: %v\n", seed, err)
				case len(found.differs) > 0:
					differing++
					fmt.Printf("seed %d: A %s, B %s\n%s%s\n", seed, o.daemons[0], o.daemons[1], history, found)
				}
				mu.Unlock()
			}
		})
	}
	for i := range uint64(histories) {
		select {
		case next <- seed + i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	wait.Wait()
	fmt.Printf("%d histories, %d operations, %d histories with a difference\n%s", done, played, differing,
		tally(explained))
	if ctx.Err() == nil && differing+failed > 0 {
		return fmt.Errorf("%d histories with a difference, and %d that could not be played", differing, failed)
	}
	return ctx.Err()
}

// tally prints how often each difference on purpose was seen.
func tally(explained map[string]int) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(explained)) {
		fmt.Fprintf(&b, "%6d times: %s\n", explained[name], name)
	}
	return b.String()
}

// shorten leaves out of a history what the same difference does not need. It is played slowly, so that what remains is
// no matter of time.
func (o options) shorten(ctx context.Context, h history, f finding) (history, finding, error) {
	o.settle, o.limit, o.verbose = 300*time.Millisecond, 4*time.Second, false
	whole := h[:f.at+1]
	slow, err := o.play(ctx, whole)
	if err != nil || len(slow.differs) == 0 {
		fmt.Printf("not seen when played slowly (err %v): %s\n%s\n", err, f, whole)
		slow.explained["a matter of time"]++
		return whole, slow, err
	}
	h, f = whole, slow
	o.settle, o.limit = 50*time.Millisecond, 2*time.Second
	for size := max(1, len(h)/2); size >= 1; size /= 2 {
		for i := 0; i+size <= len(h) && ctx.Err() == nil; {
			shorter := slices.Delete(slices.Clone(h), i, i+size)
			if again, err := o.play(ctx, shorter); err == nil && again.like(f) {
				h, f = shorter[:again.at+1], again
			} else {
				i += size
			}
		}
	}
	return h, f, nil
}
