package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// docs/troubleshooting.md: what the commands print in it is what they print here. make troubleshooting writes it anew;
// the same test, without the flag, holds the document against what they print today.

var troubleshootingWrite = flag.Bool("troubleshooting.write", false,
	"TestTroubleshooting writes what the commands print into the document")

const troubleshooting = "docs/troubleshooting.md"

// story is one section of the document as it happens on a switch, and what its commands have printed.
type story struct {
	*testSwitch
	d      *switchtest.Daemon
	path   string   // with a portsyncd that asks this switch
	blocks []string // of the document
	told   []string // instead of these
	heard  func()   // what follows when a command says that links are held, nil: nothing
	lenient
}

// Write takes what a command prints, as it comes.
func (o *overheard) Write(b []byte) (int, error) {
	if o.heard != nil && strings.Contains(string(b), "rtnl") {
		o.heard()
	}
	return o.Buffer.Write(b)
}

type overheard struct {
	bytes.Buffer
	heard func()
}

// lenient is what may differ in one story beside what may in all.
type lenient []struct{ what, as string }

// document is the sections by their number, and what becomes of them.
type document struct {
	mu       sync.Mutex
	sections map[string]string // by heading
	order    []string
}

var consoleBlock = regexp.MustCompile("(?s)```console\n(.*?)```\n")

func readDocument(t *testing.T) *document {
	t.Helper()
	text, err := os.ReadFile(troubleshooting)
	must(t, err)
	doc := &document{sections: map[string]string{}}
	for i, section := range strings.Split("\n"+string(text), "\n## ") {
		heading, rest, _ := strings.Cut(section, "\n")
		if i == 0 {
			heading, rest = "", strings.TrimPrefix(section, "\n")
		}
		doc.order, doc.sections[heading] = append(doc.order, heading), rest
	}
	return doc
}

// paste puts what was printed in the place of a section's blocks.
func (doc *document) paste(heading string, told []string) {
	doc.mu.Lock()
	defer doc.mu.Unlock()
	n := -1
	doc.sections[heading] = consoleBlock.ReplaceAllStringFunc(doc.sections[heading], func(block string) string {
		if n++; n < len(told) {
			return "```console\n" + told[n] + "```\n"
		}
		return block
	})
}

func (doc *document) write(t *testing.T) {
	text := doc.sections[""]
	for _, heading := range doc.order[1:] {
		text += "\n## " + heading + "\n" + doc.sections[heading]
	}
	must(t, os.WriteFile(troubleshooting, []byte(text), 0o644))
}

// What is another each time: when, how long, which process, ifindex and version.
var anyTimes = lenient{
	{`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? UTC`, "TIME"},
	{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, "TIME"},
	{`\((\d+h)?(\d+m)?\d+s ago\)`, "(D ago)"},
	{`\+(\d+h)?(\d+m)?[\d.]+(µs|ms|s) `, "+D "},
	{`after (\d+m)?[\d.]+(µs|ms|s)\b`, "after D"},
	{`request for [\d.]+s`, "request for D"},
	{`for \d+ s or longer`, "for N s or longer"},
	{`ifindex \d+`, "ifindex N"},
	{`(portsyncd +)\S+, process \d+`, "${1}VERSION, process N"},
	{`started portsyncd \S+`, "started portsyncd VERSION"},
	{` +`, " "},
	{` \n`, "\n"},
}

func (l lenient) apply(text string) string {
	for _, r := range l {
		text = regexp.MustCompile(r.what).ReplaceAllString(text, r.as)
	}
	return text
}

// same is a block without what is another each time.
func (s *story) same(block string) string { return anyTimes.apply(s.lenient.apply(block)) }

// shell runs a line of the document, and returns what a terminal shows of it.
func (s *story) shell(line string) string {
	cmd := exec.Command("sh", "-c", line)
	cmd.Env = append(os.Environ(), "PATH="+s.path+":"+os.Getenv("PATH"), "TZ=UTC")
	out := overheard{heard: s.heard}
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return "$ " + line + "\n" + strings.NewReplacer(s.Recorder(), defaultRecorderFile, s.d.Control, defaultControlSocket,
		s.Redis[0].Socket, "/var/run/redis/redis.sock", s.ConfigFile, defaultDBConfig, s.NetNS, "asic0").Replace(out.String())
}

// run has a line print what the document has, which has these words. It may take a moment until it does.
func (s *story) run(line string, words ...string) {
	s.t.Helper()
	var got, want string
	if n := len(s.told); n < len(s.blocks) {
		want = s.same(s.blocks[n])
	}
	as := func() bool {
		got = s.shell(line)
		return (*troubleshootingWrite || s.same(got) == want) &&
			!slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(got, w) })
	}
	if !eventually(as) {
		s.t.Errorf("the document has\n%s\nand this is printed, in which should be %q:\n%s\nthe same as\n%s",
			want, words, got, s.same(got))
	}
	s.told = append(s.told, got)
}

