package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"portsyncd/internal/switchtest"
)

// What deploy/ holds, run by the programs it is for.

// TestDashboard runs every query of the dashboard, and the recording rules, in a real Prometheus that scraped a real switch with deploy/prometheus/scrape.yml: all of
// them give data. So do the metrics that the queries of docs/metrics.md are about.
func TestDashboard(t *testing.T) {
	t.Parallel()
	needTool(t, "prometheus")
	s := newSwitch(t, switchtest.Options{})
	s.must(s.Configure(t.Context(), 4))
	s.orchagent(true)
	d := s.daemon("-instance", "a")
	p := s.prometheus(d)
	s.waitFor("PortInitDone", func() bool { return sample(s.scrape(d), "portsyncd_port_init_done") == "1" })
	ctx, stop := context.WithCancel(t.Context())
	flapped := make(chan error)
	go func() { // a latency is there only where something happens
		for ctx.Err() == nil {
			if err := s.Flap(1, "Ethernet0"); err != nil {
				flapped <- err
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
		flapped <- nil
	}()
	defer func() { stop(); s.must(<-flapped) }()

	file, err := os.ReadFile("deploy/grafana/portsyncd.json")
	s.must(err)
	var dashboard any
	s.must(json.Unmarshal(file, &dashboard))
	queries := expressions(dashboard)
	if len(queries) < 30 {
		t.Errorf("only %d queries in the dashboard", len(queries))
	}
	for _, q := range queries {
		q = strings.NewReplacer("$switch", ".+", "$__rate_interval", "10s").Replace(q)
		if strings.HasPrefix(q, "changes(") && strings.HasSuffix(q, "> 0") {
			continue // the annotation: nothing restarted
		}
		s.waitFor("data for "+q, func() bool { return p.has(q) })
	}
	rules, err := os.ReadFile("deploy/prometheus/portsyncd.recording.yml")
	s.must(err)
	for _, r := range regexp.MustCompile(`- record: (\S+)`).FindAllStringSubmatch(string(rules), -1) {
		switch name := r[1]; name {
		case "switch:portsyncd_ports_down:count", "switch:portsyncd_ports_pending:count", "switch_port:portsyncd_port_flaps:increase1h": // nothing is wrong
		default:
			s.waitFor("the recorded "+name, func() bool { return p.has(name) })
		}
	}
	documented, err := os.ReadFile("docs/metrics.md")
	s.must(err)
	for _, line := range regexp.MustCompile("(?m)^\\| `.*\\| `([^`|]+)` \\|$").FindAllStringSubmatch(string(documented), -1) {
		for _, name := range regexp.MustCompile(`\b(portsyncd|process|go)_[a-z_]+`).FindAllString(line[1], -1) {
			if name == "portsyncd_tls_certificate_not_after_timestamp_seconds" || name == "portsyncd_port_pending" {
				continue // there is no TLS, and all interfaces are there
			}
			s.waitFor("data for "+name, func() bool { return p.has(name) })
		}
	}
}

// expressions collects the queries of a dashboard.
func expressions(v any) (queries []string) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if text, ok := value.(string); ok && key == "expr" {
				queries = append(queries, text)
			} else {
				queries = append(queries, expressions(value)...)
			}
		}
	case []any:
		for _, value := range v {
			queries = append(queries, expressions(value)...)
		}
	}
	return queries
}

// prometheusServer is a real one, at an address.
type prometheusServer string

