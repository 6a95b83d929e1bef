package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAlertRules has promtool run the rules' own tests, and sees to it that every alert has a case where it fires and one where it does not.
func TestAlertRules(t *testing.T) {
	needTool(t, "promtool")
	cmd := exec.Command("promtool", "test", "rules", "portsyncd.rules.test.yml")
	cmd.Dir = "deploy/prometheus"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	rules, err := os.ReadFile("deploy/prometheus/portsyncd.rules.yml")
	must(t, err)
	tests, err := os.ReadFile("deploy/prometheus/portsyncd.rules.test.yml")
	must(t, err)
	alerts := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(string(rules), -1)
	for _, a := range alerts {
		for _, outcome := range []string{"fires", "does not"} {
			if !strings.Contains(string(tests), "- name: "+a[1]+" "+outcome+"\n") {
				t.Errorf("%s: there is no case in which it %s", a[1], outcome)
			}
		}
	}
	known := map[string]bool{"up": true}
	for _, f := range newMetrics("").families {
		known[f.name] = true
	}
	for _, name := range regexp.MustCompile(`\bportsyncd_[a-z_]+`).FindAllString(string(rules), -1) {
		if !known[name] {
			t.Errorf("the rules use %s, which the daemon does not have", name)
		}
	}
	for _, check := range regexp.MustCompile(`check="(\w+)"`).FindAllStringSubmatch(string(rules), -1) {
		if !strings.Contains(strings.Join(checkNames[:], " "), check[1]) {
			t.Errorf("the rules use the check %s, which there is not", check[1])
		}
	}
}

// needTool skips a test whose tool is not here, with the reason; in CI that is a failure.
func needTool(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal("in CI everything has to be tested: ", err)
			}
			t.Skip(err)
		}
	}
}

// needRoot is for what only root may do.
func needRoot(t *testing.T, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("in CI everything has to be tested: ", why)
		}
		t.Skip(why)
	}
}

// promtoolTests runs tests of rules, as promtool has them, with the rules of a file; empty: with none.
func promtoolTests(t *testing.T, rules, tests string) {
	t.Helper()
	needTool(t, "promtool")
	head := "rule_files: []\n"
	if rules != "" {
		file, err := filepath.Abs(rules)
		must(t, err)
		head = "rule_files: [" + file + "]\n"
	}
	file := filepath.Join(t.TempDir(), "test.yml")
	must(t, os.WriteFile(file, []byte(head+tests), 0o644))
	sh(t, "promtool", "test", "rules", file)
}

// TestRecordingRulesCountAPortOnce: writer and standby of one switch are both scraped; each port counts once.
func TestRecordingRulesCountAPortOnce(t *testing.T) {
	promtoolTests(t, "deploy/prometheus/portsyncd.recording.yml", `
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'portsyncd_port_oper_up{switch="leaf1",site="fra",role="leaf",instance="leaf1:9090",port="Ethernet0"}', values: '1x20'}
      - {series: 'portsyncd_port_oper_up{switch="leaf1",site="fra",role="leaf",instance="leaf1:9091",port="Ethernet0"}', values: '1x20'}
      - {series: 'portsyncd_port_flaps_total{switch="leaf1",site="fra",role="leaf",instance="leaf1:9090",port="Ethernet0"}', values: '0+60x20'}
      - {series: 'portsyncd_port_flaps_total{switch="leaf1",site="fra",role="leaf",instance="leaf1:9091",port="Ethernet0"}', values: '0+60x20'}
    promql_expr_test:
      - expr: 'switch:portsyncd_ports_up:count'
        eval_time: 10m
        exp_samples: [{labels: 'switch:portsyncd_ports_up:count{switch="leaf1",site="fra",role="leaf"}', value: 1}]
      - expr: 'switch:portsyncd_port_flaps:rate5m'
        eval_time: 10m
        exp_samples: [{labels: 'switch:portsyncd_port_flaps:rate5m{switch="leaf1",site="fra",role="leaf"}', value: 1}]
`)
}

// TestDocumentedWarmQuery: of two namespaces the one that is not reconciled is found.
func TestDocumentedWarmQuery(t *testing.T) {
	doc, err := os.ReadFile("docs/metrics.md")
	must(t, err)
	query := regexp.MustCompile("`(portsyncd_warm_start == 1 unless [^`]+)`").FindStringSubmatch(string(doc))
	promtoolTests(t, "", `
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'portsyncd_warm_start{instance="a",namespace="asic0"}', values: '1x20'}
      - {series: 'portsyncd_warm_start{instance="a",namespace="asic1"}', values: '1x20'}
      - {series: 'portsyncd_warm_restart_state{instance="a",namespace="asic0",state="reconciled"}', values: '1x20'}
      - {series: 'portsyncd_warm_restart_state{instance="a",namespace="asic1",state="reconciled"}', values: '0x20'}
    promql_expr_test:
      - expr: '`+query[1]+`'
        eval_time: 10m
        exp_samples: [{labels: 'portsyncd_warm_start{instance="a",namespace="asic1"}', value: 1}]
`)
}
