package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// A network namespace that is made again (SONIC.md, "Several ASICs"): a socket that was opened through the name stays
// in the old one, where it hears nothing and gets no error.

func (k *kernelLinks) Home() netNSID { return k.home }

// Follow costs one stat(2). As long as our sockets are open the old namespace lives, so the new one has another inode.
func (k *kernelLinks) Follow() (moved bool, err error) {
	if k.netns == "" { // what the process itself is in cannot be made again
		return false, nil
	}
	if named, err := netNSOf(k.netns); err != nil || named == k.home {
		return false, err
	}
	fresh, err := openLinkSockets(k.netns)
	if err != nil {
		return false, err
	}
	for _, fd := range []int{fresh.sub, fresh.req} {
		if err := unix.EpollCtl(k.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Fd: int32(fd)}); err != nil {
			fresh.close()
			return false, os.NewSyscallError("epoll_ctl", err)
		}
	}
	k.linkSockets.close()
	k.linkSockets = fresh
	k.rcvbuf = setReceiveBuffer(k.sub, k.asked)
	k.errors, k.dumping, k.dumpHeld = 0, false, false
	return true, nil
}
