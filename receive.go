package main

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Receive buffers: the kernel sends one message a datagram on a multicast group, and fills what it is given (up to
// 32 KiB) in a dump. A link message is 1 to 2 KiB.
const (
	batchLen    = 16
	batchBufLen = 8 << 10
	dumpBufLen  = 32 << 10

	spareBuffers = 2 // as many as threads run at a time
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// receiveBuffer is what one read of a socket needs. Nothing in it outlives the read.
type receiveBuffer struct {
	headers [batchLen]mmsghdr
	iovecs  [batchLen]unix.Iovec
	senders [batchLen]unix.RawSockaddrNetlink
	buf     [batchLen * batchBufLen]byte
}

// bufferShare is what is left of buffers by whoever has no need of one at the moment: several namespaces share as many
// as there are threads. The zero value is ready.
type bufferShare struct {
	mu   sync.Mutex
	free []*receiveBuffer
}

func (s *bufferShare) take() *receiveBuffer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := len(s.free) - 1; last >= 0 {
		b := s.free[last]
		s.free = s.free[:last]
		return b
	}
	b := new(receiveBuffer)
	for i := range b.headers {
		b.iovecs[i].Base = &b.buf[i*batchBufLen]
		b.iovecs[i].SetLen(batchBufLen)
		h := &b.headers[i].hdr
		h.Iov, h.Name = &b.iovecs[i], (*byte)(unsafe.Pointer(&b.senders[i]))
		h.SetIovlen(1)
	}
	return b
}

// drop leaves nothing of them: whoever reads next makes one, of which only what it fills is in memory.
func (s *bufferShare) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = nil
}

func (s *bufferShare) give(b *receiveBuffer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) < spareBuffers {
		s.free = append(s.free, b)
	}
}
