package main

import (
	"context"
	"log/slog"
	"time"
)

// Logging in SONiC's levels (SONIC.md, LOGGER table), one line an event, key=value. Whoever logs waits for nobody:
// lines go into a queue (logqueue.go), and one goroutine writes them out (logoutput.go).

// logControl is the log while the daemon runs: flags decide at the start, CONFIG_DB's LOGGER table later about what no
// flag was given for.
type logControl struct {
	*slog.Logger
	level       slog.LevelVar
	queue       *logQueue
	fixedLevel  bool
	fixedOutput bool
}

// newLogControl begins to log as the flags say. fixed flags were given on the command line, and win over CONFIG_DB.
// dropped counts the lines that are lost.
func newLogControl(output string, level slog.Level, fixedOutput, fixedLevel bool, dropped *counter) (
	*logControl, error) {
	out, err := openLogOutput(output)
	if err != nil {
		return nil, err
	}
	c := &logControl{queue: newLogQueue(out, dropped), fixedOutput: fixedOutput, fixedLevel: fixedLevel}
	c.level.Set(level)
	c.Logger = slog.New(newQueuedLog(c.queue, &c.level))
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
	out, err := openLogOutput(l.output)
	if err != nil {
		c.Error("LOGGER|portsyncd LOGOUTPUT in CONFIG_DB: using SYSLOG", "err", err)
		out, _ = openLogOutput("syslog")
	}
	c.queue.SetOutput(out)
}

// Flush waits until every line so far is written, but no longer than limit.
func (c *logControl) Flush(limit time.Duration) { c.queue.Flush(limit) }

// queuedLog puts records into the queue as the rest of a line: time and level are the output's business.
type queuedLog struct {
	slog.Handler // writes into the queue
	queue        *logQueue
}

func newQueuedLog(q *logQueue, level slog.Leveler) slog.Handler {
	replace := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.LevelKey || a.Key == slog.TimeKey) {
			return slog.Attr{}
		}
		return a
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: replace}
	return &queuedLog{Handler: slog.NewTextHandler(&q.filling, options), queue: q}
}

func (h *queuedLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &queuedLog{Handler: h.Handler.WithAttrs(attrs), queue: h.queue}
}

func (h *queuedLog) WithGroup(name string) slog.Handler {
	return &queuedLog{Handler: h.Handler.WithGroup(name), queue: h.queue}
}

func (h *queuedLog) Handle(ctx context.Context, r slog.Record) error {
	return h.queue.Add(r.Time, r.Level, func() error { return h.Handler.Handle(ctx, r) })
}
