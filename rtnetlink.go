package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Link messages in and out of bytes (netlink(7), rtnetlink(7)). Byte order and alignment are the machine's own;
// everything that comes off a socket is bounds-checked here.

// linkMessage is one RTM_NEWLINK or RTM_DELLINK message. name and kind point into the receive buffer and
// are valid only until the message has been handled.
type linkMessage struct {
	index       int32
	flags       uint32 // IFF_UP: admin, IFF_RUNNING: oper
	mtu         uint32 // bytes
	master      uint32 // ifindex of the bridge or LAG, 0: none
	carrierUp   uint32
	carrierDown uint32
	hasCarrier  bool  // the kernel sent the two counts (Linux 4.16 and later)
	family      uint8 // AF_UNSPEC, or AF_BRIDGE for what a bridge says about its port
	operState   uint8 // IF_OPER_* of RFC 2863
	deleted     bool  // RTM_DELLINK
	created     bool  // RTM_NEWLINK about a link that came into being, or into this namespace: all bits of ifi_change
	name        []byte
	kind        []byte // IFLA_INFO_KIND: veth, bridge, team; empty for hardware
	retold      bool   // no message: what is known of a link,
	pending     bool   // which may have been written by nobody
}

var (
	errTruncated = errors.New("truncated")
	errAlien     = errors.New("not from the kernel")
)

// Header sizes, and what x/sys/unix has no name for.
const (
	nlmsgHeaderLen  = unix.SizeofNlMsghdr
	ifInfoLen       = unix.SizeofIfInfomsg
	attrHeaderLen   = unix.SizeofNlAttr
	attrTypeMask    = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	filterSkipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h
)

// message is one netlink message; body is a slice of the receive buffer.
type message struct {
	kind, flags uint16
	seq         uint32
	body        []byte
}

// nextMessage cuts the first message off a datagram.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < nlmsgHeaderLen {
		return m, nil, fmt.Errorf("message header of %d bytes: %w", len(b), errTruncated)
	}
	size := binary.NativeEndian.Uint32(b)
	if size < nlmsgHeaderLen || uint64(size) > uint64(len(b)) {
		return m, nil, fmt.Errorf("message of %d bytes in %d: %w", size, len(b), errTruncated)
	}
	m.kind = binary.NativeEndian.Uint16(b[4:])
	m.flags = binary.NativeEndian.Uint16(b[6:])
	m.seq = binary.NativeEndian.Uint32(b[8:])
	m.body = b[nlmsgHeaderLen:size]
	return m, b[min(align4(int(size)), len(b)):], nil
}

// errnoOf reads the errno of an NLMSG_ERROR or NLMSG_DONE body; 0 is success, for NLMSG_DONE also none.
func errnoOf(m message) error {
	if len(m.body) < 4 {
		if m.kind == unix.NLMSG_DONE {
			return nil
		}
		return fmt.Errorf("netlink error message of %d bytes: %w", len(m.body), errTruncated)
	}
	if code := int32(binary.NativeEndian.Uint32(m.body)); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}

// nextAttr cuts the first attribute off b: struct nlattr, length including its header, padded to 4.
func nextAttr(b []byte) (kind uint16, body, rest []byte, err error) {
	if len(b) < attrHeaderLen {
		return 0, nil, nil, fmt.Errorf("attribute header of %d bytes: %w", len(b), errTruncated)
	}
	size := int(binary.NativeEndian.Uint16(b))
	if size < attrHeaderLen || size > len(b) {
		return 0, nil, nil, fmt.Errorf("attribute of %d bytes in %d: %w", size, len(b), errTruncated)
	}
	kind = binary.NativeEndian.Uint16(b[2:]) & attrTypeMask
	return kind, b[attrHeaderLen:size], b[min(align4(size), len(b)):], nil
}

func align4(n int) int { return (n + 3) &^ 3 }

