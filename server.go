package main

import (
	"context"
	"crypto/tls"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The HTTP server: metrics, probes, and bounds on what a client can cost the switch.

const (
	contentType    = "text/plain; version=0.0.4; charset=utf-8"
	maxHeaderBytes = 16 << 10
	headerLimit    = 3 * time.Second // also for a TLS handshake
	requestLimit   = 10 * time.Second
	idleLimit      = 20 * time.Second // a scrape every 15 s needs no new handshake
	drainLimit     = time.Second
	drainLook      = 2 * time.Millisecond // between looks whether all are answered
	refusalsASec   = 10                   // log lines about refused clients
)

// server serves one metric set on any number of listeners.
type server struct {
	http  http.Server
	pages routes
	box   *box
	log   *slog.Logger
	slots *slots
	keep  *keeper // nil: plain HTTP

	ends context.CancelFunc // ends answers that wait for something

	door    sync.Mutex
	shut    bool           // nobody comes in any more, guarded by door
	serving sync.WaitGroup // one for each listener that connections are accepted from
	open    []net.Listener // those, guarded by door

	mu     sync.Mutex // one scrape renders, and compresses, at a time
	zip    packer
	spares chan *page
}

// page is one rendered response. Pages are reused; more than one exists only while slow clients read theirs.
type page struct {
	text   []byte
	zipped []byte // empty: not asked for
}

// newServer makes a server of what a knows. keep is nil for plain HTTP.
func newServer(a *api, log *slog.Logger, keep *keeper, slots *slots) *server {
	b := a.box
	s := &server{box: b, log: log, slots: slots, keep: keep, spares: make(chan *page, 1)}
	pages := routes{
		"/metrics": s.serveMetrics,
		"/healthz": func(w http.ResponseWriter, _ *http.Request) { answer(w, b.Alive(time.Now()), "ok") },
		"/readyz": func(w http.ResponseWriter, _ *http.Request) {
			answer(w, b.Ready(time.Now()), b.well()+b.alsoThere(time.Now()))
		},
	}
	a.register(pages)
	s.pages = pages
	asking, ends := context.WithCancel(context.Background())
	s.ends = ends
	s.http = http.Server{
		Handler:           s.contain(pages),
		ReadHeaderTimeout: headerLimit, ReadTimeout: requestLimit, WriteTimeout: requestLimit, IdleTimeout: idleLimit,
		MaxHeaderBytes: maxHeaderBytes,
		ConnState:      s.slots.state,
		BaseContext:    func(net.Listener) context.Context { return asking },
		ErrorLog:       stdlog.New(&refusals{m: b.m, log: log, now: time.Now}, "", 0),
		// no HTTP/2: a scrape does not need it
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	if keep != nil {
		s.http.TLSConfig = keep.Config()
	}
	return s
}

// serveMetrics renders and sends the metrics, compressed if the client asks for it.
func (s *server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	p := s.render(acceptsGzip(r.Header.Values("Accept-Encoding")))
	body := p.text
	header := w.Header()
	if len(p.zipped) > 0 {
		body = p.zipped
		header.Set("Content-Encoding", "gzip")
	}
	header.Set("Vary", "Accept-Encoding")
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
	select {
	case s.spares <- p:
	default:
	}
}

// render writes the metrics into a page of the caller's own, so that a slow client delays nobody else.
func (s *server) render(zipped bool) *page {
	var p *page
	select {
	case p = <-s.spares:
	default:
		p = new(page)
	}
	s.box.Update(time.Now(), s.log)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.box.hear(time.Now())
	p.text = s.box.Append(p.text[:0])
	p.zipped = p.zipped[:0]
	if zipped {
		p.zipped = s.zip.Pack(p.zipped, p.text)
	}
	return p
}

// answer is a probe's response: that all is well, or a line for each reason why not.
func answer(w http.ResponseWriter, failing []string, well string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if len(failing) == 0 {
		_, _ = io.WriteString(w, well+"\n")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = io.WriteString(w, strings.Join(failing, "\n")+"\n")
}

// contain keeps a handler's panic from more than its own request. A client that would not get in any more finds its
// kept connection closed: one whose authority has another certificate by now connects anew.
func (s *server) contain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && !s.keep.stays(r.TLS, time.Now()) {
			panic(http.ErrAbortHandler) // which is not logged
		}
		defer func() {
			if why := recover(); why != nil {
				s.box.m.httpPanics.Inc()
				s.log.Error("a request handler panicked", "path", r.URL.Path, "peer", r.RemoteAddr, "panic", why,
					"stack", string(debug.Stack()))
				http.Error(w, "internal error", http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// Serve serves on a listener until Drain.
func (s *server) Serve(inner net.Listener) error {
	l := s.slots.Listener(inner)
	if !s.enter(l) {
		return inner.Close()
	}
	defer s.serving.Done()
	var err error
	if s.http.TLSConfig != nil {
		err = s.http.ServeTLS(l, "", "")
	} else {
		err = s.http.Serve(l)
	}
	s.door.Lock()
	defer s.door.Unlock()
	s.open = slices.DeleteFunc(s.open, func(other net.Listener) bool { return other == l })
	if s.shut {
		return nil
	}
	return err
}

// enter counts a listener, unless nobody comes in any more.
func (s *server) enter(l net.Listener) bool {
	s.door.Lock()
	defer s.door.Unlock()
	if s.shut {
		return false
	}
	s.serving.Add(1)
	s.open = append(s.open, l)
	return true
}

// Drain lets requests under way finish, for at most drainLimit, and answers those of connections that were accepted by
// then: the HTTP server by itself, told to shut down, would drop them unread. Those that wait for something to tell are
// answered.
func (s *server) Drain() {
	end := time.Now().Add(drainLimit)
	s.ends()
	s.door.Lock()
	s.shut = true
	for _, l := range s.open {
		_ = l.Close()
	}
	s.door.Unlock()
	s.serving.Wait() // whoever was accepted has a slot by now
	s.http.SetKeepAlivesEnabled(false)
	for s.slots.waited(time.Now()) && time.Now().Before(end) {
		time.Sleep(drainLook)
	}
	_ = s.http.Close()
}

// refusals turns what net/http says of clients that it turned away into log lines, a few a second.
type refusals struct {
	m       *metrics
	log     *slog.Logger
	now     func() time.Time
	mu      sync.Mutex
	second  time.Time
	lines   int
	dropped int
}

func (r *refusals) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	peer, reason, tlsError := "", text, false
	if rest, found := strings.CutPrefix(text, "http: TLS handshake error from "); found {
		peer, reason, tlsError = cutPeer(rest)
	}
	if tlsError && strings.HasSuffix(reason, net.ErrClosed.Error()) {
		return len(line), nil // we closed it: it had to make room, or we end
	}
	if tlsError {
		r.m.tlsRefused.Inc()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.now(); now.Sub(r.second) >= time.Second {
		r.second, r.lines = now, 0
	}
	if r.lines++; r.lines > refusalsASec {
		r.dropped++
		return len(line), nil
	}
	args := []any{"peer", peer, "reason", reason}
	if r.dropped > 0 {
		args = append(args, "lines_left_out", r.dropped)
		r.dropped = 0
	}
	if tlsError {
		r.log.Warn("TLS client refused", args...)
	} else {
		r.log.Warn("HTTP server", args[2:]...)
	}
	return len(line), nil
}

// cutPeer splits "address: reason"; the address has colons of its own, but none before a space.
func cutPeer(text string) (peer, reason string, found bool) {
	return strings.Cut(text, ": ")
}
