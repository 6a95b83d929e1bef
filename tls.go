package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Mutual TLS: who may scrape, and certificates that are replaced while the daemon runs.

// tlsFiles is what the flags say about TLS. The zero value is none.
type tlsFiles struct {
	cert, key, clientCA string
	allowed             []string // names of client certificates; empty: all that the CA signed
}

// validate tells whether the flags belong together.
func (f *tlsFiles) validate() error {
	var given, missing []string
	for _, flag := range []struct{ name, value string }{
		{"-web.tls-cert", f.cert}, {"-web.tls-key", f.key}, {"-web.tls-client-ca", f.clientCA},
	} {
		if flag.value == "" {
			missing = append(missing, flag.name)
		} else {
			given = append(given, flag.name)
		}
	}
	switch {
	case len(given) > 0 && len(missing) > 0:
		return fmt.Errorf("%s without %s: mutual TLS needs all three", strings.Join(given, " and "),
			strings.Join(missing, " and "))
	case len(given) == 0 && len(f.allowed) > 0:
		return errors.New("-web.tls-allowed-names needs -web.tls-cert, -web.tls-key and -web.tls-client-ca")
	}
	return nil
}

// allow reads the list of names. An empty one, which a trailing comma makes, is an error: it would match a certificate
// that has no common name.
func (f *tlsFiles) allow(list string) error {
	if list == "" {
		return nil
	}
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			return fmt.Errorf("-web.tls-allowed-names: there is an empty name in %q", list)
		}
		f.allowed = append(f.allowed, name)
	}
	return nil
}

func (f *tlsFiles) enabled() bool { return f.cert != "" }

// pemFiles is the content of the three files.
type pemFiles struct{ cert, key, clientCA []byte }

func (a *pemFiles) equal(b *pemFiles) bool {
	return bytes.Equal(a.cert, b.cert) && bytes.Equal(a.key, b.key) && bytes.Equal(a.clientCA, b.clientCA)
}

func (f *tlsFiles) read() (p pemFiles, err error) {
	for _, file := range []struct {
		flag, path string
		content    *[]byte
	}{{"-web.tls-cert", f.cert, &p.cert}, {"-web.tls-key", f.key, &p.key}, {"-web.tls-client-ca", f.clientCA,
		&p.clientCA}} {
		if *file.content, err = os.ReadFile(file.path); err != nil {
			return p, fmt.Errorf("%s: %w", file.flag, err)
		}
	}
	return p, nil
}

// inForce is a configuration, whose certificate it shows, and the authorities whose clients it lets in.
type inForce struct {
	*tls.Config
	certificate *x509.Certificate
	authorities []*x509.Certificate
}

// config makes the server's TLS configuration: TLS 1.3 only, a client certificate of the CA required. notAfter is when
// the server's certificate expires. Each error names its flag and file.
func (f *tlsFiles) config(p *pemFiles, now time.Time) (c *inForce, notAfter time.Time, err error) {
	certs, err := parseCertificates(p.cert)
	if err != nil {
		return nil, notAfter, fmt.Errorf("-web.tls-cert %s: %w", f.cert, err)
	}
	if block, _ := pem.Decode(p.key); block == nil {
		return nil, notAfter, fmt.Errorf("-web.tls-key %s: no PEM data in it", f.key)
	}
	pair, err := tls.X509KeyPair(p.cert, p.key)
	if err != nil {
		return nil, notAfter, fmt.Errorf("-web.tls-key %s does not go with -web.tls-cert %s: %w", f.key, f.cert, err)
	}
	authorities, err := parseCertificates(p.clientCA)
	if err != nil {
		return nil, notAfter, fmt.Errorf("-web.tls-client-ca %s: %w", f.clientCA, err)
	}
	if err := f.valid(certs[0], authorities, now); err != nil {
		return nil, notAfter, err
	}
	pool := x509.NewCertPool()
	for _, authority := range authorities {
		pool.AddCert(authority) // one that is not valid now may be so later: it is looked at with each client
	}
	return &inForce{&tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{pair},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              pool,
		VerifyConnection:       f.verifyName,
		SessionTicketsDisabled: true, // a replaced CA takes effect at the next connection
		NextProtos:             []string{"http/1.1"},
	}, certs[0], authorities}, certs[0].NotAfter, nil
}

// valid finds what is wrong with dates: the server's, or those of all who could vouch for clients.
func (f *tlsFiles) valid(cert *x509.Certificate, authorities []*x509.Certificate, now time.Time) (err error) {
	if err = validAt(cert, now); err != nil {
		return fmt.Errorf("-web.tls-cert %s: %w", f.cert, err)
	}
	for _, authority := range authorities {
		if err = validAt(authority, now); err == nil {
			return nil
		}
	}
	return fmt.Errorf("-web.tls-client-ca %s: %w", f.clientCA, err)
}

