package main

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"portsyncd/internal/switchtest"
)

func TestTextFormat(t *testing.T) {
	var c counter
	c.Add(12)
	g := func(f float64) *gauge { g := new(gauge); g.Set(f); return g }
	h := newHistogram(time.Millisecond, 500*time.Millisecond)
	h.Observe(time.Millisecond) // bounds are inclusive
	h.ObserveN(time.Millisecond+1, 2)
	h.Observe(3 * time.Second)
	h.Observe(-time.Second)
	v := new(vector)
	v.Add(labelSet("port", "Ethernet8", "speed", "100G"), g(-1.5))
	v.Add(labelSet("port", "a\"b\\c\nd", "speed", ""), g(math.NaN()))
	v.Add(labelSet("port", "Ethernet0", "speed", "é"), g(math.Inf(-1)))
	e := newExposition([]family{
		{"t_total", counterKind, nil, "Counts \\ things\nin two lines, \"quoted\".", &c},
		{"t_seconds", histogramKind, nil, "Durations.", h},
		{"t_ports", gaugeKind, []string{"port", "speed"}, "Ports.", v},
		{"t_empty", gaugeKind, []string{"port"}, "No series.", new(vector)},
		{"t_inf", gaugeKind, nil, "Infinite.", g(math.Inf(1))},
	})
	const want = `# HELP t_total Counts \\ things\nin two lines, "quoted".
# TYPE t_total counter
t_total 12
# HELP t_seconds Durations.
# TYPE t_seconds histogram
t_seconds_bucket{le="0.001"} 2
t_seconds_bucket{le="0.5"} 4
t_seconds_bucket{le="+Inf"} 5
t_seconds_sum 3.003000002
t_seconds_count 5
# HELP t_ports Ports.
# TYPE t_ports gauge
t_ports{port="Ethernet0",speed="é"} -Inf
t_ports{port="Ethernet8",speed="100G"} -1.5
t_ports{port="a\"b\\c\nd",speed=""} NaN
# HELP t_empty No series.
# TYPE t_empty gauge
# HELP t_inf Infinite.
# TYPE t_inf gauge
t_inf +Inf
`
	if got := string(e.Append(nil)); got != want {
		t.Errorf("rendered:\n%s\nwant:\n%s", got, want)
	}
}

// TestNamesThatAreNotUTF8StayApart: whatever bytes the kernel has for names, the scrape is UTF-8 and has a series for
// each.
func TestNamesThatAreNotUTF8StayApart(t *testing.T) {
	names := []string{"Ethernet\xff", "Ethernet\xfe", "Ethernet\xff\xfe", "Ethernet\ufffd", `Ethernet\xff`, "\xc3Ethernet",
		"\xc3", "é", "\xe9", "\xed\xa0\x80", "Ethernet\\\"\xff"}
	seen := map[string]string{}
	for _, name := range names {
		set := labelSet("port", name)
		if other, taken := seen[set]; taken || !utf8.ValidString(set) {
			t.Errorf("%q is labelled %q, valid %v; so is %q", name, set, utf8.ValidString(set), other)
		}
		seen[set] = name
	}
	for name, want := range map[string]string{
		"Ethernet\xff": `{port="Ethernet/ff"}`, "\xc3é\xa9\"": `{port="/c3é/a9\""}`,
		"é\ufffd": "{port=\"é\ufffd\"}",
	} {
		if got := labelSet("port", name); got != want {
			t.Errorf("%q is labelled %s, want %s", name, got, want)
		}
	}
}

func TestSeriesComeAndGo(t *testing.T) {
	v := new(vector)
	g := new(gauge)
	order := func() string {
		return strings.Join(strings.Fields(strings.ReplaceAll(string(v.appendSamples(nil, "", "")), " 0", "")), " ")
	}
	for _, l := range []string{"{c}", "{a}", "{b}"} {
		v.Add(l, g)
	}
	v.Remove("{b}")
	v.Add("{d}", g)
	v.Add("{aa}", g)
	v.Remove("{c}")
	v.Remove("{nothing}")
	if got := order(); got != "{aa} {a} {d}" {
		t.Errorf("series are %s", got)
	}
	v.Add("{c}", g)
	if got := order(); got != "{aa} {a} {c} {d}" {
		t.Errorf("series are %s", got)
	}
}