// prometheus starts a Prometheus with deploy/prometheus/scrape.yml, but for TLS, file names and intervals.
func (s *testSwitch) prometheus(d *switchtest.Daemon) prometheusServer {
	s.t.Helper()
	dir := s.t.TempDir()
	config, err := os.ReadFile("deploy/prometheus/scrape.yml")
	s.must(err)
	for _, edit := range [][2]string{
		{`(?s)    tls_config:.*?(    file_sd_configs:)`, "$1"},
		{`scheme: https`, "scheme: http"},
		{`_interval: \S+`, "_interval: 1s"},
		{`\[/etc/prometheus/.*\.json\]`, "[" + dir + "/switches.json]"},
	} {
		pattern := regexp.MustCompile(edit[0])
		if !pattern.Match(config) {
			s.t.Fatalf("scrape.yml has no %s any more", edit[0])
		}
		config = pattern.ReplaceAll(config, []byte(edit[1]))
	}
	targets := fmt.Sprintf(`[{"targets": [%q], "labels": {"site": "here", "role": "leaf"}}]`, strings.Replace(d.Metrics, "127.0.0.1", "localhost", 1))
	for name, text := range map[string]string{"prometheus.yml": string(config), "switches.json": targets} {
		s.must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	for _, rules := range []string{"portsyncd.rules.yml", "portsyncd.recording.yml"} {
		text, err := os.ReadFile("deploy/prometheus/" + rules)
		s.must(err)
		s.must(os.WriteFile(filepath.Join(dir, rules), []byte(strings.ReplaceAll(string(text), "[5m]", "[30s]")), 0o644))
	}
	port, err := switchtest.FreePort()
	s.must(err)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	p, err := switchtest.StartProgram("prometheus", "--config.file="+dir+"/prometheus.yml", "--storage.tsdb.path="+dir+"/data", "--web.listen-address="+address)
	s.must(err)
	s.t.Cleanup(p.Stop)
	server := prometheusServer(address)
	if err := switchtest.WaitFor(patience, "Prometheus to have scraped the daemon", func() bool { return server.has(`up{job="portsyncd", switch="localhost"} == 1`) }); err != nil {
		s.t.Fatal(err, p.Log())
	}
	return server
}

// has tells whether a query gives data, and for which every value is a number.
func (p prometheusServer) has(query string) bool {
	response, err := http.Get("http://" + string(p) + "/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		return false
	}
	defer response.Body.Close()
	var answer struct {
		Status string
		Data   struct{ Result []struct{ Value [2]any } }
	}
	return json.NewDecoder(response.Body).Decode(&answer) == nil && answer.Status == "success" && len(answer.Data.Result) > 0 &&
		answer.Data.Result[0].Value[1] != "NaN"
}

// TestScrapeConfig has promtool check the configuration for a fleet.
func TestScrapeConfig(t *testing.T) {
	needTool(t, "promtool")
	out, err := exec.Command("promtool", "check", "config", "--syntax-only", "deploy/prometheus/scrape.yml").CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := exec.Command("promtool", "check", "rules", "deploy/prometheus/portsyncd.rules.yml", "deploy/prometheus/portsyncd.recording.yml").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestReproducible builds in two folders, as make does, for another CPU.
func TestReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("nothing is built with -short")
	}
	files, err := filepath.Glob("*")
	must(t, err)
	var built [2][]byte
	for i := range built {
		dir := filepath.Join(t.TempDir(), strings.Repeat("deeper/", i+1))
		must(t, os.MkdirAll(dir, 0o755))
		for _, file := range files {
			if name := filepath.Base(file); name == "Makefile" || strings.HasPrefix(name, "go.") || strings.HasSuffix(name, ".go") ||
				name == "page.html" {
				text, err := os.ReadFile(file)
				must(t, err)
				must(t, os.WriteFile(filepath.Join(dir, name), text, 0o644))
			}
		}
		cmd := exec.Command("make", "build", "VERSION=test")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOARCH=arm", "GOARM=7", "MAKEFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		built[i], err = os.ReadFile(filepath.Join(dir, "portsyncd"))
		must(t, err)
		if bytes.Contains(built[i], []byte(dir)) {
			t.Error("the binary names the folder it was built in")
		}
	}
	if !bytes.Equal(built[0], built[1]) {
		t.Error("two builds in two folders differ")
	}
	f, err := elf.NewFile(bytes.NewReader(built[0]))
	must(t, err)
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Error("the binary is not static: it has ", p.Type)
		}
	}
}

