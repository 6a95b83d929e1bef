package main

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The syncer on a switch that is simulated whole: a run is a function of its seed and of a list of events, and what must hold is in simcheck_test.go.

var (
	simTime  = flag.Duration("sim.time", time.Minute, "how long TestSimulation goes on")
	simSeeds = flag.Uint64("sim.seeds", 0, "so many runs of TestSimulation instead")
	simStop  = flag.Bool("sim.stop", false, "TestSimulation ends with the first run that fails, and does not tell its history")
	simSeed  = flag.Uint64("sim.seed", 0, "this run of TestSimulation alone, with its history")
)

// happening is one event of a run: after a pause something happens to ports a and b, or for so many milliseconds.
type happening struct {
	after time.Duration
	what  string
	a, b  int
}

func (h happening) String() string { return fmt.Sprintf("%v %s %d %d", h.after, h.what, h.a, h.b) }

// scenario is all that a run is made of.
type scenario struct {
	seed   uint64
	setup  happening // a: ports, b: left-overs; what: cold, dpu, apart, unready
	events []happening
}

// dull are happenings after which nothing is in doubt, by how often they come; harsh ones are faults.
var dull = map[string]int{"flap": 12, "admin": 6, "mtu": 4, "storm": 3, "delete": 4, "recreate": 4, "appear": 6, "rename": 2, "swap": 1,
	"bridge": 3, "stranger": 2, "add": 2, "drop": 2, "speed": 3, "other": 2, "save": 2, "visitor": 1, "overrun": 1, "clock": 1}
var harsh = map[string]int{"kill": 2, "term": 1, "coldstart": 2, "warm": 1, "stop": 2, "empty": 1, "older": 2, "hang": 1, "condition": 1,
	"lost": 2, "cut": 2, "refused": 1, "flushappl": 1, "flushall": 1, "vandal": 2, "reload": 2, "dropamid": 2, "killamid": 1, "listing": 2, "cutwatch": 1,
	"confighang": 1, "configstop": 1, "netns": 2, "outlive": 1}

const (
	simPorts  = 6
	simSpare  = 3 // ports that are not configured at first, where there are many
	simEvents = 40
	simKinds  = 3       // kinds of failures that are told with their histories
	simSteps  = 200_000 // a run of a few hundred events takes some thousands
)

// weigh makes a list in which each happening is as often as its weight.
func weigh(weights ...map[string]int) (kinds []string) {
	for _, w := range weights {
		for kind, n := range w {
			kinds = append(kinds, slices.Repeat([]string{kind}, n)...)
		}
	}
	slices.Sort(kinds)
	return kinds
}

var dullKinds, allKinds = weigh(dull), weigh(dull, harsh)

// newScenario is what a seed stands for.
func newScenario(seed uint64) scenario {
	dice := rand.New(rand.NewPCG(seed, 1))
	s := scenario{seed: seed, setup: happening{what: []string{"cold", "cold", "cold", "dpu", "unready", "apart"}[dice.IntN(6)], a: dice.IntN(simPorts + 1), b: dice.IntN(4)}}
	kinds := allKinds
	switch dice.IntN(4) {
	case 0:
		kinds = dullKinds
	case 1: // few kinds, and these often: what takes three events of two kinds is rare among all
		few := make([]string, 3+dice.IntN(4))
		for i := range few {
			few[i] = allKinds[dice.IntN(len(allKinds))]
		}
		kinds = few
	}
	pauses := []time.Duration{100 * time.Microsecond, time.Millisecond, 5 * time.Millisecond, 50 * time.Millisecond, time.Second}
	most := pauses[dice.IntN(len(pauses))]
	for range 5 + dice.IntN(2*simEvents) {
		after := time.Duration(dice.Int64N(int64(most)))
		if dice.IntN(20) == 0 {
			after = time.Duration(dice.Int64N(int64(3 * time.Second)))
		}
		s.events = append(s.events, happening{after.Round(time.Microsecond), kinds[dice.IntN(len(kinds))], dice.IntN(simPorts), dice.IntN(simPorts)})
	}
	s.crowd()
	return s
}