// parseLink reads an RTM_NEWLINK or RTM_DELLINK message into l without allocating. Unknown attributes are skipped.
func parseLink(m message, l *linkMessage) error {
	*l = linkMessage{deleted: m.kind == unix.RTM_DELLINK}
	if len(m.body) < ifInfoLen {
		return fmt.Errorf("link header of %d bytes: %w", len(m.body), errTruncated)
	}
	l.family = m.body[0]
	l.index = int32(binary.NativeEndian.Uint32(m.body[4:]))
	l.flags = binary.NativeEndian.Uint32(m.body[8:])
	l.created = !l.deleted && binary.NativeEndian.Uint32(m.body[12:]) == ^uint32(0)
	var counts int
	for rest := m.body[ifInfoLen:]; len(rest) > 0; {
		kind, body, after, err := nextAttr(rest)
		if err != nil {
			return fmt.Errorf("link %d: %w", l.index, err)
		}
		rest = after
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = text(body)
		case unix.IFLA_MTU:
			err = number(body, &l.mtu)
		case unix.IFLA_MASTER:
			err = number(body, &l.master)
		case unix.IFLA_CARRIER_UP_COUNT:
			err = number(body, &l.carrierUp)
			counts++
		case unix.IFLA_CARRIER_DOWN_COUNT:
			err = number(body, &l.carrierDown)
			counts++
		case unix.IFLA_OPERSTATE:
			if len(body) > 0 {
				l.operState = body[0]
			}
		case unix.IFLA_LINKINFO:
			l.kind, err = linkKind(body)
		}
		if err != nil {
			return fmt.Errorf("link %d attribute %d: %w", l.index, kind, err)
		}
	}
	l.hasCarrier = counts == 2
	if l.index <= 0 || len(l.name) == 0 || len(l.name) >= unix.IFNAMSIZ {
		return fmt.Errorf("link %d has no valid name %q", l.index, l.name)
	}
	return nil
}

// linkKind finds IFLA_INFO_KIND in a nested IFLA_LINKINFO.
func linkKind(b []byte) ([]byte, error) {
	for len(b) > 0 {
		kind, body, rest, err := nextAttr(b)
		if err != nil {
			return nil, err
		}
		if kind == unix.IFLA_INFO_KIND {
			return text(body), nil
		}
		b = rest
	}
	return nil, nil
}

// text cuts a string attribute at its terminating zero.
func text(b []byte) []byte {
	for i, c := range b {
		if c == 0 {
			return b[:i]
		}
	}
	return b
}

func number(b []byte, n *uint32) error {
	if len(b) < 4 {
		return fmt.Errorf("number of %d bytes: %w", len(b), errTruncated)
	}
	*n = binary.NativeEndian.Uint32(b)
	return nil
}

// linkRequest builds a request about one link, or with index 0 a dump of all. attrs follow the header as they are.
func linkRequest(kind, flags uint16, seq uint32, index int32, ifFlags, ifChange uint32, attrs ...byte) []byte {
	b := make([]byte, nlmsgHeaderLen+ifInfoLen, nlmsgHeaderLen+ifInfoLen+len(attrs))
	b = append(b, attrs...)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], flags)
	binary.NativeEndian.PutUint32(b[8:], seq)
	binary.NativeEndian.PutUint32(b[nlmsgHeaderLen+4:], uint32(index))
	binary.NativeEndian.PutUint32(b[nlmsgHeaderLen+8:], ifFlags)
	binary.NativeEndian.PutUint32(b[nlmsgHeaderLen+12:], ifChange)
	return b
}

// dumpRequest asks for every link without its statistics, which are most of a line's size.
func dumpRequest(seq uint32) []byte {
	mask := make([]byte, attrHeaderLen+4)
	binary.NativeEndian.PutUint16(mask, uint16(len(mask)))
	binary.NativeEndian.PutUint16(mask[2:], unix.IFLA_EXT_MASK)
	binary.NativeEndian.PutUint32(mask[4:], filterSkipStats)
	return linkRequest(unix.RTM_GETLINK, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, seq, 0, 0, 0, mask...)
}
