package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"weak"

	"golang.org/x/sys/unix"

	"portsyncd/internal/switchtest"
)

// testdata/links.bin holds real messages of a Linux 6.18 kernel, little-endian, one after the other as the kernel sent them, and
// links-kinds.bin those of Debian's 6.1, which has more kinds of links; the .txt files say what they are.
// `go test -run TestRecordedMessages -record links` records the one anew, `make test-vm RECORD=yes` the other.
var record = flag.String("record", "", "record testdata/NAME.bin from this machine's kernel: links or links-kinds")

// recording is what ip(8) and bridge(8) did while the kernel's messages were recorded, and what has to be in it.
type recording struct {
	commands, words []string
}

var recordings = map[string]recording{
	"links": { // the life of a port
		[]string{
			"link add Ethernet0 type veth peer name far0",
			"link set Ethernet0 up",
			"link set far0 up",
			"link set Ethernet0 mtu 9100",
			"link add Bridge type bridge",
			"link set Ethernet0 master Bridge",
			"link set Ethernet0 nomaster",
			"link set Ethernet0 down",
			"link set Ethernet0 name Ethernet4",
			"link del Ethernet4",
		},
		[]string{"family=7", "DEL Ethernet0", "DEL Ethernet4", "master=4", "mtu=9100", "kind=veth", "kind=bridge"},
	},
	"links-kinds": { // a port under masters of each kind, and what lies on it
		[]string{
			"link add Ethernet0 type veth peer name far0",
			"link set far0 up",
			"link property add dev Ethernet0 altname Ethernet100 altname a-name-that-is-longer-than-IFNAMSIZ-grants",
			"link add PortChannel1 type bond mode active-backup miimon 10",
			"link set Ethernet0 master PortChannel1",
			"link set PortChannel1 up",
			"link set Ethernet0 nomaster",
			"link del PortChannel1",
			"link add PortChannel2 type team",
			"link set Ethernet0 down",
			"link set Ethernet0 master PortChannel2",
			"link set PortChannel2 up",
			"link set Ethernet0 nomaster",
			"link del PortChannel2",
			"link add Vrf1 type vrf table 1001",
			"link set Ethernet0 master Vrf1",
			"link set Ethernet0 nomaster",
			"link del Vrf1",
			"link add Bridge type bridge vlan_filtering 1",
			"link set Ethernet0 up",
			"link set Ethernet0 master Bridge",
			"bridge vlan add vid 10-12 dev Ethernet0 tagged",
			"link add link Bridge name Vlan10 type vlan id 10",
			"link del Bridge",
			"link add link Ethernet0 name Ethernet0.10 type vlan id 10",
			"link del Ethernet0.10",
			"link add link Ethernet0 name macsec_eth0 type macsec encrypt on",
			"link del macsec_eth0",
			"link add Ethernet4 up type dummy",
			"link set Ethernet4 carrier off",
			"link del Ethernet4",
			"netdevsim new_device 7 1",
			"link set eth0 name Ethernet8",
			"link set Ethernet8 up",
			"netdevsim del_device 7",
			"link del Ethernet0",
		},
		[]string{"family=7", "DEL Ethernet0 ", "DEL Ethernet0.10", "NEW PortChannel1", "DEL Ethernet8", "kind=bond", "kind=team", "kind=vrf",
			"kind=vlan", "kind=macsec", "kind=dummy", "kind=bridge"},
	},
}

func recordingPath(name string) string { return filepath.Join("testdata", name+".bin") }

// collector is a sink that writes down what it is given.
type collector struct {
	lines    []string
	bad      []error
	losses   []string
	dumpEnds int
	dumpErr  error
	messages int
}

func describe(m *linkMessage) string {
	what := "NEW"
	if m.deleted {
		what = "DEL"
	}
	return fmt.Sprintf("%s %s index=%d family=%d flags=%#x mtu=%d master=%d operstate=%d carrier=%v/%d/%d kind=%s",
		what, m.name, m.index, m.family, m.flags, m.mtu, m.master, m.operState, m.hasCarrier, m.carrierUp, m.carrierDown, m.kind)
}

