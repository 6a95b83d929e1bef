package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// subscribed has a server that is played by a function, and returns what a subscription to it tells, and how it ends.
func subscribed(t *testing.T, play func(conn net.Conn)) (told []string, err error) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "redis.sock"))
	must(t, err)
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		asked := make([]byte, 4096)
		n, _ := conn.Read(asked)
		if want := "*3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n$2\r\nb*\r\n"; string(asked[:n]) != want {
			t.Errorf("it asks %q", asked[:n])
		}
		play(conn)
	}()
	c := &redisClient{m: newMetrics("test"), server: dbAddress{network: "unix", address: listener.Addr().String()}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = c.Subscribe(ctx, []string{"a*", "b*"}, func() { told = append(told, "confirmed") },
		func(channel, payload string) { told = append(told, channel+"="+payload) })
	if ctx.Err() != nil {
		t.Error("it does not end")
	}
	return told, err
}

const confirmations = "*3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:1\r\n*3\r\n$10\r\npsubscribe\r\n$2\r\nb*\r\n:2\r\n"

// TestSubscriptionTellsEvents, however they come in, and that it stands when all of its patterns are confirmed.
func TestSubscriptionTellsEvents(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3*eventBuffer)
	text := confirmations + "*2\r\n$4\r\npong\r\n$0\r\n\r\n*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$2\r\na1\r\n$4\r\nhset\r\n" +
		"*4\r\n$8\r\npmessage\r\n$2\r\nb*\r\n$2\r\nb1\r\n$6144\r\n" + long + "\r\n*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$2\r\na2\r\n$3\r\ndel\r\n"
	want := []string{"confirmed", "a1=hset", "b1=" + long, "a2=del"}
	for _, size := range []int{1, 7, 100, len(text)} {
		told, err := subscribed(t, func(conn net.Conn) {
			for part := range slices.Chunk([]byte(text), size) {
				_, _ = conn.Write(part)
				if size < 10 && len(part) > 0 && part[0] == '*' {
					time.Sleep(time.Millisecond)
				}
			}
		})
		if !slices.Equal(told, want) || err == nil {
			t.Errorf("in parts of %d: %.200q, %v", size, told, err)
		}
	}
}

// TestSubscriptionThatIsRefused ends with why; what makes no sense, or has no end, ends it, too.
func TestSubscriptionThatIsRefused(t *testing.T) {
	t.Parallel()
	told, err := subscribed(t, func(conn net.Conn) { _, _ = conn.Write([]byte("-NOPERM no channels\r\n")) })
	var why refused
	if len(told) > 0 || !errors.As(err, &why) || why != "NOPERM no channels" {
		t.Errorf("%v, %v", told, err)
	}
	for _, text := range []string{"nonsense\r\n", "*1\r\n$1000000\r\n" + strings.Repeat("y", 2<<20)} {
		told, err = subscribed(t, func(conn net.Conn) { _, _ = conn.Write([]byte(confirmations[:len(confirmations)/2] + text)) })
		if len(told) > 0 || !errors.Is(err, errGarbled) {
			t.Errorf("%.20q: %v, %v", text, told, err)
		}
	}
}

// FuzzReply: no server's answer ends the process, and a part of one is never taken for a whole one.
func FuzzReply(f *testing.F) {
	for _, seed := range []string{"+OK\r\n", ":1\r\n", "$-1\r\n", confirmations, "-ERR x\r\n", "*1\r\n*1\r\n:2\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		_, rest, whole, err := readReply(text)
		if err != nil || !whole {
			return
		}
		used := len(text) - len(rest)
		for n := range min(used, 200) {
			if a, _, whole, _ := readReply(text[:n]); whole {
				t.Fatalf("%q is whole: %v", text[:n], a)
			}
		}
	})
}
