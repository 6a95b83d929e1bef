package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// newLineLog writes each line at once, for tests that look at what was logged.
func newLineLog(w io.Writer, level slog.Leveler) slog.Handler {
	named := func(_ []string, a slog.Attr) slog.Attr {
		if l, ok := a.Value.Any().(slog.Level); ok && a.Key == slog.LevelKey {
			return slog.String(slog.LevelKey, logLevels[logLevel(l)].name)
		}
		return a
	}
	return slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: named})
}

// newTestLog is the daemon's log with an output of the test's own.
func newTestLog(out logOutput, level slog.Level) (c *logControl, lost *counter) {
	lost = new(counter)
	c = &logControl{queue: newLogQueue(out, lost)}
	c.level.Set(level)
	c.Logger = slog.New(newQueuedLog(c.queue, &c.level))
	return c, lost
}

func newPipe(t *testing.T) (reader, writer *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { reader.Close(); writer.Close() })
	return reader, writer
}

// within fails the test if fn takes longer than a log that is stuck would be noticed by, and says what it did
// meanwhile.
func within(t *testing.T, what string, limit time.Duration, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s took longer than %v", what, limit)
	}
}

func TestLogLevels(t *testing.T) {
	for name, want := range map[string]slog.Level{"EMERG": levelEmerg, "notice": levelNotice, "Debug": slog.LevelDebug, "ERROR": slog.LevelError} {
		if got, err := parseLogLevel(name); err != nil || got != want {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
	reader, writer := newPipe(t)
	log, _ := newTestLog(&fileOutput{file: writer}, levelNotice)
	log.Info("too quiet")
	log.Log(ctxNone, levelNotice, "a notice", "port", "Ethernet0")
	log.With("instance", "asic0").WithGroup("g").Log(ctxNone, levelCrit, "two\nlines", "err", "a b")
	log.Flush(patience)
	must(t, writer.Close())
	text, err := io.ReadAll(reader)
	must(t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[0], ` level=NOTICE msg="a notice" port=Ethernet0`) ||
		!strings.HasSuffix(lines[1], ` level=CRIT msg="two\nlines" instance=asic0 g.err="a b"`) {
		t.Fatalf("the log is %s", text)
	}
	stamp, _, _ := strings.Cut(strings.TrimPrefix(lines[0], "time="), " ")
	if at, err := time.Parse(time.RFC3339, stamp); err != nil || time.Since(at) > time.Hour {
		t.Errorf("the time is %s: %v", stamp, err)
	}
}

// openSyslogd listens where syslogd would, and makes an output that sends there.
func openSyslogd(t *testing.T) (*net.UnixConn, *syslogOutput) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	syslogd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { syslogd.Close() })
	return syslogd, &syslogOutput{connect: func() (*syslog.Writer, error) {
		return syslog.Dial("unixgram", path, syslog.LOG_DAEMON|syslog.LOG_NOTICE, appName)
	}}
}

// readDatagrams hands on every datagram until fn is content.
func readDatagrams(t *testing.T, syslogd *net.UnixConn, what string, fn func(line string) (content bool)) {
	t.Helper()
	buf := make([]byte, 512<<10)
	must(t, syslogd.SetReadDeadline(time.Now().Add(patience)))
	for {
		n, err := syslogd.Read(buf)
		if err != nil {
			t.Fatalf("waited in vain for %s: %v", what, err)
		}
		if fn(strings.TrimSpace(string(buf[:n]))) {
			return
		}
	}
}

// TestSyslog listens where syslogd would: each line has its own severity and the daemon's tag.
func TestSyslog(t *testing.T) {
	syslogd, out := openSyslogd(t)
	log, _ := newTestLog(out, slog.LevelDebug)
	for level, priority := range map[slog.Level]string{slog.LevelDebug: "<31>", slog.LevelInfo: "<30>", levelNotice: "<29>", slog.LevelWarn: "<28>", slog.LevelError: "<27>",
		levelCrit: "<26>", levelAlert: "<25>", levelEmerg: "<24>"} {
		log.With("instance", "asic0").Log(ctxNone, level, "it happened", "port", "Ethernet0")
		readDatagrams(t, syslogd, "the line", func(line string) bool {
			if !strings.HasPrefix(line, priority) || !strings.Contains(line, " portsyncd[") ||
				!strings.HasSuffix(line, `: msg="it happened" instance=asic0 port=Ethernet0`) {
				t.Errorf("%v is sent as %s", level, line)
			}
			return true
		})
	}
}

