package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// The HTTP server of the metrics.

const (
	contentType    = "text/plain; version=0.0.4; charset=utf-8"
	maxHeaderBytes = 16 << 10
	requestLimit   = 10 * time.Second
	idleLimit      = 2 * time.Minute
	drainLimit     = time.Second
)

// server serves one metric set on any number of listeners.
type server struct {
	http.Server
	m *metrics

	mu  sync.Mutex // one scrape renders at a time, into buf
	buf []byte
}

func newServer(m *metrics) *server {
	s := &server{m: m}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", s.serveMetrics)
	s.Handler = mux
	s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = requestLimit, requestLimit, requestLimit, idleLimit
	s.MaxHeaderBytes = maxHeaderBytes
	return s
}

func (s *server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = s.m.Append(s.buf[:0])
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", fmt.Sprint(len(s.buf)))
	_, _ = w.Write(s.buf)
}

// listen opens a listener. An address that cannot be had is the operator's to mend.
func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: -web.listen-address %s: %v", errConfig, address, err)
	}
	return l, nil
}

// Run serves until Shutdown.
func (s *server) Run(l net.Listener) error {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Drain lets requests under way finish, for at most drainLimit.
func (s *server) Drain() {
	ctx, cancel := context.WithTimeout(context.Background(), drainLimit)
	defer cancel()
	_ = s.Shutdown(ctx)
}
