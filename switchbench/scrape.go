package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const scrapes = 100

// scrape reads the metrics, if the daemon serves any where ours does.
func (b *bench) scrape() error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: b.dialInside}}
	defer client.CloseIdleConnections()
	if err := b.sw.IP("link", "set", "lo", "up"); err != nil {
		return err
	}
	size := 0.0
	for range scrapes {
		response, err := client.Get("http://127.0.0.1:9090/metrics")
		if err != nil {
			break // it has none
		}
		n, err := io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if err != nil {
			return err
		}
		size = float64(n) / 1024
	}
	b.note(fmt.Sprintf("scrape, size of the last of %d", scrapes), "KiB", size)
	return nil
}

// dialInside connects from the switch's own namespace.
func (b *bench) dialInside(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = b.sw.Inside(func() error {
		conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}
