package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
)

// Logging in SONiC's levels (SONIC.md, LOGGER table), one line an event, key=value.

// ctxNone is for log calls, which want a context that nothing reads.
var ctxNone = context.Background()

// SONiC's levels that slog has no name for.
const (
	levelNotice = slog.LevelInfo + 2
	levelCrit   = slog.LevelError + 4
	levelAlert  = slog.LevelError + 8
	levelEmerg  = slog.LevelError + 12
)

// logLevels are SONiC's levels, from the quietest, and how syslog takes a line of each.
var logLevels = []struct {
	name  string
	level slog.Level
	write func(*syslog.Writer, string) error
}{
	{"EMERG", levelEmerg, (*syslog.Writer).Emerg},
	{"ALERT", levelAlert, (*syslog.Writer).Alert},
	{"CRIT", levelCrit, (*syslog.Writer).Crit},
	{"ERROR", slog.LevelError, (*syslog.Writer).Err},
	{"WARN", slog.LevelWarn, (*syslog.Writer).Warning},
	{"NOTICE", levelNotice, (*syslog.Writer).Notice},
	{"INFO", slog.LevelInfo, (*syslog.Writer).Info},
	{"DEBUG", slog.LevelDebug, (*syslog.Writer).Debug},
}

// parseLogLevel reads a level's name, in any case.
func parseLogLevel(name string) (slog.Level, error) {
	var names []string
	for _, l := range logLevels {
		if strings.EqualFold(name, l.name) {
			return l.level, nil
		}
		names = append(names, l.name)
	}
	return 0, fmt.Errorf("unknown log level %q: one of %s", name, strings.Join(names, " "))
}

// logLevel is the index in logLevels of the nearest level at or below.
func logLevel(level slog.Level) int {
	for i, l := range logLevels {
		if level >= l.level {
			return i
		}
	}
	return len(logLevels) - 1
}

// openLog makes a handler. output is syslog, stderr or stdout, in any case; where there is no syslog, stderr serves in its place, and the
// returned note says so.
func openLog(output string, level slog.Leveler) (h slog.Handler, note string, err error) {
	switch strings.ToLower(output) {
	case "stderr":
		return newLineLog(os.Stderr, level), "", nil
	case "stdout":
		return newLineLog(os.Stdout, level), "", nil
	case "syslog":
		w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_NOTICE, appName)
		if err != nil {
			return newLineLog(os.Stderr, level), "no syslog here, logging to stderr", nil
		}
		return newSyslog(w, level), "", nil
	}
	return nil, "", fmt.Errorf("unknown log output %q: one of syslog stderr stdout", output)
}

// logControl is the log while the daemon runs: flags decide at the start, CONFIG_DB's LOGGER table later about what no flag was given for.
type logControl struct {
	*slog.Logger
	level       slog.LevelVar
	output      atomic.Pointer[slog.Handler]
	fixedLevel  bool
	fixedOutput bool
}

// newLogControl opens the log as the flags say. fixed flags were given on the command line, and win over CONFIG_DB.
func newLogControl(output string, level slog.Level, fixedOutput, fixedLevel bool) (*logControl, error) {
	c := &logControl{fixedOutput: fixedOutput, fixedLevel: fixedLevel}
	c.level.Set(level)
	handler, note, err := openLog(output, &c.level)
	if err != nil {
		return nil, err
	}
	c.output.Store(&handler)
	c.Logger = slog.New(redirected{c})
	if note != "" {
		c.Warn(note)
	}
	return c, nil
}

// Follow takes up the settings of LOGGER|portsyncd. One that makes no sense is reported, and the default used.
func (c *logControl) Follow(l logSettings) {
	if !c.fixedLevel {
		level, err := parseLogLevel(l.level)
		if err != nil {
			level = levelNotice
			c.Error("LOGGER|portsyncd LOGLEVEL in CONFIG_DB: using NOTICE", "err", err)
		}
		c.level.Set(level)
	}
	if c.fixedOutput {
		return
	}
	handler, note, err := openLog(l.output, &c.level)
	if err != nil {
		c.Error("LOGGER|portsyncd LOGOUTPUT in CONFIG_DB: using SYSLOG", "err", err)
		handler, note, _ = openLog("syslog", &c.level)
	}
	c.output.Store(&handler)
	if note != "" {
		c.Warn(note)
	}
}

// redirected is a handler that writes to the output in force.
type redirected struct{ c *logControl }

func (r redirected) Enabled(_ context.Context, l slog.Level) bool { return l >= r.c.level.Level() }
func (r redirected) Handle(ctx context.Context, record slog.Record) error {
	return (*r.c.output.Load()).Handle(ctx, record)
}
func (r redirected) WithAttrs(attrs []slog.Attr) slog.Handler {
	return (*r.c.output.Load()).WithAttrs(attrs)
}
func (r redirected) WithGroup(name string) slog.Handler {
	return (*r.c.output.Load()).WithGroup(name)
}

// newLineLog writes lines that begin with time and level.
func newLineLog(w io.Writer, level slog.Leveler) slog.Handler {
	return slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey {
			if l, ok := a.Value.Any().(slog.Level); ok {
				return slog.String(slog.LevelKey, logLevels[logLevel(l)].name)
			}
		}
		return a
	}})
}

// syslogHandler sends each line with its own severity; time and level are syslog's business.
type syslogHandler struct {
	slog.Handler // writes into line
	out          *syslogLines
}

// syslogLines is the line being made and where it goes.
type syslogLines struct {
	mu   sync.Mutex
	line bytes.Buffer
	w    *syslog.Writer
}

func newSyslog(w *syslog.Writer, level slog.Leveler) slog.Handler {
	out := &syslogLines{w: w}
	text := slog.NewTextHandler(&out.line, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.LevelKey || a.Key == slog.TimeKey) {
			return slog.Attr{}
		}
		return a
	}})
	return &syslogHandler{Handler: text, out: out}
}

func (h *syslogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &syslogHandler{Handler: h.Handler.WithAttrs(attrs), out: h.out}
}

func (h *syslogHandler) WithGroup(name string) slog.Handler {
	return &syslogHandler{Handler: h.Handler.WithGroup(name), out: h.out}
}

func (h *syslogHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.line.Reset()
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	return logLevels[logLevel(r.Level)].write(h.out.w, strings.TrimSuffix(h.out.line.String(), "\n"))
}
