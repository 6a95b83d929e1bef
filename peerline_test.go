package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// TestRepliesAreRead, whole ones only, however they are cut.
func TestRepliesAreRead(t *testing.T) {
	for text, want := range map[string]any{
		"+OK\r\n": "OK", ":-7\r\n": int64(-7), "$-1\r\n": nil, "*-1\r\n": nil, "$0\r\n\r\n": "", "*0\r\n": []any{}, "-ERR no\r\n": refused("ERR no"),
		"$4\r\na\r\nb\r\n": "a\r\nb",
		"*2\r\n$1\r\na\r\n*2\r\n:1\r\n*1\r\n$2\r\nbc\r\n": []any{"a", []any{int64(1), []any{"bc"}}},
	} {
		for n := range text {
			if a, _, whole, err := readReply([]byte(text[:n])); whole || err != nil {
				t.Errorf("of %q is read %v, %v", text[:n], a, err)
			}
		}
		got, rest, whole, err := readReply([]byte(text + "+more"))
		if err != nil || !whole || !reflect.DeepEqual(got, want) || string(rest) != "+more" {
			t.Errorf("of %q is read %v, whole %v, %v; %q is left", text, got, whole, err, rest)
		}
	}
	for _, text := range []string{"\r\n", "?\r\n", "$x\r\n", ":\r\n", "*99999999999999\r\n", "*1\r\n!\r\n", strings.Repeat("*1\r\n", 20), strings.Repeat("x", lineMost)} {
		if a, _, whole, err := readReply([]byte(text)); whole || !errors.Is(err, errGarbled) {
			t.Errorf("of %.20q is read %v, %v", text, a, err)
		}
	}
}

// lineCounter counts a log's lines.
type lineCounter struct {
	slog.Handler
	lines *atomic.Int32
}

func (c lineCounter) Enabled(context.Context, slog.Level) bool  { return true }
func (c lineCounter) Handle(context.Context, slog.Record) error { c.lines.Add(1); return nil }

// testTeller is one of instance a, whose namespace's Redis is where a file says.
func testTeller(t *testing.T, file string, log *slog.Logger) (teller *peerTeller, known func() int) {
	m := newMetrics("test")
	book := newPeerBook(m, "a")
	teller = &peerTeller{name: "a", m: m, log: log, config: &dbConfigFile{path: file, now: time.Now}, book: book,
		self: func(now time.Time) peer { return peer{name: "a", role: roleStandby, heartbeat: utc(now)} }}
	go teller.run(t.Context())
	return teller, func() int {
		teller.hear(time.Now())
		return len(book.all())
	}
}

// TestTellerGoesOnAfterARedisThatEnded, at the next beat and without a word; one that is not there, or hangs, is told of once.
func TestTellerGoesOnAfterARedisThatEnded(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	var said atomic.Int32
	log := slog.New(lineCounter{slog.DiscardHandler, &said})
	teller, known := testTeller(t, s.ConfigFile, log)
	row := func() string { return s.State.HGet(t.Context(), "PORTSYNCD_INSTANCE_TABLE|a", "heartbeat").Val() }
	tell := func() {
		t.Helper()
		s.waitFor("the row", func() bool { teller.beat(); return row() != "" && known() == 1 })
	}
	tell()
	s.must(s.State.FlushDB(t.Context()).Err())
	s.must(s.State.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Err())
	tell()
	if said.Load() != 0 {
		t.Errorf("the log has %d lines", said.Load())
	}
	s.must(s.Redis[0].Process().Signal(syscall.SIGSTOP))
	teller.beat()
	start := time.Now()
	for range 100 {
		teller.beat()
		teller.hear(time.Now())
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("100 beats take %v while Redis hangs", took)
	}
	s.waitFor("it to be told of", func() bool { teller.beat(); return said.Load() == 1 })
	s.must(s.Redis[0].Process().Signal(syscall.SIGCONT))
	s.must(s.State.FlushDB(t.Context()).Err())
	tell()
	if said.Load() != 1 {
		t.Errorf("the log has %d lines", said.Load())
	}
}

// TestTellerOfARedisThatRefuses, or answers nonsense, says so, and tries again.
func TestTellerOfARedisThatRefuses(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"-NOPERM not you\r\n", "hello\r\n", ""} {
		socket := filepath.Join(t.TempDir(), "redis.sock")
		listener, err := net.Listen("unix", socket)
		must(t, err)
		defer listener.Close()
		var calls, said atomic.Int32
		file := filepath.Join(t.TempDir(), "database_config.json")
		must(t, os.WriteFile(file, []byte(`{"INSTANCES":{"redis":{"unix_socket_path":"`+socket+`"}},"DATABASES":{`+
			`"APPL_DB":{"id":0,"separator":":","instance":"redis"},"CONFIG_DB":{"id":4,"separator":"|","instance":"redis"},`+
			`"STATE_DB":{"id":6,"separator":"|","instance":"redis"}}}`), 0o644))
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				calls.Add(1)
				_, _ = conn.Read(make([]byte, 4096))
				_, _ = conn.Write([]byte(answer))
				conn.Close()
			}
		}()
		teller, known := testTeller(t, file, slog.New(lineCounter{slog.DiscardHandler, &said}))
		for end := time.Now().Add(patience); calls.Load() < 3 && time.Now().Before(end); time.Sleep(time.Millisecond) {
			teller.beat()
		}
		if calls.Load() < 3 || said.Load() != 1 || known() != 0 {
			t.Errorf("after %q there were %d calls, %d lines, %d instances", answer, calls.Load(), said.Load(), known())
		}
	}
}