// crowd gives some switches more ports than the others: one of two dozen so many that APPL_DB is asked for all of them at once, a few more than orchagent takes at a
// time. Half of what happens does so to any of them, and the rest to a few, as elsewhere.
func (s *scenario) crowd() {
	dice := rand.New(rand.NewPCG(s.seed, 3))
	ports := 0
	switch n := dice.IntN(600); {
	case n == 0:
		ports = popBatch + dice.IntN(170)
	case n <= 25:
		ports = askedSingly + 1 + dice.IntN(24)
	default:
		return
	}
	s.setup.a, s.setup.b = ports, dice.IntN(ports/2)
	for i := range s.events {
		if dice.IntN(2) == 0 {
			s.events[i].a = dice.IntN(ports + simSpare)
		}
	}
}

// run plays a scenario, and returns what did not hold, and with trace the history.
func (s scenario) run(trace bool) (broken, history string, steps int) {
	m := newMetrics("sim")
	defer func() {
		unix.Close(m.process.statm)
		unix.Close(m.process.fds)
		unix.Close(m.process.tasks)
	}()
	w := newWorld(s.seed, trace, m)
	defer func() {
		for _, m := range w.metrics {
			unix.Close(m.process.statm)
			unix.Close(m.process.fds)
			unix.Close(m.process.tasks)
		}
	}()
	w.prepare(s.setup)
	driver := w.spawn("switch", 0, func() {
		for _, h := range s.events {
			w.sleep(pause{until: w.now.Add(h.after)})
			w.say("- %v", h)
			w.happen(h)
		}
		w.heal()
	})
	limit := simEpoch.Add(30 * time.Minute)
	for w.step(limit) && w.broken == "" {
		if w.steps > simSteps {
			w.fail("the run goes round and round: somebody waits for nothing, and does not let time pass")
		}
		if !slices.Contains(w.strands, driver) {
			break
		}
	}
	if w.broken == "" && slices.Contains(w.strands, driver) {
		w.fail("the run does not come to its end")
	}
	w.over = true
	w.drop(func(*strand) bool { return true })
	return w.broken, w.story(), w.steps
}

// kindOf is what did not hold, without the port and the numbers.
func kindOf(broken string) string {
	return regexp.MustCompile(`Ethernet\d+|\d+|map\[.*|\{.*`).ReplaceAllString(broken, "")
}

// shrink drops events as long as the run still fails in the same way, and returns the shortest it finds.
func (s scenario) shrink(broken string) scenario {
	for size := max(1, len(s.events)/2); size >= 1; {
		smaller := false
		for at := 0; at+size <= len(s.events); {
			try := s
			try.events = slices.Delete(slices.Clone(s.events), at, at+size)
			if why, _, _ := try.run(false); kindOf(why) == kindOf(broken) {
				s, smaller = try, true
			} else {
				at += size
			}
		}
		if !smaller || size == 1 && len(s.events) == 0 {
			size /= 2
		}
	}
	return s
}

// String is a scenario as a file of testdata/sim has it.
func (s scenario) String() string {
	lines := []string{fmt.Sprintf("seed %d", s.seed), "setup " + s.setup.String()}
	for _, h := range s.events {
		lines = append(lines, h.String())
	}
	return strings.Join(lines, "\n") + "\n"
}

// readScenario reads what String wrote; lines that begin with # are for people.
func readScenario(path string) (s scenario, err error) {
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		var h happening
		var after string
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			continue
		case strings.HasPrefix(line, "seed "):
			_, err = fmt.Sscanf(line, "seed %d", &s.seed)
		case strings.HasPrefix(line, "setup "):
			_, err = fmt.Sscanf(line, "setup %s %s %d %d", &after, &s.setup.what, &s.setup.a, &s.setup.b)
		default:
			if _, err = fmt.Sscanf(line, "%s %s %d %d", &after, &h.what, &h.a, &h.b); err == nil {
				h.after, err = time.ParseDuration(after)
				s.events = append(s.events, h)
			}
		}
		if err != nil {
			return s, fmt.Errorf("%s: %q: %w", path, line, err)
		}
	}
	return s, nil
}

