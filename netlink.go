package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's link messages, read from raw AF_NETLINK sockets. Byte order and alignment are the
// machine's own (netlink(7)); everything that comes off the socket is bounds-checked here.

// linkSink takes what a link source receives, on the goroutine that called Receive.
type linkSink interface {
	live(m *linkMessage)                  // a message of the subscription
	dumped(m *linkMessage)                // a line of the dump under way
	dumpDone(interrupted bool, err error) // its end; interrupted: NLM_F_DUMP_INTR, links changed meanwhile
	lost(why string)                      // messages of the subscription were lost
	malformed(err error)                  // a message was dropped; the stream goes on
	received(at time.Time, messages int)  // comes before the messages of one read
}

// linkSource is where the syncer's link messages come from: the kernel, or a test's recording.
type linkSource interface {
	// Receive hands what waits to the sink without blocking. more says that it stopped before the end,
	// so that other work gets its turn. An error is final: the source is of no more use.
	Receive(sink linkSink) (more bool, err error)
	// StartDump asks for every link; the lines come through Receive. One dump at a time.
	StartDump() error
	// DropDump gives up the one that is under way: none of its lines comes any more.
	DropDump()
	// Wait blocks until a message waits, Wake was called or d has passed (negative: no limit).
	Wait(d time.Duration) error
	// Pause lets d pass without looking at the messages, which queue in the kernel.
	Pause(d time.Duration)
	// Wake ends a Wait, now or the next one. Any goroutine may call it.
	Wake()
	// Rouse is Wake that ends a Pause, too: nothing is gained by letting messages gather any longer.
	Rouse()
	// SetDown sets links of a namespace administratively down and blocks until the kernel did, calling failed for each
	// that it would not: for all of them if the name is another namespace's by now. Any goroutine may call it.
	SetDown(home netNSID, indexes []int32, failed func(index int32, err error))
	// Home is the namespace that the messages come from.
	Home() netNSID
	// Follow looks which namespace has the name. If it is another one than Home, messages come from there from now on,
	// and nothing that an ifindex stood for before means anything (moved). An error says that there is none.
	Follow() (moved bool, err error)
}

const (
	readsPerTurn  = 64 // reads of one Receive, so that other work gets its turn in a storm
	readErrors    = 16 // in a row that make a socket dead
	requestExpiry = 2 * time.Second
)

// kernelLinks is the link source that reads the kernel. All but Wake, Rouse and SetDown belong to one goroutine.
type kernelLinks struct {
	linkSockets
	netns    string
	may      func() (over func(), err error) // asked before a link is set down, and told when it is; nil: we may
	waking   sync.Mutex                      // of event, which a Wake may come too late for
	event    int                             // eventfd behind Wake, -1: none, or none any more
	roused   atomic.Bool                     // Rouse was called
	timer    int                             // timerfd that ends a Wait
	timerAt  time.Time
	poll     int // epoll instance of all of these
	poller   *os.File
	parked   syscall.RawConn
	look     func(fd uintptr) bool
	ready    [4]unix.EpollEvent
	count    [8]byte // what an eventfd or timerfd says
	asked    int     // bytes of receive buffer,
	rcvbuf   int     // and what the kernel granted
	errors   int     // of the subscription since it was last read to its end
	parsed   linkMessage
	dumpSeq  uint32
	dumping  bool
	dumpIntr bool
	dumpHeld bool    // the kernel is still at one that was given up: ours is asked for again at its end
	status   *health // is told of system calls that wait for rtnl; nil: nobody

	*receiveBuffer              // while something is received
	buffers        *bufferShare // where it is from
}

// openKernelLinks opens the sockets in a network namespace: a name under /run/netns, a path, or empty for our own.
// buffer is the size in bytes to ask for the receive buffer.
func openKernelLinks(netns string, buffer int) (*kernelLinks, error) {
	k := &kernelLinks{netns: netns, event: -1, timer: -1, asked: buffer, buffers: new(bufferShare)}
	var err error
	if k.linkSockets, err = openLinkSockets(netns); err != nil {
		return nil, err
	}
	if err := k.openPoll(); err != nil {
		k.Close()
		return nil, err
	}
	k.rcvbuf = setReceiveBuffer(k.sub, buffer)
	return k, nil
}

// openPoll makes the epoll instance in which Wait waits, and gives it to Go's poller. The sockets are watched for one
// event at a time (EPOLLONESHOT): registered with Go's poller themselves, every message of a storm would wake the
// process whether it reads or not. The timer is the kernel's, because for one of its own the runtime wakes a second
// thread.
func (k *kernelLinks) openPoll() (err error) {
	if k.event, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	if k.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return os.NewSyscallError("timerfd_create", err)
	}
	if k.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	// which is how os.NewFile knows what can be polled; from here on Close closes it
	if err := unix.SetNonblock(k.poll, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	k.poller = os.NewFile(uintptr(k.poll), "epoll")
	for fd, events := range map[int]uint32{k.event: unix.EPOLLIN, k.timer: unix.EPOLLIN, k.sub: 0, k.req: 0} {
		if err := unix.EpollCtl(k.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events,
			Fd: int32(fd)}); err != nil {
			return os.NewSyscallError("epoll_ctl", err)
		}
	}
	k.look = k.lookUp
	k.parked, err = k.poller.SyscallConn()
	return err
}

