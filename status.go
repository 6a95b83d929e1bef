package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// portsyncd status: what the daemon says of itself and of its ports, asked over its control socket.

const (
	statusLimit = 1500 * time.Millisecond // a daemon that takes longer does not answer
	watchPause  = 2 * time.Second
)

// statusOptions are its flags.
type statusOptions struct {
	socket             string
	ports, watch, json bool
}

func parseStatus(args []string, stderr io.Writer) (*statusOptions, error) {
	o := new(statusOptions)
	f := flag.NewFlagSet(appName+" status", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.socket, "control.socket", defaultControlSocket, "`path` of the daemon's socket, as in its own flag")
	f.BoolVar(&o.ports, "ports", false, "list every port")
	f.BoolVar(&o.watch, "watch", false, fmt.Sprintf("print it anew every %v until interrupted", watchPause))
	f.BoolVar(&o.json, "json", false, "print the daemon's JSON as it is; with -ports that of the ports")
	f.Usage = func() {
		fmt.Fprintf(stderr, "Usage: %s status [flags]\n\nAsks the running daemon how it is and which ports need a "+
			"look.\nExit code 0: ok, 1: degraded or failed, 2: it cannot tell.\n\n", appName)
		f.PrintDefaults()
	}
	err := f.Parse(args)
	if err == nil && f.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q: there are flags only, and -ports lists every port", f.Arg(0))
		fmt.Fprintln(stderr, "portsyncd status:", err)
	}
	return o, err
}

// runStatus is the command without the process: it returns the exit code.
func runStatus(args []string, stdout, stderr io.Writer) int {
	o, err := parseStatus(args, stderr)
	return command("status", stderr, err, func(ctx context.Context) (int, error) {
		return o.show(ctx, newScreen(stdout))
	})
}

// show prints the page, and with -watch again and again; then it is also printed why there is none.
func (o *statusOptions) show(ctx context.Context, on *screen) (code int, err error) {
	for {
		page, code, err := o.page(on.colours)
		if err != nil && !o.watch {
			return exitUnsure, err
		}
		if err != nil {
			page, code = "portsyncd status: "+err.Error()+"\n", exitUnsure
		}
		if err := on.show(page, o.watch); err != nil || !o.watch {
			return code, err
		}
		select {
		case <-ctx.Done():
			return code, nil
		case <-time.After(watchPause):
		}
	}
}

// page asks the daemon, and makes what is to be printed and the exit code of the answer.
func (o *statusOptions) page(colours bool) (string, int, error) {
	deadline := time.Now().Add(statusLimit)
	text, err := askDaemon(o.socket, statusPath, deadline)
	var s statusAnswer
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	var ports portsAnswer
	if err == nil && o.ports {
		if text, err = askDaemon(o.socket, portsPath, deadline); err == nil {
			err = ports.take(text)
		}
	}
	if err != nil {
		return "", exitUnsure, err
	}
	code := exitOK
	if s.Verdict != ok.String() {
		code = exitNotWell
	}
	switch {
	case o.json:
		return string(text), code, nil
	case o.ports:
		return s.portList(ports.Ports, colours), code, nil
	}
	return s.text(colours), code, nil
}

// take takes the daemon's answer.
func (a *portsAnswer) take(text []byte) error {
	if err := json.Unmarshal(text, a); err != nil {
		return err
	}
	for i := range a.Ports {
		if p := &a.Ports[i]; p.Present && (p.Admin == nil || p.Oper == nil || p.MTU == nil) {
			return fmt.Errorf("the daemon says that %q is present, and not how it is: is it one of this version?",
				p.Port)
		}
	}
	return nil
}

// askDaemon asks the daemon for what is under a path. The error says what to do.
func askDaemon(socket, path string, deadline time.Time) ([]byte, error) {
	status, text, err := sendDaemon(socket, "GET "+path, deadline)
	if err == nil && !strings.HasSuffix(status, " 200 OK") {
		err = fmt.Errorf("what listens on %s answers %q to %s: is it a portsyncd of this version?", socket, status,
			path)
	}
	return text, err
}

// sendDaemon is one request over the control socket, by hand: net/http's client would be a tenth of the binary.
func sendDaemon(socket, request string, deadline time.Time) (status string, text []byte, err error) {
	limit := time.Until(deadline).Round(100 * time.Millisecond)
	c, err := (&net.Dialer{Deadline: deadline}).Dial("unix", socket)
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, os.ErrDeadlineExceeded):
		return "", nil, unanswered(socket, nil, request, limit)
	case err != nil:
		return "", nil, unreachable(socket, err)
	}
	defer c.Close()
	_ = c.SetDeadline(deadline)
	var answer bytes.Buffer
	if _, err = io.WriteString(c, request+" HTTP/1.0\r\n\r\n"); err == nil {
		_, err = answer.ReadFrom(c)
	}
	head, text, whole := bytes.Cut(answer.Bytes(), []byte("\r\n\r\n"))
	status, _, _ = strings.Cut(string(head), "\r\n")
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", nil, unanswered(socket, c, request, limit)
	case err != nil || !whole:
		return "", nil, fmt.Errorf("the daemon behind %s has broken off its answer: it may be ending, ask again",
			socket)
	}
	return status, text, nil
}

// unreachable says why nobody can be asked.
func unreachable(socket string, err error) error {
	const remedy = "; see that the daemon runs, and that its -control.socket is the one given here"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no socket %s"+remedy, socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nobody listens on %s any more: the daemon has ended, or runs with another -control.socket; "+
			"its log says why (supervisorctl status portsyncd, systemctl status portsyncd)", socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may not be used by this user: use sudo, or be in its group (ls -l %[1]s)", socket)
	}
	return fmt.Errorf("%w"+remedy, err)
}

// unanswered says what to do about a daemon that takes requests and has not answered one within a limit. What it was
// told to do it may be about to do.
func unanswered(socket string, c net.Conn, request string, limit time.Duration) error {
	pid, what := listenerOf(c), "the daemon"
	if pid > 0 {
		what = fmt.Sprintf("the daemon, process %d,", pid)
	}
	if pid > 0 && stopped(pid) {
		return fmt.Errorf("%s does not answer on %s: it is stopped; kill -CONT %d has it go on", what, socket, pid)
	}
	advice := "look at its log, then start it again (" + restart + "); ports stay as they are"
	if strings.HasPrefix(request, "POST ") {
		advice = "it may still do what it was told to; look at its log, and at portsyncd status"
	}
	return fmt.Errorf("%s has not answered on %s for %v: %s", what, socket, limit, advice)
}

// listenerOf is the process that listens at the other end, 0: not known.
func listenerOf(c net.Conn) (pid int) {
	if u, isUnix := c.(*net.UnixConn); isUnix {
		if raw, err := u.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
					pid = int(peer.Pid)
				}
			})
		}
	}
	return pid
}
