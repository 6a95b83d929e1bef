package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPairListenerMissesNothing: that both programs are given up is not lost among what happens to all others of a container, and ends it.
func TestPairListenerMissesNothing(t *testing.T) {
	t.Parallel()
	needTool(t, "supervisord")
	text, err := os.ReadFile("deploy/supervisord/portsyncd-pair.conf")
	must(t, err)
	_, block, found := strings.Cut(string(text), "[eventlistener:")
	listener, err := filepath.Abs("deploy/supervisord/portsyncd-pair-listener")
	must(t, err)
	if !found {
		t.Fatal("there is no listener")
	}
	block = strings.NewReplacer("/usr/sbin/portsyncd-pair-listener", "sh "+listener, "stderr_syslog=true\n", "").Replace(block)
	dir := t.TempDir()
	conf := fmt.Sprintf("[supervisord]\nnodaemon=true\nlogfile=%s/log\npidfile=%[1]s/pid\nchildlogdir=%[1]s\n[eventlistener:%s", dir, block)
	for _, name := range []string{"portsyncd", "portsyncd-b"} {
		conf += fmt.Sprintf("[program:%s]\ncommand=/bin/false\nstartretries=0\n", name)
	}
	for i := range 12 {
		conf += fmt.Sprintf("[program:other%d]\ncommand=/bin/sleep 1\nstartsecs=0\nautorestart=false\n", i)
	}
	must(t, os.WriteFile(dir+"/conf", []byte(conf), 0o600))
	cmd := exec.Command("supervisord", "-c", dir+"/conf")
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(2 * patience):
		t.Error("the container goes on without a portsyncd")
		must(t, cmd.Process.Kill())
		<-ended
	}
	if log, _ := os.ReadFile(dir + "/log"); strings.Contains(string(log), "overflow") {
		t.Error("events were dropped")
	}
}
