//go:build vm

package guest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestPackageInstalls: the package enables nothing and starts nothing; on a SONiC switch another portsyncd runs already.
func TestPackageInstalls(t *testing.T) {
	g := onGuest(t)
	_ = exec.Command("dpkg", "--purge", "portsyncd").Run()
	g.install(first)
	if got := g.output("systemctl", "is-enabled", unit); got != "disabled" {
		t.Errorf("the unit is %s", got)
	}
	if got := g.property("ActiveState"); got != "inactive" {
		t.Errorf("the unit is %s", got)
	}
	if got := g.run("portsyncd", "-version"); !strings.Contains(got, first) {
		t.Errorf("-version says %s", got)
	}
	if got := g.output("systemd-analyze", "verify", "--man=no", "/lib/systemd/system/portsyncd.service", "/lib/systemd/system/portsyncd.socket"); got != "" {
		t.Errorf("systemd-analyze verify: %s", got)
	}
}

// TestConfinedUnit runs the unit as it is shipped, beside Debian's Redis: a left-over is set down, ports are mirrored, the commands
// work, and the process may do nothing else.
func TestConfinedUnit(t *testing.T) {
	g := onGuest(t)
	const ports = 16
	g.coldStart(ports)
	if got := g.property("StatusText"); got != "ok" {
		t.Errorf("the status is %q", got)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.pid()))
	g.must(err)
	for _, line := range []string{"CapEff:\t0000000000001000", "CapBnd:\t0000000000001000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), line) {
			t.Errorf("it is not confined, %q is missing:\n%s", line, status)
		}
	}
	uid := regexp.MustCompile(`Uid:\t(\d+)`).FindStringSubmatch(string(status))[1]
	if id, _ := strconv.Atoi(uid); id < 61184 || id > 65519 { // systemd's range for DynamicUser
		t.Errorf("its user is %s", uid)
	}
	if out := g.run("portsyncd", "status", "-ports"); !strings.Contains(out, "Ethernet60") {
		t.Errorf("status says:\n%s", out)
	}
	if out, err := exec.Command("portsyncd", "diff").CombinedOutput(); err != nil {
		t.Errorf("diff: %v\n%s", err, out)
	}
	if out := g.run("portsyncd", "events", "Ethernet4"); !strings.Contains(out, "created") {
		t.Errorf("events says:\n%s", out)
	}

	g.run("systemctl", "stop", unit) // a cold start with left-overs
	g.must(g.Appl.FlushAll(context.Background()).Err())
	g.must(g.Configure(g.Context(), ports))
	g.run("systemctl", "start", unit)
	g.waitFor("the left-overs to be set down", func() bool {
		for _, l := range g.links() {
			if strings.HasPrefix(l.Name, "Ethernet") && l.want()["admin_status"] == "up" {
				return false
			}
		}
		return true
	})
	if log := g.journal(time.Now().Add(-time.Hour)); strings.Contains(log, "not permitted") || strings.Contains(log, "denied") {
		t.Errorf("something is forbidden:\n%s", log)
	}
}