func FuzzFloat(f *testing.F) {
	for _, v := range []float64{0, math.Copysign(0, -1), 1, 0.1, 1e21, 1 << 53, 1<<53 + 2, 1795451728.083, 0.3, 2.675, 1e-7, math.MaxFloat64,
		math.SmallestNonzeroFloat64, math.NaN(), math.Inf(1), math.Inf(-1), -7.25, 999999999999.999, 4503599627370.4955} {
		f.Add(math.Float64bits(v))
	}
	f.Fuzz(func(t *testing.T, bits uint64) {
		want := math.Float64frombits(bits)
		text := string(appendFloat(nil, want))
		got, err := strconv.ParseFloat(text, 64)
		if err != nil || math.Float64bits(got) != bits && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Errorf("%v is written as %q, which reads as %v (%v)", want, text, got, err)
		}
	})
}

// TestTimestampsAreExact covers the short cut for whole thousandths, which random bits hardly ever reach.
func TestTimestampsAreExact(t *testing.T) {
	for milli := int64(1795451728000); milli < 1795451729000; milli++ {
		var g gauge
		g.SetTime(time.UnixMilli(milli))
		text := string(appendFloat(nil, g.Load()))
		if want := strings.TrimRight(strings.TrimRight(fmt.Sprintf("%d.%03d", milli/1000, milli%1000), "0"), "."); text != want {
			t.Fatalf("%d ms is written as %s, want %s", milli, text, want)
		}
	}
}

// TestHistogramStaysConsistent reads one while it is written: buckets cumulate and _count is the +Inf bucket.
func TestHistogramStaysConsistent(t *testing.T) {
	h := newHistogram(time.Millisecond, time.Second)
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i := range 2 {
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					h.Observe(time.Duration(i) * 2 * time.Second)
					h.Observe(10 * time.Millisecond)
				}
			}
		})
	}
	number := regexp.MustCompile(` (\d+)\n`)
	for range 2000 {
		text := string(h.appendSamples(nil, "h", ""))
		text = regexp.MustCompile(`(?m)^h_sum.*\n`).ReplaceAllString(text, "")
		var last, values = 0, number.FindAllStringSubmatch(text, -1)
		for _, v := range values {
			n, _ := strconv.Atoi(v[1])
			if n < last {
				t.Fatalf("not cumulative:\n%s", text)
			}
			last = n
		}
		if inf := values[len(values)-2][1]; inf != values[len(values)-1][1] {
			t.Fatalf("+Inf and _count disagree:\n%s", text)
		}
	}
	close(stop)
	writers.Wait()
}

// filledMetrics is a metric set with n ports whose values are all different.
func filledMetrics(n int) *metrics {
	m := newMetrics("test")
	for i := range n {
		s := m.newPort(fmt.Sprintf("Ethernet%d", 4*i), uint64(i))
		m.showLink(s)
		m.showPending(s)
		s.operUp.SetBool(i%2 == 0)
		s.adminUp.Set(1)
		s.mtu.Set(float64(1500 + i))
		s.lastChange.SetTime(time.UnixMilli(1795451728083 + int64(i)*1234567))
	}
	return m
}

func TestScrapeDoesNotAllocate(t *testing.T) {
	m := filledMetrics(64)
	buf := m.Append(nil)
	if allocs := testing.AllocsPerRun(100, func() { buf = m.Append(buf[:0]) }); allocs != 0 {
		t.Errorf("%v allocations a scrape", allocs)
	}
}

