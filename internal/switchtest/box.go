package switchtest

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Box is a switch with several ASICs: a Switch for each, and the file that lists them.
type Box struct {
	Dir        string
	GlobalFile string // database_global.json
	ASICs      []*Switch
	Echo       io.Writer // what the box's daemons print also goes here, if it is set
}

// NewBox makes one of n ASICs without ports.
func NewBox(n int, o Options) (_ *Box, err error) {
	b := new(Box)
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if b.Dir, err = os.MkdirTemp("", "portsyncd-box-"); err != nil {
		return nil, err
	}
	b.GlobalFile = filepath.Join(b.Dir, "database_global.json")
	for range n {
		s, err := New(o)
		if err != nil {
			return nil, err
		}
		b.ASICs = append(b.ASICs, s)
	}
	return b, b.List(b.ASICs...)
}

// List writes the file, with these ASICs beside the host's own databases and a DPU's, as a real one has them.
func (b *Box) List(asics ...*Switch) error {
	includes := []map[string]string{{"include": "../../redis/sonic-db/database_config.json"},
		{"container_name": "dpu0", "include": "../../redisdpu0/sonic-db/database_config.json"}}
	for _, s := range asics {
		include, err := filepath.Rel(b.Dir, s.ConfigFile)
		if err != nil {
			return err
		}
		includes = append(includes, map[string]string{"namespace": s.NetNS, "include": include})
	}
	text, err := json.Marshal(map[string]any{"INCLUDES": includes, "VERSION": "1.0"})
	if err != nil {
		return err
	}
	whole := b.GlobalFile + ".new"
	if err := os.WriteFile(whole, text, 0o644); err != nil {
		return err
	}
	return os.Rename(whole, b.GlobalFile)
}

// Recorder is what the files begin with to which the box's daemon records.
func (b *Box) Recorder() string { return filepath.Join(b.Dir, "recorder") }

// StartDaemon runs a portsyncd for all of them.
func (b *Box) StartDaemon(program []string, flags ...string) (*Daemon, error) {
	return b.StartDaemonOn(nil, program, flags...)
}

// StartDaemonOn is the same with the daemon's stdout and stderr on a file of the caller's own.
func (b *Box) StartDaemonOn(file *os.File, program []string, flags ...string) (*Daemon, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	metrics, control := fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("%s/control-%d.sock", b.Dir, port)
	args := append(append([]string{}, program[1:]...), "-db.global", b.GlobalFile, "-web.listen-address", metrics,
		"-control.socket", control, "-log.output", "stderr", "-log.level", "INFO", "-recorder.file", b.Recorder())
	d := newDaemon(b.Echo, program[0], append(args, flags...)...)
	if file != nil {
		d.cmd.Stdout, d.cmd.Stderr = file, file
	}
	d.Metrics, d.Control = metrics, control
	return d, d.run()
}

// Close takes everything down again.
func (b *Box) Close() {
	for _, s := range b.ASICs {
		s.Close()
	}
	if b.Dir != "" {
		_ = os.RemoveAll(b.Dir)
	}
}
