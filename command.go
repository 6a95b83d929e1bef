package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/signal"
	"syscall"
)

// command is what is the same in portsyncd diff, events and status: flags, of which parse has said what is wrong with
// them, a context that ends with Ctrl-C, and a line on stderr where it cannot tell. It returns the exit code.
func command[options any](name string, args []string, stderr io.Writer,
	parse func(args []string, stderr io.Writer) (*options, error),
	do func(ctx context.Context, o *options) (code int, err error)) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUnsure
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	code, err := do(ctx, o)
	if err != nil {
		fmt.Fprintf(stderr, "%s %s: %v\n", appName, name, err)
		return exitUnsure
	}
	return code
}

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
