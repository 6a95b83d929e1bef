// Command portsyncd mirrors the kernel's link state into the databases of a SONiC switch, and serves its own metrics.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

// version is set by the linker: -X main.version=…
var version = "devel"

// parallel is how many threads run Go code at a time: one for links and databases, one for scrapes. More would only
// cost memory, and with a number of our own the runtime does not look after the machine's every second.
const parallel = 2

func main() {
	runtime.MemProfileRate = 0 // samples nobody reads
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := new(options)
	f := flag.NewFlagSet(appName, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.dbConfig, "db.config", defaultDBConfig, dbConfigUsage)
	f.StringVar(&o.netns, "netns", "", netnsUsage)
	f.StringVar(&o.dbGlobal, "db.global", "", dbGlobalUsage)
	o.buffer = 4 << 20
	f.Var(&o.buffer, "netlink.receive-buffer",
		"`size` of the socket's receive buffer, such as 4MiB; what the kernel grants is in the log")
	f.BoolVar(&o.standalone, "standalone", false,
		"no databases: every link that matches -links is a port, and its state is in the metrics")
	f.BoolVar(&o.observe, "observe", false, observeUsage)
	o.instanceFlags(f)
	links := f.String("links", "*",
		"comma-separated `globs` of the links that are ports with -standalone; lo only if named in full")
	f.Var(&o.listen, "web.listen-address", "`address` to serve the metrics on, host:port or unix:/path; "+
		"may be repeated; empty: nowhere (default "+defaultAddress+")")
	f.StringVar(&o.control, "control.socket", defaultControlSocket, controlUsage)
	f.StringVar(&o.tls.cert, "web.tls-cert", "",
		"PEM `file` with the server's certificate; with -web.tls-key and -web.tls-client-ca: mutual TLS")
	f.StringVar(&o.tls.key, "web.tls-key", "", "PEM `file` with the server's private key")
	f.StringVar(&o.tls.clientCA, "web.tls-client-ca", "", "PEM `file` with the CA whose clients get in")
	allowed := f.String("web.tls-allowed-names", "",
		"comma-separated DNS, URI, IP or common `names` of client certificates; empty: all that the CA signed")
	level := f.String("log.level", "NOTICE", "lowest `level` to log: EMERG ALERT CRIT ERROR WARN NOTICE INFO DEBUG")
	f.StringVar(&o.logOutput, "log.output", "syslog", "`where` to log: syslog, stderr or stdout")
	f.StringVar(&o.old, "old-interfaces", "auto",
		"`mode` for interfaces that exist at a cold start: auto, down (left-overs of the previous run) "+
			"or adopt (current)")
	f.DurationVar(&o.eoiu, "eoiu-timeout", 30*time.Second,
		"`time` after which a listing of all links is asked for again "+
			"(CONFIG_DB WARM_RESTART|swss portsyncd_timer overrules it)")
	f.DurationVar(&o.reconcile, "reconcile-interval", time.Minute,
		"`time` between comparisons of the kernel with the databases; 0: none")
	o.memory = 64 << 20
	f.Var(&o.memory, "memory-limit",
		"soft `limit` of the memory, such as 64MiB: collected harder near it, degraded health above it; 0: none")
	o.recorderFlags(f)
	f.BoolVar(&o.heartbeat, "supervisor.heartbeat", false, heartbeatUsage)
	f.BoolVar(&o.feature, "feature-status", false, featureUsage)
	f.BoolVar(&o.version, "version", false, "print the version and exit")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.given = map[string]bool{}
	f.Visit(func(f *flag.Flag) { o.given[f.Name] = true })
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: the daemon takes flags only, and the commands, diff, "+
			"events, handover and status, come before theirs", f.Arg(0))
	}
	var err error
	if o.logLevel, err = parseLogLevel(*level); err != nil {
		return nil, fmt.Errorf("-log.level: %w", err)
	}
	o.links = strings.Split(*links, ",")
	if err := o.tls.allow(*allowed); err != nil {
		return nil, err
	}
	return o, o.validate()
}

