package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

func TestReadDBConfig(t *testing.T) {
	_, err := readDBConfig(filepath.Join(t.TempDir(), "not-yet.json"))
	if !errors.Is(err, errNoDBConfig) || errors.Is(err, errConfig) {
		t.Errorf("a missing file is to be waited for, not %v", err)
	}
	path := filepath.Join(t.TempDir(), "database_config.json")
	text := `{"INSTANCES": {"redis": {"hostname": "127.0.0.1", "port": 6379,
			"unix_socket_path": "/run/redis/redis.sock", "persistence_for_warm_boot": "yes"},
		"redis2": {"hostname": "::1", "port": 6380}},
		"DATABASES": {"APPL_DB": {"id": 0, "separator": ":", "instance": "redis"},
		"CONFIG_DB": {"id": 4, "separator": "|", "instance": "redis"},
		"STATE_DB": {"id": 6, "separator": "|", "instance": "redis2"}, "OTHER_DB": {"id": 99}}, "VERSION": "1.0"}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := readDBConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]dbAddress{
		"APPL_DB":  {"APPL_DB", "unix", "/run/redis/redis.sock", 0, ":"},
		"STATE_DB": {"STATE_DB", "tcp", "[::1]:6380", 6, "|"},
	} {
		if got, err := c.address(name); err != nil || got != want {
			t.Errorf("%s is %+v, %v; want %+v", name, got, err, want)
		}
	}
}

// TestHalfWrittenConfigFileIsAnErrorAfterHalfAMinute: until then it is waited for like one that is missing, and each
// time anew.
func TestHalfWrittenConfigFileIsAnErrorAfterHalfAMinute(t *testing.T) {
	now := time.Now()
	path := filepath.Join(t.TempDir(), "database_config.json")
	file := &dbConfigFile{path: path, now: func() time.Time { return now }}
	whole := `{"INSTANCES": {"redis": {"hostname": "127.0.0.1", "port": 6379}},
		"DATABASES": {"APPL_DB": {"id": 0, "separator": ":", "instance": "redis"},
		"CONFIG_DB": {"id": 4, "separator": "|", "instance": "redis"},
		"STATE_DB": {"id": 6, "separator": "|", "instance": "redis"}}}`
	for _, broken := range []string{"", "{", whole[:len(whole)/2], whole + "}", "not JSON"} {
		must(t, os.WriteFile(path, []byte(broken), 0o600))
		for second := range 30 {
			if _, err := file.read(); !errors.Is(err, errNoDBConfig) || errors.Is(err, errConfig) {
				t.Fatalf("%q after %d s: %v, want to wait for it", broken, second, err)
			}
			now = now.Add(time.Second)
		}
		now = stepWall(now, -time.Hour) // setting the clock does not begin anew
		if _, err := file.read(); !errors.Is(err, errConfig) || errors.Is(err, errNoDBConfig) {
			t.Errorf("%q after half a minute: %v, want a configuration error", broken, err)
		}
		must(t, os.WriteFile(path, []byte(whole), 0o600))
		if _, err := file.read(); err != nil {
			t.Errorf("once it is whole: %v", err)
		}
	}
}

// TestHalfWrittenConfigFileIsWaitedFor catches the real daemon's file empty and cut off.
func TestHalfWrittenConfigFileIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 1))
	whole, err := os.ReadFile(s.ConfigFile)
	s.must(err)
	s.must(os.WriteFile(s.ConfigFile, nil, 0o644))
	o := s.orchagent(true)
	d := s.daemon()
	s.waitFor("the empty file to be reported", func() bool {
		return d.Logged("waiting for it (-db.config)", "0 bytes: not valid JSON") == 1
	})
	s.must(os.WriteFile(s.ConfigFile, whole[:len(whole)/2], 0o644))
	s.waitMetric(d, "portsyncd_redis_connected", "0")
	s.must(os.WriteFile(s.ConfigFile, whole, 0o644))
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	s.waitEntry("Ethernet0", fields("up", "up", 1500))
}
