package switchtest

import (
	"fmt"
	"strings"
)

// DropNetNS takes the front panel's namespace its name. It lives on as long as a socket is open in it, with its links,
// and nobody is told.
func (s *Switch) DropNetNS() error { return run("ip", "netns", "del", s.NetNS) }

// MakeNetNS makes it again, empty.
func (s *Switch) MakeNetNS() error { return run("ip", "netns", "add", s.NetNS) }

// AddPortsAs creates interfaces with these ifindexes, whose cables are plugged in at ends of names of their own.
func (s *Switch) AddPortsAs(indexes map[string]int) error {
	var near, far []string
	for p, index := range indexes {
		end := "new" + strings.TrimPrefix(p, "Ethernet")
		near = append(near, fmt.Sprintf("link add %s index %d type veth peer name %s netns %s", p, index, end, s.FarNS))
		far = append(far, fmt.Sprintf("link set %s up", end))
	}
	for p := range indexes {
		near = append(near, fmt.Sprintf("link set %s up", p))
	}
	if err := s.Batch(s.NetNS, near...); err != nil {
		return err
	}
	return s.Batch(s.FarNS, far...)
}
