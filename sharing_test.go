package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// How instances share namespaces.

// TestSharesDifferByOne whatever it begins with, by as few moves as there can be, and whoever comes back gets what it had.
func TestSharesDifferByOne(t *testing.T) {
	for namespaces := range 9 {
		for instances := 1; instances <= 5; instances++ {
			for begin := range 4 {
				all := make([]share, namespaces)
				for n := range all {
					all[n].namespace = fmt.Sprintf("asic%d", n)
					all[n].holder = fmt.Sprintf("i%d", n*begin%instances)
				}
				surplus, lacking, moves := 0, 0, 0
				for _, load := range loadsOf(all, instances) {
					surplus += max(0, load-(namespaces+instances-1)/instances)
					lacking += max(0, namespaces/instances-load)
				}
				for ; moves <= namespaces; moves++ {
					for n := range all {
						all[n].ready = nil
						for i := range instances {
							if name := fmt.Sprintf("i%d", i); name != all[n].holder {
								all[n].ready = append(all[n].ready, name)
							}
						}
					}
					m, found := nextMove(all, nobody)
					if !found {
						break
					}
					at := slices.IndexFunc(all, func(s share) bool { return s.namespace == m.namespace })
					if all[at].holder != m.from || m.to == m.from {
						t.Fatalf("%+v of %+v", m, all)
					}
					all[at].holder = m.to
				}
				loads := loadsOf(all, instances)
				if slices.Max(loads)-slices.Min(loads) > 1 {
					t.Errorf("%d namespaces, %d instances: %v", namespaces, instances, loads)
				}
				if moves < surplus || moves > max(surplus, lacking) {
					t.Errorf("%d namespaces, %d instances, begin %d: %d moves, %d have too much, %d too little", namespaces, instances, begin, moves, surplus, lacking)
				}
			}
		}
	}
	if _, found := nextMove([]share{{"asic0", "", []string{"b"}}, {"asic1", "a", nil}, {"asic2", "a", nil}}, nobody); found {
		t.Error("something is moved to who could not take over, or from nobody")
	}
}

func nobody(string) bool { return false }

func loadsOf(all []share, instances int) []int {
	loads := make([]int, instances)
	for _, s := range all {
		var i int
		fmt.Sscanf(s.holder, "i%d", &i)
		loads[i]++
	}
	return loads
}

// writers is who writes to each namespace, as the locks say.
func (b *testBox) writers() (of map[string]string, loads map[string]int) {
	b.t.Helper()
	of, loads = map[string]string{}, map[string]int{}
	for _, s := range b.asics {
		l := newWriterLock(lockHolder{}, time.Now)
		h, _ := l.holder(s.Dir)
		of[s.NetNS] = h.Instance
		loads[h.Instance]++
	}
	return of, loads
}

// sharing and sharedPorts are for measuring, see docs/instances.md.
var (
	sharing     = flag.Int("instance.sharing", 1, "how often instances join and leave in TestInstancesShareNamespaces")
	sharedPorts = flag.Int("instance.shared-ports", 4, "with how many ports in each namespace")
)

