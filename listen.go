package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What the metrics server listens on: the addresses of the flags, and sockets that systemd hands over.

const (
	defaultAddress = "0.0.0.0:9090"
	listenFDsStart = 3  // SD_LISTEN_FDS_START of sd_listen_fds(3)
	maxInherited   = 64 // more descriptors than this are a mistake
	maxSocketPath  = len(unix.RawSockaddrUnix{}.Path) - 1
)

// door is one thing to listen on. Opening it may wait, for a name server for instance, and may be tried any number of
// times.
type door struct {
	name string // for the log
	open func(context.Context) (net.Listener, error)
}

// doors are what there is to listen on: first what systemd handed over, which replaces the default if the flags name
// nothing.
func doors(a *addresses, sockets []inherited) (all []door) {
	for _, s := range sockets {
		all = append(all, door{s.name(), s.open})
	}
	for _, address := range a.list() {
		if address != "" && (a.set || len(sockets) == 0) {
			open := func(ctx context.Context) (net.Listener, error) { return listen(ctx, address) }
			all = append(all, door{"-web.listen-address " + address, open})
		}
	}
	return all
}

// addresses is a flag that may be repeated; its first use replaces the default.
type addresses struct {
	values []string
	set    bool
}

func (a *addresses) String() string { return strings.Join(a.values, ",") }

func (a *addresses) Set(value string) error {
	a.values, a.set = append(a.values, value), true
	return nil
}

func (a *addresses) list() []string {
	if !a.set {
		return []string{defaultAddress}
	}
	return a.values
}

// validate finds what no waiting makes right. Whether an address can be had is another matter.
func (a *addresses) validate() error {
	for i, address := range a.values {
		if address == "" {
			continue
		}
		err := addressSyntax(address)
		if slices.Contains(a.values[:i], address) {
			err = errors.New("it is given twice")
		}
		if err != nil {
			return fmt.Errorf("-web.listen-address %s: %w", address, err)
		}
	}
	return nil
}

// addressSyntax tells what is wrong with the form of host:port or unix:/path.
func addressSyntax(address string) error {
	if path, found := strings.CutPrefix(address, "unix:"); found {
		if path == "" || len(path) > maxSocketPath {
			return fmt.Errorf("the path of a unix socket has 1 to %d bytes", maxSocketPath)
		}
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return errors.New("neither host:port nor unix:/path")
	}
	number, err := strconv.Atoi(port)
	isName := err != nil && strings.ContainsAny(port, "abcdefghijklmnopqrstuvwxyz") // of a service, such as http-alt
	if !isName && (err != nil || number < 0 || number > 0xffff) {
		return fmt.Errorf("%q is no port", port)
	}
	return nil
}

// listen opens host:port or unix:/path. ctx bounds how long a name may take to be resolved.
func listen(ctx context.Context, address string) (net.Listener, error) {
	network, where, name := "tcp", address, "-web.listen-address "+address
	path, isUnix := strings.CutPrefix(address, "unix:")
	isFile := isUnix && !strings.HasPrefix(path, "@") // which is a name of the abstract namespace
	if isFile {
		removeStale(path)
	}
	if isUnix {
		network, where = "unix", path
	} else if host, _, err := net.SplitHostPort(address); err == nil && net.ParseIP(host).To4() != nil {
		network = "tcp4" // or 0.0.0.0 would mean IPv6, too
	}
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // Go's default since 1.24: more memory a connection, for clients that nobody has
	l, err := plain.Listen(ctx, network, where)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if isFile {
		return newSocketFile(l, path, name), nil
	}
	return l, nil
}

// removeStale removes a unix socket that nobody listens on any more. Only a refused connection proves that: a listener
// whose queue is full, or whose socket is of another type or another user's, lives.
func removeStale(path string) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		_ = os.Remove(path)
	}
}

// socketFile is a unix socket, and which file it is. As long as it is open that has no other one's inode.
type socketFile struct {
	*net.UnixListener
	path string
	name string // as the flag gives it
	id   fileID
	lost atomic.Bool
	once sync.Once
}

func newSocketFile(l net.Listener, path, name string) *socketFile {
	s := &socketFile{UnixListener: l.(*net.UnixListener), path: path, name: name}
	s.SetUnlinkOnClose(false) // whose the file is then it does not look
	s.id, _ = identify(unix.AT_FDCWD, path, 0)
	return s
}

// gone says that its file was removed, or is another's by now.
func (s *socketFile) gone() bool {
	named, err := identify(unix.AT_FDCWD, s.path, 0)
	return errors.Is(err, fs.ErrNotExist) || err == nil && s.id != fileID{} && named != s.id
}

// look ends the socket if nobody can find it any more, for another one to be made. It comes at each beat, on a loop's
// thread.
func (s *socketFile) look() {
	if s.gone() && !s.lost.Swap(true) {
		go s.Close()
	}
}

func (s *socketFile) Accept() (net.Conn, error) {
	c, err := s.UnixListener.Accept()
	if err != nil && s.lost.Load() {
		err = fmt.Errorf("%s: somebody has removed it, or put another file in its place", s.name)
	}
	return c, err
}

func (s *socketFile) Close() error {
	s.once.Do(func() { // closed, it may have another one's inode
		if !s.gone() {
			_ = os.Remove(s.path)
		}
	})
	return s.UnixListener.Close()
}

// inherited is a descriptor that systemd says it handed over, sd_listen_fds(3), and what is wrong with it.
type inherited struct {
	fd  int
	bad error
}

// inheritedSockets has to be called before this process opens anything: a descriptor that was announced and is not
// there would be one of our own later on. A bad one is not touched.
func inheritedSockets() (sockets []inherited) {
	pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID"))
	text := os.Getenv("LISTEN_FDS")
	if pid != os.Getpid() || text == "" {
		return nil
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(name)
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 0 || count > maxInherited {
		return []inherited{{bad: fmt.Errorf("LISTEN_FDS=%q is no number of descriptors", text)}}
	}
	for fd := listenFDsStart; fd < listenFDsStart+count; fd++ {
		s := inherited{fd: fd}
		if listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil {
			s.bad = fmt.Errorf("%s is no listening socket: %w", s.name(), err)
		} else if listening == 0 {
			s.bad = fmt.Errorf("%s is no listening socket", s.name())
		}
		unix.CloseOnExec(fd)
		sockets = append(sockets, s)
	}
	return sockets
}

func (s *inherited) name() string {
	return fmt.Sprintf("descriptor %d handed over by systemd (LISTEN_FDS)", s.fd)
}

// open listens on a copy, so that it can be done again.
func (s *inherited) open(context.Context) (net.Listener, error) {
	if s.bad != nil {
		return nil, s.bad
	}
	fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name(), err)
	}
	file := os.NewFile(uintptr(fd), "systemd socket")
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name(), err)
	}
	return l, nil
}

// exposed tells whether others than this machine can reach a listener.
func exposed(l net.Listener) bool {
	a, ok := l.Addr().(*net.TCPAddr)
	return ok && !a.IP.IsLoopback()
}
