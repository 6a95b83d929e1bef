//go:build vm

package guest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"portsyncd/internal/switchtest"
)

// A power cut: the host kills the machine amid a storm. /run, with the recorder and Redis' data, is gone with it, as on a switch. One more
// daemon records to the disk, where a cut may leave anything.

const (
	cutPorts     = 32
	diskRecorder = "/var/lib/portsyncd-vm/recorder"
	diskUnit     = "/etc/systemd/system/portsyncd-disk.service"
	beforeCut    = "/var/lib/portsyncd-vm/boot_id"
)

func bootID(g *guest) string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	g.must(err)
	return strings.TrimSpace(string(id))
}

// TestStormUntilPowerCut leaves everything as it is for TestAfterPowerCut: the service is enabled, and a storm is on.
func TestStormUntilPowerCut(t *testing.T) {
	g := onGuest(t)
	g.coldStart(cutPorts)
	g.run("systemctl", "enable", unit)
	g.must(os.MkdirAll("/var/lib/portsyncd-vm", 0o755))
	g.must(os.WriteFile(beforeCut, []byte(bootID(g)), 0o644))
	g.must(os.WriteFile(diskUnit, []byte(`[Service]
ExecStart=/usr/sbin/portsyncd -standalone -links Ethernet* -web.listen-address 127.0.0.1:9092 -control.socket /run/portsyncd-disk.sock -recorder.file `+diskRecorder+"\n"), 0o644))
	g.run("systemctl", "daemon-reload")
	g.run("systemctl", "start", "portsyncd-disk.service")
	g.waitFor("the recorder on the disk", func() bool { _, err := os.Stat(diskRecorder); return err == nil })
	var names []string
	for i := range cutPorts {
		names = append(names, switchtest.PortName(i))
	}
	g.must(g.Flap(5, names...))
	g.run("sync") // what the disk has is from the storm, and of before it what comes later is lost
	storm := make(chan error, 1)
	go func() {
		for {
			if err := g.Flap(10, names...); err != nil {
				storm <- err
				return
			}
		}
	}()
	written := func() int { return strings.Count(g.output("portsyncd", "events", "Ethernet0"), "\n") }
	before := written()
	g.waitFor("the storm", func() bool { return written() > before || written() >= 60 })
	fmt.Println("== cut the power")
	select {
	case err := <-storm:
		t.Fatal("the storm ended, and the power is still on: ", err)
	case <-time.After(patience):
		t.Fatal("the power is still on")
	}
}

// TestAfterPowerCut: the service has started by itself and waits for CONFIG_DB; nothing of the time before is believed.
func TestAfterPowerCut(t *testing.T) {
	g := onGuest(t)
	before, err := os.ReadFile(beforeCut)
	g.must(err)
	if string(before) == bootID(g) {
		t.Fatal("the machine has not booted since")
	}
	g.waitFor("systemd to have started it", func() bool { return g.pid() > 0 })
	if out := g.output("portsyncd", "events"); strings.Contains(out, "Ethernet") {
		t.Errorf("the recorder has events of before the cut:\n%s", out)
	}
	if got := g.State.Keys(g.Context(), "PORT_TABLE|*").Val(); len(got) > 0 {
		t.Errorf("STATE_DB has %v", got)
	}
	o, err := g.StartOrchagent(g.Context(), true)
	g.must(err)
	g.must(g.Configure(g.Context(), cutPorts))
	g.waitFor("PortInitDone", func() bool { return o.Signal("PortInitDone") != nil })
	g.agree(cutPorts)
	if got := o.Signal("PortConfigDone")["count"]; got != fmt.Sprint(cutPorts) {
		t.Errorf("PortConfigDone has count %s", got)
	}
	if log := g.journal(time.Now().Add(-time.Hour)); !strings.Contains(log, "start decided") || strings.Contains(log, "panic") {
		t.Errorf("the journal has:\n%s", log)
	}
	g.waitFor("status to be ok", func() bool { return g.output("portsyncd", "status") != "" && g.property("StatusText") == "ok" })

	out := g.output("portsyncd", "events", "-recorder.file", diskRecorder)
	t.Logf("the recorder on the disk has %d lines after the cut", strings.Count(out, "\n")+1)
	g.run("systemctl", "start", "portsyncd-disk.service") // takes the file as it is, or sets it aside
	g.waitFor("its start to be recorded", func() bool {
		return strings.Contains(g.output("portsyncd", "events", "-recorder.file", diskRecorder), "started")
	})
	g.must(g.IP("link", "set", "Ethernet0", "mtu", "9000"))
	g.waitFor("an event after the cut", func() bool {
		return strings.Contains(g.output("portsyncd", "events", "-recorder.file", diskRecorder, "Ethernet0"), "MTU 9000")
	})
}
