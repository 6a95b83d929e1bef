package main

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The life of the metrics server and of the control socket's. Port sync needs none of it: a port that is taken, a host
// that does not resolve, a certificate that is not valid yet is said in the log and in health, and tried again until it
// works.

const (
	firstRetry       = 250 * time.Millisecond
	lastRetry        = 10 * time.Second
	certificateDates = "the dates of the TLS files"
	listingGrace     = time.Second // so long the server waits for the first listing of links to be asked for
)

// web opens and serves what the flags name, each listener for itself.
type web struct {
	server *server
	keep   *keeper // nil: plain HTTP
	doors  []door
	socket *server // has slots of its own: who takes all of the others does not shut the operator out
	entry  *door   // of the control socket, nil: there is none
	health *health
	log    *slog.Logger
	after  func(time.Duration) <-chan time.Time

	mu       sync.Mutex
	troubles map[string]string      // what does not work, and why
	files    map[string]*socketFile // the unix sockets that were made last, by their doors
}

// webOptions is where to serve.
type webOptions struct {
	listen  *addresses
	sockets []inherited
	tls     tlsFiles
	control string // a path, empty: none
}

// startWeb has what a knows served as soon as that can be, and returns at once. drain lets requests under way finish.
func startWeb(ctx context.Context, o webOptions, a *api, log *slog.Logger) *web {
	w := &web{health: a.box.health, log: log, after: time.After, troubles: make(map[string]string),
		files: make(map[string]*socketFile)}
	w.doors = doors(o.listen, o.sockets)
	if o.tls.enabled() {
		w.keep = newKeeper(o.tls, a.box.m, log)
	}
	w.server = newServer(a, log, w.keep, newSlots(a.box.m))
	w.socket = newServer(a, log, nil, newSlots(new(metrics))) // the metrics are of the others
	w.socket.pages["POST "+handoverPath] = a.serveHandover
	if o.control != "" {
		entry := controlDoor(o.control)
		w.entry = &entry
	}
	go w.run(ctx)
	return w
}

// look has a unix socket made again that somebody has removed.
func (w *web) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, file := range w.files {
		file.look()
	}
}

// drain lets the requests of both servers finish.
func (w *web) drain() {
	var both sync.WaitGroup
	both.Go(w.server.Drain)
	both.Go(w.socket.Drain)
	both.Wait()
}

// run waits its turn: the links are listed first. But a kernel that does not take the request is a reason to be there
// for those who want to know why. With TLS flags nothing listens before the files are good, so nothing is ever served
// in plain.
func (w *web) run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-w.health.begun:
	case <-w.after(listingGrace):
	}
	if w.entry != nil {
		go w.until(ctx, w.entry.name, func(works func()) error { return w.serve(ctx, w.entry, w.socket, works) })
	}
	if len(w.doors) == 0 {
		return
	}
	if w.keep != nil {
		if !w.until(ctx, "the TLS files", func(func()) error { return w.keep.Load(time.Now()) }) {
			return
		}
		go w.keep.Watch(ctx, func(expired error) {
			if expired == nil {
				w.settled(certificateDates)
			} else {
				w.failed(certificateDates, expired)
			}
		})
	}
	for _, d := range w.doors {
		go w.until(ctx, d.name, func(works func()) error { return w.serve(ctx, &d, w.server, works) })
	}
}

// serve opens a door and serves until the server is drained, which is no error.
func (w *web) serve(ctx context.Context, d *door, s *server, works func()) error {
	opening, cancel := context.WithTimeout(ctx, lastRetry)
	l, err := d.open(opening)
	cancel()
	if err != nil {
		return err
	}
	works()
	if file, isFile := l.(*socketFile); isFile {
		w.mu.Lock()
		w.files[d.name] = file
		w.mu.Unlock()
	}
	if w.keep == nil && exposed(l) {
		w.log.Warn("the metrics are served without TLS to everyone who reaches this address", "address",
			l.Addr().String(),
			"remedy", "-web.tls-cert, -web.tls-key and -web.tls-client-ca, or a loopback address")
	}
	return s.Serve(l)
}

// until tries something until it works: after growing pauses, and at once after SIGHUP. What takes long says by works()
// that it does, and may fail later. false: ctx has ended.
func (w *web) until(ctx context.Context, what string, try func(works func()) error) bool {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	pause := firstRetry
	works := func() { pause = firstRetry; w.settled(what) }
	for {
		err := try(works)
		if err == nil {
			works()
			return true
		}
		w.failed(what, err)
		select {
		case <-ctx.Done():
			return false
		case <-hangup:
			pause = firstRetry
		case <-w.after(pause):
			pause = min(2*pause, lastRetry)
		}
	}
}

// failed notes why something does not work. The log says it once: a reason may be another one at every try.
func (w *web) failed(what string, why error) {
	w.mu.Lock()
	_, known := w.troubles[what]
	w.troubles[what] = why.Error()
	w.tell()
	w.mu.Unlock()
	if !known {
		w.log.Error("metrics and status are not served as the flags say; it is tried again, "+
			"and ports are synchronized meanwhile", "what", what, "err", why)
	}
}

// settled notes that it works.
func (w *web) settled(what string) {
	w.mu.Lock()
	_, known := w.troubles[what]
	delete(w.troubles, what)
	w.tell()
	w.mu.Unlock()
	if known {
		w.log.Log(ctxNone, levelNotice, "the metrics server has what it lacked", "what", what)
	}
}

// tell gives health all reasons. The caller holds the lock.
func (w *web) tell() {
	var reasons []string
	for _, what := range slices.Sorted(maps.Keys(w.troubles)) {
		reasons = append(reasons, w.troubles[what])
	}
	reason := strings.Join(reasons, "; ")
	w.health.web.Store(&reason)
}
