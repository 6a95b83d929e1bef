package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// What a scrape takes from port synchronization is seen on a change that is made at the same time: the bench takes the
// latency of single changes amid toggles, in turns without scrapes and with one after the other.

const (
	scrapeGap = 100 * time.Millisecond // from the end of a scrape to the next
	turns     = 5                      // of each
)

// amidScrapes notes the latency of changes without scrapes, and with: a TLS handshake each time, the answer in gzip.
func (b *bench) amidScrapes() error {
	client, err := b.scraper()
	if err != nil {
		return err
	}
	var without, with, scrapes []time.Duration
	size := 0
	for range turns {
		took, err := b.changeAmid(b.scraped, max(1, b.changes/turns))
		if err != nil {
			return err
		}
		without = append(without, took...)
		ctx, stop := context.WithCancel(b.ctx)
		scraped := make(chan error, 1)
		go func() {
			for ctx.Err() == nil {
				begun := time.Now()
				n, err := scrapeOnce(client)
				if err != nil {
					scraped <- err
					return
				}
				scrapes, size = append(scrapes, time.Since(begun)), n
				time.Sleep(scrapeGap)
			}
			scraped <- nil
		}()
		took, err = b.changeAmid(b.scraped, max(1, b.changes/turns))
		stop()
		if err = errors.Join(err, <-scraped); err != nil {
			return err
		}
		with = append(with, took...)
	}
	b.noteLatency("without scrapes: one change", without)
	b.noteLatency("scraped: one change", with)
	slices.Sort(scrapes)
	b.note("scrapes", "", float64(len(scrapes)))
	b.note("a scrape, p50", "ms", ms(scrapes[len(scrapes)/2]))
	b.note("a scrape, max", "ms", ms(scrapes[len(scrapes)-1]))
	b.note("a scrape, compressed", "KiB", float64(size)/1024)
	return b.settle()
}

// scrapeOnce returns the compressed size of the metrics.
func scrapeOnce(client *http.Client) (size int, err error) {
	request, err := http.NewRequest(http.MethodGet, "https://127.0.0.1:9090/metrics", nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Accept-Encoding", "gzip")
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Encoding") != "gzip" {
		return 0, fmt.Errorf("a scrape was answered with %s, Content-Encoding %q", response.Status,
			response.Header.Get("Content-Encoding"))
	}
	n, err := io.Copy(io.Discard, response.Body)
	return int(n), err
}

// credentials are one certificate that is its own authority, the daemon's and the client's.
func (b *bench) credentials() (cert, key string) {
	return filepath.Join(b.sw.Dir, "bench.crt"), filepath.Join(b.sw.Dir, "bench.key")
}

// withTLS makes the credentials, and adds the flags for them to a command line.
func (b *bench) withTLS(command []string) ([]string, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "switchbench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	cert, key := b.credentials()
	for file, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, err
		}
	}
	return append(slices.Clone(command), "-web.tls-cert", cert, "-web.tls-key", key, "-web.tls-client-ca", cert), nil
}

// scraper makes a client that connects anew for each scrape.
func (b *bench) scraper() (*http.Client, error) {
	pair, err := tls.LoadX509KeyPair(b.credentials())
	if err != nil {
		return nil, err
	}
	if err := b.sw.IP("link", "set", "lo", "up"); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(pair.Leaf)
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, DialContext: b.dialInside,
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots},
	}}, nil
}