// begin takes a switch with n ports that all agree, a day after its start: another daemon, and another recorder.
func (s *story) begin(n int, flags ...string) {
	s.t.Helper()
	d, _ := s.start(n)
	for _, p := range portNames(n) {
		s.must(s.IP("link", "set", p, "mtu", switchtest.ConfiguredMTU))
		s.oper(p, "up")
		s.waitEntry(p, fields("up", "up", 9100))
	}
	d.Stop()
	s.must(os.Remove(s.Recorder()))
	s.ask(s.daemon(flags...))
	s.waitMetric(s.d, "portsyncd_port_init_done", "1")
	s.waitMetric(s.d, "portsyncd_health_status", "1")
	s.waitFor("all ports to be looked at", func() bool {
		all := s.eventsOf(portNames(n)...)
		return len(all) == n && !slices.ContainsFunc(all, func(h happened) bool { return h.Outcome != outcomes[outcomeSame] })
	})
}

// ask has the document's portsyncd ask a daemon, whatever is in its flags.
func (s *story) ask(d *switchtest.Daemon) {
	s.t.Helper()
	s.d, s.path = d, s.t.(*testing.T).TempDir()
	run := "exec '" + strings.Join(s.program, "' '") + "' $command"
	text := fmt.Sprintf("#!/bin/sh\ncommand=$1; shift\ncase $command in\nstatus) %s -control.socket %s \"$@\" ;;\n"+
		"events) %[1]s -recorder.file %[3]s \"$@\" ;;\ndiff) %[1]s -db.config %[4]s -netns %[5]s \"$@\" ;;\nesac\n",
		run, d.Control, s.Recorder(), s.ConfigFile, s.NetNS)
	s.must(os.WriteFile(filepath.Join(s.path, "portsyncd"), []byte(text), 0o755))
}

// oper is what orchagent says of a port.
func (s *story) oper(port, state string) {
	s.t.Helper()
	s.must(s.Appl.HSet(s.t.Context(), "PORT_TABLE:"+port, "oper_status", state).Err())
}

// operUp says whether the kernel has a port's interface running.
func (s *story) operUp(port string) bool {
	out, err := exec.Command("ip", "-n", s.NetNS, "-o", "link", "show", port).Output()
	s.must(err)
	return strings.Contains(string(out), "state UP")
}

// storySwitch is what some stories happen on, one after the other.
type storySwitch struct {
	stories []string // numbers
	alone   bool     // nothing else can happen meanwhile
	begin   func(s *story)
	tell    map[string]func(s *story)
}

var storySwitches = map[string]storySwitch{
	"links": {begin: func(s *story) { s.begin(4, "-netlink.receive-buffer", "64KiB") },
		stories: []string{"1", "2", "6", "3"},
		tell:    map[string]func(s *story){"1": cableStory, "2": adminStory, "6": overrunStory, "3": breakoutStory}},
	"orchagent": {begin: func(*story) {}, stories: []string{"4"}, tell: map[string]func(s *story){"4": orchagentStory}},
	"redis": {begin: func(s *story) { s.begin(4) }, stories: []string{"5"},
		tell: map[string]func(s *story){"5": redisStory}},
	"writer": {begin: func(s *story) { s.begin(4, "-reconcile-interval", "10s") }, stories: []string{"7"},
		tell: map[string]func(s *story){"7": writerStory}},
	"fight": {begin: func(s *story) { s.begin(4, "-reconcile-interval", "1s") }, stories: []string{"8"},
		tell: map[string]func(s *story){"8": fightStory}},
	"namespace": {begin: func(s *story) { s.begin(4) }, stories: []string{"10"},
		tell: map[string]func(s *story){"10": namespaceStory}},
	"rtnl": {alone: true, begin: func(s *story) { s.begin(4, "-reconcile-interval", "1s") }, stories: []string{"9"},
		tell: map[string]func(s *story){"9": rtnlStory}},
}

// TestTroubleshooting: each story of the document happens, and its commands print what it says.
func TestTroubleshooting(t *testing.T) {
	doc := readDocument(t)
	t.Cleanup(func() {
		if *troubleshootingWrite && !t.Failed() {
			doc.write(t)
		}
	})
	told := map[string]bool{}
	for name, sw := range storySwitches {
		for _, number := range sw.stories {
			told[number] = true
		}
		t.Run(name, func(t *testing.T) {
			if !sw.alone {
				t.Parallel()
			}
			s := &story{testSwitch: newSwitch(t, switchtest.Options{})}
			sw.begin(s)
			for _, number := range sw.stories {
				heading := doc.order[slices.IndexFunc(doc.order, func(h string) bool { return strings.HasPrefix(h, number+". ") })]
				s.blocks, s.told, s.lenient = nil, nil, nil
				for _, block := range consoleBlock.FindAllStringSubmatch(doc.sections[heading], -1) {
					s.blocks = append(s.blocks, block[1])
				}
				sw.tell[number](s)
				if len(s.told) != len(s.blocks) {
					t.Errorf("%s: %d commands, and the document has %d", heading, len(s.told), len(s.blocks))
				}
				doc.paste(heading, s.told)
			}
		})
	}
	for _, heading := range doc.order[1:] {
		number, _, isStory := strings.Cut(heading, ". ")
		if isStory && !told[number] {
			t.Errorf("nobody tells %q", heading)
		}
	}
}

