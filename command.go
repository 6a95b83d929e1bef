package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// command is what is the same in portsyncd diff, events, handover and status, whose flags are parsed: err is what was
// wrong with them, and told. It has a context that ends with Ctrl-C, and a line on stderr where it cannot tell. It
// returns the exit code.
func command(name string, stderr io.Writer, err error, do func(ctx context.Context) (code int, err error)) int {
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUnsure
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// nobody may read on what is printed, as on a terminal that is slow, or held
	defer context.AfterFunc(ctx, func() { time.Sleep(interruptTime); os.Exit(exitUnsure) })()
	code, err := do(ctx)
	if err != nil {
		fmt.Fprintf(stderr, "%s %s: %s\n", appName, name, plain(err.Error()))
		return exitUnsure
	}
	return code
}

// interruptTime is how long a command may take to end when it is interrupted.
const interruptTime = 500 * time.Millisecond

// inBrackets is text behind a name, if there is any.
func inBrackets(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// qualified is a name, behind that of the namespace if there are several.
func qualified(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + " " + name
}

// paper is what will be printed. Nothing in it moves a terminal's cursor but what is meant to: names come from the
// kernel and from CONFIG_DB, and may hold anything.
type paper struct {
	strings.Builder
	colours bool
	lines   int
}

// plain is text without what moves a cursor.
func plain(text string) string { return strings.Map(plainRune, text) }

func plainRune(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}

func (p *paper) line(colour, format string, args ...any) {
	text := plain(fmt.Sprintf(format, args...))
	if colour != "" && p.colours {
		text = "\x1b[" + colour + "m" + text + "\x1b[0m"
	}
	p.WriteString(text + "\n")
	p.lines++
}
