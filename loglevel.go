package main

import (
	"context"
	"fmt"
	"log/slog"
	"log/syslog"
	"strings"
)

// SONiC's log levels (SONIC.md, LOGGER table), and what syslog and slog call them.

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
