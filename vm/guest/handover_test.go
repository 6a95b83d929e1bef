//go:build vm

package guest

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

const (
	template = "portsyncd@"
	otherWeb = "127.0.0.1:9091"
)

// instance asks one of the template's over its control socket.
func (g *guest) instance(name string) string {
	return g.output("portsyncd", "status", "-control.socket", "/run/portsyncd/"+name+".sock")
}

// web is the address of an instance's metrics and health.
func web(name string) string {
	if name == "b" {
		return "http://" + otherWeb
	}
	return "http://127.0.0.1:9090"
}

func (g *guest) waitForRole(name, readyz, version string) {
	g.Helper()
	g.waitFor(name+" to be "+readyz+" of "+version, func() bool {
		return strings.HasPrefix(g.output("curl", "-s", web(name)+"/readyz"), readyz+"\n") &&
			strings.Contains(g.output("curl", "-s", web(name)+"/metrics"), `version="`+version+`"`)
	})
}

// deletedEntries counts the entries of ports that are deleted from STATE_DB, until the test ends.
func (g *guest) deletedEntries() *atomic.Int32 {
	g.Helper()
	deleted := new(atomic.Int32)
	events := g.State.PSubscribe(context.Background(), fmt.Sprintf("__keyspace@%d__:PORT_TABLE|*", g.StateID))
	g.Cleanup(func() { _ = events.Close() })
	_, err := events.Receive(g.Context())
	g.must(err)
	go func() {
		for m := range events.Channel() {
			if m.Payload == "del" {
				deleted.Add(1)
			}
		}
	}()
	return deleted
}

// mtuChanges changes one port's MTU again and again; the function it returns ends that.
func (g *guest) mtuChanges(port string) (end func() error) {
	ended, changed := make(chan bool), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-ended:
				changed <- nil
				return
			default:
			}
			if err := g.IP("link", "set", port, "mtu", strconv.Itoa(1500+i%1000)); err != nil {
				changed <- err
				return
			}
		}
	}()
	return func() error { close(ended); return <-changed }
}

// TestUpgradeByHandOver follows docs/sonic.md, "On a host with systemd": two instances of the template unit, of which the one that stands
// by is upgraded first. No entry goes, nothing is announced again, the changes made meanwhile are all there, and each step's command says what became of it.
func TestUpgradeByHandOver(t *testing.T) {
	g := onGuest(t)
	const ports = 32
	o := g.swss(ports)
	g.write(defaults+"-b", "PORTSYNCD_OPTS=-web.listen-address "+otherWeb+"\n")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(g.output("journalctl", "--no-pager", "-n", "80", "-u", template+"a", "-u", template+"b"))
		}
		_ = exec.Command("systemctl", "disable", "--now", template+"a", template+"b").Run()
		g.removeLinks()
	})
	g.run("systemctl", "disable", "--now", "portsyncd")
	g.run("systemctl", "enable", "--now", template+"a")
	g.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	g.run("systemctl", "enable", "--now", template+"b")
	g.portmgrd(ports)
	g.agree(ports)
	g.waitForRole("a", "ok", first)
	g.waitForRole("b", "standby, ready", first)

	announced, deleted, end := len(o.Popped()), g.deletedEntries(), g.mtuChanges("Ethernet0")
	g.install(second)
	g.run("systemctl", "restart", template+"b")
	g.waitForRole("b", "standby, ready", second)
	g.run("systemctl", "reload", template+"a")
	g.waitForRole("a", "standby, ready", first)
	g.waitForRole("b", "ok", second)
	g.run("systemctl", "restart", template+"a")
	g.waitForRole("a", "standby, ready", second)
	g.must(end())
	g.agree(ports)
	if n := deleted.Load(); n > 0 {
		t.Errorf("%d entries were deleted", n)
	}
	if again := o.Popped()[announced:]; len(again) > 0 {
		t.Errorf("orchagent was told again of %v", again)
	}
	if out := g.instance("a"); !strings.Contains(out, "standby") {
		t.Errorf("status of a:\n%s", out)
	}
	if log := g.output("journalctl", "--no-pager", "-o", "cat", "-u", template+"a", "-u", template+"b"); strings.Contains(log, "not permitted") ||
		strings.Contains(log, "denied") || strings.Contains(log, "dumped") {
		t.Errorf("something is forbidden:\n%s", log)
	}

	// Where no other is ready a hand-over is refused, and the unit's reload fails.
	g.run("systemctl", "stop", template+"a")
	if out, err := exec.Command("systemctl", "reload", template+"b").CombinedOutput(); err == nil {
		t.Errorf("the reload of one that is alone succeeded:\n%s", out)
	}
	g.waitForRole("b", "ok", second)
	g.agree(ports)

	// One that is killed is replaced, with no entry gone.
	g.run("systemctl", "start", template+"a")
	g.waitForRole("a", "standby, ready", second)
	g.run("systemctl", "kill", "-s", "KILL", template+"b")
	g.must(g.IP("link", "set", "Ethernet4", "mtu", "1400"))
	g.waitForRole("a", "ok", second)
	g.waitForRole("b", "standby, ready", second)
	g.agree(ports)
	if n := deleted.Load(); n > 0 {
		t.Errorf("%d entries were deleted", n)
	}
}