// TestLoggingWaitsForNobody: a syslog daemon that is stopped takes no line. Whoever logs goes on; memory is bounded,
// what does not fit is counted, and once it drains the log says how much is missing, in its place.
func TestLoggingWaitsForNobody(t *testing.T) {
	syslogd, out := openSyslogd(t)
	log, lost := newTestLog(out, slog.LevelDebug)
	const lines = 20000
	within(t, "logging", patience, func() {
		var loggers sync.WaitGroup
		for range 4 {
			loggers.Go(func() {
				for i := range lines / 4 {
					log.Debug("a line that nobody takes", "number", i)
				}
			})
		}
		loggers.Wait()
		log.Flush(10 * time.Millisecond) // not for as long as it takes
	})
	missing := lost.Load()
	if missing == 0 {
		t.Fatal("everything fitted: the test did not test anything")
	}
	log.Log(ctxNone, levelCrit, "the last words") // these fit in a queue that is full
	got, told, words := uint64(0), uint64(0), false
	readDatagrams(t, syslogd, "the lines that fitted, and how many did not", func(line string) bool {
		switch {
		case strings.Contains(line, "a line that nobody takes"):
			got++
		case strings.Contains(line, "log lines were dropped"):
			var n uint64
			_, err := fmt.Sscanf(line[strings.Index(line, "lines="):], "lines=%d", &n)
			if err != nil || !strings.HasPrefix(line, "<28>") {
				t.Errorf("%s: %v", line, err)
			}
			told += n
		case strings.Contains(line, "the last words"):
			words = true
		}
		return told == missing
	})
	if got+missing != lines || !words {
		t.Errorf("%d lines of %d came and %d were dropped; the last words came: %v", got, lines, missing, words)
	}
	if held := cap(log.queue.filling.text); held > 2*logRoomCrit {
		t.Errorf("the queue holds %d bytes", held)
	}
	log.Info("and on it goes")
	readDatagrams(t, syslogd, "the log to go on", func(line string) bool {
		return strings.HasSuffix(line, `msg="and on it goes"`)
	})
}

// TestSyslogThatComesLater: until it is there stderr serves in its place, which is said once; and connecting to it is
// the writer's business, too.
func TestSyslogThatComesLater(t *testing.T) {
	reader, writer := newPipe(t)
	syslogd, there := openSyslogd(t)
	connecting, connect := make(chan struct{}), make(chan error)
	out := &syslogOutput{instead: fileOutput{file: writer}, connect: func() (*syslog.Writer, error) {
		connecting <- struct{}{}
		if err := <-connect; err != nil {
			return nil, err
		}
		return there.connect()
	}}
	log, _ := newTestLog(out, slog.LevelDebug)
	within(t, "logging while syslog is being connected to", patience, func() { log.Info("one"); log.Info("two") })
	<-connecting
	connect <- os.ErrNotExist
	lines := bufio.NewScanner(reader)
	said := `level=WARN msg="no syslog here, logging to stderr"`
	for _, want := range []string{said, "level=INFO msg=one", "level=INFO msg=two"} {
		if !lines.Scan() || !strings.HasSuffix(lines.Text(), want) {
			t.Errorf("stderr has %q, want %q", lines.Text(), want)
		}
	}
	log.Flush(patience)
	out.retry = time.Now()
	log.Info("three")
	<-connecting
	connect <- nil
	readDatagrams(t, syslogd, "the line", func(line string) bool { return strings.HasSuffix(line, "msg=three") })
}

// TestStuckLoopEndsTheDaemonWhateverTheLogDoes: nobody reads the log, and the watchdog has something to say before.
func TestStuckLoopEndsTheDaemonWhateverTheLogDoes(t *testing.T) {
	_, out := openSyslogd(t)
	log, lost := newTestLog(out, slog.LevelDebug)
	for lost.Load() == 0 {
		log.Debug("a line that nobody takes")
	}
	w, exited, _ := newWatchdog(t)
	w.log, w.flush = log.Logger, log.Flush
	within(t, "noticing that the loop is stuck", patience, func() {
		for now := time.Now(); *exited == 0; now = now.Add(time.Second) {
			w.tick(now, time.Second)
		}
	})
	if *exited != exitFailed {
		t.Errorf("exit code %d", *exited)
	}
}

