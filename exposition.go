package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// The Prometheus text format 0.0.4, written by hand. Names, help and labels are escaped and laid out
// when a family or a series is made; a scrape only appends them and today's values to a buffer, and
// allocates nothing once that buffer has grown to its size.

// kind is a family's type as the TYPE line names it.
type kind string

const (
	counterKind   kind = "counter"
	gaugeKind     kind = "gauge"
	histogramKind kind = "histogram"
)

// value is anything that can append its samples: one line, or for a histogram several.
// name is the family's name, labels is empty or a rendered label set such as {port="Ethernet0"}.
type value interface {
	appendSamples(b []byte, name, labels string) []byte
}

// counter is a cumulative count that only grows. The zero value is ready.
type counter struct{ n atomic.Uint64 }

func (c *counter) Inc()         { c.n.Add(1) }
func (c *counter) Add(n uint64) { c.n.Add(n) }
func (c *counter) Load() uint64 { return c.n.Load() }

func (c *counter) appendSamples(b []byte, name, labels string) []byte {
	b = append(append(append(b, name...), labels...), ' ')
	return append(appendUint(b, c.n.Load()), '\n')
}

// gauge is a value that goes up and down. The zero value is ready and reads 0.
type gauge struct{ bits atomic.Uint64 }

func (g *gauge) Set(f float64) { g.bits.Store(math.Float64bits(f)) }
func (g *gauge) Load() float64 { return math.Float64frombits(g.bits.Load()) }

func (g *gauge) SetBool(on bool) {
	if on {
		g.Set(1)
	} else {
		g.Set(0)
	}
}

// SetTime sets the gauge to t in seconds since the epoch, to the millisecond.
func (g *gauge) SetTime(t time.Time) { g.Set(float64(t.UnixMilli()) / 1000) }

func (g *gauge) appendSamples(b []byte, name, labels string) []byte {
	b = append(append(append(b, name...), labels...), ' ')
	return append(appendFloat(b, g.Load()), '\n')
}

// timeGauge is a time, told by the wall clock of whoever reads it. When somebody sets that, after a boot in 1970 for
// instance, what has happened before has not been long ago.
type timeGauge struct {
	gauge
	clock atomic.Int64 // wallClock when it was set
}

func (g *timeGauge) SetTime(t time.Time) {
	g.clock.Store(wallClock(t))
	g.gauge.SetTime(t)
}

// On is the time by the clock of now, in seconds since the epoch; 0: none.
func (g *timeGauge) On(now time.Time) float64 {
	at := g.Load()
	if by := time.Duration(wallClock(now) - g.clock.Load()).Seconds(); at > 0 && math.Abs(by) > clockSet {
		at = math.Round((at+by)*1000) / 1000
	}
	return at
}

func (g *timeGauge) appendSamples(b []byte, name, labels string) []byte {
	b = append(append(append(b, name...), labels...), ' ')
	return append(appendFloat(b, g.On(time.Now())), '\n')
}

// vector is the value of a family with labels: a few series, rendered in the order of their label sets. Series come and
// go at run time; a scrape and a change exclude each other.
type vector struct {
	mu     sync.Mutex
	series []series // in order, each label set once
}

type series struct {
	labels string // rendered, braces included
	value  value
}

// place is where the series with these labels is, or belongs. The caller holds the lock.
func (v *vector) place(labels string) (at int, is bool) {
	for at < len(v.series) && v.series[at].labels < labels {
		at++
	}
	return at, at < len(v.series) && v.series[at].labels == labels
}

// Add puts a series in, in place of one with the same labels. The caller keeps s and changes it without the vector's
// knowledge.
func (v *vector) Add(labels string, s value) {
	v.mu.Lock()
	defer v.mu.Unlock()
	at, is := v.place(labels)
	if !is {
		v.series = append(v.series, series{})
		copy(v.series[at+1:], v.series[at:])
	}
	v.series[at] = series{labels, s}
}

