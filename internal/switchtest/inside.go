package switchtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// standardConfig is where every daemon of a switch finds the databases, on a /run that only this switch sees.
const standardConfig = "/run/redis/sonic-db/database_config.json"

// Inside runs fn as a process on the switch itself would run: in its network namespace, with database_config.json in its usual place.
// What fn starts or opens stays there. Functions run one after the other, on one thread.
func (s *Switch) Inside(fn func() error) error {
	s.enter.Do(func() {
		s.inside, s.entered = make(chan func(), 1), make(chan error, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread is of no use to anybody else, and its children live as long as it does
			s.entered <- s.moveIn()
			for f := range s.inside {
				f()
			}
		}()
		s.enterErr = <-s.entered
	})
	if s.enterErr != nil {
		return s.enterErr
	}
	done := make(chan error)
	s.inside <- func() { done <- fn() }
	return <-done
}

// moveIn takes the calling thread into the switch's network namespace and into a mount namespace with a /run of its own.
func (s *Switch) moveIn() error {
	ns, err := os.Open("/run/netns/" + s.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	text, err := os.ReadFile(s.ConfigFile)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), unix.Unshare(unix.CLONE_NEWNS)); err != nil {
		return fmt.Errorf("enter the switch's namespaces: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount a /run of the switch's own: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(standardConfig), 0o755); err != nil {
		return err
	}
	return os.WriteFile(standardConfig, text, 0o644)
}

// StartInside runs any portsyncd as supervisord would: on the switch, with the arguments it was given and no others.
func (s *Switch) StartInside(program ...string) (*Daemon, error) {
	d := newDaemon(s.Echo, program[0], program[1:]...)
	err := s.Inside(func() error {
		d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		return d.cmd.Start()
	})
	if err != nil {
		return nil, err
	}
	go d.reap()
	return d, nil
}
