package switchtest

import (
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of linux/userfaultfd.h and linux/ethtool.h that x/sys/unix has no name for.
const (
	uffdAPI           = 0xaa
	uffdioAPI         = 0xc018aa3f
	uffdioRegister    = 0xc020aa00
	uffdioZeropage    = 0xc020aa04
	uffdMissing       = 1
	uffdEvent         = 32 // sizeof(struct uffd_msg)
	ethtoolGetStrings = 0x1b
)

// HoldLinks is the body of a process that holds the kernel's lock on links (rtnl) until it is killed, and no longer
// than limit: it asks for something of a port with an ethtool ioctl that reads its argument under the lock, and the
// argument lies on a page that is not there. The lock is one for all namespaces: whoever else has to do with links
// waits, too. It is a process of its own, so that no fault of what is tested can make it longer.
func HoldLinks(port string, limit time.Duration) error {
	page := unix.Getpagesize()
	memory, err := unix.Mmap(-1, 0, 2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("userfaultfd", errno)
	}
	absent := [4]uint64{uint64(uintptr(unsafe.Pointer(&memory[page]))), uint64(page), uffdMissing}
	for _, step := range []struct {
		request uintptr
		arg     *[4]uint64
	}{{uffdioAPI, &[4]uint64{uffdAPI}}, {uffdioRegister, &absent}} {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, step.request, uintptr(unsafe.Pointer(step.arg)))
		if errno != 0 {
			return os.NewSyscallError("userfaultfd ioctl", errno)
		}
	}
	command := &memory[page-4] // what the kernel reads before it takes the lock, and the rest behind it
	*(*uint32)(unsafe.Pointer(command)) = ethtoolGetStrings
	refused, held := make(chan error, 1), make(chan error, 1)
	go func() { refused <- ethtool(port, unsafe.Pointer(command)) }()
	go func() {
		_, err := unix.Read(int(fd), make([]byte, uffdEvent))
		held <- err
	}()
	select {
	case err := <-refused:
		return fmt.Errorf("the kernel did not look at the argument of the ethtool ioctl on %s: %w", port, err)
	case err := <-held:
		if err == nil {
			fmt.Println(holding)
			time.Sleep(limit)
		}
		return os.NewSyscallError("read from userfaultfd", err)
	}
}

const holding = "holding the lock on links"

// ethtool is SIOCETHTOOL of ioctl(2) with a command's structure.
func ethtool(port string, command unsafe.Pointer) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	request := struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of the union
	}{data: command}
	copy(request.name[:], port)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	return errno
}

// HeldLinks runs a program that calls HoldLinks for a port of the switch, and returns once the lock is held. release
// ends that.
func (s *Switch) HeldLinks(program ...string) (release func(), err error) {
	d, err := s.StartInside(program...)
	if err != nil {
		return nil, err
	}
	release = func() {
		_ = d.Signal(os.Kill)
		<-d.ended
	}
	err = WaitFor(10*time.Second, "the lock on links", func() bool { return d.Logged(holding) > 0 || !d.Running() })
	if err == nil && d.Logged(holding) == 0 {
		err = fmt.Errorf("the lock on links is not held: %s", d.Log())
	}
	return release, err
}
