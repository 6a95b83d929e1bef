package switchtest

import (
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LinkEvent is a link message that the kernel sent, with the time when this process had it.
type LinkEvent struct {
	At    time.Time
	Name  string
	Index int
	Up    bool // IFF_UP
	Gone  bool // RTM_DELLINK
}

// LinkListener hears what a portsyncd hears: every link message in the switch's namespace. It blocks in recvfrom(2) on a thread
// of its own, so that its times are as good as they get.
type LinkListener struct {
	Messages atomic.Int64
	Lost     atomic.Bool // the kernel dropped messages: the count is too low
	hold     atomic.Bool
	closing  atomic.Bool
	fd       int
	ended    chan struct{}
	on       func(LinkEvent)
}

const (
	listenBuffer   = 256 << 20 // holds a storm while the listener is on hold
	listenPatience = 20 * time.Millisecond
)

// ListenLinks starts a listener.
func (s *Switch) ListenLinks(on func(LinkEvent)) (*LinkListener, error) {
	l := &LinkListener{on: on, ended: make(chan struct{})}
	err := s.Inside(func() (err error) {
		l.fd, err = openLinks(unix.RTMGRP_LINK)
		return err
	})
	if err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, listenBuffer)
	patience := unix.NsecToTimeval(int64(listenPatience))
	_ = unix.SetsockoptTimeval(l.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience)
	go l.run()
	return l, nil
}

func openLinks(groups uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	return fd, os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}))
}

func (l *LinkListener) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(l.ended)
	buf := make([]byte, 32<<10)
	for !l.closing.Load() {
		if l.hold.Load() {
			time.Sleep(listenPatience)
			continue
		}
		n, _, err := unix.Recvfrom(l.fd, buf, 0)
		at := time.Now()
		switch err {
		case nil:
			l.take(at, buf[:n])
		case unix.EAGAIN, unix.EINTR:
		case unix.ENOBUFS:
			l.Lost.Store(true)
		default:
			l.Lost.Store(true)
			return
		}
	}
}

func (l *LinkListener) take(at time.Time, b []byte) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return
	}
	for i := range messages {
		l.Messages.Add(1)
		if e, ok := linkEvent(&messages[i]); ok && l.on != nil {
			e.At = at
			l.on(e)
		}
	}
}

// Hold lets messages wait in the kernel, so that the listener takes no processor from what is being measured.
func (l *LinkListener) Hold(on bool) { l.hold.Store(on) }

// Filled is how much of its receive buffer waiting messages take, from 0 to 1. What is sent beyond 1 is lost.
func (l *LinkListener) Filled() (float64, error) {
	var used struct{ waiting, buffer uint32 } // the first two of SO_MEMINFO, in bytes
	size := uint32(unsafe.Sizeof(used))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(l.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&used)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, os.NewSyscallError("getsockopt SO_MEMINFO", errno)
	}
	return float64(used.waiting) / float64(used.buffer), nil
}

func linkEvent(m *syscall.NetlinkMessage) (LinkEvent, bool) {
	kind := m.Header.Type
	if kind != unix.RTM_NEWLINK && kind != unix.RTM_DELLINK || len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC {
		return LinkEvent{}, false
	}
	e := LinkEvent{
		Gone:  kind == unix.RTM_DELLINK,
		Index: int(int32(binary.NativeEndian.Uint32(m.Data[4:]))),
		Up:    binary.NativeEndian.Uint32(m.Data[8:])&unix.IFF_UP != 0,
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_IFNAME && len(a.Value) > 0 {
			e.Name = string(a.Value[:len(a.Value)-1])
		}
	}
	return e, err == nil
}

// Close ends the listener.
func (l *LinkListener) Close() {
	l.closing.Store(true)
	<-l.ended
	_ = unix.Close(l.fd)
}

// Index looks up an interface of the switch.
func (s *Switch) Index(port string) (index int, err error) {
	err = s.Inside(func() error {
		i, err := net.InterfaceByName(port)
		if err == nil {
			index = i.Index
		}
		return err
	})
	return index, err
}

// AdminSetter sets links up and down without starting a program for it.
type AdminSetter struct{ fd int }

// SetAdmin opens one.
func (s *Switch) SetAdmin() (*AdminSetter, error) {
	a := new(AdminSetter)
	return a, s.Inside(func() (err error) {
		a.fd, err = openLinks(0)
		return err
	})
}

// Set returns when the kernel has carried it out, and has told every listener.
func (a *AdminSetter) Set(index int, up bool) error {
	var b [unix.SizeofNlMsghdr + unix.SizeofIfInfomsg]byte
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_NEWLINK)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr+4:], uint32(index))
	if up {
		binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr+8:], unix.IFF_UP)
	}
	binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr+12:], unix.IFF_UP)
	return os.NewSyscallError("sendto", unix.Sendto(a.fd, b[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

func (a *AdminSetter) Close() { _ = unix.Close(a.fd) }