// TestDocumentedMetrics holds docs/metrics.md against the table in newMetrics.
func TestDocumentedMetrics(t *testing.T) {
	text, err := os.ReadFile("docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (\\w+) \\|([^|]*)\\| ([^|]+) \\| `[^|]*` \\|$")
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, m[1]+" "+m[2]+" "+strings.Join(strings.FieldsFunc(m[3], func(r rune) bool { return r == '`' || r == ' ' }), ","))
	}
	var own []string
	for _, f := range newMetrics("test").families {
		own = append(own, f.name+" "+string(f.kind)+" "+strings.Join(f.labels, ","))
	}
	if got, want := strings.Join(documented, "\n"), strings.Join(own, "\n"); got != want {
		t.Errorf("docs/metrics.md has:\n%s\n\nthe daemon has:\n%s", got, want)
	}
	for name, bounds := range map[string][]time.Duration{
		"portsyncd_event_latency_seconds": newMetrics("").eventLatency.bounds, "portsyncd_redis_latency_seconds": newMetrics("").redisLatency.bounds} {
		var list []string
		for _, b := range bounds {
			list = append(list, strconv.FormatFloat(b.Seconds(), 'g', -1, 64))
		}
		if line := "`" + name + "` " + strings.Join(list, " ") + " +Inf"; !strings.Contains(strings.Join(strings.Fields(string(text)), " "), line) {
			t.Errorf("docs/metrics.md lacks the buckets %s", line)
		}
	}
}

// TestLabelsAreAsDeclared: what a family's table row says of its labels is what its series have.
func TestLabelsAreAsDeclared(t *testing.T) {
	m := filledMetrics(1)
	label := regexp.MustCompile(`([a-z]+)="`)
	for _, f := range m.families {
		if f.kind == histogramKind {
			continue // has le
		}
		for line := range strings.Lines(string(f.value.appendSamples(nil, "", ""))) {
			var names []string
			for _, match := range label.FindAllStringSubmatch(line, -1) {
				names = append(names, match[1])
			}
			if strings.Join(names, ",") != strings.Join(f.labels, ",") {
				t.Errorf("%s declares the labels %v, a series is %s", f.name, f.labels, line)
			}
		}
	}
}

func TestProcessMetrics(t *testing.T) {
	p := openProcess()
	p.Read()
	now := float64(time.Now().Unix())
	for name, ok := range map[string]bool{
		"started":    p.started.Load() > now-3600 && p.started.Load() < now+2,
		"memory":     p.memory.Load() > 1<<20 && p.memory.Load() < 1<<32,
		"virtual":    p.virtual.Load() >= p.memory.Load(),
		"open files": p.openFDs.Load() >= 4 && p.openFDs.Load() < p.maxFDs.Load(),
		"goroutines": p.goroutines.Load() >= 2,
		"heap":       p.heapInuse.Load() >= p.heapAlloc.Load() && p.heapAlloc.Load() > 0 && p.sys.Load() > p.heapInuse.Load(),
	} {
		if !ok {
			t.Errorf("%s is off", name)
		}
	}
	must(t, switchtest.WaitFor(patience, "as many threads as the kernel lists", func() bool { // one may begin meanwhile
		p.Read()
		tasks, err := os.ReadDir("/proc/self/task")
		return err == nil && p.threads.Load() == float64(len(tasks))
	}))
	before := p.openFDs.Load()
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	p.Read()
	if got := p.openFDs.Load(); got != before+1 {
		t.Errorf("one more file makes %v open descriptors of %v", got, before)
	}
	f.Close()
	cpu := p.cpu.Load()
	for end := time.Now().Add(patience); p.cpu.Load() < cpu+0.05 && time.Now().Before(end); {
		p.Read()
	}
	if p.cpu.Load() < cpu+0.05 {
		t.Error("the CPU time does not grow")
	}
}

func BenchmarkScrape(b *testing.B) {
	for _, ports := range []int{32, 512, 4096} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			m := filledMetrics(ports)
			buf := m.Append(nil)
			b.ReportAllocs()
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				buf = m.Append(buf[:0])
			}
		})
	}
}
