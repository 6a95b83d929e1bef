package main

import (
	"log/slog"
	"log/syslog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLogLevels(t *testing.T) {
	for name, want := range map[string]slog.Level{"EMERG": levelEmerg, "notice": levelNotice, "Debug": slog.LevelDebug, "ERROR": slog.LevelError} {
		if got, err := parseLogLevel(name); err != nil || got != want {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
	out := new(lockedBuffer)
	log := slog.New(newLineLog(out, levelNotice))
	log.Info("too quiet")
	log.Log(ctxNone, levelNotice, "a notice", "port", "Ethernet0")
	log.Log(ctxNone, levelCrit, "two\nlines", "err", "a b")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[0], `level=NOTICE msg="a notice" port=Ethernet0`) || !strings.HasSuffix(lines[1], `level=CRIT msg="two\nlines" err="a b"`) {
		t.Errorf("the log is %s", out)
	}
}

// TestSyslog listens where syslogd would: each line has its own severity and the daemon's tag.
func TestSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	syslogd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer syslogd.Close()
	w, err := syslog.Dial("unixgram", path, syslog.LOG_DAEMON|syslog.LOG_NOTICE, appName)
	must(t, err)
	log := slog.New(newSyslog(w, slog.LevelDebug))
	must(t, syslogd.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1024)
	for level, priority := range map[slog.Level]string{slog.LevelDebug: "<31>", slog.LevelInfo: "<30>", levelNotice: "<29>", slog.LevelWarn: "<28>", slog.LevelError: "<27>",
		levelCrit: "<26>", levelAlert: "<25>", levelEmerg: "<24>"} {
		log.With("instance", "asic0").Log(ctxNone, level, "it happened", "port", "Ethernet0")
		n, err := syslogd.Read(buf)
		must(t, err)
		line := strings.TrimSpace(string(buf[:n]))
		if !strings.HasPrefix(line, priority) || !strings.Contains(line, " portsyncd[") || !strings.HasSuffix(line, `: msg="it happened" instance=asic0 port=Ethernet0`) {
			t.Errorf("%v is sent as %s", level, line)
		}
	}
}