// TestPackage makes two versions of the Debian package and takes them through their life in an empty root.
func TestPackage(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("packages are not made with -short")
	}
	needTool(t, "dpkg", "dpkg-deb", "lintian", "man", "xz")
	binary := filepath.Join(t.TempDir(), "portsyncd")
	sh(t, "go", "build", "-tags=nethttpomithttp2", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, ".")
	arch := strings.TrimSpace(sh(t, "dpkg", "--print-architecture"))
	var packages []string
	for _, version := range []string{"v1.1.0-rc1", "v1.1.0-3-gabcdef"} {
		out := sh(t, "sh", "deploy/debian/build.sh", binary, arch, version, t.TempDir(), binary)
		packages = append(packages, strings.TrimSpace(out))
	}
	if name := filepath.Base(packages[1]); name != "portsyncd_1.1.0+3+gabcdef_"+arch+".deb" {
		t.Errorf("the package is called %s", name)
	}
	if name := filepath.Base(packages[0]); name != "portsyncd_1.1.0~rc1_"+arch+".deb" { // which dpkg takes for older than 1.1.0
		t.Errorf("the package is called %s", name)
	}
	if contents := sh(t, "dpkg-deb", "-c", packages[0]); strings.Contains(contents, "usr/bin") || !strings.Contains(contents, "root/root") || !strings.Contains(contents, "./usr/sbin/portsyncd") {
		t.Errorf("the package holds:\n%s", contents)
	}
	sh(t, "lintian", "--fail-on", "error", "--tag-display-limit", "0", packages[0])

	root := t.TempDir()
	for _, dir := range []string{"info", "updates", "triggers"} {
		must(t, os.MkdirAll(filepath.Join(root, "var/lib/dpkg", dir), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644))
	dpkg := func(args ...string) {
		t.Helper()
		sh(t, "dpkg", append([]string{"--root=" + root, "--force-script-chrootless", "--force-confold", "--log=/dev/null"}, args...)...)
	}
	there := func(file string) bool {
		_, err := os.Stat(filepath.Join(root, file))
		return err == nil
	}
	const conffile = "etc/default/portsyncd"
	dpkg("-i", packages[0])
	unpacked := t.TempDir() // a container's dpkg may be told to leave manual pages out
	sh(t, "dpkg-deb", "-x", packages[0], unpacked)
	manual := sh(t, "man", "-l", "--warnings=all", filepath.Join(unpacked, "usr/share/man/man8/portsyncd.8.gz"))
	for _, flag := range regexp.MustCompile(`(?m)^  (-[a-z.-]+)`).FindAllStringSubmatch(sh(t, binary, "-help"), -1) {
		if !strings.Contains(manual, " "+flag[1]+" ") && !strings.Contains(manual, " "+flag[1]+"\n") {
			t.Errorf("the man page does not tell of %s", flag[1])
		}
	}
	must(t, os.WriteFile(filepath.Join(root, conffile), []byte("PORTSYNCD_OPTS=-standalone\n"), 0o644))
	dpkg("-i", packages[1])
	if text, err := os.ReadFile(filepath.Join(root, conffile)); err != nil || string(text) != "PORTSYNCD_OPTS=-standalone\n" {
		t.Errorf("the upgrade made %q of the operator's flags, %v", text, err)
	}
	dpkg("-r", "portsyncd")
	if there("usr/sbin/portsyncd") || there("lib/systemd/system/portsyncd.service") || !there(conffile) {
		t.Error("removal leaves the program, or takes the configuration")
	}
	dpkg("-P", "portsyncd")
	if there(conffile) || there("usr/share/doc/portsyncd") {
		t.Error("purging leaves something behind")
	}
}

