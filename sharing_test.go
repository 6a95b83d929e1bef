package main

import (
	"fmt"
	"maps"
	"slices"
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
					m, found := nextMove(all)
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
	if _, found := nextMove([]share{{"asic0", "", []string{"b"}}, {"asic1", "a", nil}, {"asic2", "a", nil}}); found {
		t.Error("something is moved to who could not take over, or from nobody")
	}
}

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

// TestInstancesShareNamespaces: two, three, and two again, one of them killed, in a storm: each change moves what has to be moved.
func TestInstancesShareNamespaces(t *testing.T) {
	t.Parallel()
	const n, ports = 4, 4
	b := newBoxTest(t, n, ports, "-standby", "-instance", "a")
	for _, s := range b.asics {
		b.up(s, ports)
	}
	storm := make(chan error, n)
	done := make(chan struct{})
	for _, s := range b.asics {
		go func() {
			for {
				select {
				case <-done:
					storm <- nil
					return
				default:
				}
				if err := s.Flap(1, portNames(ports-1)...); err != nil {
					storm <- err
					return
				}
			}
		}()
	}
	join := func(name string) *switchtest.Daemon {
		d, err := b.StartDaemon(daemonProgram(t), "-standby", "-instance", name)
		must(t, err)
		b.asics[0].keep(d)
		return d
	}
	settled := func(what string, want ...int) map[string]string {
		begun := time.Now()
		var of map[string]string
		b.asics[0].waitFor(what, func() bool {
			var loads map[string]int
			of, loads = b.writers()
			return loads[""] == 0 && slices.Equal(slices.Sorted(maps.Values(loads)), want)
		})
		t.Logf("%s: settled after %v: %v", what, time.Since(begun).Round(time.Millisecond), of)
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
	one := settled("one instance", 4)
	second := join("b")
	two := settled("two instances", 2, 2)
	third := join("c")
	three := settled("three instances", 1, 1, 2)
	if moved(one, two) != 2 || moved(two, three) != 1 {
		t.Errorf("moved were %d and %d", moved(one, two), moved(two, three))
	}
	must(t, third.Signal(syscall.SIGKILL))
	settled("two instances, after one was killed", 2, 2)
	must(t, second.Signal(syscall.SIGTERM))
	settled("one instance, after one has ended", 4)
	close(done)
	for range b.asics {
		must(t, <-storm)
	}
	for _, s := range b.asics {
		for _, p := range portNames(ports) {
			s.waitEntry(p, fields("up", "up", 1500))
		}
		s.waitMetric(b.d, `portsyncd_instance_writer{instance="a",namespace="`+s.NetNS+`"}`, "1")
	}
}