// awaitKernelLinks is openKernelLinks for a namespace that is not there yet: it looks for it until ctx ends.
func awaitKernelLinks(ctx context.Context, netns string, buffer int) (*kernelLinks, error) {
	look := time.NewTicker(netNSPause)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if k, err := openKernelLinks(netns, buffer); !errors.Is(err, errNoNetNS) {
				return k, err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close closes the sockets. No other method may be running, but Wake and Rouse, which do nothing any more: the number
// of the eventfd may soon be another file's.
func (k *kernelLinks) Close() {
	if k.poller != nil {
		_ = k.poller.Close()
	}
	k.linkSockets.close()
	k.waking.Lock()
	event := k.event
	k.event = -1
	k.waking.Unlock()
	for _, fd := range []int{event, k.timer} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (k *kernelLinks) Receive(sink linkSink) (more bool, err error) {
	k.receiveBuffer = k.buffers.take()
	defer func() {
		k.buffers.give(k.receiveBuffer)
		k.receiveBuffer, k.parsed.name, k.parsed.kind = nil, nil, nil // nothing of it is ours any more
	}()
	for range readsPerTurn {
		n, err := k.readBatch()
		switch err {
		case nil:
			sink.received(time.Now(), n)
			for i := range n {
				k.takeLive(i, sink)
			}
			continue // a short batch is not the end: an error or a signal may have cut it
		case unix.ENOBUFS:
			sink.lost("the socket buffer overran")
			continue
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			k.errors = 0
		default: // the kernel's own trouble with a message (ENOMEM, EMSGSIZE), which nobody will hear of again
			if k.errors++; k.errors > readErrors {
				return false, os.NewSyscallError("recvmmsg", err)
			}
			sink.lost("reading a message failed: " + err.Error())
			continue
		}
		if k.dumping {
			return k.readDump(sink)
		}
		return false, nil
	}
	return true, nil
}

// readBatch receives up to batchLen datagrams of the subscription. A raw system call, because the one of
// x/sys/unix allocates a sender's address for every message; what waits here is taken without any lock on links.
func (k *kernelLinks) readBatch() (int, error) {
	for i := range k.headers {
		k.headers[i].hdr.Namelen = unix.SizeofSockaddrNetlink
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(k.sub), uintptr(unsafe.Pointer(&k.headers[0])),
		batchLen, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// takeLive hands on the messages of one datagram of the subscription.
func (k *kernelLinks) takeLive(i int, sink linkSink) {
	if k.senders[i].Pid != 0 {
		sink.malformed(fmt.Errorf("message from port id %d: %w", k.senders[i].Pid, errAlien))
		return
	}
	if k.headers[i].hdr.Flags&unix.MSG_TRUNC != 0 {
		if k.buf[i*batchBufLen+nlmsgHeaderLen] == unix.AF_BRIDGE { // a port of many VLANs: nothing about the device
			return
		}
		sink.lost(fmt.Sprintf("a message was longer than %d bytes", batchBufLen))
		return
	}
	takeDatagram(k.buf[i*batchBufLen:][:k.headers[i].len], &k.parsed, sink)
}

// takeDatagram parses one datagram of the subscription into the sink.
func takeDatagram(b []byte, l *linkMessage, sink linkSink) {
	for len(b) > 0 {
		m, rest, err := nextMessage(b)
		if err != nil {
			sink.malformed(err)
			return
		}
		b = rest
		switch m.kind {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			if err := parseLink(m, l); err != nil {
				sink.malformed(err)
				continue
			}
			sink.live(l)
		case unix.NLMSG_OVERRUN:
			sink.lost("the kernel reported an overrun")
		case unix.NLMSG_NOOP:
		default:
			sink.malformed(fmt.Errorf("message of type %d among link messages", m.kind))
		}
	}
}

func (k *kernelLinks) DropDump() { k.dumping = false }

func (k *kernelLinks) StartDump() error {
	k.dumpSeq++
	return k.askDump()
}

// askDump sends the request for the dump under way.
func (k *kernelLinks) askDump() error {
	k.enterKernel()
	// the first datagram is made before this returns
	err := unix.Sendto(k.req, dumpRequest(k.dumpSeq), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	k.leaveKernel()
	if err != nil {
		k.dumping = false
		return fmt.Errorf("ask the kernel for all links: %w", err)
	}
	k.dumping, k.dumpIntr, k.dumpHeld = true, false, false
	return nil
}

func (k *kernelLinks) enterKernel() {
	if k.status != nil {
		k.status.enterKernel(time.Now())
	}
}

func (k *kernelLinks) leaveKernel() {
	if k.status != nil {
		k.status.leaveKernel(time.Now())
	}
}

// recvDump receives into a message header from the socket of requests. It is here that the kernel makes the dump's
// next datagram, for which it needs rtnl. Not a raw system call: for the runtime that would be Go code that goes on
// and on, and its collector would stop every other goroutine until that ends.
func (k *kernelLinks) recvDump(h *unix.Msghdr) (int, unix.Errno) {
	k.enterKernel()
	defer k.leaveKernel()
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(k.req), uintptr(unsafe.Pointer(h)), unix.MSG_DONTWAIT)
	return int(n), errno
}

// readDump takes one datagram of the dump, so that live messages are looked at in between.
func (k *kernelLinks) readDump(sink linkSink) (more bool, err error) {
	h, buf := &k.headers[0].hdr, k.buf[:dumpBufLen]
	h.Namelen = unix.SizeofSockaddrNetlink
	k.iovecs[0].SetLen(dumpBufLen)
	n, errno := k.recvDump(h)
	k.iovecs[0].SetLen(batchBufLen)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return false, nil
	case errno != 0:
		k.dumping = false
		sink.dumpDone(false, os.NewSyscallError("recvmsg", errno))
	case k.senders[0].Pid != 0:
		sink.malformed(fmt.Errorf("dump from port id %d: %w", k.senders[0].Pid, errAlien))
	case h.Flags&unix.MSG_TRUNC != 0:
		k.dumping = false
		sink.dumpDone(false, fmt.Errorf("dump longer than %d bytes a message: %w", dumpBufLen, errTruncated))
	default:
		sink.received(time.Now(), 0)
		k.takeDump(buf[:n], sink)
	}
	return k.dumping, nil
}

// takeDump parses one datagram of the dump into the sink.
func (k *kernelLinks) takeDump(b []byte, sink linkSink) {
	for len(b) > 0 && k.dumping {
		m, rest, err := nextMessage(b)
		if err != nil {
			k.dumping = false
			sink.dumpDone(k.dumpIntr, err)
			return
		}
		b = rest
		if m.seq != k.dumpSeq { // what is left of a dump that was given up
			if k.dumpHeld && m.kind == unix.NLMSG_DONE {
				if err := k.askDump(); err != nil {
					sink.dumpDone(false, err)
				}
			}
			continue
		}
		k.dumpIntr = k.dumpIntr || m.flags&unix.NLM_F_DUMP_INTR != 0
		switch m.kind {
		case unix.RTM_NEWLINK:
			if err := parseLink(m, &k.parsed); err != nil {
				sink.malformed(err)
				k.dumpIntr = true // a link that the listing lacks may exist all the same
				continue
			}
			sink.dumped(&k.parsed)
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			err := errnoOf(m)
			if k.dumpHeld = err == unix.EBUSY; k.dumpHeld { // one dump a socket
				continue
			}
			k.dumping = false
			sink.dumpDone(k.dumpIntr, err)
		}
	}
}

func (k *kernelLinks) Wait(d time.Duration) error {
	if err := k.setTimer(d); err != nil {
		return os.NewSyscallError("timerfd_settime", err)
	}
	for _, fd := range []int{k.sub, k.req} {
		if fd == k.req && !k.dumping {
			break
		}
		if err := unix.EpollCtl(k.poll, unix.EPOLL_CTL_MOD, fd,
			&unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(fd)}); err != nil {
			return os.NewSyscallError("epoll_ctl", err)
		}
	}
	return k.parked.Read(k.look)
}

// setTimer makes a Wait end after d, or somewhat earlier if a former one would have.
func (k *kernelLinks) setTimer(d time.Duration) error {
	now := time.Now()
	if d < 0 || k.timerAt.After(now) && !k.timerAt.After(now.Add(d)) {
		return nil
	}
	d = max(d, time.Microsecond) // zero would disarm it
	k.timerAt = now.Add(d)
	return unix.TimerfdSettime(k.timer, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil)
}

// lookUp tells whether there is a reason to go on. It takes raw system calls, which do not wait: any other one has the
// runtime's monitor wake up, if that sleeps, to see how long it takes.
func (k *kernelLinks) lookUp(fd uintptr) bool {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&k.ready[0])),
		uintptr(len(k.ready)), 0, 0, 0)
	if errno != 0 {
		return false
	}
	for _, e := range k.ready[:n] {
		if e.Fd == int32(k.event) || e.Fd == int32(k.timer) {
			_, _ = rawIO(unix.SYS_READ, uintptr(e.Fd), k.count[:])
		}
	}
	return n > 0
}

// Pause waits on the timer alone: one of the runtime's own would wake a second thread. Who calls Wake wakes it for
// nothing; what it was for is done afterwards.
func (k *kernelLinks) Pause(d time.Duration) {
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		if left <= 0 || k.roused.Swap(false) || k.setTimer(left) != nil || k.parked.Read(k.look) != nil {
			return
		}
	}
}

func (k *kernelLinks) Rouse() {
	k.roused.Store(true)
	k.Wake()
}

func (k *kernelLinks) Wake() {
	k.waking.Lock()
	defer k.waking.Unlock()
	if k.event < 0 {
		return
	}
	one := [8]byte{}
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(k.event, one[:])
}