// sh runs a program that must succeed and returns what it prints.
func sh(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

const unitFile = "deploy/systemd/portsyncd.service"

// TestUnitIsSafe has systemd judge the unit's sandbox.
func TestUnitIsSafe(t *testing.T) {
	needTool(t, "systemd-analyze")
	sh(t, "systemd-analyze", "security", "--offline=true", "--threshold=20", unitFile)
	template, err := os.ReadFile("deploy/systemd/portsyncd@.service")
	must(t, err)
	one := filepath.Join(t.TempDir(), "portsyncd@a.service")
	must(t, os.WriteFile(one, template, 0o644))
	sh(t, "systemd-analyze", "security", "--offline=true", "--threshold=20", one)
	unit, err := os.ReadFile(unitFile)
	must(t, err)
	confined := func(text []byte) string { // what confines the one confines the other
		_, rest, _ := strings.Cut(string(text), "RuntimeDirectoryPreserve=")
		return rest
	}
	if confined(template) != confined(unit) {
		t.Error("the units of one instance and of several are not confined alike")
	}
}

// TestConfined runs the daemon as the unit would where there is no systemd: another user, the unit's capability alone, no new privileges, and its system
// call filter, where what is not allowed kills.
func TestConfined(t *testing.T) {
	if os.Getenv("PORTSYNCD") != "" {
		t.Skip("an emulator needs more system calls than what it emulates")
	}
	needTool(t, "systemd-analyze", "scmp_sys_resolver", "setpriv", "curl")
	s := newSwitch(t, switchtest.Options{})
	for _, file := range []string{s.Dir, s.Redis[0].Socket} {
		s.must(os.Chmod(file, 0o777))
	}
	text, err := os.ReadFile(unitFile)
	s.must(err)
	allowed := filepath.Join(s.Dir, "allowed")
	s.must(os.WriteFile(allowed, []byte(strings.Join(unitSyscalls(t, string(text)), " ")), 0o644))
	files := map[string]string{plainDaemon(t)[0]: filepath.Join(s.Dir, "portsyncd"), os.Args[0]: filepath.Join(s.Dir, "confine")}
	for from, to := range files { // where another user may read them
		binary, err := os.ReadFile(from)
		s.must(err)
		s.must(os.WriteFile(to, binary, 0o755))
	}
	t.Setenv(confineVariable, allowed)
	s.must(s.Configure(t.Context(), 8))
	s.must(s.AddPorts("Ethernet0")) // a left-over: it is to be set down
	s.must(s.IP("link", "set", "lo", "up"))
	s.orchagent(false)
	s.must(s.Inside(func() error { // RuntimeDirectory=
		return errors.Join(os.Mkdir("/run/portsyncd", 0o755), os.Chown("/run/portsyncd", 65534, 65534))
	}))
	d, err := s.StartInside("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all,+net_admin",
		"--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", files[os.Args[0]], files[plainDaemon(t)[0]], "-lock.dir", "/run/portsyncd", "-log.output", "stderr", "-reconcile-interval", "1s")
	s.must(err)
	defer func() {
		d.Stop()
		if t.Failed() {
			t.Logf("the daemon printed:\n%s", tail(d.Log()))
		}
	}()
	s.waitFor("PortConfigDone", func() bool { return d.Logged("PortConfigDone sent") == 1 || !d.Running() })
	s.waitFor("the left-over to be set down", func() bool {
		return s.IP("link", "set", "Ethernet0", "down") == nil && d.Logged("start decided", "old=1") == 1
	})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.PID()))
	s.must(err)
	for _, line := range []string{"Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000001000", "CapBnd:\t0000000000001000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), line) {
			t.Errorf("it is not confined, %q is missing:\n%s", line, status)
		}
	}
	s.must(s.IP("link", "del", "Ethernet0"))
	var ports []string
	for i := range 8 {
		ports = append(ports, switchtest.PortName(i))
	}
	s.must(s.AddPorts(ports...))
	s.waitEntry("Ethernet28", fields("up", "up", 1500))
	s.must(s.Flap(20, ports...))
	s.waitFor("PortInitDone", func() bool { return d.Logged("PortInitDone sent") == 1 || !d.Running() })
	if page := sh(t, "ip", "netns", "exec", s.NetNS, "curl", "-s", "--compressed", "http://127.0.0.1:9090/metrics"); sample(page, "portsyncd_health_status") != "1" {
		t.Errorf("the metrics are:\n%s", page)
	}
	s.must(d.Signal(syscall.SIGHUP))
	s.must(d.Signal(syscall.SIGTERM))
	if code, err := d.Wait(patience); err != nil || code != 0 {
		t.Errorf("it ended with code %d, %v", code, err)
	}
	if strings.Contains(d.Log(), "not permitted") || strings.Contains(d.Log(), "denied") {
		t.Errorf("something is forbidden:\n%s", d.Log())
	}
}

