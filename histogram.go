package main

import (
	"strconv"
	"sync/atomic"
	"time"
)

// histogram counts durations in fixed buckets. Observing costs two atomic additions; the total count is
// never stored but summed up at a scrape, so that _count and the +Inf bucket cannot disagree.
type histogram struct {
	bounds []time.Duration // upper bounds, inclusive, ascending, without +Inf
	les    []string        // the bounds as the text after a bucket's name: {le="0.001"}
	counts []atomic.Uint64 // one a bucket, not cumulative; the last is +Inf
	sum    atomic.Uint64   // nanoseconds
}

func newHistogram(bounds ...time.Duration) *histogram {
	h := &histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
	for _, bound := range bounds {
		h.les = append(h.les, labelSet("le", strconv.FormatFloat(bound.Seconds(), 'g', -1, 64)))
	}
	h.les = append(h.les, labelSet("le", "+Inf"))
	return h
}

// Observe counts one duration. A negative one, from a clock that was set back, counts as 0.
func (h *histogram) Observe(d time.Duration) { h.ObserveN(d, 1) }

// ObserveN counts n times the same duration.
func (h *histogram) ObserveN(d time.Duration, n uint64) {
	d = max(d, 0)
	i := 0
	for i < len(h.bounds) && d > h.bounds[i] {
		i++
	}
	h.counts[i].Add(n)
	h.sum.Add(uint64(d) * n)
}

func (h *histogram) appendSamples(b []byte, name, labels string) []byte {
	var total uint64
	for i := range h.counts {
		total += h.counts[i].Load()
		b = append(append(append(b, name...), "_bucket"...), labels...)
		le := h.les[i]
		if labels != "" { // one label set of two
			b[len(b)-1] = ','
			le = le[1:]
		}
		b = append(append(b, le...), ' ')
		b = append(appendUint(b, total), '\n')
	}
	b = append(append(append(append(b, name...), "_sum"...), labels...), ' ')
	b = append(appendFraction(b, h.sum.Load(), uint64(time.Second)), '\n')
	b = append(append(append(append(b, name...), "_count"...), labels...), ' ')
	return append(appendUint(b, total), '\n')
}
