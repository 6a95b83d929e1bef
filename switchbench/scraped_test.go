package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestScraped measures changes of two ports with scrapes and without: every figure is there.
func TestScraped(t *testing.T) {
	t.Parallel()
	binary, file := buildDaemon(t), filepath.Join(t.TempDir(), "figures.json")
	o := options{ports: 3, runs: 1, rounds: 1, changes: 25, idle: time.Second, limit: 30 * time.Second, scraped: 20}
	var table bytes.Buffer
	if err := run(t.Context(), o, [2]string{binary, ""}, file, &table); err != nil {
		t.Fatal(err)
	}
	value := map[string]float64{}
	for _, f := range readReport(t, file).Daemons[0].Runs[0] {
		if f.Value != nil {
			value[f.Name] = *f.Value
		}
	}
	for _, name := range []string{"without scrapes: one change to STATE_DB, p99", "scraped: one change to STATE_DB, p99",
		"a scrape, p50", "a scrape, max", "a scrape, compressed"} {
		if value[name] <= 0 || !strings.Contains(table.String(), name) {
			t.Errorf("%s is %v; the table:\n%s", name, value[name], &table)
		}
	}
	if value["scrapes"] < turns {
		t.Errorf("there were %v scrapes in %d turns", value["scrapes"], turns)
	}
}
