package main

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/redis/go-redis/v9"
)

// TestClientIsMadeWithoutAResolver: a name server that does not answer would hold up the making of each client for two
// seconds, and a socket's path be looked for in /etc/hosts.
func TestClientIsMadeWithoutAResolver(t *testing.T) {
	was := net.DefaultResolver
	defer func() { net.DefaultResolver = was }()
	asked := 0
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		asked++
		return nil, errors.New("no name server")
	}}
	client := connect(dbAddress{name: "STATE_DB", network: "tcp", address: "redis.example:6379"}, newMetrics(""), func() {}, askBuffer)
	defer client.Close()
	if asked > 0 {
		t.Errorf("%d questions for a name server before anything is asked of Redis", asked)
	}
	if err := client.Exec(t.Context(), []redis.Cmder{redis.NewStatusCmd(t.Context(), "ping")}); err == nil || asked == 0 {
		t.Errorf("the resolver that is asked is another one: %v", err)
	}
}