// validate finds what is wrong with flags that were parsed.
func (o *options) validate() error {
	if o.memory > 0 && o.memory < 8<<20 {
		return fmt.Errorf("-memory-limit: %v is less than the 8MiB that the daemon takes", &o.memory)
	}
	if !slices.Contains([]string{"auto", "down", "adopt"}, o.old) {
		return fmt.Errorf("-old-interfaces: %q is none of auto, down, adopt", o.old)
	}
	if o.eoiu < time.Second {
		return fmt.Errorf("-eoiu-timeout: %v is less than a second", o.eoiu)
	}
	if o.reconcile < 0 || o.reconcile > 0 && o.reconcile < time.Second {
		return fmt.Errorf("-reconcile-interval: %v is neither 0 nor a second or more", o.reconcile)
	}
	if err := o.tls.validate(); err != nil {
		return err
	}
	if err := o.listen.validate(); err != nil {
		return err
	}
	if err := validateControl(o.control); err != nil {
		return err
	}
	if o.dbGlobal != "" && (o.standalone || o.netns != "" || o.given["db.config"]) {
		return errors.New("-db.global says itself which databases and namespaces there are: leave -db.config, -netns " +
			"and -standalone away")
	}
	if !slices.Equal(o.links, globs{"*"}) && !o.standalone {
		return errors.New("-links is for -standalone; with databases SONiC's own rule says which links are ports")
	}
	if o.observe && o.feature {
		return errors.New("-feature-status writes, and -observe does not: leave one out")
	}
	if o.observe && o.standalone {
		return errors.New("-observe compares with databases, and with -standalone there are none: leave one out")
	}
	if o.standby && (o.observe || o.standalone) {
		return errors.New("-standby writes when it takes over, and with -observe or -standalone nothing is written: " +
			"leave one out")
	}
	if o.instance == "" {
		o.instance = defaultInstance(o.control)
	}
	if err := validateInstance(o.instance); err != nil {
		return err
	}
	if o.recordSize < recordFixed {
		return fmt.Errorf("-recorder.size: %v is less than the 68KiB that an empty one takes", &o.recordSize)
	}
	for _, pattern := range o.links {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return fmt.Errorf("-links: bad pattern %q", pattern)
		}
	}
	return nil
}

// instanceFlags are those of one portsyncd among several.
func (o *options) instanceFlags(f *flag.FlagSet) {
	f.BoolVar(&o.standby, "standby", false, standbyUsage)
	f.StringVar(&o.lockDir, "lock.dir", "", lockDirUsage)
	f.StringVar(&o.instance, "instance", "", instanceUsage)
}

// recorderFlags are those of the flight recorder.
func (o *options) recorderFlags(f *flag.FlagSet) {
	f.StringVar(&o.recorder, "recorder.file", defaultRecorderFile, recorderUsage)
	o.recordSize = defaultRecorderSize
	f.Var(&o.recordSize, "recorder.size",
		"`size` of the flight recorder, such as 2MiB: 68 KiB, and 3.8 for each port; what has no room is not recorded")
}

// run is main without the process: it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "diff":
			return runDiff(args[1:], stdout, stderr)
		case "handover":
			return runHandover(args[1:], stdout, stderr)
		case "events":
			return runEvents(args[1:], stdout, stderr)
		case "status":
			return runStatus(args[1:], stdout, stderr)
		}
	}
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
	if err := serve(o, stdout, stderr); err != nil {
		lastWords(stderr, err)
		if errors.Is(err, errConfig) {
			return exitUsage
		}
		return exitFailed
	}
	return exitOK
}

// lastWords prints why the daemon ends. It ends also where nobody reads them.
func lastWords(stderr io.Writer, err error) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		fmt.Fprintln(stderr, "portsyncd:", err)
	}()
	select {
	case <-said:
	case <-time.After(logTail):
	}
}

// serve runs the daemon until a signal ends it.
func serve(o *options, stdout, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// whoever reads stdout or stderr may go, and Go takes that for the end
	signal.Ignore(syscall.SIGPIPE)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // whoever wants to know of it asks for it; it never ends us
	sockets, unmark := inheritedSockets(), bearMark()
	global, err := o.globalFile()
	if err != nil {
		return err
	}
	m := newMetrics(version)
	if global != "" {
		m = newProcessMetrics(version)
	}
	log, err := newLogControl(o.logOutput, o.logLevel, o.given["log.output"], o.given["log.level"], &m.logDropped)
	if err != nil {
		return fmt.Errorf("%w: -log.output: %v", errConfig, err)
	}
	defer log.Flush(logTail)
	if o.memory > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(o.memory))
	}
	pace := new(heapPace)
	if os.Getenv("GOGC") == "" {
		pace.begin()
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(parallel)
	}
	hushRedis()
	if bootID() == "" {
		log.Warn("this boot of the machine cannot be told from another: after a restart left-overs and interfaces of "+
			"now may be mixed up", "remedy", "let the daemon read /proc/sys/kernel/random/boot_id: no ProcSubset=pid")
	}
	d := &daemon{options: o, log: log, m: m, unmark: unmark, pace: pace, waits: newLockWaits(),
		health: &health{memoryLimit: uint64(o.memory), bell: new(bell), begun: make(chan struct{})}}
	if o.heartbeat {
		d.health.heart = startHeart(stdout)
	}
	run := d.one
	if global != "" {
		run = d.several(global).run
	}
	return run(ctx, func(b *box) (stop func()) {
		notify := openNotifier()
		stopping := context.AfterFunc(ctx, func() { notify.Tell("STOPPING=1") })
		where := webOptions{listen: &o.listen, sockets: sockets, tls: o.tls, control: o.control}
		served := startWeb(ctx, where, newAPI(b, o.standalone), log.Logger)
		guard := &watchdog{box: b, log: log.Logger, flush: log.Flush, notify: notify,
			exit: func() { os.Exit(exitFailed) }, look: served.look}
		go guard.Run(ctx)
		go b.handOverOn(ctx, func(why string) { log.Warn("SIGUSR2: it is not handed over", "why", why) })
		return func() {
			served.drain()
			stopping()
		}
	})
}
