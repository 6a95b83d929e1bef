package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestInterruptEndsWhatIsPrinted: portsyncd events on a serial console prints for minutes, and Ctrl-C ends it although nobody reads.
func TestInterruptEndsWhatIsPrinted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "recorder")
	const ports = 40
	r := openRecorder(path, recordFixed+ports*portRing, newMetrics("test"), discard())
	for i := range ports * portEvents {
		p := &port{name: "Ethernet" + string(rune('A'+i%ports)), slot: i % ports}
		r.link(p, &linkMessage{index: 5, flags: upRunning, mtu: uint32(i)}, false, time.Now().Add(-time.Minute))
	}
	r.close()
	program := daemonProgram(t)
	for _, flags := range [][]string{nil, {"-follow"}} {
		cmd := exec.Command(program[0], slices.Concat(program[1:], []string{"events", "-recorder.file", path}, flags)...)
		read, write, err := os.Pipe()
		must(t, err)
		defer read.Close()
		cmd.Stdout = write
		must(t, cmd.Start())
		write.Close()
		_, err = read.Read(make([]byte, 1)) // it prints
		must(t, err)
		must(t, cmd.Process.Signal(syscall.SIGINT))
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-ended:
		case <-time.After(10 * interruptTime):
			t.Errorf("events %v goes on", flags)
			must(t, cmd.Process.Kill())
			<-ended
		}
	}
}
