package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzRequests sends anything to the control socket, behind which are the same pages as behind the metrics' address: whatever comes, each answer is whole, of a
// kind that there is, and nothing that was asked is in it as markup.
func FuzzRequests(f *testing.F) {
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/?port=Ethernet0", "/?port=<b>'%22%3Cscript%3E", statusPath, portsPath + "?port=Ethernet4&port=x",
		eventsPath + "?since=90s&after=5&port=Ethernet0", eventsPath + "?follow=1&after=9223372036854775807", eventsPath + "?since=-1h", diffPath + "?port=Ethernet0", "/nothing"} {
		f.Add([]byte("GET "+path+" HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip;q=0.5, *\r\n\r\n"), "Eth1")
	}
	f.Add([]byte("HEAD / HTTP/1.0\r\n\r\n"), "<i>\x1b\xff")
	f.Add([]byte("POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"), "")
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"), "")
	f.Add([]byte("\x16\x03\x01\x00\xa5\x01\x00\x00"), "")
	m, log := filledMetrics(4), slog.New(slog.DiscardHandler)
	record := openRecorder("", recordFixed+3*portRing, m, log)
	record.link(&port{name: "Ethernet0"}, &linkMessage{index: 5, flags: upRunning, mtu: 1500}, false, time.Now())
	dir := f.TempDir()
	h := new(health)
	h.turn(time.Now().Add(time.Hour), time.Time{})
	u := &unit{m: m, health: h, record: record, log: log, look: diffOptions{dbConfig: filepath.Join(dir, "none"), netns: filepath.Join(dir, "none")}}
	socket := filepath.Join(dir, "control.sock")
	l, err := listenControl(f.Context(), socket)
	must(f, err)
	s := newServer(newAPI(newBox(u), false), log, nil, newSlots(new(metrics)))
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	f.Cleanup(func() {
		s.Drain()
		must(f, <-done)
	})
	plainPage := askedPage(f, socket)
	f.Fuzz(func(t *testing.T, text []byte, alias string) {
		m.ports.all()[0].alias.Store(&alias)
		panics := m.httpPanics.Load()
		c, err := net.Dial("unix", socket)
		must(t, err)
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(patience)))
		go func() {
			_, _ = c.Write(text) // the server may have had enough
			_ = c.(*net.UnixConn).CloseWrite()
		}()
		asked, answers := bufio.NewReader(bytes.NewReader(text)), bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(asked)
			if err != nil {
				r = &http.Request{Method: http.MethodGet}
			}
			answer, body, err := readAnswer(answers, r)
			if errors.Is(err, io.EOF) || err != nil && strings.Contains(err.Error(), "connection reset") {
				break // it reads no more than it has to
			}
			must(t, err)
			if checkAnswer(t, r, answer, body, plainPage, alias); answer.Close {
				break
			}
			if r.Body != nil {
				_, _ = io.Copy(io.Discard, r.Body)
			}
		}
		if m.httpPanics.Load() != panics {
			t.Errorf("%q: a handler panicked", text)
		}
	})
}

// askedPage is the page as it is without anything odd.
func askedPage(f *testing.F, socket string) string {
	c, err := net.Dial("unix", socket)
	must(f, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	must(f, err)
	_, body, err := readAnswer(bufio.NewReader(c), &http.Request{Method: http.MethodGet})
	must(f, err)
	return string(body)
}

// readAnswer reads a whole answer, but none that only has a client go on.
func readAnswer(from *bufio.Reader, to *http.Request) (answer *http.Response, body []byte, err error) {
	for {
		if answer, err = http.ReadResponse(from, to); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = io.EOF // where the server has had enough
			}
			return nil, nil, err
		}
		if answer.StatusCode >= http.StatusOK {
			break
		}
	}
	body, err = io.ReadAll(answer.Body)
	return answer, body, err
}

// checkAnswer looks whether an answer is one of ours.
func checkAnswer(t *testing.T, to *http.Request, answer *http.Response, body []byte, plainPage, alias string) {
	t.Helper()
	if !slices.Contains([]int{200, 400, 404, 405, 408, 417, 431, 501, 503, 505}, answer.StatusCode) {
		t.Errorf("%s", answer.Status)
	}
	if len(body) == 0 { // of HEAD, and what net/http refuses
		if kind := answer.Header.Get("Content-Type"); to.Method != http.MethodHead && kind != "" {
			t.Errorf("%s: %s, and nothing in it", answer.Status, kind)
		}
		return
	}
	if answer.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(bytes.NewReader(body))
		must(t, err)
		body, err = io.ReadAll(unzipped)
		must(t, err)
	}
	switch kind := answer.Header.Get("Content-Type"); {
	case kind == "application/json":
		if !json.Valid(body) {
			t.Errorf("no JSON: %q", body)
		}
	case strings.HasPrefix(kind, "text/html"):
		odd := []string{alias}
		if to.URL != nil {
			odd = append(odd, to.URL.Query()["port"]...)
		}
		for _, text := range odd {
			if strings.ContainsAny(text, `<>"'&`) && strings.Contains(string(body), text) && !strings.Contains(plainPage, text) {
				t.Errorf("%q is in the page as it came", text)
			}
		}
		if answer.Header.Get("Content-Security-Policy") == "" {
			t.Error("a page without a policy")
		}
	case !strings.HasPrefix(kind, "text/plain"):
		t.Errorf("%s: %q: %q", answer.Status, kind, body)
	}
}
