package main

import (
	"context"
	"encoding/binary"
	"flag"
	"io"
	"log/slog"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portsyncd/internal/plot"
	"portsyncd/internal/switchtest"
)

// How the daemon grows with the number of ports: the real syncer and a real Redis, on messages that a real kernel sent, multiplied. 100,000
// interfaces would take the kernel minutes to make.

var growthPlot = flag.String("growth.svg", "", "draw what BenchmarkGrowth finds into this `file`")

// crowd is a link source with any number of links. Each is a recorded message with another ifindex, name and state.
type crowd struct {
	size    int
	wake    chan struct{}
	parsed  linkMessage
	from    []byte // the recorded message
	buf     []byte
	next    int // of the dump, size: none is under way
	begun   time.Time
	took    time.Duration // for the dump
	turn    int           // the link that changes next, size: none does
	running bool          // what they change to
}

func newCrowd(b *testing.B, size int) *crowd {
	c := &crowd{size: size, wake: make(chan struct{}, 1), next: size, turn: size}
	for _, m := range split(b, readRecording(b, "links")) {
		if kind := binary.NativeEndian.Uint16(m[4:]); kind == unix.RTM_NEWLINK && len(m) > len(c.from) {
			c.from = m
		}
	}
	return c
}

// message is link i's, running or not.
func (c *crowd) message(i int, running bool) []byte {
	flags := uint32(unix.IFF_UP | unix.IFF_LOWER_UP | unix.IFF_RUNNING)
	if !running {
		flags = unix.IFF_UP
	}
	c.buf = append(c.buf[:0], c.from[:nlmsgHeaderLen+ifInfoLen]...)
	for rest := c.from[nlmsgHeaderLen+ifInfoLen:]; len(rest) >= attrHeaderLen; {
		_, _, after, err := nextAttr(rest)
		if err != nil {
			panic(err) // the recording is the same for every run
		}
		if attr := rest[:len(rest)-len(after)]; binary.NativeEndian.Uint16(attr[2:]) != unix.IFLA_IFNAME {
			c.buf = append(c.buf, attr...)
		} else {
			start := len(c.buf)
			c.buf = append(c.buf, 0, 0, unix.IFLA_IFNAME, 0)
			binary.NativeEndian.PutUint16(c.buf[start+2:], unix.IFLA_IFNAME)
			c.buf = append(c.buf, "Ethernet"...)
			c.buf = append(strconv.AppendInt(c.buf, int64(4*i), 10), 0)
			binary.NativeEndian.PutUint16(c.buf[start:], uint16(len(c.buf)-start))
			for len(c.buf)%4 != 0 {
				c.buf = append(c.buf, 0)
			}
		}
		rest = after
	}
	binary.NativeEndian.PutUint32(c.buf, uint32(len(c.buf)))
	binary.NativeEndian.PutUint16(c.buf[4:], unix.RTM_NEWLINK)
	binary.NativeEndian.PutUint32(c.buf[nlmsgHeaderLen+4:], uint32(i+1))
	binary.NativeEndian.PutUint32(c.buf[nlmsgHeaderLen+8:], flags)
	return c.buf
}

func (c *crowd) Receive(sink linkSink) (more bool, err error) {
	for range batchLen {
		switch {
		case c.next < c.size:
			m, _, _ := nextMessage(c.message(c.next, true))
			if err := parseLink(m, &c.parsed); err != nil {
				return false, err
			}
			if c.next%batchLen == 0 {
				sink.received(time.Now(), 0)
			}
			sink.dumped(&c.parsed)
			if c.next++; c.next == c.size {
				sink.dumpDone(false, nil)
				c.took = time.Since(c.begun)
			}
		case c.turn < c.size:
			sink.received(time.Now(), 1)
			takeDatagram(c.message(c.turn, c.running), &c.parsed, sink)
			c.turn++
		default:
			return false, nil
		}
	}
	return true, nil
}

func (c *crowd) DropDump()        {}
func (c *crowd) StartDump() error { c.next, c.begun = 0, time.Now(); return nil }

func (c *crowd) Wait(d time.Duration) error {
	select {
	case <-c.wake:
	case <-time.After(d):
	}
	return nil
}

func (*crowd) Pause(d time.Duration) { time.Sleep(d) }

func (c *crowd) Rouse() { c.Wake() }

func (c *crowd) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (*crowd) SetDown(netNSID, []int32, func(int32, error)) {}
func (*crowd) Home() (home netNSID)                         { return home }
func (*crowd) Follow() (bool, error)                        { return false, nil }

