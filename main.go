// Command portsyncd mirrors the kernel's link state into the databases of a SONiC switch, and serves its own metrics.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// version is set by the linker: -X main.version=…
var version = "devel"

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // flags or configuration
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line.
type options struct {
	dbConfig   string
	netns      string
	standalone bool
	links      globs
	listen     string
	logLevel   slog.Level
	logOutput  string
	version    bool
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := new(options)
	f := flag.NewFlagSet(appName, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.dbConfig, "db.config", "/var/run/redis/sonic-db/database_config.json", "`file` that says where SONiC's databases are")
	f.StringVar(&o.netns, "netns", "", "network namespace of the links: a `name` under /run/netns, or a path")
	f.BoolVar(&o.standalone, "standalone", false, "no databases: every link that matches -links is a port, and its state is in the metrics")
	links := f.String("links", "*", "comma-separated `globs` of the links that are ports with -standalone; lo only if named in full")
	f.StringVar(&o.listen, "web.listen-address", "0.0.0.0:9090", "`address` to serve the metrics on; empty: nowhere")
	level := f.String("log.level", "NOTICE", "lowest `level` to log: EMERG ALERT CRIT ERROR WARN NOTICE INFO DEBUG")
	f.StringVar(&o.logOutput, "log.output", "syslog", "where to log: syslog, stderr or stdout")
	f.BoolVar(&o.version, "version", false, "print the version and exit")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: portsyncd takes flags only", f.Arg(0))
	}
	var err error
	if o.logLevel, err = parseLogLevel(*level); err != nil {
		return nil, fmt.Errorf("-log.level: %w", err)
	}
	if *links != "*" && !o.standalone {
		return nil, errors.New("-links is for -standalone; with databases SONiC's own rule says which links are ports")
	}
	o.links = strings.Split(*links, ",")
	for _, pattern := range o.links {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return nil, fmt.Errorf("-links: bad pattern %q", pattern)
		}
	}
	return o, nil
}

// run is main without the process: it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintln(stderr, "portsyncd:", err)
		return exitUsage
	case o.version:
		fmt.Fprintln(stdout, "portsyncd", version, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
		return exitOK
	}
	if err := serve(o, stderr); err != nil {
		fmt.Fprintln(stderr, "portsyncd:", err)
		if errors.Is(err, errConfig) {
			return exitUsage
		}
		return exitFailed
	}
	return exitOK
}

// serve runs the daemon until a signal ends it.
func serve(o *options, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log, note, err := openLog(o.logOutput, o.logLevel)
	if err != nil {
		return fmt.Errorf("%w: -log.output: %v", errConfig, err)
	}
	if note != "" {
		log.Warn(note)
	}
	m := newMetrics(version)
	source, err := openKernelLinks(o.netns)
	if err != nil {
		return err
	}
	defer source.Close()
	log.Log(ctx, levelNotice, "listening to link messages", "version", version, "receive_buffer_bytes", source.rcvbuf)
	if o.listen != "" {
		l, err := listen(o.listen)
		if err != nil {
			return err
		}
		web := newServer(m)
		go func() {
			if err := web.Run(l); err != nil {
				log.Error("the metrics server failed", "err", err)
			}
		}()
		defer web.Drain()
	}
	var rules syncOptions
	openDB := func() (database, error) { return openSonicDB(o.dbConfig, m) }
	if o.standalone {
		rules.links, openDB = o.links, nil
	}
	return newSyncer(rules, source, openDB, m, log, time.Now).Run(ctx)
}