// Remove takes the series with these labels out; one that is not there is no error.
func (v *vector) Remove(labels string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if at, is := v.place(labels); is {
		last := len(v.series) - 1
		copy(v.series[at:], v.series[at+1:])
		v.series[last] = series{}
		v.series = v.series[:last]
	}
}

func (v *vector) appendSamples(b []byte, name, _ string) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.series {
		b = v.series[i].value.appendSamples(b, name, v.series[i].labels)
	}
	return b
}

// family is one metric name with its type and help, and the value or values under it.
type family struct {
	name   string
	kind   kind
	labels []string // label names, for the documentation; the value renders them
	help   string
	value  value
}

// exposition is an ordered set of families.
type exposition struct {
	families []family
	heads    []string // HELP and TYPE lines, one string a family
	base     string   // the rendered label set of values that have none of their own
}

func newExposition(families []family) *exposition {
	e := &exposition{families: families, heads: make([]string, len(families))}
	for i, f := range families {
		e.heads[i] = "# HELP " + f.name + " " + escapeHelp.Replace(f.help) +
			"\n# TYPE " + f.name + " " + string(f.kind) + "\n"
	}
	return e
}

// Append renders every family in order. The text ends with a newline.
func (e *exposition) Append(b []byte) []byte {
	for i := range e.families {
		b = append(b, e.heads[i]...)
		b = e.families[i].value.appendSamples(b, e.families[i].name, e.base)
	}
	return b
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// labelSet renders name, value pairs as {name="value",…} with the values escaped. A value that is not UTF-8 would make
// a parser refuse the whole scrape, and the kernel takes any bytes for an interface's name.
func labelSet(pairs ...string) string {
	b := []byte{'{'}
	for i := 0; i+1 < len(pairs); i += 2 {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, pairs[i]...), '=', '"')
		b = append(append(b, escapeLabel.Replace(readable(pairs[i+1]))...), '"')
	}
	return string(append(b, '}'))
}

// readable makes UTF-8 of any bytes: each that is not part of a character becomes a slash and two hexadecimal digits.
// The kernel allows no slash in an interface's name, so two names never become one.
func readable(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	var b []byte
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if r == utf8.RuneError && n == 1 {
			b = fmt.Appendf(b, "/%02x", text[0])
		} else {
			b = append(b, text[:n]...)
		}
		text = text[n:]
	}
	return string(b)
}

// appendUint is strconv.AppendUint with a short cut for one digit, which most values have.
func appendUint(b []byte, n uint64) []byte {
	if n < 10 {
		return append(b, byte('0'+n))
	}
	return strconv.AppendUint(b, n, 10)
}

// appendFloat writes the shortest text that a parser reads back as exactly f. Whole numbers and numbers
// of whole thousandths (timestamps) take a path several times faster than the general one.
func appendFloat(b []byte, f float64) []byte {
	const exact = 1 << 53
	switch {
	case f >= 0 && f < exact && f == math.Trunc(f):
		if f == 0 && math.Signbit(f) {
			return append(b, "-0"...)
		}
		return appendUint(b, uint64(f))
	case f >= 1 && f < exact/1000:
		// A division of two exact floats is rounded correctly, and so is a parser's reading of the decimal
		// fraction: where they agree, the fraction is a faithful text.
		milli := math.Round(f * 1000)
		if milli/1000 == f {
			return appendFraction(b, uint64(milli), 1000)
		}
	case math.IsInf(f, 1):
		return append(b, "+Inf"...)
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64) // also writes NaN and -Inf as the format wants them
}

// appendFraction writes n/scale as a decimal fraction without trailing zeros; scale is a power of ten.
func appendFraction(b []byte, n, scale uint64) []byte {
	b = appendUint(b, n/scale)
	rest := n % scale
	if rest == 0 {
		return b
	}
	b = append(b, '.')
	for rest > 0 {
		rest *= 10
		b = append(b, byte('0'+rest/scale))
		rest %= scale
	}
	return b
}