func BenchmarkGrowth(b *testing.B) {
	var points []growth
	for _, ports := range []int{32, 128, 512, 4096, 32768, 100000} {
		b.Run("ports="+strconv.Itoa(ports), func(b *testing.B) {
			var g growth
			for range b.N {
				g = measureGrowth(b, ports)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(g.intake.Seconds()*1e3, "ms-dump")
			b.ReportMetric(g.published.Seconds()*1e3, "ms-published")
			b.ReportMetric(us(g.change), "us-cpu/change")
			b.ReportMetric(g.heap, "heap-B/port")
			b.ReportMetric(float64(g.scrapeSize)/1024, "KiB-scrape")
			b.ReportMetric(us(g.scrape), "us-scrape")
			points = append(points, g)
		})
	}
	if *growthPlot != "" && len(points) > 1 {
		f, err := os.Create(*growthPlot)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		if err := drawGrowth(f, points); err != nil {
			b.Fatal(err)
		}
	}
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// growth is what one size costs.
type growth struct {
	ports      int
	intake     time.Duration // of the dump: parsed, every port made
	published  time.Duration // from the start until STATE_DB has every port
	change     time.Duration // processor time of one port's change, written to Redis
	heap       float64       // bytes a port
	scrapeSize int           // bytes
	scrape     time.Duration
}

// measureGrowth takes a daemon that restarted alone through its start, and then lets every port change a few times.
func measureGrowth(b *testing.B, ports int) growth {
	s := newSwitch(b, switchtest.Options{})
	s.fillAppl(ports)
	g := growth{ports: ports}
	source := newCrowd(b, ports)
	m := newMetrics("growth")
	open := func(slow func()) (database, error) {
		return openSonicDB(s.ConfigFile, m, slow)
	}
	syncer := newSyncer(syncOptions{eoiu: time.Minute, old: "adopt"}, source, open, m, new(health), slog.New(slog.DiscardHandler), time.Now)
	before := heapInUse()
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error)
	begun := time.Now()
	go func() { ended <- syncer.Run(ctx) }()
	defer func() {
		stop()
		s.must(<-ended)
	}()
	wait := func(what string, holds func() bool) {
		b.Helper()
		s.must(switchtest.WaitFor(2*time.Minute, what, holds))
	}
	wait("every port to be published", func() bool {
		n, err := s.State.DBSize(b.Context()).Result()
		s.must(err)
		return n >= int64(ports)
	})
	g.published, g.intake = time.Since(begun), source.took
	wait("the syncer to rest", func() bool { return m.queueDepth.Load() == 0 })

	rounds := 2 * max(1, 10000/ports)
	cpu := processorTime()
	processed := m.eventsProcessed.Load()
	for round := range rounds { // one at a time: else a later change of a port saves the write of an earlier one
		syncer.post(func() {
			source.running, source.turn = round%2 == 1, 0
			source.Wake()
		})
		wait("every change to be written", func() bool { return m.eventsProcessed.Load() >= processed+uint64((round+1)*ports) })
	}
	g.change = (processorTime() - cpu) / time.Duration(rounds*ports)

	g.heap = float64(heapInUse()-before) / float64(ports)
	page := m.Append(nil)
	const renders = 5
	begun = time.Now()
	for range renders {
		page = m.Append(page[:0])
	}
	g.scrape, g.scrapeSize = time.Since(begun)/renders, len(page)
	return g
}

// BenchmarkStep is one link message from the socket's bytes to the port's new state, and its share of the turn that handles a batch.
func BenchmarkStep(b *testing.B) {
	const ports = 256
	source := newCrowd(b, ports)
	s := newSyncer(syncOptions{links: globs{"*"}, eoiu: time.Minute}, source, nil, newMetrics("step"), new(health), slog.New(slog.DiscardHandler), time.Now)
	s.wake()
	for !s.start.running() {
		if err := s.turn(); err != nil {
			b.Fatal(err)
		}
	}
	var messages [2 * ports][]byte // every port goes down, and then up again
	for i := range messages {
		messages[i] = slices.Clone(source.message(i%ports, i >= ports))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%batchLen == 0 {
			s.advance(time.Now(), false)
			s.received(time.Now(), batchLen)
		}
		takeDatagram(messages[i%len(messages)], &source.parsed, s)
	}
}

// BenchmarkFlush is what so many ports at a time take to be written to a real Redis: one, a breakout's, a storm's.
func BenchmarkFlush(b *testing.B) {
	const ports = 64
	s := newSwitch(b, switchtest.Options{})
	s.fillAppl(ports)
	d, _ := s.openDB()
	for _, n := range []int{1, 8, ports} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			writes := make([]portWrite, n)
			f := new(flush)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				f.writes = f.writes[:0]
				for p := range writes {
					writes[p] = portWrite{port: switchtest.PortName(p), state: portState{admin: i%2 == 0, oper: i%2 == 0, mtu: 9100}, set: true}
					f.writes = append(f.writes, &writes[p])
				}
				if err := d.Flush(b.Context(), f); err != nil || !writes[n-1].written {
					b.Fatal(err, writes[n-1].outcome)
				}
			}
		})
	}
}

