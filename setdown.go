package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// Setting old interfaces down (SONIC.md, rule 5), over a socket of its own and beside the loop: the kernel takes its
// time. A socket stays in the namespace that it was opened in, whatever becomes of the name meanwhile.

func (k *kernelLinks) SetDown(home netNSID, indexes []int32, failed func(index int32, err error)) {
	var fd int
	err := inNetNS(k.netns, func(here netNSID) (err error) {
		if here != home { // whose links have the same ifindexes
			return errMoved
		}
		fd, err = openNetlink(0, 0)
		return err
	})
	if err == nil {
		defer unix.Close(fd)
		expiry := unix.NsecToTimeval(int64(requestExpiry))
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &expiry)
	}
	for i, index := range indexes {
		each := err
		if each == nil {
			each = k.setOne(fd, uint32(i+1), index)
		}
		if each != nil {
			failed(index, each)
		}
	}
}

// setOne sets one link down, if we may.
func (k *kernelLinks) setOne(fd int, seq uint32, index int32) error {
	if k.may == nil {
		return setDown(fd, seq, index)
	}
	over, err := k.may()
	if err != nil {
		return err
	}
	defer over()
	return setDown(fd, seq, index)
}

// setDown clears IFF_UP of one link over a blocking request socket and waits for the kernel's answer.
func setDown(fd int, seq uint32, index int32) error {
	request := linkRequest(unix.RTM_NEWLINK, unix.NLM_F_REQUEST|unix.NLM_F_ACK, seq, index, 0, unix.IFF_UP)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 1024)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue
		}
		m, _, err := nextMessage(buf[:n])
		if err != nil {
			return err
		}
		if m.kind == unix.NLMSG_ERROR && m.seq == seq {
			return errnoOf(m)
		}
	}
}
