package main

import (
	"fmt"
	"io"
	"testing"
	"time"

	victoria "github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// The same content in three libraries: n ports with the six per-port families, one counter and one histogram.

var perPort = []string{"portsyncd_port_flaps_total", "portsyncd_port_oper_up", "portsyncd_port_admin_up", "portsyncd_port_mtu_bytes",
	"portsyncd_port_last_change_timestamp_seconds", "portsyncd_port_pending"}

// valueOf is what family f of port i holds.
func valueOf(f, i int) float64 {
	return [...]float64{float64(i), float64(i % 2), 1, 9100, 1795451728.083 + float64(i), 0}[f]
}

func port(i int) string { return fmt.Sprintf("Ethernet%d", 4*i) }

var bounds = []time.Duration{time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, time.Second}

func ours(ports int) *exposition {
	var families []family
	for f, name := range perPort {
		v := new(vector)
		for i := range ports {
			if f == 0 {
				c := new(counter)
				c.Add(uint64(valueOf(f, i)))
				v.Add(labelSet("port", port(i)), c)
				continue
			}
			g := new(gauge)
			g.Set(valueOf(f, i))
			v.Add(labelSet("port", port(i)), g)
		}
		kind := gaugeKind
		if f == 0 {
			kind = counterKind
		}
		families = append(families, family{name, kind, []string{"port"}, "Help.", v})
	}
	return newExposition(families)
}

func clientGolang(ports int) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	for f, name := range perPort {
		if f == 0 {
			v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: "Help."}, []string{"port"})
			for i := range ports {
				v.WithLabelValues(port(i)).Add(valueOf(f, i))
			}
			registry.MustRegister(v)
			continue
		}
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: "Help."}, []string{"port"})
		for i := range ports {
			v.WithLabelValues(port(i)).Set(valueOf(f, i))
		}
		registry.MustRegister(v)
	}
	return registry
}

func victoriaMetrics(ports int) *victoria.Set {
	set := victoria.NewSet()
	for f, name := range perPort {
		for i := range ports {
			full := fmt.Sprintf("%s{port=%q}", name, port(i))
			if f == 0 {
				set.NewCounter(full).Set(uint64(valueOf(f, i)))
				continue
			}
			set.NewGauge(full, nil).Set(valueOf(f, i))
		}
	}
	return set
}

func BenchmarkScrape(b *testing.B) {
	for _, ports := range []int{32, 512, 4096} {
		b.Run(fmt.Sprintf("lib=ours/ports=%d", ports), func(b *testing.B) {
			e := ours(ports)
			buf := e.Append(nil)
			b.ReportAllocs()
			for b.Loop() {
				buf = e.Append(buf[:0])
				_, _ = io.Discard.Write(buf)
			}
		})
		b.Run(fmt.Sprintf("lib=VictoriaMetrics/ports=%d", ports), func(b *testing.B) {
			set := victoriaMetrics(ports)
			b.ReportAllocs()
			for b.Loop() {
				set.WritePrometheus(io.Discard)
			}
		})
		b.Run(fmt.Sprintf("lib=client_golang/ports=%d", ports), func(b *testing.B) {
			registry := clientGolang(ports)
			b.ReportAllocs()
			for b.Loop() {
				families, err := registry.Gather()
				if err != nil {
					b.Fatal(err)
				}
				encoder := expfmt.NewEncoder(io.Discard, expfmt.NewFormat(expfmt.TypeTextPlain))
				for _, f := range families {
					if err := encoder.Encode(f); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// A port's counter: ours is resolved once, and so can the others' be; client_golang is usually called with the look-up.
func BenchmarkCounter(b *testing.B) {
	b.Run("lib=ours", func(b *testing.B) {
		c := new(counter)
		for b.Loop() {
			c.Inc()
		}
	})
	b.Run("lib=VictoriaMetrics", func(b *testing.B) {
		c := victoria.NewSet().NewCounter("x_total")
		for b.Loop() {
			c.Inc()
		}
	})
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "x_total"}, []string{"port"})
	b.Run("lib=client_golang/resolved", func(b *testing.B) {
		c := v.WithLabelValues("Ethernet0")
		for b.Loop() {
			c.Inc()
		}
	})
	b.Run("lib=client_golang/lookup", func(b *testing.B) {
		for b.Loop() {
			v.WithLabelValues("Ethernet0").Inc()
		}
	})
}

func BenchmarkHistogram(b *testing.B) {
	b.Run("lib=ours", func(b *testing.B) {
		h := newHistogram(bounds...)
		for b.Loop() {
			h.Observe(7 * time.Millisecond)
		}
	})
	b.Run("lib=VictoriaMetrics", func(b *testing.B) {
		h := victoria.NewSet().NewHistogram("x_seconds")
		for b.Loop() {
			h.Update(0.007)
		}
	})
	b.Run("lib=client_golang", func(b *testing.B) {
		var seconds []float64
		for _, d := range bounds {
			seconds = append(seconds, d.Seconds())
		}
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "x_seconds", Buckets: seconds})
		for b.Loop() {
			h.Observe(0.007)
		}
	})
}
