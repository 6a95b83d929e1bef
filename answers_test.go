package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// BenchmarkAnswers is how long an operator waits for status, events and diff on a switch with 512 ports, as whole
// processes, when all is well and when it is not: docs/performance.md has the figures.
func BenchmarkAnswers(b *testing.B) {
	s := newSwitch(b, switchtest.Options{})
	d := s.settled(512)
	nothing := func() func() { return func() {} }
	signal := func(send func(syscall.Signal) error, stop, goOn syscall.Signal) func() func() {
		return func() func() {
			s.must(send(stop))
			return func() { s.must(send(goOn)) }
		}
	}
	redis := func(sig syscall.Signal) error { return s.Redis[0].Process().Signal(sig) }
	daemon := func(sig syscall.Signal) error { return d.Signal(sig) }
	for _, c := range []struct {
		what  string
		begin func() (end func())
	}{
		{"all is well", nothing},
		{"a storm", s.stormOf(b, portNames(512)[256:])},
		{"the process is stopped", signal(daemon, syscall.SIGSTOP, syscall.SIGCONT)},
		{"Redis hangs", signal(redis, syscall.SIGSTOP, syscall.SIGCONT)},
		{"Redis is down", func() func() { s.Redis[0].Stop(); return func() {} }},
	} {
		end := c.begin()
		if c.what == "Redis is down" || c.what == "Redis hangs" {
			s.waitMetric(d, "portsyncd_redis_connected", "0")
		}
		for _, args := range [][]string{
			{"status", "-control.socket", d.Control}, {"status", "-ports", "-control.socket", d.Control},
			{"events", "-recorder.file", s.Recorder(), "Ethernet0"}, {"events", "-recorder.file", s.Recorder()},
			{"diff", "-db.config", s.ConfigFile, "-netns", s.NetNS, "Ethernet0"},
		} {
			name := args[0]
			if last := args[len(args)-1]; last == "Ethernet0" || args[1] == "-ports" {
				name += " " + map[bool]string{true: last, false: "-ports"}[last == "Ethernet0"]
			}
			b.Run(c.what+"/"+name, func(b *testing.B) {
				var took []time.Duration
				for b.Loop() {
					cmd := exec.Command(s.program[0], append(slices.Clone(s.program[1:]), args...)...)
					begun := time.Now()
					_, _ = cmd.Output() // an exit code of 2 is an answer, too
					took = append(took, time.Since(begun))
				}
				slices.Sort(took)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
				b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms-max")
			})
		}
		end()
	}
}

// stormOf sets ports down and up without end.
func (s *testSwitch) stormOf(b *testing.B, ports []string) func() func() {
	return func() func() {
		ctx, stop := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		go func() {
			var err error
			for ctx.Err() == nil && err == nil {
				err = s.Flap(1, ports...)
			}
			ended <- err
		}()
		return func() {
			stop()
			if err := <-ended; err != nil {
				b.Error(fmt.Errorf("the storm: %w", err))
			}
		}
	}
}
