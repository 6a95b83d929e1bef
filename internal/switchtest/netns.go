package switchtest

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// DropNetNS takes the front panel's namespace its name. It lives on as long as a socket is open in it, with its links,
// and nobody is told.
func (s *Switch) DropNetNS() error { return run("ip", "netns", "del", s.NetNS) }

// MakeNetNS makes it again, with interfaces of these ifindexes. It gets its name when they are there and up, so that
// nobody who waits for the name sees it without them.
func (s *Switch) MakeNetNS(indexes map[string]int) error {
	const names = "/run/netns/"
	made := s.NetNS + "-made"
	if err := run("ip", "netns", "add", made); err != nil {
		return err
	}
	err := s.addPortsIn(made, indexes)
	if err == nil {
		err = os.WriteFile(names+s.NetNS, nil, 0)
	}
	if err == nil {
		err = unix.Mount(names+made, names+s.NetNS, "", unix.MS_BIND, "")
	}
	return errors.Join(err, run("ip", "netns", "del", made))
}

// AddPortsAs creates interfaces with these ifindexes, whose cables are plugged in at ends of names of their own.
func (s *Switch) AddPortsAs(indexes map[string]int) error { return s.addPortsIn(s.NetNS, indexes) }

func (s *Switch) addPortsIn(netns string, indexes map[string]int) error {
	var near, far []string
	for p, index := range indexes {
		end := "new" + strings.TrimPrefix(p, "Ethernet")
		near = append(near, fmt.Sprintf("link add %s index %d type veth peer name %s netns %s", p, index, end, s.FarNS))
		far = append(far, fmt.Sprintf("link set %s up", end))
	}
	for p := range indexes {
		near = append(near, fmt.Sprintf("link set %s up", p))
	}
	if err := s.Batch(netns, near...); err != nil {
		return err
	}
	return s.Batch(s.FarNS, far...)
}