// TestSecurityFigure holds systemd's own judgement of the unit, on the system where it runs.
func TestSecurityFigure(t *testing.T) {
	g := onGuest(t)
	g.install(first)
	const limit = 2.0
	out := g.output("systemd-analyze", "security", "--no-pager", unit)
	m := regexp.MustCompile(`Overall exposure level for \S+: (\d+\.\d)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no figure:\n%s", out)
	}
	figure, err := strconv.ParseFloat(m[1], 64)
	g.must(err)
	if t.Logf("%s", m[0]); figure > limit {
		t.Errorf("exposure %v, more than %v:\n%s", figure, limit, out)
	}
}

// TestWatchdogRestartsAStoppedDaemon: WatchdogSec is systemd's to enforce. What changes meanwhile is written by the
// next daemon, which adopts the interfaces.
func TestWatchdogRestartsAStoppedDaemon(t *testing.T) {
	g := onGuest(t)
	g.coldStart(8)
	begun, pid := time.Now(), g.pid()
	g.must(syscall.Kill(pid, syscall.SIGSTOP))
	g.must(g.IP("link", "set", "Ethernet0", "mtu", "9000"))
	g.must(g.IP("link", "set", "Ethernet4", "down"))
	g.waitFor("systemd to start another", func() bool { now := g.pid(); return now != 0 && now != pid })
	t.Logf("another daemon %v after SIGSTOP", time.Since(begun).Round(time.Second))
	g.agree(8)
	if got := g.property("NRestarts"); got != "1" {
		t.Errorf("systemd counts %s restarts", got)
	}
	log := g.journal(begun)
	for _, words := range []string{"Watchdog timeout", "start decided"} {
		if !strings.Contains(log, words) {
			t.Errorf("the journal lacks %q:\n%s", words, log)
		}
	}
	if got := g.Appl.SCard(g.Context(), "PORT_TABLE_KEY_SET").Val(); got != 0 {
		t.Errorf("%d keys were announced again", got)
	}
}

// TestKilledDaemonIsStartedAgain is Restart=always.
func TestKilledDaemonIsStartedAgain(t *testing.T) {
	g := onGuest(t)
	g.coldStart(8)
	starts := func() int { return strings.Count(g.run("portsyncd", "events"), "started portsyncd") } // the file outlives the service
	pid, before := g.pid(), starts()
	g.must(syscall.Kill(pid, syscall.SIGKILL))
	g.must(g.IP("link", "set", "Ethernet0", "mtu", "9000"))
	g.waitFor("systemd to start another", func() bool { now := g.pid(); return now != 0 && now != pid })
	g.agree(8)
	if after := starts(); after != before+1 {
		t.Errorf("the flight recorder had %d starts, and has %d", before, after)
	}
}

// TestSocketActivation: systemd listens, the first scrape starts the daemon, and a scrape while it restarts waits instead of failing.
func TestSocketActivation(t *testing.T) {
	g := onGuest(t)
	g.coldStart(4)
	g.run("systemctl", "stop", unit)
	g.run("systemctl", "start", "portsyncd.socket")
	scrape := func() (string, error) {
		out, err := exec.Command("curl", "-s", "-m", "100", "http://127.0.0.1:9090/metrics").CombinedOutput()
		return string(out), err
	}
	text, err := scrape()
	if err != nil || sample(text, "portsyncd_health_status") == "" {
		t.Fatalf("the first scrape: %v\n%s", err, text)
	}
	g.waitFor("the service that a scrape has started", func() bool { return g.property("ActiveState") == "active" })
	var scrapes atomic.Int32
	ended, failed := make(chan bool), make(chan error, 1)
	go func() {
		for {
			select {
			case <-ended:
				failed <- nil
				return
			default:
			}
			if text, err := scrape(); err != nil {
				failed <- fmt.Errorf("scrape %d: %w %s", scrapes.Load(), err, text)
				return
			}
			scrapes.Add(1)
		}
	}()
	g.waitFor("scrapes", func() bool { return scrapes.Load() > 2 })
	g.run("systemctl", "restart", unit)
	before := scrapes.Load()
	g.waitFor("more scrapes", func() bool { return scrapes.Load() > before+2 || len(failed) > 0 })
	close(ended)
	if err := <-failed; err != nil {
		t.Error("a scrape beside a restart failed: ", err)
	}
	g.agree(4)
}

// certificates makes a CA and the switch's certificate in a folder, with a common name, and leaves the key to a group.
func (g *guest) certificates(dir, name string) {
	g.Helper()
	script := `set -e
umask 027
mkdir -p "$1" && cd "$1"
[ -e ca.crt ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj '/CN=CA' -keyout ca.key -out ca.crt
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$2" -keyout new.key -out new.csr
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >new.ext
openssl x509 -req -in new.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 10 -extfile new.ext -out new.crt
chgrp -R portsyncd-tls .
mv new.key switch.key
mv new.crt switch.crt
chmod 755 . && chmod 644 ./*.crt && chmod 640 switch.key`
	g.run("sh", "-c", script, "sh", dir, name)
}

// TestReloadTakesUpCertificates: systemctl reload, with the key readable for a group of the confined user, as docs/tls.md has it.
func TestReloadTakesUpCertificates(t *testing.T) {
	g := onGuest(t)
	const dir = "/etc/portsyncd"
	_ = exec.Command("groupadd", "--system", "portsyncd-tls").Run()
	g.certificates(dir, "one")
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g.install(first)
	g.write("/etc/systemd/system/portsyncd.service.d/tls.conf", "[Service]\nSupplementaryGroups=portsyncd-tls\n")
	g.write(defaults, `PORTSYNCD_OPTS="-web.listen-address 127.0.0.1:9443 -web.tls-cert `+dir+`/switch.crt -web.tls-key `+dir+`/switch.key -web.tls-client-ca `+dir+`/ca.crt"`+"\n")
	g.run("systemctl", "daemon-reload")
	g.coldStart(4)
	subject := func() string {
		return g.output("sh", "-c", "openssl s_client -connect 127.0.0.1:9443 </dev/null 2>/dev/null | openssl x509 -noout -subject")
	}
	g.waitFor("the first certificate", func() bool { return subject() == "subject=CN = one" })
	g.certificates(dir, "two")
	pid := g.pid()
	g.run("systemctl", "reload", unit)
	g.waitFor("the second certificate", func() bool { return subject() == "subject=CN = two" })
	if g.pid() != pid {
		t.Error("the reload was a restart")
	}
	if out, err := exec.Command("curl", "-s", "-k", "https://127.0.0.1:9443/metrics").CombinedOutput(); err == nil {
		t.Errorf("a client without a certificate got in: %s", out)
	}
}

// TestUpgradeWithPortsUp installs a newer package while ports are up and change: none is set down, no entry is deleted or wrong after it,
// and nothing is announced to orchagent again.
func TestUpgradeWithPortsUp(t *testing.T) {
	g := onGuest(t)
	const ports = 32
	o := g.coldStart(ports)
	keys := len(o.Popped())
	deleted, end := g.deletedEntries(), g.mtuChanges("Ethernet0")
	g.install(second)
	g.waitFor("the new daemon", func() bool {
		return strings.Contains(g.output("curl", "-s", "http://127.0.0.1:9090/metrics"), `version="`+second+`"`)
	})
	g.must(end())
	g.agree(ports)
	for _, l := range g.links() {
		if strings.HasPrefix(l.Name, "Ethernet") && l.want()["netdev_oper_status"] != "up" {
			t.Errorf("%s is %v after the upgrade", l.Name, l.Flags)
		}
	}
	if n := deleted.Load(); n > 0 {
		t.Errorf("%d entries were deleted", n)
	}
	if again := o.Popped()[keys:]; len(again) > 0 {
		t.Errorf("orchagent was told again of %v", again)
	}
	if out, err := exec.Command("portsyncd", "status").CombinedOutput(); err != nil {
		t.Errorf("status: %v\n%s", err, out)
	}
}

// TestJournalHasTheLog: what the daemon sends to syslog is the unit's own, with the priorities that syslog has.
func TestJournalHasTheLog(t *testing.T) {
	g := onGuest(t)
	begun := time.Now()
	g.coldStart(2)
	g.run("systemctl", "restart", "redis-server.service")
	lines := func(priority string) string {
		return g.output("journalctl", "--no-pager", "-o", "cat", "-u", unit, "-p", priority, "--since", "@"+strconv.FormatInt(begun.Unix(), 10))
	}
	g.waitFor("the decision in the journal", func() bool { return strings.Contains(lines("notice"), "start decided") })
	g.waitFor("the outage as a warning", func() bool { return strings.Contains(lines("warning"), "edis") })
	if strings.Contains(lines("warning"), "start decided") {
		t.Error("a notice has the priority of a warning")
	}
	if g.output("journalctl", "--no-pager", "-o", "cat", "-t", "portsyncd", "-n", "1") == "" {
		t.Error("the lines have no identifier portsyncd")
	}
}

// TestRedisRestarts: Debian's Redis, which keeps nothing here, is restarted by systemd; its socket is another one then.
func TestRedisRestarts(t *testing.T) {
	g := onGuest(t)
	const ports = 8
	g.coldStart(ports)
	pid := g.pid()
	g.run("systemctl", "restart", "redis-server.service")
	g.must(g.IP("link", "set", "Ethernet0", "mtu", "9000"))
	g.waitFor("Redis", func() bool { return g.State.Ping(context.Background()).Err() == nil })
	g.must(g.Configure(g.Context(), ports)) // as the database container loads it
	g.agree(ports)
	if g.pid() != pid {
		t.Error("the daemon was restarted, too")
	}
}

// TestSupervisord follows docs/sonic.md with Debian's supervisord: the block of deploy/supervisord, the daemon alone exchanged by
// supervisorctl update, and a daemon that crashes.
func TestSupervisord(t *testing.T) {
	g := onGuest(t)
	const ports = 8
	o := g.coldStart(ports)
	g.run("systemctl", "stop", unit)
	block, err := os.ReadFile("/vm/deploy/supervisord/portsyncd.conf")
	g.must(err)
	// what only SONiC's own supervisord knows: it starts programs in the order that dependent_startup gives
	text := regexp.MustCompile(`(?m)^dependent_startup.*\n?`).ReplaceAllString(string(block), "")
	const conf = "/etc/supervisor/conf.d/portsyncd.conf"
	cpp := regexp.MustCompile(`(?m)^command=.*$`).ReplaceAllString(text, "command=/bin/sleep 1000000") // the daemon that it replaces
	g.write(conf, cpp)
	g.run("systemctl", "start", "supervisor.service")
	t.Cleanup(func() { _ = exec.Command("systemctl", "stop", "supervisor.service").Run() })
	g.waitFor("supervisord", func() bool { return strings.Contains(g.output("supervisorctl", "avail"), "portsyncd") })
	g.run("supervisorctl", "start", "portsyncd")
	keys := len(o.Popped())
	g.must(os.WriteFile(conf, []byte(strings.Replace(text, "autorestart=false", "autorestart=unexpected", 1)), 0o644))
	if out := g.output("supervisorctl", "reread"); !strings.Contains(out, "portsyncd: changed") {
		t.Errorf("supervisorctl reread says %s", out)
	}
	g.must(g.IP("link", "set", "Ethernet0", "mtu", "9000"))
	g.output("supervisorctl", "update", "portsyncd")
	g.output("supervisorctl", "start", "portsyncd")
	pid := func() int { n, _ := strconv.Atoi(g.output("supervisorctl", "pid", "portsyncd")); return n }
	g.waitFor("the daemon under supervisord", func() bool { return pid() > 0 && exec.Command("portsyncd", "status").Run() == nil })
	g.agree(ports)
	if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid())); exe != "/usr/sbin/portsyncd" {
		t.Errorf("supervisord runs %s", exe)
	}
	killed := pid()
	g.must(syscall.Kill(killed, syscall.SIGKILL))
	g.must(g.IP("link", "set", "Ethernet4", "mtu", "9000"))
	g.waitFor("supervisord to start another", func() bool { now := pid(); return now > 0 && now != killed })
	g.agree(ports)
	if again := o.Popped()[keys:]; len(again) > 0 {
		t.Errorf("orchagent was told again of %v", again)
	}
	response, err := http.Get("http://127.0.0.1:9090/readyz")
	g.must(err)
	if response.Body.Close(); response.StatusCode != http.StatusOK {
		t.Errorf("readyz says %s", response.Status)
	}
}

// TestTryBesideAnother is the first step of docs/sonic.md: nothing is written while another portsyncd runs.
func TestTryBesideAnother(t *testing.T) {
	g := onGuest(t)
	g.coldStart(4)
	writes := g.State.ClientList(context.Background()).Val()
	beside := exec.Command("/usr/sbin/portsyncd", "-standalone", "-links", "Ethernet*,PortChannel*", "-web.listen-address", "127.0.0.1:9091",
		"-control.socket", "", "-recorder.file", filepath.Join(t.TempDir(), "recorder"), "-log.output", "stderr")
	g.must(beside.Start())
	defer func() { _ = beside.Process.Kill(); _ = beside.Wait() }()
	g.waitFor("its metrics", func() bool {
		return sample(g.output("curl", "-s", "http://127.0.0.1:9091/metrics"), `portsyncd_port_oper_up{port="Ethernet12"}`) == "1"
	})
	if now := g.State.ClientList(context.Background()).Val(); strings.Count(now, "\n") != strings.Count(writes, "\n") {
		t.Errorf("Redis has other clients:\n%s\nbefore:\n%s", now, writes)
	}
}

// TestObserverBesideAnother is that step with the databases: what the other one leaves wrong is named, until it is right.
func TestObserverBesideAnother(t *testing.T) {
	g := onGuest(t)
	g.coldStart(4)
	dir := t.TempDir()
	socket := filepath.Join(dir, "observer.sock")
	observer := exec.Command("/usr/sbin/portsyncd", "-observe", "-web.listen-address", "127.0.0.1:9091", "-control.socket", socket,
		"-recorder.file", filepath.Join(dir, "observed"), "-log.output", "stderr")
	g.must(observer.Start())
	defer func() { _ = observer.Process.Kill(); _ = observer.Wait() }()
	status := func() string { return g.output("/usr/sbin/portsyncd", "status", "-control.socket", socket) }
	agrees := func() bool {
		return exec.Command("/usr/sbin/portsyncd", "status", "-control.socket", socket).Run() == nil
	}
	g.waitFor("the observer to agree", agrees)
	pid := g.pid()
	g.must(syscall.Kill(pid, syscall.SIGSTOP))
	g.must(g.IP("link", "set", "Ethernet8", "mtu", "9000"))
	g.waitFor("the difference to be named", func() bool { return strings.Contains(status(), "Ethernet8") })
	_ = syscall.Kill(pid, syscall.SIGCONT) // or the watchdog was faster
	g.waitFor("the observer to agree again", agrees)
	g.agree(4)
}

// TestUnitEntersANamespace: that of a process, as a container's is named, takes the drop-in of the package, and without
// it the daemon says so.
func TestUnitEntersANamespace(t *testing.T) {
	g := onGuest(t)
	o := g.swss(2)
	g.Cleanup(func() {
		_ = exec.Command("systemctl", "stop", unit).Run()
		g.removeLinks()
	})
	container := exec.Command("unshare", "--net", "sleep", "3600")
	g.must(container.Start())
	defer func() { _ = container.Process.Kill(); _ = container.Wait() }()
	own, err := os.Readlink("/proc/self/ns/net")
	g.must(err)
	theirs := fmt.Sprintf("/proc/%d/ns/net", container.Process.Pid)
	g.waitFor("its namespace", func() bool { id, err := os.Readlink(theirs); return err == nil && id != own })
	const name = "/run/netns/container"
	g.must(os.MkdirAll(filepath.Dir(name), 0o755))
	g.must(os.Symlink(theirs, name))
	defer os.Remove(name)
	g.write(defaults, "PORTSYNCD_OPTS=-netns container\n")
	begun := time.Now()
	_ = g.output("systemctl", "start", unit)
	g.waitFor("what it lacks", func() bool { return strings.Contains(g.journal(begun), "netns.conf") })
	g.run("systemctl", "stop", unit)
	dropIn, err := os.ReadFile("/usr/share/doc/portsyncd/deploy/systemd/netns.conf")
	g.must(err)
	g.write("/etc/systemd/system/"+unit+".d/netns.conf", string(dropIn))
	g.run("systemctl", "daemon-reload")
	g.run("systemctl", "start", unit)
	g.waitFor("PortConfigDone", func() bool { return o.Signal("PortConfigDone") != nil })
	g.run("nsenter", "--net="+name, "ip", "link", "add", "Ethernet0", "mtu", "4321", "type", "veth", "peer", "name", "far")
	g.waitFor("the port of the container", func() bool {
		return g.State.HGet(context.Background(), g.StateKey("Ethernet0"), "mtu").Val() == "4321"
	})
}

// TestRemovalStopsIt: a removed package leaves no daemon and no unit behind.
func TestRemovalStopsIt(t *testing.T) {
	g := onGuest(t)
	g.coldStart(2)
	g.run("systemctl", "enable", unit)
	pid := g.pid()
	g.run("dpkg", "--purge", "portsyncd")
	g.waitFor("the daemon to end", func() bool { return syscall.Kill(pid, 0) != nil })
	if out := g.output("systemctl", "is-enabled", unit); out == "enabled" {
		t.Error("the unit is still enabled")
	}
	for _, path := range []string{"/usr/sbin/portsyncd", defaults, "/lib/systemd/system/portsyncd.service"} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
}