func (c *collector) live(m *linkMessage)             { c.lines = append(c.lines, describe(m)) }
func (c *collector) dumped(m *linkMessage)           { c.lines = append(c.lines, "dump "+describe(m)) }
func (c *collector) dumpDone(_ bool, err error)      { c.dumpEnds++; c.dumpErr = err }
func (c *collector) lost(why string)                 { c.losses = append(c.losses, why) }
func (c *collector) malformed(err error)             { c.bad = append(c.bad, err) }
func (c *collector) received(_ time.Time, count int) { c.messages += count }

// openLinks opens a link source in a switch's namespace.
func (s *testSwitch) openLinks() *kernelLinks {
	s.t.Helper()
	k, err := openKernelLinks(s.NetNS, 4<<20)
	s.must(err)
	s.t.Cleanup(k.Close)
	return k
}

// receive reads until a condition holds.
func (s *testSwitch) receive(k *kernelLinks, c linkSink, what string, holds func() bool) {
	s.t.Helper()
	s.waitFor(what, func() bool {
		_, err := k.Receive(c)
		s.must(err)
		return holds()
	})
}

// bridge runs bridge(8) in the front panel's namespace.
func (s *testSwitch) bridge(args ...string) error {
	out, err := exec.Command("bridge", append([]string{"-n", s.NetNS}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("bridge %v: %w: %s", args, err, out)
	}
	return nil
}

// netdevsim writes to a file of the kernel's simulated switch, from within the front panel's namespace: there the ports are made.
func (s *testSwitch) netdevsim(file string, words ...string) error {
	return s.Inside(func() error {
		return os.WriteFile(filepath.Join("/sys/bus/netdevsim", file), []byte(strings.Join(words, " ")), 0o200)
	})
}

func recordMessages(t *testing.T, name string) {
	s := newSwitch(t, switchtest.Options{})
	k := s.openLinks()
	k.receiveBuffer = k.buffers.take()
	for _, command := range recordings[name].commands {
		args := strings.Fields(command)
		switch args[0] {
		case "bridge":
			s.must(s.bridge(args[1:]...))
		case "netdevsim":
			s.must(s.netdevsim(args[1], args[2:]...))
		default:
			s.must(s.IP(args...))
		}
	}
	var all []byte
	last := []byte("far0\x00") // goes with the last port
	s.waitFor("the last deletion", func() bool {
		for {
			n, err := k.readBatch()
			if err != nil {
				return slices.ContainsFunc(split(t, all), func(m []byte) bool {
					return binary.NativeEndian.Uint16(m[4:]) == unix.RTM_DELLINK && bytes.Contains(m, last)
				})
			}
			for i := range n {
				all = append(all, k.buf[i*batchBufLen:][:k.headers[i].len]...)
			}
		}
	})
	c := new(collector)
	takeDatagram(all, new(linkMessage), c)
	for path, b := range map[string][]byte{recordingPath(name): all, goldenPath(name): []byte(strings.Join(c.lines, "\n") + "\n")} {
		s.must(os.MkdirAll(filepath.Dir(path), 0o755))
		s.must(os.WriteFile(path, b, 0o644))
	}
}

func goldenPath(name string) string { return filepath.Join("testdata", name+".txt") }

// split cuts a recording into its messages, headers included.
func split(t testing.TB, b []byte) (messages [][]byte) {
	for len(b) > 0 {
		_, rest, err := nextMessage(b)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, b[:len(b)-len(rest)])
		b = rest
	}
	return messages
}

func readRecording(t testing.TB, name string) []byte {
	b, err := os.ReadFile(recordingPath(name))
	if err != nil {
		t.Fatal(err)
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		for rest := b; len(rest) > 0; {
			rest = rest[swapMessage(rest):]
		}
	}
	return b
}

// swapMessage turns a little-endian message into what a big-endian kernel would have sent, as far as the parser reads it, and returns its length.
func swapMessage(b []byte) int {
	size := align4(int(binary.LittleEndian.Uint32(b)))
	for _, field := range [][2]int{{0, 4}, {4, 2}, {6, 2}, {8, 4}, {12, 4}, {18, 2}, {20, 4}, {24, 4}, {28, 4}} { // struct nlmsghdr, struct ifinfomsg
		slices.Reverse(b[field[0]:][:field[1]])
	}
	swapAttrs(b[nlmsgHeaderLen+ifInfoLen:size], false)
	return size
}

