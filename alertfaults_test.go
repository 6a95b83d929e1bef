package main

import (
	"os"
	"portsyncd/internal/switchtest"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What the alerts and recorded series promise of a fleet.

// TestRedisOutageIsNoLackOfAWriter: while Redis is away nobody can tell anybody that it writes. The standby's view is no reason to tell an operator to kill
// the one that holds the lock.
func TestRedisOutageIsNoLackOfAWriter(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	b := newPeerBook(newProcessMetrics(""), "b")
	b.take("", []peer{{name: "a", role: roleWriter, heartbeat: utc(now)}, {name: "b", role: roleStandby, heartbeat: utc(now)}}, now)
	b.miss(now.Add(16 * time.Second))
	text := string(b.m.instanceWriter.appendSamples(nil, "portsyncd_instance_writer", ""))
	if text != "portsyncd_instance_writer{instance=\"a\"} 0\nportsyncd_instance_writer{instance=\"b\"} 0\n" {
		t.Fatal("the test does not test what a standby publishes: ", text)
	}
	promtoolTests(t, "deploy/prometheus/portsyncd.rules.yml", `
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'portsyncd_instance_writer{instance="leaf1:9090",exported_instance="a"}', values: '1x20'}
      - {series: 'portsyncd_instance_writer{instance="leaf1:9090",exported_instance="b"}', values: '0x20'}
      - {series: 'portsyncd_instance_writer{instance="leaf1:9091",exported_instance="a"}', values: '1x5 0x5 1x5'}
      - {series: 'portsyncd_instance_writer{instance="leaf1:9091",exported_instance="b"}', values: '0x20'}
      - {series: 'portsyncd_redis_connected{instance="leaf1:9090"}', values: '1x5 0x5 1x5'}
      - {series: 'portsyncd_redis_connected{instance="leaf1:9091"}', values: '1x5 0x5 1x5'}
      - {series: 'portsyncd_health_check{instance="leaf1:9091",check="redis"}', values: '1x5 0x5 1x5'}
    alert_rule_test:
      - {alertname: PortsyncdNotOneWriter, eval_time: 10m, exp_alerts: []}
`)
}

// TestSwitchWithADaemonForEachASIC: deploy/prometheus/scrape.yml has each of them get a label asic. What all have processed is the sum.
func TestSwitchWithADaemonForEachASIC(t *testing.T) {
	promtoolTests(t, "deploy/prometheus/portsyncd.recording.yml", `
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'portsyncd_events_processed_total{switch="leaf1",site="fra",role="leaf",asic="0",instance="leaf1:9090"}', values: '0+600x20'}
      - {series: 'portsyncd_events_processed_total{switch="leaf1",site="fra",role="leaf",asic="1",instance="leaf1:9091"}', values: '0+1200x20'}
    promql_expr_test:
      - expr: 'switch:portsyncd_events_processed:rate5m'
        eval_time: 10m
        exp_samples: [{labels: 'switch:portsyncd_events_processed:rate5m{switch="leaf1",site="fra",role="leaf"}', value: 30}]
`)
}

// TestEveryCheckHasItsAlert: docs/health.md, "has an alert for each of these".
func TestEveryCheckHasItsAlert(t *testing.T) {
	rules, err := os.ReadFile("deploy/prometheus/portsyncd.rules.yml")
	must(t, err)
	for _, check := range checkNames {
		if !strings.Contains(string(rules), `check="`+check+`"`) {
			t.Errorf("docs/health.md says that the rules have an alert for each check, and there is none for %s", check)
		}
	}
}

// TestStandbySaysThatRedisIsAway: that is what keeps PortsyncdNotOneWriter quiet while nobody can tell the standby that he writes.
func TestStandbySaysThatRedisIsAway(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.start(2, "-instance", "a")
	b := s.standby("-instance", "b")
	s.waitMetric(b, `portsyncd_instance_writer{instance="a"}`, "1")
	s.must(s.Redis[0].Process().Signal(syscall.SIGSTOP))
	defer func() { s.must(s.Redis[0].Process().Signal(syscall.SIGCONT)) }()
	s.must(switchtest.WaitFor(peerStale+3*beatInterval, "the standby not to see who writes", func() bool {
		return s.metric(b, `portsyncd_instance_writer{instance="a"}`) == "0"
	}))
	if got := s.metric(b, `portsyncd_health_check{check="redis"}`); got != "0.5" && got != "0" {
		t.Errorf("Redis hangs, the standby sees nobody who writes, and its check redis is %s", got)
	}
}
