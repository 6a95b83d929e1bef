package main

import (
	"testing"

	"portsyncd/internal/switchtest"
)

// TestServerThatRefusesASubscription: the server has no room for another client, or the user may not subscribe. What its events would tell is asked for, as where it
// sends none, and not a minute later, or never without comparisons.
func TestServerThatRefusesASubscription(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.start(1, "-reconcile-interval", "0")
	s.must(s.Appl.Do(t.Context(), "acl", "setuser", "default", "-psubscribe").Err())
	s.must(s.Appl.Do(t.Context(), "client", "kill", "type", "pubsub").Err())
	s.must(s.AddPorts("Ethernet96"))
	s.must(s.Appl.HSet(t.Context(), "PORT_TABLE:Ethernet96", "lanes", "97").Err())
	s.waitEntry("Ethernet96", fields("up", "up", 1500))
}

// TestConfigDBThatRefusesASubscription is the same where CONFIG_DB has a server of its own: a port that is configured is counted in PortConfigDone, by which the next
// warm restart of orchagent goes.
func TestConfigDBThatRefusesASubscription(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{ApartConfig: true})
	_, o := s.start(1, "-reconcile-interval", "0")
	s.must(s.Config.Do(t.Context(), "acl", "setuser", "default", "-psubscribe").Err())
	s.must(s.Config.Do(t.Context(), "client", "kill", "type", "pubsub").Err())
	s.must(s.Config.HSet(t.Context(), s.ConfigKey("PORT", "Ethernet96"), "lanes", "97").Err())
	s.waitFor("another count", func() bool { return o.Signal(portConfigDone)["count"] == "2" })
}
