package switchtest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Daemon is a portsyncd process and what it printed.
type Daemon struct {
	Metrics string // its address
	Control string // its control socket
	cmd     *exec.Cmd
	out     *output
	ended   chan struct{}
	tally   tally
}

// StartDaemon runs a portsyncd beside the switch: its links in the switch's namespace, its log on stderr. Further flags may
// overrule any of that.
func (s *Switch) StartDaemon(program []string, flags ...string) (*Daemon, error) {
	return s.startDaemon(nil, program, flags)
}

// StartDaemonOn is the same with the daemon's stdout and stderr on a file of the caller's own, so that nothing of what
// it prints is collected.
func (s *Switch) StartDaemonOn(file *os.File, program []string, flags ...string) (*Daemon, error) {
	return s.startDaemon(file, program, flags)
}

// Recorder is the file to which the switch's daemon records.
func (s *Switch) Recorder() string { return filepath.Join(s.Dir, "recorder") }

func (s *Switch) startDaemon(file *os.File, program, flags []string) (*Daemon, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	metrics, control := fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("%s/control-%d.sock", s.Dir, port)
	args := append(append([]string{}, program[1:]...), "-db.config", s.ConfigFile, "-netns", s.NetNS, "-web.listen-address", metrics,
		"-control.socket", control, "-log.output", "stderr", "-log.level", "INFO", "-recorder.file", s.Recorder())
	d := newDaemon(s.Echo, program[0], append(args, flags...)...)
	if file != nil {
		d.cmd.Stdout, d.cmd.Stderr = file, file
	}
	d.Metrics, d.Control = metrics, control
	return d, d.run()
}

// StartProgram runs any program as a daemon, without a switch.
func StartProgram(name string, args ...string) (*Daemon, error) {
	return startProgram(nil, name, args...)
}

func startProgram(echo io.Writer, name string, args ...string) (*Daemon, error) {
	d := newDaemon(echo, name, args...)
	return d, d.run()
}

func (d *Daemon) run() error {
	if err := start(d.cmd); err != nil {
		return err
	}
	go d.reap()
	return nil
}

func newDaemon(echo io.Writer, name string, args ...string) *Daemon {
	d := &Daemon{cmd: exec.Command(name, args...), out: &output{echo: echo}, ended: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	d.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // a daemon under the race detector ends as fast as one without
	return d
}

func (d *Daemon) reap() {
	_ = d.cmd.Wait()
	close(d.ended)
}

// start starts a child in a process group of its own, so that a terminal's Ctrl-C does not reach it, and that the kernel kills if this
// process dies without taking its children down.
func start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	spawner.Do(func() {
		go func() {
			runtime.LockOSThread() // the signal comes when the starting thread ends: this one never does
			for begin := range spawns {
				begin()
			}
		}()
	})
	spawns <- func() { started <- cmd.Start() }
	return <-started
}

var (
	spawner sync.Once
	spawns  = make(chan func())
)

// Log returns everything the daemon printed so far.
func (d *Daemon) Log() string { return d.out.String() }

// Logged counts the lines that hold all of the words.
func (d *Daemon) Logged(words ...string) (n int) {
lines:
	for line := range strings.Lines(d.Log()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		n++
	}
	return n
}

// PID is the process id.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Signal sends a signal.
func (d *Daemon) Signal(sig os.Signal) error { return d.cmd.Process.Signal(sig) }

// Running tells whether it has not ended yet.
func (d *Daemon) Running() bool {
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// Wait waits until it ends and returns its exit code.
func (d *Daemon) Wait(limit time.Duration) (int, error) {
	select {
	case <-d.ended:
		return d.cmd.ProcessState.ExitCode(), nil
	case <-time.After(limit):
		return 0, fmt.Errorf("the daemon still runs after %v; it printed:\n%s", limit, d.Log())
	}
}

// Stop asks it to end, and kills it if it does not within a few seconds.
func (d *Daemon) Stop() {
	_ = d.Signal(syscall.SIGTERM)
	if _, err := d.Wait(5 * time.Second); err != nil {
		_ = d.Signal(syscall.SIGKILL)
		<-d.ended
	}
}

// output collects what a process prints.
type output struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	echo io.Writer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.echo != nil {
		_, _ = o.echo.Write(b)
	}
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// FreePort finds a TCP port on loopback that nobody listens on.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
