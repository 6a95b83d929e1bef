package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// portsNamed makes the series of n ports that are in no set yet.
func portsNamed(n int) (ports []*portSeries) {
	for i := range n {
		name := fmt.Sprintf("Ethernet%d", i)
		ports = append(ports, newPortSeries(name, labelSet("port", name), 0))
	}
	return ports
}

// TestPortsThatComeAndGoAreNotSortedEachTime counts the amount of work: how often the whole set is put in order when
// every message adds a port and removes another.
func TestPortsThatComeAndGoAreNotSortedEachTime(t *testing.T) {
	const ports, messages = 4096, 40960
	var set portSet
	all := portsNamed(ports + messages)
	sorted := 0
	did := func() {
		if len(set.notes) == 0 {
			sorted++
		}
	}
	for _, p := range all[:ports] {
		set.set(p, &p.present, true)
		did()
	}
	if sorted > 64 {
		t.Errorf("put in order %d times while %d ports came", sorted, ports)
	}
	sorted = 0
	for i := range messages {
		set.set(all[i], &all[i].present, false)
		did()
		set.set(all[ports+i], &all[ports+i].present, true)
		did()
	}
	if most := 2 * messages / (ports / 8); sorted > most {
		t.Errorf("put in order %d times in %d messages, want at most %d", sorted, messages, most)
	}
	if got := len(set.all()); got != ports {
		t.Errorf("%d ports are left of %d", got, ports)
	}
}

// TestPortSetIsWhatARandomHistoryLeaves holds it against two maps that were told the same. A port that is forgotten and
// comes back has other series under the same labels.
func TestPortSetIsWhatARandomHistoryLeaves(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	var set portSet
	present, configured := map[string]*portSeries{}, map[string]*portSeries{}
	links := &portFamily{&set, mtuPart}
	pending := &portFamily{&set, pendingPart}
	ports := portsNamed(300)
	for i := range 10000 {
		at := dice.IntN(len(ports))
		p := ports[at]
		is := dice.IntN(2) == 0
		flag, told := &p.present, present
		if dice.IntN(2) == 0 {
			flag, told = &p.configured, configured
		}
		set.set(p, flag, is)
		delete(told, p.labels)
		if is {
			told[p.labels] = p
		}
		if !p.listed() && dice.IntN(4) == 0 {
			ports[at] = newPortSeries(p.name, p.labels, 0)
			ports[at].mtu.Set(float64(i))
			ports[at].pending.Set(float64(-i))
		}
		if dice.IntN(500) == 0 {
			set.trim()
			if cap(set.ports) != len(set.ports) || set.notes != nil {
				t.Fatalf("%d ports take the memory of %d, and %d notes", len(set.ports), cap(set.ports), cap(set.notes))
			}
		}
		if dice.IntN(100) != 0 {
			continue
		}
		var want, got []byte
		for _, l := range slices.Sorted(maps.Keys(present)) {
			want = present[l].mtu.appendSamples(want, "m", l)
		}
		for _, l := range slices.Sorted(maps.Keys(configured)) {
			want = configured[l].pending.appendSamples(want, "p", l)
		}
		got = pending.appendSamples(links.appendSamples(got, "m", ""), "p", "")
		if string(got) != string(want) {
			t.Fatalf("series are:\n%s\nwant:\n%s", got, want)
		}
		either := maps.Clone(present)
		maps.Copy(either, configured)
		var names, wants []string
		for _, p := range set.all() {
			names = append(names, p.labels)
		}
		if wants = slices.Sorted(maps.Keys(either)); strings.Join(names, " ") != strings.Join(wants, " ") {
			t.Fatalf("ports are %s, want %s", names, wants)
		}
	}
}

// TestOneOfTwoPortsOfTheSameName is in the set: a scrape with two series of the same labels is refused whole.
func TestOneOfTwoPortsOfTheSameName(t *testing.T) {
	var set portSet
	links := &portFamily{&set, mtuPart}
	old, again, last := portsNamed(1)[0], portsNamed(1)[0], portsNamed(1)[0]
	set.set(old, &old.present, true)
	_ = links.appendSamples(nil, "", "")
	set.set(again, &again.present, true)
	set.set(last, &last.present, true)
	last.mtu.Set(9100)
	if got := string(links.appendSamples(nil, "m", "")); got != "m{port=\"Ethernet0\"} 9100\n" {
		t.Error(got)
	}
	set.set(old, &old.present, false)
	set.set(again, &again.present, false)
	if got := set.all(); len(got) != 1 || got[0] != last {
		t.Error(got)
	}
}

func BenchmarkPortsComeAndGo(b *testing.B) {
	const ports = 4096
	var set portSet
	all := portsNamed(2 * ports)
	for _, p := range all[:ports] {
		set.set(p, &p.present, true)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		set.set(all[i%len(all)], &all[i%len(all)].present, false)
		set.set(all[(i+ports)%len(all)], &all[(i+ports)%len(all)].present, true)
	}
}
