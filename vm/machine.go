//go:build vm

// Package vm boots Debian in qemu and runs tests on it, for what only a booted system shows: systemd as pid 1, kernels with
// bonds and teams, ARM processors, a power cut. `make test-vm` and `make test-vm-arm64` run it; no other command does.
package vm

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// platform is what differs between the machines.
type platform struct {
	debian  string // Debian's name of the CPU
	goarch  string
	qemu    []string // with the machine's type
	cpu     string   // to be emulated
	console string   // of the kernel
}

var platforms = map[string]platform{
	"amd64": {"amd64", "amd64", []string{"qemu-system-x86_64", "-machine", "q35"}, "max,la57=off", "ttyS0"},
	// Cortex-A72 runs 32-bit programs, too, which later ones do not.
	"arm64": {"arm64", "arm64", []string{"qemu-system-aarch64", "-machine", "virt"}, "cortex-a72", "ttyAMA0"},
}

// machine is a virtual machine with its disks; between two boots it is off.
type machine struct {
	platform
	image   string // the folder of disk.img, vmlinuz and initrd.img
	dir     string // what this run writes
	payload string // a disk with what the guest runs
	accel   string // kvm or tcg
	boots   int
}

// newMachine makes the machine's own disk, on which the image's is read only.
func newMachine(p platform, image, dir, payload string) (*machine, error) {
	m := &machine{platform: p, image: image, dir: dir, payload: payload, accel: "tcg"}
	if m.kvmWorks() {
		m.accel = "kvm"
	}
	return m, run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", filepath.Join(image, "disk.img"), m.disk())
}

func (m *machine) disk() string { return filepath.Join(m.dir, "disk.qcow2") }

// consoleFile has what the kernel and systemd printed since the last boot.
func (m *machine) consoleFile() string {
	return filepath.Join(m.dir, fmt.Sprintf("console-%d.log", m.boots))
}

// kvmWorks boots the kernel for a moment. That /dev/kvm is there says little: a machine that is virtual itself may have
// one that runs only kernels made for it.
func (m *machine) kvmWorks() bool {
	if host, err := exec.Command("dpkg", "--print-architecture").Output(); err != nil ||
		string(bytes.TrimSpace(host)) != m.debian {
		return false
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return false
	}
	const limit = 20 * time.Second
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	args := append(m.qemu[1:], "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot",
		"-serial", "stdio", "-kernel", filepath.Join(m.image, "vmlinuz"), "-append", "panic=-1 console="+m.console)
	out, _ := exec.CommandContext(ctx, m.qemu[0], args...).CombinedOutput()
	return bytes.Contains(out, []byte("Linux version"))
}

// booted is a machine that is on. Its tests report over a port of their own; what they print comes as lines.
type booted struct {
	lines   *bufio.Scanner
	silence *time.Timer // cuts the power when nothing comes for too long
	cmd     *exec.Cmd
	stdin   io.Closer
}

// bootLimit is how long an emulated machine may take until its tests begin, or may be silent.
const bootLimit = 10 * time.Minute

// next takes the next line.
func (b *booted) next() (line string, open bool) {
	if !b.lines.Scan() {
		return "", false
	}
	b.silence.Reset(bootLimit)
	return strings.TrimRight(b.lines.Text(), "\r"), true
}

// boot switches the machine on; phase tells the guest what to run.
func (m *machine) boot(ctx context.Context, phase string) (*booted, error) {
	m.boots++
	cpu := m.cpu
	if m.accel == "kvm" {
		cpu = "host"
	}
	args := append(m.qemu[1:], "-accel", m.accel, "-cpu", cpu, "-smp", "2", "-m", "1024", "-nodefaults", "-display", "none", "-no-reboot",
		"-serial", "file:"+m.consoleFile(),
		"-chardev", "stdio,id=report,signal=off", "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=report,name=report",
		"-drive", "file="+m.disk()+",if=virtio", "-drive", "file="+m.payload+",if=virtio,format=raw,readonly=on",
		"-kernel", filepath.Join(m.image, "vmlinuz"), "-initrd", filepath.Join(m.image, "initrd.img"),
		"-append", "quiet panic=-1 mitigations=off net.ifnames=0 console="+m.console+" portsyncd.phase="+phase)
	b := &booted{cmd: exec.CommandContext(ctx, m.qemu[0], args...)}
	b.cmd.Stderr = os.Stderr
	stdin, err := b.cmd.StdinPipe() // stays open: at its end the port counts as closed, and the guest's writes wait
	if err != nil {
		return nil, err
	}
	b.stdin = stdin
	stdout, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	b.lines = bufio.NewScanner(stdout)
	b.lines.Buffer(nil, 16<<20) // a recording is one line
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	b.silence = time.AfterFunc(bootLimit, b.cut)
	return b, nil
}

// cut takes the power away.
func (b *booted) cut() { _ = b.cmd.Process.Kill() }

// off waits until the machine is off.
func (b *booted) off() error {
	b.silence.Stop()
	err := b.cmd.Wait()
	_ = b.stdin.Close()
	return err
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
