package main

import "net/http"

// routes are who answers by path. http.ServeMux does the same with patterns, and is 30 KB of the binary.
// Of a path with its method before it, only that is answered.
type routes map[string]http.HandlerFunc

func (p routes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	serve, order := p[r.URL.Path], p[r.Method+" "+r.URL.Path]
	switch {
	case order != nil:
		order(w, r)
	case serve == nil:
		http.NotFound(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	default:
		serve(w, r)
	}
}

// register puts every path in. What costs memory and time, and waits for nobody, is answered in turn.
func (a *api) register(pages map[string]http.HandlerFunc) {
	t := newTurns()
	pages[statusPath] = t.in(a.serveStatus)
	pages[portsPath] = t.in(a.servePorts)
	pages[diffPath] = a.serveDiff
	pages[eventsPath] = t.in(a.serveEvents)
	pages["/"] = t.in(a.servePage)
}