func swapAttrs(b []byte, nested bool) {
	for len(b) >= attrHeaderLen {
		size, kind := int(binary.LittleEndian.Uint16(b)), binary.LittleEndian.Uint16(b[2:])&attrTypeMask
		body := b[attrHeaderLen:size]
		slices.Reverse(b[:2])
		slices.Reverse(b[2:4])
		switch {
		case nested:
		case kind == unix.IFLA_LINKINFO:
			swapAttrs(body, true)
		case kind == unix.IFLA_MTU, kind == unix.IFLA_MASTER, kind == unix.IFLA_CARRIER_UP_COUNT, kind == unix.IFLA_CARRIER_DOWN_COUNT:
			slices.Reverse(body)
		}
		b = b[min(align4(size), len(b)):]
	}
}

func TestRecordedMessages(t *testing.T) {
	if *record != "" {
		recordMessages(t, *record)
	}
	for name, r := range recordings {
		t.Run(name, func(t *testing.T) {
			c := new(collector)
			takeDatagram(readRecording(t, name), new(linkMessage), c)
			want, err := os.ReadFile(goldenPath(name))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(c.lines, "\n") + "\n"; got != string(want) || len(c.bad) > 0 {
				t.Errorf("parsed as:\n%swant:\n%serrors: %v", got, want, c.bad)
			}
			for _, word := range r.words {
				if !strings.Contains(string(want), word) {
					t.Errorf("the recording lacks a message with %s", word)
				}
			}
		})
	}
}

