package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// The daemon under a real supervisord, as in the swss container, with a listener that follows the protocol of
// supervisord's event listeners and reports what SONiC's supervisor-proc-exit-listener does (SONIC.md, "What supervises
// it").

// listenerVariable makes the test binary that listener: it names the file of what it reports.
const listenerVariable = "PORTSYNCD_TEST_LISTENER"

// stuckReport is when the test's listener calls a program stuck: a beat comes every 5 to 6 s. SONiC's waits a minute.
const stuckReport = beatInterval + 2*shortBeat

// listenToSupervisor answers each event, and reports heartbeats, ends, and silence of the programs that are watched.
func listenToSupervisor(report string, watched []string, in io.Reader, out io.Writer) error {
	file, err := os.OpenFile(report, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	events := make(chan map[string]string)
	go readEvents(bufio.NewReader(in), out, events)
	last := map[string]time.Time{}
	for {
		select {
		case e := <-events:
			switch {
			case e == nil:
				return io.EOF
			case e["eventname"] == "PROCESS_STATE_EXITED":
				fmt.Fprintln(file, "ended", e["processname"])
			case e["eventname"] == "PROCESS_COMMUNICATION_STDOUT" && slices.Contains(watched, e["processname"]):
				fmt.Fprintf(file, "%s %s\n", e["data"], e["processname"])
				last[e["processname"]] = time.Now()
			}
		case <-time.After(100 * time.Millisecond):
		}
		for name, at := range last { // who never had one is not known to have any
			if time.Since(at) >= stuckReport {
				fmt.Fprintln(file, "stuck", name)
				delete(last, name)
			}
		}
	}
}

// readEvents follows supervisord's protocol: READY, a line of tokens, a payload of the length that it gives, RESULT.
func readEvents(in *bufio.Reader, out io.Writer, events chan<- map[string]string) {
	defer close(events)
	tokens := func(e map[string]string, line string) {
		for _, token := range strings.Fields(line) {
			key, value, _ := strings.Cut(token, ":")
			e[key] = value
		}
	}
	for {
		fmt.Fprint(out, "READY\n")
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		e := map[string]string{}
		tokens(e, line)
		n, _ := strconv.Atoi(e["len"])
		payload := make([]byte, n)
		if _, err := io.ReadFull(in, payload); err != nil {
			return
		}
		head, data, _ := strings.Cut(string(payload), "\n")
		tokens(e, head)
		e["data"] = data
		events <- e
		fmt.Fprint(out, "RESULT 2\nOK")
	}
}

// supervisorBlock is deploy's, for the test: another name and command, and started without supervisord-dependent-startup.
func supervisorBlock(t *testing.T, dir, name string, command []string) string {
	t.Helper()
	text, err := os.ReadFile("deploy/supervisord/portsyncd.conf")
	must(t, err)
	block := string(text)
	for _, edit := range [][2]string{
		{`(?m)^\[program:portsyncd\]$`, "[program:" + name + "]"},
		{`(?m)^command=/usr/sbin/portsyncd -supervisor.heartbeat$`,
			"command=" + strings.Join(command, " ") + " -supervisor.heartbeat"},
		{`(?m)^autostart=false$`, "autostart=true"},
		{`(?m)^stdout_logfile=NONE\nstdout_syslog=true$`, "stdout_logfile=" + filepath.Join(dir, name+".stdout")},
		{`(?m)^stderr_logfile=NONE\nstderr_syslog=true$`, "stderr_logfile=" + filepath.Join(dir, name+".stderr")},
	} {
		pattern := regexp.MustCompile(edit[0])
		if !pattern.MatchString(block) {
			t.Fatalf("the block has no %s", edit[0])
		}
		block = pattern.ReplaceAllLiteralString(block, edit[1])
	}
	return block
}

// TestHeartbeatUnderSupervisord: a stopped daemon is reported as stuck, one whose Redis is down is not.
func TestHeartbeatUnderSupervisord(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	needTool(t, "supervisord")
	s.must(s.Configure(t.Context(), 1))
	program := daemonProgram(t)
	common := append(program[:len(program):len(program)], "-log.output", "stderr", "-web.listen-address", `""`,
		"-recorder.file", `""`, "-netns", s.NetNS)
	withRedis := append(common[:len(common):len(common)], "-db.config", s.ConfigFile, "-control.socket", s.Dir+"/a.sock")
	alone := append(common[:len(common):len(common)], "-standalone", "-control.socket", s.Dir+"/b.sock")
	report := filepath.Join(s.Dir, "report")
	config := fmt.Sprintf(`[supervisord]
nodaemon=true
logfile=%[1]s/supervisord.log
pidfile=%[1]s/supervisord.pid

[eventlistener:supervisor-proc-exit-listener]
command=%[2]s portsyncd stopped
environment=%[3]s="%[4]s"
events=PROCESS_STATE_EXITED,PROCESS_STATE_RUNNING,PROCESS_COMMUNICATION_STDOUT
autostart=true
autorestart=unexpected
buffer_size=1024

`, s.Dir, os.Args[0], listenerVariable, report)
	config += supervisorBlock(t, s.Dir, "portsyncd", withRedis) + "\n" + supervisorBlock(t, s.Dir, "stopped", alone)
	file := filepath.Join(s.Dir, "supervisord.conf")
	s.must(os.WriteFile(file, []byte(config), 0o644))
	supervisor, err := switchtest.StartProgram("supervisord", "-n", "-c", file)
	s.must(err)
	t.Cleanup(func() {
		supervisor.Stop()
		if t.Failed() {
			t.Logf("supervisord printed:\n%s", tail(supervisor.Log()))
		}
	})
	reported := func(line string) int {
		text, _ := os.ReadFile(report)
		return bytes.Count(text, []byte(line+"\n"))
	}
	s.waitFor("both hearts to beat", func() bool { return reported("heartbeat portsyncd") > 0 && reported("heartbeat stopped") > 0 })
	s.waitFor("PortConfigDone", func() bool {
		text, _ := os.ReadFile(filepath.Join(s.Dir, "portsyncd.stderr"))
		return bytes.Contains(text, []byte("PortConfigDone sent"))
	})
	s.Redis[0].Stop()
	pid := regexp.MustCompile(`spawned: 'stopped' with pid (\d+)`).FindStringSubmatch(supervisor.Log())
	if pid == nil {
		t.Fatalf("supervisord has not started it:\n%s", supervisor.Log())
	}
	number, err := strconv.Atoi(pid[1])
	s.must(err)
	s.must(syscall.Kill(number, syscall.SIGSTOP))
	defer func() { _ = syscall.Kill(number, syscall.SIGCONT) }()
	before := reported("heartbeat portsyncd")
	s.waitFor("the stopped one to be reported as stuck", func() bool { return reported("stuck stopped") == 1 })
	s.waitFor("a beat without Redis", func() bool { return reported("heartbeat portsyncd") > before })
	if reported("stuck portsyncd") > 0 || reported("ended portsyncd") > 0 {
		t.Error("a daemon whose Redis is down is taken for stuck, or has ended")
	}
	for _, name := range []string{"portsyncd", "stopped"} {
		if rest, err := os.ReadFile(filepath.Join(s.Dir, name+".stdout")); err != nil || len(rest) > 0 {
			t.Errorf("beside its beats, %s printed %q, %v: a line in syslog with each", name, rest, err)
		}
	}
}

// TestProcessesFilesOfSupervisor: a line each, as supervisor-proc-exit-listener reads them. A file with another form
// ends it, and with it the container.
func TestProcessesFilesOfSupervisor(t *testing.T) {
	for _, name := range []string{"watchdog_processes", "critical_processes"} {
		text, err := os.ReadFile("deploy/supervisord/" + name)
		must(t, err)
		if string(text) != "program:portsyncd\n" {
			t.Errorf("%s is %q", name, text)
		}
	}
}

// TestHeartbeatWaitsForNobody: stdout's reader hangs, and then goes.
func TestHeartbeatWaitsForNobody(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 1))
	o := s.orchagent(true)
	reader, writer := newPipe(t)
	fill := make([]byte, 1)
	for full := false; !full; { // to the last byte: a mark that had room would not wait
		s.must(writer.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)))
		_, err := writer.Write(fill)
		full = err != nil
	}
	d, err := s.StartDaemonOn(writer, daemonProgram(t), "-supervisor.heartbeat", "-log.output", "syslog")
	s.must(err)
	t.Cleanup(d.Stop)
	s.must(writer.Close())
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	s.waitEntry("Ethernet0", fields("up", "up", 1500))
	s.must(reader.Close())
	for mtu := range 5 {
		s.must(s.IP("link", "set", "Ethernet0", "mtu", fmt.Sprint(1400+mtu)))
		s.waitEntry("Ethernet0", fields("up", "up", 1400+mtu))
	}
	s.must(d.Signal(syscall.SIGTERM))
	if code, err := d.Wait(patience); err != nil || code != exitOK {
		t.Errorf("it ended with code %d, %v", code, err)
	}
}
