package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Netlink sockets, in whatever network namespace they are opened.

// linkSockets are the two of a link source, and the namespace that they are in.
type linkSockets struct {
	sub  int // the subscription
	req  int // dump requests
	home netNSID
}

// openLinkSockets opens both. What it could open is closed again if the rest fails.
func openLinkSockets(netns string) (s linkSockets, err error) {
	s.sub, s.req = -1, -1
	err = inNetNS(netns, func(here netNSID) (err error) {
		s.home = here
		if s.sub, err = openNetlink(unix.RTMGRP_LINK, unix.SOCK_NONBLOCK); err != nil {
			return fmt.Errorf("subscribe to link messages: %w", err)
		}
		if s.req, err = openNetlink(0, unix.SOCK_NONBLOCK); err != nil {
			return fmt.Errorf("open a netlink socket for requests: %w", err)
		}
		return nil
	})
	if err != nil {
		s.close()
	}
	return s, err
}

// close closes what is open.
func (s *linkSockets) close() {
	for _, fd := range []*int{&s.sub, &s.req} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// openNetlink opens a NETLINK_ROUTE socket bound to multicast groups (a bit mask) in the calling thread's namespace.
func openNetlink(groups uint32, flags int) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|flags, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	// Linux 4.20 and later check requests strictly, and then honour RTEXT_FILTER_SKIP_STATS; older ones need neither.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	return fd, nil
}

// setReceiveBuffer asks for a receive buffer, beyond net.core.rmem_max if we may, and returns what the kernel granted.
func setReceiveBuffer(fd, size int) int {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	}
	granted, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return granted
}