// unitSyscalls resolves the unit's SystemCallFilter lines to the numbers of this machine's system calls.
func unitSyscalls(t *testing.T, unit string) (numbers []string) {
	names := make(map[string]bool)
	var expand func(word string, allow bool)
	expand = func(word string, allow bool) {
		if !strings.HasPrefix(word, "@") {
			names[word] = allow
			return
		}
		for line := range strings.Lines(sh(t, "systemd-analyze", "syscall-filter", word)) {
			if member := strings.TrimSpace(line); strings.HasPrefix(line, "    ") && !strings.HasPrefix(member, "#") {
				expand(member, allow)
			}
		}
	}
	expand("@default", true)
	for _, line := range regexp.MustCompile(`(?m)^SystemCallFilter=(~?)(.*)$`).FindAllStringSubmatch(unit, -1) {
		for _, word := range strings.Fields(line[2]) {
			expand(word, line[1] == "")
		}
	}
	for name, allow := range names {
		if !allow || name == "setns" || name == "unshare" { // RestrictNamespaces=yes
			continue
		}
		if number := strings.TrimSpace(sh(t, "scmp_sys_resolver", name)); !strings.HasPrefix(number, "-") {
			numbers = append(numbers, number)
		}
	}
	if len(numbers) < 100 || names["mount"] {
		t.Fatalf("the unit allows %d system calls, mount: %v", len(numbers), names["mount"])
	}
	return numbers
}

// confineVariable makes the test binary a wrapper: it names a file with the numbers of the system calls that the program of its arguments is left with.
const confineVariable = "PORTSYNCD_TEST_CONFINE"

// confine filters system calls and becomes another program. It returns only if it could not.
func confine(allowed string, args []string) error {
	text, err := os.ReadFile(allowed)
	if err != nil {
		return err
	}
	const numberAt, firstArgumentAt = 0, 16 // in struct seccomp_data; of an argument the low half, on a little-endian machine
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	ret := func(what uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what} }
	equal := func(value uint32, otherwise uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: otherwise}
	}
	families := []uint32{unix.AF_UNIX, unix.AF_NETLINK, unix.AF_INET, unix.AF_INET6} // RestrictAddressFamilies
	program := []unix.SockFilter{load(numberAt), equal(unix.SYS_SOCKET, uint8(2+2*len(families))), load(firstArgumentAt)}
	for _, family := range families {
		program = append(program, equal(family, 1), ret(unix.SECCOMP_RET_ALLOW))
	}
	program = append(program, ret(unix.SECCOMP_RET_KILL_PROCESS))
	for _, field := range strings.Fields(string(text)) {
		number, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		program = append(program, equal(uint32(number), 1), ret(unix.SECCOMP_RET_ALLOW))
	}
	program = append(program, ret(unix.SECCOMP_RET_KILL_PROCESS))
	runtime.LockOSThread()
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0); err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	return unix.Exec(args[0], args, os.Environ())
}

// TestUnitLeavesTheBootID: the units leave the daemon the name of the boot, in /proc/sys, which ProcSubset=pid hides. Without it one that was killed between
// PortConfigDone and the first entry sets down, after its restart, what orchagent has made meanwhile.
func TestUnitLeavesTheBootID(t *testing.T) {
	for _, unit := range []string{unitFile, "deploy/systemd/portsyncd@.service"} {
		text, err := os.ReadFile(unit)
		must(t, err)
		if strings.Contains(string(text), "\nProcSubset=pid\n") {
			t.Errorf("%s hides /proc/sys/kernel/random/boot_id", unit)
		}
	}
}

// TestDaemonThatCannotTellTheBoot says so, and what to do.
func TestDaemonThatCannotTellTheBoot(t *testing.T) {
	t.Parallel()
	s := newSwitch(t, switchtest.Options{})
	s.program = append([]string{"unshare", "-m", "sh", "-c", `mount -t proc -o subset=pid proc /proc && exec "$0" "$@"`}, daemonProgram(t)...)
	d := s.daemon()
	s.waitFor("the warning", func() bool { return d.Logged("let the daemon read /proc/sys/kernel/random/boot_id") == 1 })
}

// TestRemovalEndsInstances: prerm ends and disables the instances of portsyncd@.service, too.
func TestRemovalEndsInstances(t *testing.T) {
	needTool(t, "unshare")
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	must(t, os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\nprintf '%s\\n' \"$*\" >>"+calls+"\n"), 0o755))
	script, err := filepath.Abs("deploy/debian/prerm")
	must(t, err)
	cmd := exec.Command("unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec sh "+script+" remove")
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	said, err := os.ReadFile(calls)
	must(t, err)
	if calls := string(said); !strings.Contains(calls, "stop portsyncd@*.service\n") || !strings.Contains(calls, "disable portsyncd@.service\n") {
		t.Errorf("instances go on with a binary that is gone; systemctl was called with:\n%s", said)
	}
}