func TestParsingDoesNotAllocate(t *testing.T) {
	messages := slices.Concat(split(t, readRecording(t, "links")), split(t, readRecording(t, "links-kinds")))
	l := new(linkMessage)
	allocs := testing.AllocsPerRun(100, func() {
		for _, raw := range messages {
			m, _, err := nextMessage(raw)
			if err != nil || parseLink(m, l) != nil {
				t.Fatal("a recorded message is broken")
			}
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// TestBrokenMessages truncates and bends real messages: an error each, never a panic.
func TestBrokenMessages(t *testing.T) {
	whole := split(t, readRecording(t, "links"))[0]
	bend := func(at int, to ...byte) []byte { b := slices.Clone(whole); copy(b[at:], to); return b }
	attr := nlmsgHeaderLen + ifInfoLen
	big := binary.NativeEndian.AppendUint32(nil, 1<<31)
	for name, b := range map[string][]byte{
		"half a header":         whole[:10],
		"cut off":               whole[:len(whole)-8],
		"length 0":              bend(0, 0, 0, 0, 0),
		"length beyond the end": bend(0, big...),
		"no link header":        append(binary.NativeEndian.AppendUint32(nil, 20), append(slices.Clone(whole[4:16]), 0, 0, 0, 0)...),
		"attribute too short":   bend(attr, binary.NativeEndian.AppendUint16(nil, 3)...),
		"attribute too long":    bend(attr, binary.NativeEndian.AppendUint16(nil, 65535)...),
		"no name":               bend(attr+2, binary.NativeEndian.AppendUint16(nil, 999)...),
		"unknown type":          bend(4, binary.NativeEndian.AppendUint16(nil, unix.RTM_NEWADDR)...),
	} {
		c := new(collector)
		takeDatagram(b, new(linkMessage), c)
		if len(c.bad) != 1 || len(c.lines) != 0 {
			t.Errorf("%s: %d errors %v, parsed %v", name, len(c.bad), c.bad, c.lines)
		}
	}
	c := new(collector)
	takeDatagram(slices.Concat(bend(attr+2, binary.NativeEndian.AppendUint16(nil, 999)...), whole), new(linkMessage), c)
	if len(c.bad) != 1 || len(c.lines) != 1 {
		t.Error("a bad message takes the good one after it along")
	}
}

func TestErrorAndDoneCarryAnErrno(t *testing.T) {
	code := func(kind uint16, n int32) message {
		return message{kind: kind, body: binary.NativeEndian.AppendUint32(nil, uint32(n))}
	}
	for _, c := range []struct {
		m    message
		want error
	}{
		{code(unix.NLMSG_ERROR, 0), nil},
		{code(unix.NLMSG_ERROR, -int32(unix.EBUSY)), unix.EBUSY},
		{code(unix.NLMSG_DONE, 0), nil},
		{code(unix.NLMSG_DONE, -int32(unix.ENOMEM)), unix.ENOMEM},
		{message{kind: unix.NLMSG_DONE}, nil},
		{message{kind: unix.NLMSG_ERROR}, errTruncated},
	} {
		if got := errnoOf(c.m); !errors.Is(got, c.want) || (got == nil) != (c.want == nil) {
			t.Errorf("%+v: %v, want %v", c.m, got, c.want)
		}
	}
}

func TestOverrunMessage(t *testing.T) {
	b := make([]byte, nlmsgHeaderLen)
	binary.NativeEndian.PutUint32(b, nlmsgHeaderLen)
	binary.NativeEndian.PutUint16(b[4:], unix.NLMSG_OVERRUN)
	c := new(collector)
	takeDatagram(b, new(linkMessage), c)
	if len(c.losses) != 1 {
		t.Error("NLMSG_OVERRUN was not taken for a loss")
	}
}

func FuzzDatagram(f *testing.F) {
	for name := range recordings {
		whole := readRecording(f, name)
		f.Add(whole)
		for _, m := range split(f, whole) {
			f.Add(m)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := slices.Clone(b)
		c := &checker{t: t}
		takeDatagram(b, new(linkMessage), c)
		if !slices.Equal(before, b) {
			t.Error("the datagram was written to")
		}
		if c.links+len(c.bad)+len(c.losses) > len(b)/nlmsgHeaderLen+1 {
			t.Errorf("%d messages out of %d bytes", c.links, len(b))
		}
	})
}

// checker is a sink that accepts no link that makes no sense.
type checker struct {
	collector
	t     *testing.T
	links int
}

func (c *checker) live(m *linkMessage) {
	c.links++
	if m.index <= 0 || len(m.name) == 0 || len(m.name) >= unix.IFNAMSIZ || slices.Contains(m.name, 0) {
		c.t.Errorf("a link that cannot be: %s", describe(m))
	}
}

// TestNamespaceThatIsNotThereYet is told from other errors: nothing there, a link that leads nowhere, the file on
// which ip netns add mounts it in a moment.
func TestNamespaceThatIsNotThereYet(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink("/proc/0/ns/net", filepath.Join(dir, "dangling")))
	must(t, os.WriteFile(filepath.Join(dir, "unmounted"), nil, 0o644))
	for name, want := range map[string]error{
		"nothing": errNoNetNS, "dangling": errNoNetNS, "unmounted": errNoNetNS, "unmounted/asic0": errConfig,
	} {
		k, err := openKernelLinks(filepath.Join(dir, name), 1<<20)
		if !errors.Is(err, want) || k != nil {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

// TestForeignSender: only the kernel, port id 0, is listened to.
func TestForeignSender(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	k := s.openLinks()
	us, err := unix.Getsockname(k.sub)
	s.must(err)
	forger := s.openLinks()
	forged := split(t, readRecording(t, "links"))[0]
	s.must(unix.Sendto(forger.req, forged, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: us.(*unix.SockaddrNetlink).Pid}))
	c := new(collector)
	s.receive(k, c, "the forged message", func() bool { return len(c.bad) > 0 })
	if !errors.Is(c.bad[0], errAlien) || len(c.lines) != 0 {
		t.Errorf("it was taken as %v %v", c.bad, c.lines)
	}
}

func TestDumpOfManyLinks(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	names := portNames(200)
	s.must(s.AddPorts(names...))
	k := s.openLinks()
	s.must(k.StartDump())
	c := new(collector)
	s.receive(k, c, "the dump's end", func() bool { return c.dumpEnds > 0 })
	lines := slices.DeleteFunc(c.lines, func(line string) bool { return !strings.HasPrefix(line, "dump ") }) // not the live ones beside it
	if c.dumpErr != nil || len(c.bad) > 0 || len(lines) != len(names)+1 {
		t.Errorf("%d lines, error %v, malformed %v; want %d ports and lo", len(lines), c.dumpErr, c.bad, len(names))
	}
	for _, p := range names {
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, "dump NEW "+p+" ") }) {
			t.Errorf("%s is missing", p)
		}
	}
}

func TestSetDownReportsWhatFailed(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	s.must(s.AddPorts("Ethernet0"))
	k := s.openLinks()
	index := map[string]int32{}
	s.must(k.StartDump())
	sink := &indexes{collector: new(collector), of: index}
	s.receive(k, sink, "the dump's end", func() bool { return sink.dumpEnds > 0 })
	failed := map[int32]error{}
	k.SetDown(k.Home(), []int32{99999, index["Ethernet0"]}, func(i int32, err error) { failed[i] = err })
	if len(failed) != 1 || !errors.Is(failed[99999], unix.ENODEV) || s.adminUp("Ethernet0") {
		t.Errorf("failures %v; Ethernet0 up: %v", failed, s.adminUp("Ethernet0"))
	}
}

// indexes notes the ifindex of each name in a dump.
type indexes struct {
	*collector
	of map[string]int32
}

func (i *indexes) dumped(m *linkMessage) { i.of[string(m.name)] = m.index }

// TestOverrunIsNoticed makes the socket buffer tiny and lets it overflow.
func TestOverrunIsNoticed(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	s.must(s.AddPorts("Ethernet0"))
	k := s.openLinks()
	s.must(unix.SetsockoptInt(k.sub, unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	s.must(s.Flap(50, "Ethernet0"))
	c := new(collector)
	s.receive(k, c, "the overrun", func() bool { return len(c.losses) > 0 })
}

func TestWakeEndsWait(t *testing.T) {
	s := newSwitch(t, switchtest.Options{KeepAwayDBs: true})
	k := s.openLinks()
	k.Wake() // before the wait, as a race would have it
	s.must(k.Wait(-1))
	go k.Wake()
	s.must(k.Wait(-1))
	start := time.Now()
	s.must(k.Wait(20 * time.Millisecond))
	if waited := time.Since(start); waited < 20*time.Millisecond {
		t.Errorf("a wait of 20 ms without any news ended after %v", waited)
	}
}

func BenchmarkParseLink(b *testing.B) {
	messages, l := split(b, readRecording(b, "links")), new(linkMessage)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m, _, _ := nextMessage(messages[i%len(messages)])
		if err := parseLink(m, l); err != nil {
			b.Fatal(err)
		}
	}
}

// TestFailedReadIsALoss: what recvmmsg says once is a message that is lost, and what it says again and again is a dead
// socket. A refused datagram is the one error that can be had at will, so the subscription is such a socket here.
func TestFailedReadIsALoss(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	k := s.openLinks()
	refused, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	s.must(err)
	defer unix.Close(refused)
	nobody, err := switchtest.FreePort()
	s.must(err)
	s.must(unix.Connect(refused, &unix.SockaddrInet4{Port: nobody, Addr: [4]byte{127, 0, 0, 1}}))
	s.must(unix.Dup3(refused, k.sub, unix.O_CLOEXEC))
	c := new(collector)
	for i := range 2 * readErrors { // each time it is read to its end
		_, err := unix.Write(refused, []byte("?"))
		s.must(err)
		s.receive(k, c, "the refusal", func() bool { return len(c.losses) == i+1 })
		s.receive(k, c, "the end of the queue", func() bool { return k.errors == 0 })
	}
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	s.must(err)
	defer unix.Close(null)
	s.must(unix.Dup3(null, k.sub, unix.O_CLOEXEC))
	if _, err := k.Receive(c); !errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("a dead socket: %v", err)
	}
}

// TestRecordedKindsByTheRules plays what Debian's kernel sent to the syncer, a message at a time: masters that end delete nothing, what
// lies on a port is none (but takes intfmgrd's entry with it), a team is teamsyncd's, and a bond of that name is not.
func TestRecordedKindsByTheRules(t *testing.T) {
	b := runningBench(t, "Ethernet0", "Ethernet4", "Ethernet8", "Ethernet100", "PortChannel1", "PortChannel2")
	for _, m := range split(t, readRecording(t, "links-kinds")) {
		takeDatagram(m, new(linkMessage), b)
		b.settleDown()
	}
	var deleted []string
	for _, done := range b.db.done {
		what, port, _ := strings.Cut(done, " ")
		port, _, _ = strings.Cut(port, " ")
		switch {
		case what == "DEL":
			deleted = append(deleted, port)
		case !slices.Contains([]string{"Ethernet0", "Ethernet4", "Ethernet8", "PortChannel1"}, port):
			t.Errorf("%s was published: %s", port, done)
		}
	}
	if want := []string{"PortChannel1", "Ethernet0.10", "Ethernet4", "Ethernet8", "Ethernet0"}; !slices.Equal(deleted, want) {
		t.Errorf("entries were deleted of %v, want %v, in the order of the commands", deleted, want)
	}
	last := len(b.db.done) - 1
	if !slices.Contains(b.db.done[:last], "SET Ethernet0 up/up 1500") || b.db.done[last] != "DEL Ethernet0" {
		t.Errorf("written was %q", b.db.done)
	}
}

// TestDroppedBufferIsGone: nothing of the last message keeps it.
func TestDroppedBufferIsGone(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	k := s.openLinks()
	k.buffers = new(bufferShare)
	buffer := func() weak.Pointer[receiveBuffer] {
		b := k.buffers.take()
		k.buffers.give(b)
		return weak.Make(b)
	}()
	s.must(s.IP("link", "add", "Ethernet0", "type", "veth", "peer", "name", "far0"))
	var heard heardLinks
	if _, err := k.Receive(&heard); err != nil || heard == 0 {
		t.Fatalf("%d messages were heard: %v", heard, err)
	}
	k.buffers.drop()
	trimHeap()
	if buffer.Value() != nil {
		t.Error("a buffer that was dropped stays in memory")
	}
	runtime.KeepAlive(k)
}

// heardLinks counts live messages.
type heardLinks int

func (h *heardLinks) live(*linkMessage)     { *h++ }
func (*heardLinks) dumped(*linkMessage)     {}
func (*heardLinks) dumpDone(bool, error)    {}
func (*heardLinks) malformed(error)         {}
func (*heardLinks) received(time.Time, int) {}
func (*heardLinks) lost(string)             {}

// TestLongBridgeMessageIsNoLoss: what a bridge says of its port (AF_BRIDGE), with more than 8 KiB of VLANs, is no lost link message.
func TestLongBridgeMessageIsNoLoss(t *testing.T) {
	k := &kernelLinks{buffers: new(bufferShare)}
	k.receiveBuffer = k.buffers.take()
	b := k.buf[:batchBufLen]
	binary.NativeEndian.PutUint32(b, 17<<10) // 2,047 VLANs without neighbours are 16 KiB
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_NEWLINK)
	b[nlmsgHeaderLen] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(b[nlmsgHeaderLen+4:], 7)
	k.headers[0].len = batchBufLen
	k.headers[0].hdr.Flags = unix.MSG_TRUNC
	c := new(collector)
	k.takeLive(0, c)
	if len(c.losses) > 0 {
		t.Errorf("a message of a bridge about its port counts as an overrun: %q", c.losses)
	}
}

// TestWakeAfterClose: whoever wakes the loop may come when it has ended, and the number of its eventfd is another file's.
func TestWakeAfterClose(t *testing.T) {
	k, err := openKernelLinks("", 1<<20)
	must(t, err)
	event := k.event
	k.Close()
	var other [2]int
	must(t, unix.Pipe2(other[:], unix.O_NONBLOCK|unix.O_CLOEXEC))
	defer unix.Close(other[0])
	if other[1] != event { // somebody else's descriptor, which got the number
		must(t, unix.Dup3(other[1], event, unix.O_CLOEXEC))
		defer unix.Close(event)
	}
	defer unix.Close(other[1])
	k.Wake()
	if n, _ := unix.Read(other[0], make([]byte, 16)); n > 0 {
		t.Errorf("%d bytes are written to a file of somebody else", n)
	}
}