// tell reports a run that failed: the shortest one, as a file for testdata/sim and as a history to read.
func (s scenario) tell(t *testing.T, broken string) {
	t.Helper()
	short := s.shrink(broken)
	why, history, _ := short.run(true)
	t.Errorf("seed %d: %s\nshortened: %s\n\n%s\n%s", s.seed, broken, why, short, history)
}

// TestSimulation plays one seed after another for -sim.time, or -sim.seeds of them, on all processors.
func TestSimulation(t *testing.T) { simulate(t, newScenario) }

// TestSimulationOfInstances is the same with two or three instances.
func TestSimulationOfInstances(t *testing.T) { simulate(t, newInstanceScenario) }

func simulate(t *testing.T, scenarioOf func(seed uint64) scenario) {
	if *simSeed != 0 {
		s := scenarioOf(*simSeed)
		if broken, _, _ := s.run(false); broken != "" {
			s.tell(t, broken)
		}
		return
	}
	limit, first := *simTime, uint64(time.Now().UnixNano())
	if testing.Short() || len(raceFlags) > 0 { // the same seeds each time
		limit, first = min(limit, 5*time.Second), 0
	}
	if *simSeeds > 0 {
		first, limit = 0, time.Hour
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // of what a run makes nothing outlives it: a sixth of the time is the collector's otherwise
	var runs, steps atomic.Uint64
	var stopped atomic.Bool
	var mu sync.Mutex
	failures := map[string]int{} // by kind
	var workers sync.WaitGroup
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for time.Since(start) < limit && !stopped.Load() {
				n := runs.Add(1)
				if *simSeeds > 0 && n > *simSeeds {
					return
				}
				s := scenarioOf(first + n)
				broken, _, made := s.run(false)
				steps.Add(uint64(made))
				if broken == "" {
					continue
				}
				if *simStop {
					t.Errorf("found in run %d: %s", n, broken)
					stopped.Store(true)
					return
				}
				mu.Lock()
				kind := kindOf(broken)
				if failures[kind]++; failures[kind] == 1 && len(failures) <= simKinds {
					s.tell(t, broken)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	for kind, n := range failures {
		t.Errorf("%d runs: %s", n, kind)
	}
	t.Logf("%d runs, %d steps each, %.0f runs a minute", runs.Load(), steps.Load()/max(1, runs.Load()),
		float64(runs.Load())/time.Since(start).Minutes())
}

// TestSimulationIsAFunctionOfItsSeed: the same seed gives the same history, to the letter.
func TestSimulationIsAFunctionOfItsSeed(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() { // on an emulated processor, for one
		seeds = 20
	}
	for seed := range seeds {
		s := newScenario(seed)
		if seed%2 == 1 {
			s = newInstanceScenario(seed)
		}
		_, first, _ := s.run(true)
		_, second, _ := s.run(true)
		if first != second {
			a, b := strings.Split(first, "\n"), strings.Split(second, "\n")
			for i := range min(len(a), len(b)) {
				if a[i] != b[i] {
					t.Fatalf("seed %d, line %d: %q and %q", seed, i, a[i], b[i])
				}
			}
			t.Fatalf("seed %d: one history goes on after the other's end", seed)
		}
	}
}

// TestKeptScenarios are runs that failed once.
func TestKeptScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/sim/*.txt")
	must(t, err)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			s, err := readScenario(file)
			must(t, err)
			if broken, history, _ := s.run(true); broken != "" {
				t.Errorf("%s\n%s", broken, history)
			}
		})
	}
	if len(files) == 0 {
		t.Error("there are none")
	}
}

// TestMutantsStillApply: a fault that cannot be put back is not looked for any more.
func TestMutantsStillApply(t *testing.T) {
	patches, err := filepath.Glob("testdata/mutants/*.patch")
	must(t, err)
	if len(patches) < 30 {
		t.Errorf("only %d patches", len(patches))
	}
	for _, patch := range patches {
		if out, err := exec.Command("git", "apply", "--check", patch).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", patch, err, out)
		}
	}
}
