//go:build vm

// Package guest has the tests that run inside the booted machine of package vm. No other command builds them.
package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

const (
	redisSocket = "/run/redis/redis.sock"
	unit        = "portsyncd.service"
	defaults    = "/etc/default/portsyncd"
	first       = "v1.0.0-vm" // versions of the two packages
	second      = "v2.0.0-vm"

	// patience is how long a condition may take to come true on an emulated machine.
	patience = 2 * time.Minute
)

// guest is the machine that a test is on, as a switch.
type guest struct {
	*testing.T
	*switchtest.Switch
}

// onGuest refuses a machine that is not the one that the tests are for: they change it.
func onGuest(t *testing.T) *guest {
	t.Helper()
	if _, err := os.Stat("/vm/run"); err != nil {
		t.Fatal("this is for a booted machine: make test-vm, make test-vm-arm64")
	}
	g := &guest{T: t}
	g.waitFor("Redis", func() bool { return exec.Command("redis-cli", "-s", redisSocket, "ping").Run() == nil })
	sw, err := switchtest.Here(redisSocket)
	g.must(err)
	g.Switch = sw
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(g.output("journalctl", "--no-pager", "-n", "60", "-u", unit, "-u", "portsyncd.socket"))
		}
		sw.Close()
	})
	return g
}

func (g *guest) must(err error) {
	g.Helper()
	if err != nil {
		g.Fatal(err)
	}
}

func (g *guest) waitFor(what string, holds func() bool) {
	g.Helper()
	g.must(switchtest.WaitFor(patience, what, holds))
}

// output runs a program and returns what it prints, whatever its exit code.
func (g *guest) output(name string, args ...string) string {
	out, _ := exec.Command(name, args...).CombinedOutput()
	return strings.TrimSpace(string(out))
}

// run runs a program that has to succeed.
func (g *guest) run(name string, args ...string) string {
	g.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		g.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// property is one of the service's, as systemd has it.
func (g *guest) property(name string) string {
	return g.output("systemctl", "show", "--value", "-p", name, unit)
}

func (g *guest) pid() int {
	pid, _ := strconv.Atoi(g.property("MainPID"))
	return pid
}

// install installs the package of a version, if another one is there, or none.
func (g *guest) install(version string) {
	g.Helper()
	if strings.Contains(g.output("portsyncd", "-version"), version) {
		return
	}
	packages, _ := filepath.Glob("/vm/portsyncd_" + strings.ReplaceAll(strings.TrimPrefix(version, "v"), "-", "~") + "_*.deb")
	if len(packages) != 1 {
		g.Fatalf("there are %d packages of %s", len(packages), version)
	}
	g.run("dpkg", "-i", packages[0])
}

// write writes a file, with its folder, that is gone after the test.
func (g *guest) write(path, text string) {
	g.Helper()
	before, err := os.ReadFile(path)
	existed := err == nil
	g.must(os.MkdirAll(filepath.Dir(path), 0o755))
	g.must(os.WriteFile(path, []byte(text), 0o644))
	g.Cleanup(func() {
		if existed {
			g.must(os.WriteFile(path, before, 0o644))
		} else {
			_ = os.Remove(path)
		}
		_ = exec.Command("systemctl", "daemon-reload").Run()
	})
}

// swss does what comes before portsyncd in a cold start: databases flushed, CONFIG_DB filled, orchagent waiting.
func (g *guest) swss(ports int) *switchtest.Orchagent {
	g.Helper()
	g.install(first)
	g.run("systemctl", "stop", unit)
	g.clear()
	g.must(g.Configure(g.Context(), ports))
	o, err := g.StartOrchagent(g.Context(), true)
	g.must(err)
	return o
}

// coldStart brings the switch up as swss does; the service is started, and interfaces are made by orchagent.
func (g *guest) coldStart(ports int) *switchtest.Orchagent {
	g.Helper()
	o := g.swss(ports)
	g.Cleanup(func() {
		_ = exec.Command("systemctl", "stop", unit, "portsyncd.socket").Run()
		g.removeLinks()
	})
	g.run("systemctl", "start", unit)
	g.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	g.portmgrd(ports)
	g.agree(ports)
	return o
}

// portmgrd carries out what CONFIG_DB says.
func (g *guest) portmgrd(ports int) {
	g.Helper()
	var lines []string
	for i := range ports {
		lines = append(lines, "link set "+switchtest.PortName(i)+" mtu "+switchtest.ConfiguredMTU)
	}
	g.must(g.Batch(g.NetNS, lines...))
}

// clear empties what the switch's software flushes at a cold start, and removes interfaces.
func (g *guest) clear() {
	g.must(g.Appl.FlushAll(context.Background()).Err())
	g.removeLinks()
}

func (g *guest) removeLinks() {
	for _, l := range g.links() {
		if strings.HasPrefix(l.Name, "Ethernet") {
			_ = g.IP("link", "del", l.Name)
		}
	}
}

// link is what ip(8) says of one.
type link struct {
	Name  string   `json:"ifname"`
	Flags []string `json:"flags"`
	MTU   int      `json:"mtu"`
}

func (g *guest) links() (links []link) {
	out, err := exec.Command("ip", "-j", "link").Output()
	g.must(err)
	g.must(json.Unmarshal(out, &links))
	return links
}

// want is what STATE_DB has to say of a link.
func (l link) want() map[string]string {
	word := map[bool]string{true: "up", false: "down"}
	up := slices.Contains(l.Flags, "UP")
	running := up && !slices.Contains(l.Flags, "NO-CARRIER") // ip(8) says so of IFF_UP without IFF_RUNNING
	return map[string]string{"state": "ok", "admin_status": word[up], "netdev_oper_status": word[running],
		"mtu": strconv.Itoa(l.MTU)}
}

// agree waits until STATE_DB has exactly the switch's ports, each as the kernel has it.
func (g *guest) agree(ports int) {
	g.Helper()
	why := ""
	if err := switchtest.WaitFor(patience, "STATE_DB to agree with the kernel", func() bool {
		why = g.disagreement(ports)
		return why == ""
	}); err != nil {
		g.Fatalf("%v: %s", err, why)
	}
}

func (g *guest) disagreement(ports int) string {
	ctx := context.Background()
	keys, err := g.State.Keys(ctx, "PORT_TABLE|*").Result()
	if err != nil {
		return err.Error()
	}
	if len(keys) != ports {
		return fmt.Sprintf("%d entries, want %d", len(keys), ports)
	}
	links := map[string]link{}
	for _, l := range g.links() {
		links[l.Name] = l
	}
	for i := range ports {
		name := switchtest.PortName(i)
		got := g.State.HGetAll(ctx, "PORT_TABLE|"+name).Val()
		if want := links[name].want(); !maps.Equal(got, want) {
			return fmt.Sprintf("%s is %v, the kernel has %v", name, got, want)
		}
	}
	return ""
}

// journal is what the service logged since it was last started, one line each.
func (g *guest) journal(since time.Time) string {
	return g.output("journalctl", "--no-pager", "-o", "cat", "-u", unit, "--since", "@"+strconv.FormatInt(since.Unix(), 10))
}

// sample finds a sample's value.
func sample(text, name string) string {
	if m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}