func cableStory(s *story) {
	s.must(s.SetCable(false, "Ethernet8"))
	s.waitEntry("Ethernet8", fields("down", "up", 9100))
	s.oper("Ethernet8", "down")
	s.must(s.State.HSet(s.t.Context(), "PORT_OPERR_TABLE|Ethernet8", "oper_error_status", "1").Err())
	s.run("portsyncd status", "Ethernet8  Eth3  down")
	s.run("portsyncd events Ethernet8", "carrier lost", "written after", "mac_local_fault")
	s.run("portsyncd diff", "agree")
	s.must(s.SetCable(true, "Ethernet8"))
	s.waitEntry("Ethernet8", fields("up", "up", 9100))
	s.oper("Ethernet8", "up")
}

func adminStory(s *story) {
	config := func(state string) {
		s.must(s.Config.HSet(s.t.Context(), s.ConfigKey("PORT", "Ethernet4"), "admin_status", state).Err())
		s.must(s.IP("link", "set", "Ethernet4", state))
		s.oper("Ethernet4", state)
		s.waitEntry("Ethernet4", fields(state, state, 9100))
	}
	config("down")
	s.run("portsyncd status -ports", "Ethernet4   Eth2")
	s.run("portsyncd events Ethernet4", "admin down", "written after")
	s.run("portsyncd diff", "agree")
	config("up")
}

// overrunStory: the daemon does not get to read while links that are no ports change without end, and then one that is.
func overrunStory(s *story) {
	s.must(s.Batch(s.NetNS, "link add eth1 type veth peer name eth2"))
	s.must(s.d.Signal(syscall.SIGSTOP))
	s.must(s.Flap(200, "eth1"))
	s.must(s.Flap(3, "Ethernet0"))
	s.waitFor("its carrier", func() bool { return s.operUp("Ethernet0") }) // the kernel has it up to a second later
	s.must(s.d.Signal(syscall.SIGCONT))
	s.run("portsyncd events | grep -v health | tail -n 2", "link messages lost", "3 more losses")
	s.run("portsyncd status", "overruns       1")
	s.run("portsyncd diff", "agree")
}

// breakoutStory: Ethernet12 becomes four ports, as portmgrd and orchagent do it, but one interface.
func breakoutStory(s *story) {
	ctx := s.t.Context()
	s.must(s.IP("link", "set", "Ethernet12", "down"))
	s.waitEntry("Ethernet12", fields("down", "down", 9100))
	s.must(s.Config.Del(ctx, s.ConfigKey("PORT", "Ethernet12")).Err())
	s.must(s.Appl.Del(ctx, "PORT_TABLE:Ethernet12").Err())
	s.must(s.IP("link", "del", "Ethernet12"))
	s.waitEntry("Ethernet12", nil)
	for i := range 4 {
		name := fmt.Sprintf("Ethernet%d", 12+i)
		row := []any{"alias", fmt.Sprintf("Eth4/%d", i+1), "lanes", fmt.Sprint(13 + i), "speed", "25000", "admin_status",
			"up", "mtu", switchtest.ConfiguredMTU}
		s.must(s.Config.HSet(ctx, s.ConfigKey("PORT", name), row...).Err())
		s.must(s.Appl.HSet(ctx, "PORT_TABLE:"+name, row...).Err())
	}
	for _, name := range []string{"Ethernet12", "Ethernet13", "Ethernet15"} {
		s.must(s.AddPorts(name))
		s.must(s.IP("link", "set", name, "mtu", switchtest.ConfiguredMTU))
		s.oper(name, "up")
		s.waitEntry(name, fields("up", "up", 9100))
	}
	s.run("portsyncd status", "Ethernet14  Eth4/3  pending")
	s.run("portsyncd events Ethernet12 | head -n 3", "admin down", "deleted")
	s.run("portsyncd events Ethernet14", "nothing is recorded of Ethernet14")
	s.run("portsyncd diff", "Ethernet14 differs", "1 of 7 ports differ")
}