// BenchmarkStorm is the whole daemon in this process on a real switch: each of 256 ports is set down and up. It is what make profile looks into.
func BenchmarkStorm(b *testing.B) {
	const ports = 256
	s := newSwitch(b, switchtest.Options{})
	s.must(s.Configure(b.Context(), ports))
	s.orchagent(true)
	m := newMetrics("storm")
	open := func(slow func()) (database, error) {
		return openSonicDB(s.ConfigFile, m, slow)
	}
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error)
	syncer := newSyncer(syncOptions{eoiu: time.Minute, old: "auto"}, s.openLinks(), open, m, new(health), slog.New(slog.DiscardHandler), time.Now)
	go func() { ended <- syncer.Run(ctx) }()
	defer func() {
		stop()
		s.must(<-ended)
	}()
	s.waitFor("PortInitDone", func() bool { return m.portInitDone.Load() == 1 })
	var all []string
	for i := range ports {
		all = append(all, switchtest.PortName(i))
	}
	cpu, messages := processorTime(), m.eventsProcessed.Load()
	for b.Loop() {
		s.must(s.Flap(1, all...))
	}
	s.waitFor("the queue to empty", func() bool { return m.queueDepth.Load() == 0 })
	n := m.eventsProcessed.Load() - messages
	b.ReportMetric(float64(n)/float64(b.N), "messages/op")
	b.ReportMetric(us(processorTime()-cpu)/float64(n), "us-cpu/message")
}

// fillAppl makes the databases those of a switch that runs: ports configured, in APPL_DB, and both signals sent.
func (s *testSwitch) fillAppl(ports int) {
	s.t.Helper()
	ctx := s.t.Context()
	s.must(s.Configure(ctx, ports))
	pipe := s.Appl.Pipeline()
	for i := range ports {
		pipe.HSet(ctx, "PORT_TABLE:"+switchtest.PortName(i), "lanes", 4*i+1, "speed", "100000")
	}
	pipe.HSet(ctx, "PORT_TABLE:PortConfigDone", "count", ports)
	pipe.HSet(ctx, "PORT_TABLE:PortInitDone", "lanes", "0")
	_, err := pipe.Exec(ctx)
	s.must(err)
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // what finalizers let go of
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func processorTime() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// drawGrowth plots each quantity over the number of ports. Both axes are logarithmic and as long as each other, so that what is proportional
// to the number of ports rises at 45 degrees, and what is the same for each port is level.
func drawGrowth(w io.Writer, points []growth) error {
	panels := []struct {
		title string
		value func(g growth) float64
	}{
		{"list all links, ms", func(g growth) float64 { return g.intake.Seconds() * 1e3 }},
		{"start until all are published, ms", func(g growth) float64 { return g.published.Seconds() * 1e3 }},
		{"scrape, \u00b5s", func(g growth) float64 { return us(g.scrape) }},
		{"scrape, KiB", func(g growth) float64 { return float64(g.scrapeSize) / 1024 }},
		{"processor time of one change, \u00b5s", func(g growth) float64 { return us(g.change) }},
		{"heap of one port, bytes", func(g growth) float64 { return g.heap }},
	}
	const side, gap, decades = 220, 70, 4.0
	drawing := plot.Drawing{Width: 3*(side+gap) + gap/2, Height: 2*(side+gap) + gap/2,
		Note: "number of ports; both axes logarithmic"}
	ports := plot.Axis{From: math.Pow(10, 1.2), To: math.Pow(10, 1.2+decades), Log: true}
	for _, g := range points {
		ports.Marks = append(ports.Marks, float64(g.ports))
	}
	for i, p := range panels {
		chart := plot.Chart{Title: p.title, Left: float64(gap/2 + i%3*(side+gap)), Top: float64(gap/2 + i/3*(side+gap)),
			Width: side, Height: side, X: ports, Y: plot.Axis{Log: true}}
		low := math.Inf(1)
		var line plot.Line
		for _, g := range points {
			low = min(low, p.value(g))
			line.Points = append(line.Points, plot.Point{X: float64(g.ports), Y: p.value(g)})
		}
		floor := math.Floor(math.Log10(low))
		for d := range int(decades) + 1 {
			chart.Y.Marks = append(chart.Y.Marks, math.Pow(10, floor+float64(d)))
		}
		chart.Y.From, chart.Y.To = chart.Y.Marks[0], chart.Y.Marks[int(decades)]
		chart.Lines = []plot.Line{line}
		drawing.Charts = append(drawing.Charts, chart)
	}
	return drawing.Write(w)
}
