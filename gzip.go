package main

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"strconv"
	"strings"
)

// gzip for metrics (RFC 1951 and 1952), in 20 KiB of memory. The standard library's writer takes 1.2 MB, a quarter of
// all that the daemon has. Text in which almost every line begins like the one before needs no long search for matches
// and no Huffman codes of its own: one look, and the fixed codes, make a scrape of 512 ports a seventh of its size (the
// library at its fastest: a ninth).

const (
	zipHashBits = 12
	zipWindow   = 32 << 10
	zipMinMatch = 4
	zipMaxMatch = 258
	zipEnd      = 256 // the end-of-block symbol
)

// packer compresses. The zero value works; one goroutine uses it at a time.
type packer struct {
	recent [1 << zipHashBits]uint32 // where four bytes with this hash were last seen, plus one
	bits   uint64                   // that do not fill a byte yet, the first one lowest
	count  uint
}

// Pack appends src as a gzip stream to dst.
func (p *packer) Pack(dst, src []byte) []byte {
	p.recent, p.bits, p.count = [1 << zipHashBits]uint32{}, 0, 0
	dst = append(dst, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255) // deflate, no time, unknown system
	dst = p.put(dst, 1|1<<1, 3)                             // the last block, with the fixed codes
	at, end := 0, len(src)-zipMinMatch
	for at <= end {
		now := binary.LittleEndian.Uint32(src[at:])
		slot := &p.recent[now*0x9e3779b1>>(32-zipHashBits)]
		before := int(*slot) - 1
		*slot = uint32(at + 1)
		if before < 0 || at-before > zipWindow || binary.LittleEndian.Uint32(src[before:]) != now {
			dst = p.symbol(dst, uint(src[at]))
			at++
			continue
		}
		n := zipMinMatch
		for n < zipMaxMatch && at+n < len(src) && src[before+n] == src[at+n] {
			n++
		}
		dst = p.match(dst, uint(n), uint(at-before))
		at += n
	}
	for ; at < len(src); at++ {
		dst = p.symbol(dst, uint(src[at]))
	}
	dst = p.symbol(dst, zipEnd)
	dst = p.put(dst, 0, -p.count&7) // to a whole byte
	dst = binary.LittleEndian.AppendUint32(dst, crc32.ChecksumIEEE(src))
	return binary.LittleEndian.AppendUint32(dst, uint32(len(src)))
}

// put appends the lowest n bits of v, at most 32.
func (p *packer) put(dst []byte, v, n uint) []byte {
	p.bits |= uint64(v) << p.count
	for p.count += n; p.count >= 8; p.count -= 8 {
		dst = append(dst, byte(p.bits))
		p.bits >>= 8
	}
	return dst
}

// symbol appends a literal, a length or the end in its fixed code (RFC 1951, 3.2.6). Codes begin with their highest
// bit.
func (p *packer) symbol(dst []byte, s uint) []byte {
	var code, n uint
	switch {
	case s < 144:
		code, n = 0x30+s, 8
	case s < 256:
		code, n = 0x190+s-144, 9
	case s < 280:
		code, n = s-256, 7
	default:
		code, n = 0xc0+s-280, 8
	}
	return p.put(dst, uint(bits.Reverse16(uint16(code))>>(16-n)), n)
}

// match appends a length of 4 to 258 bytes and a distance of 1 to 32,768, each a symbol and extra bits (RFC 1951,
// 3.2.5): a symbol stands for a range, and the ranges double after every four lengths and every two distances.
func (p *packer) match(dst []byte, length, distance uint) []byte {
	switch l := length - 3; {
	case length == zipMaxMatch:
		dst = p.symbol(dst, 285)
	case l < 4:
		dst = p.symbol(dst, 257+l)
	default:
		extra := uint(bits.Len(l)) - 3
		dst = p.symbol(dst, 257+4*extra+l>>extra)
		dst = p.put(dst, l&(1<<extra-1), extra)
	}
	d := distance - 1
	code, extra := d, uint(0)
	if d >= 2 {
		extra = uint(bits.Len(d)) - 2
		code = 2*extra + d>>extra
	}
	dst = p.put(dst, uint(bits.Reverse8(byte(code))>>3), 5)
	return p.put(dst, d&(1<<extra-1), extra)
}

// acceptsGzip tells whether the fields of Accept-Encoding ask for gzip (RFC 9110, 12.5.3): by its name or, if that is
// not there, by *; not with a weight of 0, and not where identity is liked better. What does not parse counts as not
// said.
func acceptsGzip(fields []string) bool {
	zipped, any, identity := -1, -1, -1 // weights in thousandths
	for _, field := range fields {
		for item := range strings.SplitSeq(field, ",") {
			coding, parameters, _ := strings.Cut(item, ";")
			weight := qualityValue(parameters)
			switch strings.ToLower(strings.Trim(coding, " \t")) {
			case "gzip", "x-gzip":
				zipped = max(zipped, weight)
			case "*":
				any = max(any, weight)
			case "identity":
				identity = max(identity, weight)
			}
		}
	}
	if zipped < 0 {
		zipped = any
	}
	return zipped > 0 && zipped >= identity
}

// qualityValue reads q=0.7 as 700, nothing as 1000, and what is neither as -1.
func qualityValue(text string) int {
	text = strings.Trim(text, " \t")
	if text == "" {
		return 1000
	}
	if len(text) < 3 || text[0]|0x20 != 'q' || text[1] != '=' {
		return -1
	}
	whole, fraction, _ := strings.Cut(text[2:], ".")
	thousandths, err := strconv.ParseUint((fraction + "000")[:3], 10, 0)
	switch {
	case err != nil || len(fraction) > 3:
		return -1
	case whole == "0":
		return int(thousandths)
	case whole == "1" && thousandths == 0:
		return 1000
	}
	return -1
}
