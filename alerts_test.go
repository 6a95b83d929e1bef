package main

import (
	"os"
	"os/exec"
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
