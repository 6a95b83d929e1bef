package switchtest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// syslogSocket is one of the places where log/syslog looks, on the /run that only this switch sees.
const syslogSocket = "/run/syslog"

// Syslog is the switch's syslog socket, a datagram socket as everywhere, for what StartInside starts. Nobody reads it
// but the caller.
func (s *Switch) Syslog() (*net.UnixConn, error) {
	var c *net.UnixConn
	return c, s.Inside(func() (err error) {
		if _, err := os.Stat("/dev/log"); err == nil { // looked at first, and it is the machine's
			if err := unix.Mount("/dev/null", "/dev/log", "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("hide the machine's own syslog: %w", err)
			}
		}
		c, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: syslogSocket, Net: "unixgram"})
		return err
	})
}

// FillSyslog sends lines until the kernel takes no more: from then on a writer that waits, waits until somebody reads.
func (s *Switch) FillSyslog() error {
	return s.Inside(func() error {
		c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: syslogSocket, Net: "unixgram"})
		if err != nil {
			return err
		}
		defer c.Close()
		for err == nil {
			_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			_, err = c.Write([]byte("<30>a line of another program"))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		return nil
	})
}
