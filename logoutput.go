package main

import (
	"fmt"
	"log/slog"
	"log/syslog"
	"os"
	"strings"
	"time"
)

// Where log lines go. Only the queue's writer uses an output, so that it may take its time.

// logOutput takes one line without its newline, time and level.
type logOutput interface {
	write(at time.Time, level slog.Level, text []byte) error
}

const (
	logTime       = "2006-01-02T15:04:05.000Z07:00"
	syslogPause   = 10 * time.Second // between attempts to reach a syslog that is not there
	syslogDelayed = time.Second      // a line so late says when it was logged: syslog's own time is that of its arrival
)

// openLogOutput finds an output by its name in any case: syslog, stderr or stdout. It reaches for nothing yet.
func openLogOutput(name string) (logOutput, error) {
	switch strings.ToLower(name) {
	case "stderr":
		return &fileOutput{file: os.Stderr}, nil
	case "stdout":
		return &fileOutput{file: os.Stdout}, nil
	case "syslog":
		return &syslogOutput{instead: fileOutput{file: os.Stderr}, connect: func() (*syslog.Writer, error) {
			return syslog.New(syslog.LOG_DAEMON|syslog.LOG_NOTICE, appName)
		}}, nil
	}
	return nil, fmt.Errorf("unknown log output %q: one of syslog stderr stdout", name)
}

// fileOutput writes lines that begin with time and level.
type fileOutput struct {
	file *os.File
	line []byte
}

func (o *fileOutput) write(at time.Time, level slog.Level, text []byte) error {
	o.line = append(at.AppendFormat(append(o.line[:0], "time="...), logTime), " level="...)
	o.line = append(append(o.line, logLevels[logLevel(level)].name...), ' ')
	o.line = append(append(o.line, text...), '\n')
	_, err := o.file.Write(o.line)
	return err
}

// syslogOutput sends each line with its own severity; time and level are syslog's business. While there is no syslog,
// stderr serves in its place.
type syslogOutput struct {
	connect func() (*syslog.Writer, error)
	to      *syslog.Writer // nil: not connected
	retry   time.Time      // not to be connected to before
	instead fileOutput
	away    bool // stderr has been told
}

func (o *syslogOutput) write(at time.Time, level slog.Level, text []byte) error {
	now := time.Now()
	if o.to == nil && !now.Before(o.retry) {
		if to, err := o.connect(); err == nil {
			o.to, o.away = to, false
		}
	}
	if o.to != nil {
		line := string(text)
		if now.Sub(at) > syslogDelayed {
			line = "time=" + at.Format(logTime) + " " + line
		}
		if logLevels[logLevel(level)].write(o.to, line) == nil {
			return nil
		}
		_ = o.to.Close()
		o.to = nil
	}
	if !now.Before(o.retry) {
		o.retry = now.Add(syslogPause)
	}
	if !o.away {
		o.away = true
		_ = o.instead.write(at, slog.LevelWarn, []byte(`msg="no syslog here, logging to stderr"`))
	}
	return o.instead.write(at, level, text)
}
