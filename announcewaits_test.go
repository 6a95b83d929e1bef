package main

import (
	"context"
	"slices"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// loadingConfig is a CONFIG_DB that is being loaded: nothing can be announced.
type loadingConfig struct {
	*mapDB
	loading bool
}

func (d *loadingConfig) Announce(ctx context.Context, recent, fallback []portConfig, old leftovers) (announcement, error) {
	if d.loading {
		return announcement{}, errConfigLoading
	}
	a, err := d.mapDB.Announce(ctx, recent, fallback, old)
	d.signalsGone = false
	return a, err
}

// TestInterfacesThatGoWhileTheAnnouncementWaits: APPL_DB has lost the signals while the interfaces are still there, and the announcement waits for a CONFIG_DB that is
// being loaded. Meanwhile syncd ends, and every interface goes: the switch software starts again, cold, under a daemon of the host. PortInitDone waits for the new
// interfaces (docs/several-asics.md: "where its APPL_DB is flushed and no port has an interface any more … PortInitDone waits for the new interfaces").
func TestInterfacesThatGoWhileTheAnnouncementWaits(t *testing.T) {
	for name, stays := range map[string]string{
		"all of them": "",
		// an in-band port's, a PortChannel's, or one that orchagent has left there (SONIC.md, "Seen under the real orchagent")
		"all but one that is no configured port's": "PortChannel1",
	} {
		t.Run(name, func(t *testing.T) {
			b := runningBench(t, "Ethernet0", "Ethernet4")
			b.say(news(1, running), "Ethernet0")
			b.say(news(2, running), "Ethernet4")
			if stays != "" {
				b.say(news(3, running), stays)
			}
			b.settleDown()
			b.settleDown()
			if !b.start.done() {
				t.Fatal("not complete")
			}
			config := &loadingConfig{b.db, true}
			b.mirror.db = config
			b.db.done = nil
			b.db.signalsGone, b.db.initDone = true, false
			clear(b.db.appl)
			b.compare.askSignals()
			pass := func(d time.Duration) {
				for end := b.clock.Add(d); b.clock.Before(end); b.clock = b.clock.Add(50 * time.Millisecond) {
					b.turn()
				}
			}
			pass(3 * time.Second)
			if !b.start.in(reannouncing) {
				t.Fatal("the loss is not noticed: the test does not test anything")
			}
			b.say(gone(1), "Ethernet0")
			b.say(gone(2), "Ethernet4")
			pass(20 * time.Second) // four beats
			config.loading = false
			pass(10 * time.Second)
			if !slices.Contains(b.db.done, "PortConfigDone 2") {
				t.Fatalf("the databases got %q", b.db.done)
			}
			if slices.Contains(b.db.done, "PortInitDone") {
				t.Errorf("no configured port has had an interface for 20 s when the ports are announced, and PortInitDone is sent at once: %q", b.db.done)
			}
		})
	}
}

// TestInterfacesThatGoWhileTheAnnouncementWaitsEndToEnd is the same with a real Redis and real interfaces.
func TestInterfacesThatGoWhileTheAnnouncementWaitsEndToEnd(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.must(s.Configure(ctx, 2))
	s.must(s.Config.Set(ctx, configReady, "1", 0).Err())
	o, err := s.StartOrchagent(ctx, true)
	s.must(err)
	d := s.daemon("-reconcile-interval", "2s")
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	s.waitAgreement("at the start")
	cancel()
	s.must(s.Config.Set(t.Context(), configReady, "0", 0).Err()) // it is being loaded
	s.must(s.Appl.FlushDB(t.Context()).Err())
	s.waitMetric(d, "portsyncd_port_config_done", "0") // it is noticed, and announcing waits
	for _, p := range portNames(2) {
		s.must(s.IP("link", "del", p))
	}
	s.waitMetric(d, "portsyncd_ports_present", "0")
	o = s.orchagent(false) // has made no interface yet
	s.must(s.Config.Set(t.Context(), configReady, "1", 0).Err())
	s.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	time.Sleep(3 * time.Second)
	if o.Signal("PortInitDone") != nil {
		t.Error("PortInitDone came before there was a single interface")
	}
}