// parseCertificates reads every certificate of a PEM file; there has to be one. A file that is cut off in a later one
// is none: what it lacks would be missed only by its clients.
func parseCertificates(text []byte) (certs []*x509.Certificate, err error) {
	if block, _ := pem.Decode(text); block == nil {
		return nil, errors.New("no PEM data in it")
	}
	blocks := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		blocks++
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if blocks != bytes.Count(text, []byte("-----BEGIN ")) {
		return nil, errors.New("a certificate in it is cut off")
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return certs, nil
}

func validAt(c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("certificate of %q expired at %s", c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		return fmt.Errorf("certificate of %q is not valid before %s", c.Subject, c.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// verifyName lets in only certificates with one of the allowed names: DNS or IP names, or the common name, whatever
// their case, or a URI, as it is.
func (f *tlsFiles) verifyName(state tls.ConnectionState) error {
	if len(f.allowed) == 0 {
		return nil
	}
	names, uris := certificateNames(state.PeerCertificates[0])
	for _, allowed := range f.allowed {
		same := func(name string) bool { return lowerASCII(name) == lowerASCII(allowed) }
		if slices.ContainsFunc(names, same) || slices.Contains(uris, allowed) {
			return nil
		}
	}
	return fmt.Errorf("client certificate with the names %q has none of -web.tls-allowed-names", append(names, uris...))
}

// lowerASCII is how names are compared. Another alphabet's letters are none of this one: strings.EqualFold would take
// the sign of the unit kelvin for a k.
func lowerASCII(name string) string {
	b := []byte(name)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] |= 0x20
		}
	}
	return string(b)
}

// certificateNames lists the names that there are: a common name that is missing is none.
func certificateNames(c *x509.Certificate) (names, uris []string) {
	names = append([]string{c.Subject.CommonName}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	for _, uri := range c.URIs {
		uris = append(uris, uri.String())
	}
	missing := func(name string) bool { return strings.TrimSpace(name) == "" }
	return slices.DeleteFunc(names, missing), slices.DeleteFunc(uris, missing)
}

// certificateCheck is how often the files are looked at: a replaced pair is in use within two of these.
const certificateCheck = 10 * time.Second

// keeper holds the TLS configuration in force and replaces it when the files change.
type keeper struct {
	files   tlsFiles
	m       *metrics
	log     *slog.Logger
	current atomic.Pointer[inForce]
	inUse   pemFiles
	broken  pemFiles // content that was refused
	told    bool     // and the log says so
}

func newKeeper(files tlsFiles, m *metrics, log *slog.Logger) *keeper {
	return &keeper{files: files, m: m, log: log}
}

// Load reads and checks the files for the first time. An error is the operator's to mend, or the clock's: nothing is in
// force until there is none.
func (k *keeper) Load(now time.Time) error {
	files := &k.files
	content, err := files.read()
	if err == nil {
		err = k.use(content, now)
	}
	if err != nil {
		return err
	}
	if info, err := os.Stat(files.key); err == nil && info.Mode().Perm()&0o007 != 0 {
		k.log.Warn("the TLS key is open to every user of this machine", "file", files.key,
			"mode", fs.FormatFileInfo(info)[:10], "remedy", "chmod o= "+files.key)
	}
	k.m.tlsNotAfter.Add("", &k.m.tlsExpiry)
	k.m.tlsReloadOK.Set(1)
	return nil
}

func (k *keeper) use(content pemFiles, now time.Time) error {
	config, notAfter, err := k.files.config(&content, now)
	if err != nil {
		return err
	}
	k.inUse = content
	k.current.Store(config)
	k.m.tlsExpiry.SetTime(notAfter)
	return nil
}

// Config is for a listener: each connection gets the configuration in force, and none without one.
func (k *keeper) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			if c := k.current.Load(); c != nil {
				return c.Config, nil
			}
			return nil, errors.New("there is no usable certificate yet")
		},
	}
}

// stays tells whether the client of a connection would get in today: its certificate, and those that vouch for it, are
// valid, and of an authority of today. It allocates nothing: each request is looked at.
func (k *keeper) stays(state *tls.ConnectionState, now time.Time) bool {
	for _, chain := range state.VerifiedChains {
		root, valid := chain[len(chain)-1], true
		for _, c := range chain {
			valid = valid && !now.After(c.NotAfter)
		}
		for _, authority := range k.current.Load().authorities {
			if valid && authority.Equal(root) {
				return true
			}
		}
	}
	return false
}

// Watch takes up replaced files, at once after SIGHUP and by itself within three checks, until ctx ends. It tells at
// each look what is wrong with the dates of those in force, nil: nothing.
func (k *keeper) Watch(ctx context.Context, tell func(expired error)) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	ticker := time.NewTicker(certificateCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			k.reload(time.Now(), true)
		case <-ticker.C:
			k.reload(time.Now(), false)
		}
		c := k.current.Load()
		tell(k.files.valid(c.certificate, c.authorities, time.Now()))
	}
}

// reload takes up the files if they changed. Ones that do not make sense leave the old ones in force. Unless asked for,
// they are complained about only at the second look: certificate and key are replaced one after the other.
func (k *keeper) reload(now time.Time, asked bool) {
	content, err := k.files.read()
	if err == nil && content.equal(&k.inUse) {
		k.told = false
		k.m.tlsReloadOK.Set(1)
		return
	}
	if err == nil {
		err = k.use(content, now)
	}
	if err == nil {
		k.told = false
		k.m.tlsReloadOK.Set(1)
		k.log.Log(context.Background(), levelNotice, "TLS files taken up", "certificate_not_after",
			time.UnixMilli(int64(k.m.tlsExpiry.Load()*1000)).UTC())
		return
	}
	again := content.equal(&k.broken)
	if k.broken = content; asked || again && !k.told {
		k.told = true
		k.m.tlsReloadOK.Set(0)
		k.log.Error("replaced TLS files are not usable, keeping the old ones", "err", err)
	}
}
