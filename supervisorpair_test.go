package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"portsyncd/internal/switchtest"
)

// TestPairUnderSupervisord: deploy's two programs in a real supervisord. One that is killed is replaced and started again, and the container ends
// when supervisord has given up both.
func TestPairUnderSupervisord(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	needTool(t, "supervisord")
	s.must(s.Configure(t.Context(), 2))
	s.orchagent(true)
	program := daemonProgram(t)
	binary := filepath.Join(s.Dir, "portsyncd-now") // supervisord cannot start what is not there
	s.must(os.Symlink(program[0], binary))
	listener, err := filepath.Abs("deploy/supervisord/portsyncd-pair-listener")
	s.must(err)
	text, err := os.ReadFile("deploy/supervisord/portsyncd-pair.conf")
	s.must(err)
	block := string(text)
	edit := func(pattern, with string) {
		t.Helper()
		re := regexp.MustCompile(pattern)
		if !re.MatchString(block) {
			t.Fatalf("the blocks have no %s", pattern)
		}
		block = re.ReplaceAllString(block, with)
	}
	command := strings.Join(append([]string{binary}, program[1:]...), " ")
	edit(`(?m)^command=/usr/sbin/portsyncd (-standby -instance )(.)( -supervisor.heartbeat).*$`, fmt.Sprintf("command=%s ${1}${2}$3"+
		` -db.config %s -netns %s -web.listen-address "" -recorder.file "" -log.output stderr -control.socket %s/$2.sock`,
		command, s.ConfigFile, s.NetNS, s.Dir))
	edit(`(?m)^command=/usr/sbin/portsyncd-pair-listener`, "command="+listener)
	edit(`(?m)^autostart=false$`, "autostart=true")
	edit(`(?m)^std(out|err)_logfile=NONE\nstd(out|err)_syslog=true$`, "")
	edit(`(?m)^startretries=3$`, "startretries=1")
	edit(`(?m)^stderr_syslog=true$`, "stderr_logfile="+s.Dir+"/listener")
	config := filepath.Join(s.Dir, "supervisord.conf")
	s.must(os.WriteFile(config, []byte(fmt.Sprintf("[supervisord]\nnodaemon=true\nlogfile=%[1]s/supervisord.log\npidfile=%[1]s/supervisord.pid\n"+
		"childlogdir=%[1]s\n\n", s.Dir)+block), 0o644))
	supervisor, err := switchtest.StartProgram("supervisord", "-n", "-c", config)
	s.must(err)
	t.Cleanup(func() {
		supervisor.Stop()
		if t.Failed() {
			t.Logf("supervisord printed:\n%s", tail(supervisor.Log()))
		}
	})
	pid := func(name string) int {
		all := regexp.MustCompile(`spawned: '`+name+`' with pid (\d+)`).FindAllStringSubmatch(supervisor.Log(), -1)
		if len(all) == 0 {
			return 0
		}
		n, err := strconv.Atoi(all[len(all)-1][1])
		s.must(err)
		return n
	}
	says := func(instance string, words ...string) func() bool {
		return func() bool {
			_, out, _ := statusOf(t, filepath.Join(s.Dir, instance+".sock"))
			for _, w := range words {
				if !strings.Contains(out, w) {
					return false
				}
			}
			return true
		}
	}
	both := func(writer, standby string) []string {
		return []string{"instance       " + writer + ": writer, ok,", "instance       " + standby + ": standby, ok,"}
	}
	names := map[string]string{"a": "portsyncd", "b": "portsyncd-b"}
	s.waitFor("one to write, and one to stand by", func() bool { return says("a", both("a", "b")...)() || says("a", both("b", "a")...)() })
	writer, standby := "a", "b"
	if says("a", both("b", "a")...)() {
		writer, standby = "b", "a"
	}
	killed := pid(names[writer])
	s.must(syscall.Kill(killed, syscall.SIGKILL))
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "2000"))
	s.waitEntry("Ethernet4", fields("up", "up", 2000))
	s.waitFor("it to be started again", func() bool { return pid(names[writer]) != killed })
	s.waitFor("it to stand by", says(standby, both(standby, writer)...))
	if !supervisor.Running() {
		t.Fatal("the container has ended with one of the two")
	}
	s.must(os.Remove(binary))
	s.must(syscall.Kill(pid(names[writer]), syscall.SIGKILL))
	s.waitFor("supervisord to give it up", func() bool { return strings.Contains(supervisor.Log(), names[writer]+" entered FATAL state") })
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "3000"))
	s.waitEntry("Ethernet4", fields("up", "up", 3000))
	if !supervisor.Running() {
		t.Fatal("the container has ended, and one of the two runs")
	}
	s.must(syscall.Kill(pid(names[standby]), syscall.SIGKILL))
	if _, err := supervisor.Wait(patience); err != nil {
		t.Errorf("nobody writes any more, and the container goes on: %v", err)
	}
}
