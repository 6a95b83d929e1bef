package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"
)

// unpack is the standard library's view of what was packed.
func unpack(t testing.TB, packed []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r) // checks length and checksum, too
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestPack(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	var lengths []byte // a match of every length, at many distances
	for n := range 300 {
		lengths = append(append(lengths, bytes.Repeat([]byte{byte(n)}, n)...), every...)
	}
	for name, text := range map[string][]byte{
		"nothing": nil, "one byte": {7}, "four bytes": []byte("abcd"), "every byte": every, "zeros": make([]byte, 100000), "every length": lengths,
		"a match as far back as there is":   append(append([]byte("0123456789"), make([]byte, zipWindow-10)...), "0123456789"...),
		"a match further back than allowed": append(append([]byte("0123456789"), make([]byte, zipWindow-9)...), "0123456789"...),
		"metrics":                           filledMetrics(512).Append(nil),
	} {
		var p packer
		packed := p.Pack(p.Pack(nil, []byte("used before"))[:0], text)
		if got := unpack(t, packed); !bytes.Equal(got, text) {
			t.Errorf("%s: %d bytes come back as %d other ones", name, len(text), len(got))
		}
		if name == "metrics" && len(packed) > len(text)/6 {
			t.Errorf("%d bytes of metrics are %d when packed", len(text), len(packed))
		}
	}
}

func FuzzPack(f *testing.F) {
	f.Add([]byte("abcabcabcabcabcabc"))
	f.Add(filledMetrics(2).Append(nil))
	f.Fuzz(func(t *testing.T, text []byte) {
		var p packer
		if got := unpack(t, p.Pack(nil, text)); !bytes.Equal(got, text) {
			t.Errorf("%q comes back as %q", text, got)
		}
	})
}

func BenchmarkPack(b *testing.B) {
	text := filledMetrics(512).Append(nil)
	var p packer
	packed := p.Pack(nil, text)
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			packed = p.Pack(packed[:0], text)
		}
		b.ReportMetric(float64(len(text))/float64(len(packed)), "ratio")
	})
	b.Run("stdlib", func(b *testing.B) {
		var out bytes.Buffer
		z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			out.Reset()
			z.Reset(&out)
			_, _ = z.Write(text)
			_ = z.Close()
		}
		b.ReportMetric(float64(len(text))/float64(out.Len()), "ratio")
	})
}

// TestGzipIsSentToThoseWhoWantIt: the cases of RFC 9110, section 12.5.3.
func TestGzipIsSentToThoseWhoWantIt(t *testing.T) {
	for fields, want := range map[string]bool{
		"": false, "gzip": true, "GZip": true, "x-gzip": true, "deflate, gzip;q=1.0, *;q=0.5": true,
		"br , gzip ; q=0.1": true, "gzip;q=0": false, "gzip;q=0.000": false, "gzip; q=0": false, "gzip;Q=0.001": true,
		"*": true, "*;q=0": false, "gzip;q=0, *": false, "*;q=0, gzip": true, "gzip, *;q=0": true, "identity": false,
		"identity, gzip": true, "identity;q=0.5, gzip;q=1.0": true, "identity, gzip;q=0.5": false, "deflate": false,
		"notgzip": false, "gzip2": false, "gzip;q=2": false, "gzip;q=0.0001": false, "gzip;q=-1": false,
		"gzip;q=": false, "gzip;level=9": false, "gzip;q=NaN": false, "gzip;q=1.001": false, "gzip;q=0.": false,
	} {
		if got := acceptsGzip([]string{fields}); got != want {
			t.Errorf("Accept-Encoding: %s: gzip %v, want %v", fields, got, want)
		}
	}
	if !acceptsGzip([]string{"deflate", "gzip"}) || acceptsGzip(nil) {
		t.Error("several fields, or none, are not read as one list")
	}
	w := newWebTest(t, nil)
	for accept, want := range map[string]string{"gzip;q=0": "", "gzip;q=0.5": "gzip"} {
		response, _ := w.do("GET", "/metrics", "Accept-Encoding", accept)
		if got := response.Header.Get("Content-Encoding"); got != want {
			t.Errorf("for %s the encoding is %q, want %q", accept, got, want)
		}
	}
}
