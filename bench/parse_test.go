package main

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// What we write, read by Prometheus' own parser.

func parse(t *testing.T, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return families
}

// FuzzParsedBack: any label value and any float come back exactly.
func FuzzParsedBack(f *testing.F) {
	for _, label := range []string{"Ethernet0", "", `a"b`, `back\slash`, "two\nlines", "tab\tand é", `\n`, `"`, `{},=`, "trailing "} {
		for _, v := range []float64{0, 1, -1, 0.1, 1795451728.083, 1e300, math.Inf(1), math.Inf(-1), math.NaN(), math.Copysign(0, -1)} {
			f.Add(label, label, math.Float64bits(v), uint64(7))
		}
	}
	f.Fuzz(func(t *testing.T, label, help string, bits, count uint64) {
		if !utf8.ValidString(label) || !utf8.ValidString(help) || strings.TrimLeft(help, " \t") != help {
			return // the format is of UTF-8, and its parser drops leading blanks of a help text
		}
		want := math.Float64frombits(bits)
		g, c := new(gauge), new(counter)
		g.Set(want)
		c.Add(count >> 11) // a parser reads floats: 53 bits are exact
		v := new(vector)
		v.Add(labelSet("port", label), g)
		families := parse(t, newExposition([]family{{"a_gauge", gaugeKind, []string{"port"}, help, v}, {"b_total", counterKind, nil, "B.", c}}).Append(nil))
		sample := families["a_gauge"].Metric[0]
		if got := sample.Label[0].GetValue(); got != label {
			t.Errorf("label %q came back as %q", label, got)
		}
		if got := families["a_gauge"].GetHelp(); got != help {
			t.Errorf("help %q came back as %q", help, got)
		}
		if got := sample.Gauge.GetValue(); math.Float64bits(got) != bits && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Errorf("%v came back as %v", want, got)
		}
		if got := families["b_total"].Metric[0].Counter.GetValue(); got != float64(count>>11) {
			t.Errorf("%d came back as %v", count>>11, got)
		}
	})
}

// TestWholeSetIsParsed reads the daemon's whole metric set: every family with its type and help, and the values that were set.
func TestWholeSetIsParsed(t *testing.T) {
	m := newMetrics("test")
	s := m.newPort("Ethernet8", 41)
	m.showLink(s)
	m.showPending(s)
	s.flaps.Inc()
	s.mtu.Set(9100)
	changed := time.UnixMilli(1795451728083)
	s.lastChange.SetTime(changed)
	for _, d := range []time.Duration{time.Millisecond, 2 * time.Millisecond, 70 * time.Millisecond, 3 * time.Second} {
		m.eventLatency.Observe(d)
	}
	families := parse(t, m.Append(nil))
	kinds := map[kind]dto.MetricType{counterKind: dto.MetricType_COUNTER, gaugeKind: dto.MetricType_GAUGE, histogramKind: dto.MetricType_HISTOGRAM}
	for _, f := range m.families {
		if len(f.value.appendSamples(nil, "", "")) == 0 {
			continue // the parser drops families without samples
		}
		got := families[f.name]
		if got == nil || got.GetType() != kinds[f.kind] || got.GetHelp() != f.help {
			t.Errorf("%s came back as %v", f.name, got)
		}
	}
	value := func(name string) float64 {
		metric := families[name].Metric[0]
		return metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
	}
	for name, want := range map[string]float64{"portsyncd_port_flaps_total": 42, "portsyncd_port_mtu_bytes": 9100,
		"portsyncd_port_last_change_timestamp_seconds": 1795451728.083, "portsyncd_build_info": 1} {
		if got := value(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	h := families["portsyncd_event_latency_seconds"].Metric[0].Histogram
	var bounds []float64
	var counts []uint64
	for _, b := range h.Bucket {
		bounds, counts = append(bounds, b.GetUpperBound()), append(counts, b.GetCumulativeCount())
	}
	wantBounds := []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, math.Inf(1)}
	wantCounts := []uint64{1, 2, 2, 2, 3, 3, 3, 4}
	for i := range wantBounds {
		if bounds[i] != wantBounds[i] || counts[i] != wantCounts[i] {
			t.Errorf("buckets %v %v, want %v %v", bounds, counts, wantBounds, wantCounts)
			break
		}
	}
	if h.GetSampleSum() != 3.073 || h.GetSampleCount() != 4 {
		t.Errorf("sum %v, count %v", h.GetSampleSum(), h.GetSampleCount())
	}
}
