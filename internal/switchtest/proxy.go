package switchtest

import (
	"net"
	"sync"
	"time"
)

// Verdict is what a proxy does with a request.
type Verdict struct {
	Hold time.Duration // the answers are held back for so long; the server has carried the request out long before
	Cut  bool          // the request does not reach the server, and the connection is closed
}

// front is the socket that daemons are told of.
func (r *Redis) front() string {
	if r.proxy != "" {
		return r.proxy
	}
	return r.Socket
}

// Proxy puts itself between the server and the daemons that are started from now on: judge sees what they send, as it comes, from any goroutine. The
// configuration file has to be written again afterwards. It ends with stop.
func (r *Redis) Proxy(judge func(request []byte) Verdict) (stop func(), err error) {
	path := r.Socket + ".proxy"
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	r.proxy = path
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.carry(c, judge)
		}
	}()
	return func() { _ = l.Close() }, nil
}

// carry carries one connection to the server and back.
func (r *Redis) carry(c net.Conn, judge func([]byte) Verdict) {
	defer c.Close()
	server, err := net.Dial("unix", r.Socket)
	if err != nil {
		return
	}
	defer server.Close()
	var mu sync.Mutex
	var until time.Time // answers are held back
	go func() {
		defer c.Close()
		relay(server, c, func([]byte) bool {
			mu.Lock()
			hold := time.Until(until)
			mu.Unlock()
			time.Sleep(hold)
			return true
		})
	}()
	relay(c, server, func(request []byte) bool {
		v := judge(request)
		mu.Lock()
		defer mu.Unlock()
		if held := time.Now().Add(v.Hold); v.Hold > 0 && held.After(until) {
			until = held
		}
		return !v.Cut
	})
}

// relay copies what one side sends to the other, as long as pass lets it.
func relay(from, to net.Conn, pass func([]byte) bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !pass(buf[:n]) {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