func orchagentStory(s *story) {
	s.must(s.Configure(s.t.Context(), 4))
	s.ask(s.daemon())
	s.waitMetric(s.d, "portsyncd_port_config_done", "1")
	s.run("portsyncd status", "waits for Ethernet0, Ethernet4, Ethernet8, Ethernet12")
	s.run("portsyncd events | grep -v health", "PortConfigDone sent")
	s.run("portsyncd diff Ethernet0", "orchagent has not been told")
}

func redisStory(s *story) {
	s.Redis[0].Stop()
	s.waitMetric(s.d, "portsyncd_redis_connected", "0")
	s.must(s.SetCable(false, "Ethernet8"))
	s.run("portsyncd status", "redis:", "connection refused", "queue:", "3 up, 1 down")
	s.run("portsyncd events Ethernet8", "carrier lost", "failed, trying again")
	s.run("portsyncd diff; echo exit code $?", "connection refused", "exit code 2")
	s.must(s.Redis[0].Start())
	s.must(s.Configure(s.t.Context(), 4))
	s.orchagent(false)
	s.run("portsyncd events Ethernet8 | grep carrier", "carrier lost", "written after")
}

func writerStory(s *story) {
	s.waitMetric(s.d, `portsyncd_resyncs_total{reason="reconcile"}`, "1") // soon after a restart; it would find what follows
	before := ""
	s.waitFor("the end of that comparison", func() bool {
		last := before
		before = s.metric(s.d, "portsyncd_redis_commands_total")
		time.Sleep(200 * time.Millisecond)
		return before == last
	})
	s.must(s.State.HSet(s.t.Context(), s.StateKey("Ethernet8"), "netdev_oper_status", "down").Err())
	s.run("portsyncd diff", "oper: STATE_DB has down, the kernel up")
	s.run("portsyncd status", "put 1 entries right", "repairs        1")
	s.run("portsyncd events Ethernet8", "repaired", "STATE_DB had admin up, oper down")
}

func fightStory(s *story) {
	ctx, stop := context.WithCancel(s.t.Context())
	defer stop()
	go func() {
		for ctx.Err() == nil {
			s.State.HSet(ctx, s.StateKey("Ethernet8"), "netdev_oper_status", "down")
			time.Sleep(20 * time.Millisecond)
		}
	}()
	s.waitFor("a fight", func() bool { return s.d.Logged("level=ERROR", "keeps changing", "Ethernet8") > 0 })
	s.lenient = lenient{{`repairs +(1[2-9]|[2-9]\d)\n`, "repairs 12\n"}}
	s.run("portsyncd status", "keeps changing", "Ethernet8")
	s.run("portsyncd events Ethernet8 | tail -n 2", "repaired")
	s.run("portsyncd diff", "oper: STATE_DB has down, the kernel up")
}

func rtnlStory(s *story) {
	release := s.holdLinks(s.t.(*testing.T))
	s.run("portsyncd status", "netlink: the kernel has had a request for")
	s.run("portsyncd events | tail -n 1", "health", "netlink: the kernel has had a request for")
	s.heard = sync.OnceFunc(release) // the command has said it all, and ends when the kernel gives its thread back
	s.run("portsyncd diff; echo exit code $?", "rtnl", "exit code 2")
}

// namespaceStory: what the name of the network namespace leads to is another one, as when a switch starts the container
// that it belongs to again.
func namespaceStory(s *story) {
	netns := func(args ...string) {
		out, err := exec.Command("ip", append([]string{"netns"}, args...)...).CombinedOutput()
		if err != nil {
			s.t.Fatalf("%v: %s", err, out)
		}
	}
	s.must(s.d.Signal(syscall.SIGSTOP)) // it does not see the new one half made
	netns("del", s.NetNS)
	netns("add", s.NetNS)
	for i, p := range portNames(4) {
		s.must(s.Batch(s.NetNS, fmt.Sprintf("link add %s type veth peer name new%d netns %s", p, i, s.FarNS),
			"link set "+p+" mtu "+switchtest.ConfiguredMTU+" up"))
		s.must(s.Batch(s.FarNS, fmt.Sprintf("link set new%d up", i)))
		s.must(s.settleAgain(p, i != 2)) // the third has no cable
	}
	s.oper("Ethernet8", "down")
	s.must(s.d.Signal(syscall.SIGCONT))
	s.run("portsyncd status", "3 up, 1 down", "Ethernet8  Eth3  down")
	s.run("portsyncd events | grep 'namespace made again'", "network namespace")
	s.run("portsyncd events Ethernet8 | tail -n 1", "oper down", "written")
	s.run("portsyncd diff", "agree")
}

// settleAgain waits until a port of the new namespace is as it is going to be.
func (s *story) settleAgain(port string, up bool) error {
	if !up {
		if err := s.Batch(s.FarNS, "link set new2 down"); err != nil {
			return err
		}
	}
	s.waitFor("the carrier of "+port, func() bool { return s.operUp(port) == up })
	return nil
}