// TestStuckLoopLeavesItsGoroutinesInTheLog: the process ends when they are written, not before.
func TestStuckLoopLeavesItsGoroutinesInTheLog(t *testing.T) {
	syslogd, out := openSyslogd(t)
	log, _ := newTestLog(out, slog.LevelDebug)
	w, _, _ := newWatchdog(t)
	w.log, w.flush = log.Logger, log.Flush
	ended := make(chan struct{})
	var once sync.Once
	w.exit = func() { once.Do(func() { close(ended) }) }
	go func() {
		for range 10 {
			w.tick(time.Now(), time.Second)
		}
	}()
	said := false
	readDatagrams(t, syslogd, "the goroutines", func(line string) bool {
		said = said || strings.HasPrefix(line, "<26>") &&
			strings.Contains(line, `msg="the loop is stuck, ending" for=10s`)
		return said && strings.Contains(line, "TestStuckLoopLeavesItsGoroutinesInTheLog")
	})
	go func() {
		buf := make([]byte, 512<<10)
		for { // the other goroutines, until the socket is closed
			if _, err := syslogd.Read(buf); err != nil {
				return
			}
		}
	}()
	within(t, "ending", patience, func() { <-ended })
}

// TestHealthIsToldWithoutALock: whoever writes the line down may ask for health.
func TestHealthIsToldWithoutALock(t *testing.T) {
	h, m := new(health), newMetrics("")
	asked := 0
	log := slog.New(newLineLog(writerFunc(func(b []byte) {
		asked++
		h.Update(time.Now(), m, slog.New(slog.DiscardHandler))
	}), slog.LevelDebug))
	within(t, "a change of health", patience, func() { h.Update(time.Now(), m, log) })
	if asked != 1 {
		t.Errorf("%d lines were written", asked)
	}
}