// togglesAmid sets a port down and up until it is told to end, and returns how long it took until its entry said so, where another one had begun to write
// meanwhile.
func (s *testSwitch) togglesAmid(port string, end <-chan struct{}) (amid []time.Duration, err error) {
	index, err := s.Index(port)
	if err != nil {
		return nil, err
	}
	admin, err := s.SetAdmin()
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	holder := func() lockHolder {
		h, _ := newWriterLock(lockHolder{}, time.Now).holder(s.Dir)
		return h
	}
	for up := false; ; up = !up {
		before, begun := holder(), time.Now()
		if err := admin.Set(index, up); err != nil {
			return nil, err
		}
		want := map[bool]string{false: "down", true: "up"}[up]
		for got := ""; got != want; {
			if got, err = s.State.HGet(context.Background(), s.StateKey(port), "netdev_oper_status").Result(); err != nil {
				return nil, err
			}
			if time.Since(begun) > patience {
				return nil, fmt.Errorf("%s in %s is %s, not %s", port, s.NetNS, got, want)
			}
			time.Sleep(500 * time.Microsecond)
		}
		if took := time.Since(begun); !up && holder() != before { // up it is when the kernel says so, in a storm up to seconds later
			amid = append(amid, took)
		}
		if up { // else it would stay down
			select {
			case <-end:
				return amid, nil
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}

// TestInstancesShareNamespaces: two, three, and two again, one of them killed, in a storm: each change moves what has to be moved, and no more. Nothing
// is wrong afterwards, and no flap is lost.
func TestInstancesShareNamespaces(t *testing.T) {
	t.Parallel()
	const n = 4
	ports := *sharedPorts
	b := newBoxTest(t, n, ports, "-standby", "-instance", "a")
	var before []map[string]int
	for _, s := range b.asics {
		b.up(s, ports)
		before = append(before, s.carrierLosses())
	}
	storm := make(chan error, 2*n)
	done := make(chan struct{})
	var mu sync.Mutex
	var took []time.Duration
	for _, s := range b.asics {
		go func() { storm <- s.flapUntil(done, portNames(ports-1)...) }()
		go func() {
			amid, err := s.togglesAmid(portNames(ports)[ports-1], done)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, amid...)
			storm <- err
		}()
	}
	join := func(name string) *switchtest.Daemon {
		d, err := b.StartDaemon(daemonProgram(t), "-standby", "-instance", name)
		must(t, err)
		b.asics[0].keep(d)
		return d
	}
	var settling []time.Duration
	settled := func(what string, want ...int) map[string]string {
		begun := time.Now()
		var of map[string]string
		b.asics[0].waitFor(what, func() bool {
			var loads map[string]int
			of, loads = b.writers()
			return loads[""] == 0 && slices.Equal(slices.Sorted(maps.Values(loads)), want)
		})
		settling = append(settling, time.Since(begun))
		return of
	}
	moved := func(a, b map[string]string) (n int) {
		for namespace := range a {
			if a[namespace] != b[namespace] {
				n++
			}
		}
		return n
	}
	for round := range *sharing {
		one := settled("one instance", 4)
		second := join("b")
		two := settled("two instances", 2, 2)
		third := join("c")
		three := settled("three instances", 1, 1, 2)
		if moved(one, two) != 2 || moved(two, three) != 1 {
			t.Errorf("round %d: moved were %d and %d", round, moved(one, two), moved(two, three))
		}
		must(t, third.Signal(syscall.SIGKILL))
		settled("two instances, after one was killed", 2, 2)
		must(t, second.Signal(syscall.SIGTERM))
		settled("one instance, after one has ended", 4)
		_, err := second.Wait(patience)
		must(t, err)
	}
	close(done)
	for range 2 * n {
		must(t, <-storm)
	}
	t.Logf("settled: %s", spread(settling))
	t.Logf("from a change amid a hand-over to its entry: %s", spread(took))
	for i, s := range b.asics {
		for _, p := range portNames(ports) {
			s.waitEntry(p, fields("up", "up", 1500))
		}
		s.waitMetric(b.d, `portsyncd_instance_writer{instance="a",namespace="`+s.NetNS+`"}`, "1")
		losses, told := s.carrierLosses(), s.scrape(b.d)
		for _, p := range portNames(ports) {
			want := strconv.Itoa(losses[p] - before[i][p])
			if got := sample(told, `portsyncd_port_flaps_total{namespace="`+s.NetNS+`",port="`+p+`"}`); got != want {
				t.Errorf("%s of %s has flapped %s times, the kernel says %s", p, s.NetNS, got, want)
			}
		}
	}
}

// TestSharerLooksAtNamespacesThatWereNotPublishedYet: the folders of their locks may be known before, and nothing happens in these afterwards.
func TestSharerLooksAtNamespacesThatWereNotPublishedYet(t *testing.T) {
	u := &unit{namespace: "asic0"}
	s := &several{daemon: &daemon{box: newSeveral(newMetrics("test"), new(health)), sharer: newSharer(nil, "a", discard())},
		running: map[string]*runningUnit{"asic0": {published: u}}}
	told := func() bool {
		select {
		case <-s.sharer.news:
			return true
		default:
			return false
		}
	}
	if s.publish(); !told() {
		t.Error("the sharer is not told of a namespace")
	}
	if s.publish(); told() {
		t.Error("the sharer is told of nothing new")
	}
	delete(s.running, "asic0")
	if s.publish(); !told() {
		t.Error("the sharer is not told that a namespace has gone")
	}
}

func sharedBox(t *testing.T) (*box, *unit, *unit) {
	t.Helper()
	b := newSeveral(newProcessMetrics("test"), new(health))
	make := func(namespace string, writes bool) *unit {
		i := &instance{lock: newWriterLock(lockHolder{Instance: "a", PID: 1}, time.Now), log: discard()}
		i.ready.lock = i.lock
		i.lock.namespace = namespace
		i.standby.Store(true)
		i.writing.Store(writes)
		return &unit{namespace: namespace, m: newUnitMetrics(b.m, namespace), health: new(health), log: discard(), instance: i}
	}
	first, second := make("asic0", true), make("asic1", false)
	b.put([]*unit{first, second})
	return b, first, second
}

// TestRoleOfSharedNamespaces: one that writes to asic0 and stands by for asic1 is no standby "which writes nothing".
func TestRoleOfSharedNamespaces(t *testing.T) {
	b, _, _ := sharedBox(t)
	s := newAPI(b, false).status(time.Now())
	text := s.text(false)
	if strings.Contains(text, "writes nothing") {
		t.Errorf("it writes to asic0, its role is %q, and status says:\n%s", s.Role, text)
	}
	if strings.Contains(text, "held by \n") {
		t.Errorf("the holder is left out:\n%s", text)
	}
}

// TestHandOverOfSharedNamespaces: all that it writes to is handed over, and that is no failure.
func TestHandOverOfSharedNamespaces(t *testing.T) {
	b, first, _ := sharedBox(t)
	dir := t.TempDir()
	i := first.instance
	i.lock.flag = dir
	must(t, i.lock.take(dir))
	defer i.lock.release()
	i.enterFolder(dir)
	other := newWriterLock(lockHolder{Instance: "b", PID: 2}, time.Now)
	other.flag, other.namespace = dir, "asic0"
	claim := readyClaim{lock: other}
	must(t, claim.set(dir, true))
	i.endTurn = func() {
		go func() {
			i.mu.Lock()
			defer i.mu.Unlock()
			i.asked <- nil
		}()
	}
	done := b.handOver(false)
	if len(done.HandedOver) != 1 || len(done.Errors) != 0 {
		t.Errorf("asic0 was all that it wrote to: %+v, so the command ends with %d", done, exitNotWell)
	}
}