type writerFunc func(b []byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

func TestLoggingThatIsNotEnabledDoesNotAllocate(t *testing.T) {
	_, writer := newPipe(t)
	log, _ := newTestLog(&fileOutput{file: writer}, levelNotice)
	port := "Ethernet" + fmt.Sprint(len(os.Args))
	allocs := testing.AllocsPerRun(100, func() {
		log.Debug("link message")
		log.LogAttrs(ctxNone, slog.LevelInfo, "link changed", slog.String("port", port), slog.Int("mtu", len(port)))
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// --- The real daemon
// -------------------------------------------------------------------------------------------------------

// startInside runs the daemon on the switch with its log going to the switch's syslog, and its metrics on a socket.
func (s *testSwitch) startInside(flags ...string) (*switchtest.Daemon, string) {
	s.t.Helper()
	socket := filepath.Join(s.Dir, "metrics.sock")
	program := append(daemonProgram(s.t), "-log.output", "syslog", "-web.listen-address", "unix:"+socket)
	d, err := s.StartInside(append(program, flags...)...)
	s.must(err)
	s.keep(d)
	return d, socket
}

// TestSyslogThatNobodyReadsStopsNothing: from the first line on the socket is full. Link changes reach STATE_DB,
// /metrics answers, the loop turns, SIGTERM ends the daemon in time; and when somebody reads again, the log says how
// much is missing.
func TestSyslogThatNobodyReadsStopsNothing(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 16))
	syslogd, err := s.Syslog()
	s.must(err)
	defer syslogd.Close()
	s.must(s.FillSyslog())
	o := s.orchagent(true)
	d, socket := s.startInside("-log.level", "DEBUG")
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	s.must(s.IP("link", "set", "Ethernet0", "mtu", "1400"))
	s.waitEntry("Ethernet0", fields("up", "up", 1400))
	dropped := func() bool {
		n, _ := strconv.Atoi(sample(s.scrapeSocket(socket), "portsyncd_log_lines_dropped_total"))
		return n > 0
	}
	for rounds := 0; !dropped(); rounds++ {
		if rounds > 200 {
			t.Fatal("no line was ever dropped")
		}
		s.must(s.Flap(5, portNames(16)...))
	}
	s.must(s.IP("link", "set", "Ethernet4", "mtu", "1300"))
	s.waitFor("the last change", func() bool { return s.entry("Ethernet4")["mtu"] == "1300" })
	if got := sample(s.scrapeSocket(socket), `portsyncd_health_check{check="loop"}`); got != "1" {
		t.Errorf("health of the loop is %q", got)
	}
	readDatagrams(t, syslogd, "how many lines are missing", func(line string) bool {
		return strings.Contains(line, `msg="log lines were dropped" lines=`)
	})
	s.must(s.FillSyslog())
	s.must(d.Signal(os.Interrupt))
	asked := time.Now()
	if code, err := d.Wait(patience); err != nil || code != exitOK {
		t.Errorf("exit code %d, %v", code, err)
	}
	if took := time.Since(asked); took > 4*time.Second {
		t.Errorf("ended after %v", took)
	}
}

// TestLastLinesReachSyslog: the daemon ends when they are written.
func TestLastLinesReachSyslog(t *testing.T) {
	s := newSwitch(t, switchtest.Options{})
	syslogd, err := s.Syslog()
	s.must(err)
	defer syslogd.Close()
	o := s.orchagent(true)
	d, _ := s.startInside()
	s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	s.must(d.Signal(os.Interrupt))
	readDatagrams(t, syslogd, "the last line", func(line string) bool {
		return strings.HasSuffix(line, "msg=stopped unwritten_ports=0")
	})
	if code, err := d.Wait(patience); err != nil || code != exitOK {
		t.Errorf("exit code %d, %v", code, err)
	}
}

// TestReaderOfTheLogMayGo: supervisord ends, or a pipe's other end does. EPIPE on stderr or stdout is the end of a Go
// program that does not say otherwise.
func TestReaderOfTheLogMayGo(t *testing.T) {
	for _, output := range []string{"stderr", "stdout"} {
		t.Run(output, func(t *testing.T) {
			s := newSwitch(t, switchtest.Options{})
			s.must(s.Configure(t.Context(), 1))
			o := s.orchagent(true)
			reader, writer := newPipe(t)
			d, err := s.StartDaemonOn(writer, daemonProgram(t), "-log.output", output)
			s.must(err)
			t.Cleanup(d.Stop)
			must(t, writer.Close()) // the daemon's copy is the only one
			if !bufio.NewScanner(reader).Scan() {
				t.Fatal("the daemon logs nothing")
			}
			must(t, reader.Close())
			s.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
			for mtu := range 5 {
				s.must(s.IP("link", "set", "Ethernet0", "mtu", fmt.Sprint(1400+mtu)))
				s.waitEntry("Ethernet0", fields("up", "up", 1400+mtu))
			}
			s.waitFor("the lost lines to be counted", func() bool {
				return s.number(d, "portsyncd_log_lines_dropped_total") > 0
			})
			s.must(d.Signal(os.Interrupt))
			if code, err := d.Wait(patience); err != nil || code != exitOK {
				t.Errorf("exit code %d, %v", code, err)
			}
		})
	}
}

// noLogger: a CONFIG_DB, on a server of its own, that can be read and not written.
type noLogger struct{ *mapDB }

func (noLogger) SetLogger(context.Context, logSettings) error {
	return errors.New("MISCONF Redis is configured to save RDB snapshots")
}

func TestLogSettingsThatCannotBeWrittenHoldNoStartUp(t *testing.T) {
	b := newBench(t, "Ethernet0")
	db := noLogger{b.db}
	b.openDB = func(func()) (database, error) { return db, nil }
	b.db.facts.split = true
	b.turn()
	b.dumpDone(false, nil)
	for range 2000 {
		b.clock = b.clock.Add(10 * time.Millisecond)
		b.turn()
	}
	if !b.start.running() {
		t.Errorf("after 20 s the start is %v, and PortConfigDone was not sent: nothing is wrong but the defaults of the log's settings", b.start.state)
	}
}

// TestReadOnlyCONFIGDB: CONFIG_DB's is a read-only replica, or its disk is full.
func TestReadOnlyCONFIGDB(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{ApartConfig: true})
	s.must(s.Configure(t.Context(), 1))
	o := s.orchagent(true)
	s.must(s.Config.Do(t.Context(), "replicaof", "127.0.0.1", "1").Err())
	s.must(s.Config.ConfigSet(t.Context(), "replica-serve-stale-data", "yes").Err())
	s.daemon()
	if err := switchtest.WaitFor(10*time.Second, "PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil }); err != nil {
		t.Error(err)
	}
}
