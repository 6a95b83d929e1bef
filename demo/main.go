// Command demo is a small SONiC switch on this machine with the real portsyncd on it, to look at: a network namespace with veth
// ports, a private Redis, a stand-in for orchagent, and ports that flap now and then. Where that cannot be had,
// portsyncd runs in its standalone mode on the machine's own links.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"portsyncd/internal/switchtest"
)

func main() {
	program := flag.String("portsyncd", "./portsyncd", "`path` of the daemon")
	ports := flag.Int("ports", 32, "`number` of front-panel ports")
	listen := flag.String("listen", "127.0.0.1:9090", "`address` of the metrics")
	asics := flag.Int("asics", 0, "`number` of ASICs, each with a namespace, a Redis and the ports of its own; 0: a switch without namespaces")
	limit := flag.Duration("for", 0, "end by itself after this `time`; 0: at Ctrl-C")
	flag.Parse()
	if err := check(*asics, *ports); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *limit)
		defer cancel()
	}
	err := provide()
	switch {
	case err == nil && *asics > 0:
		err = runBox(ctx, *program, *asics, *ports, *listen)
	case err == nil:
		err = runSwitch(ctx, *program, *ports, *listen)
	default:
		fmt.Printf("No switch can be made here: %v\nportsyncd runs on this machine's own links instead, without databases.\n", err)
		err = runStandalone(ctx, *program, *listen)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// provide installs what is missing, if that is possible.
func provide() error {
	err := switchtest.Missing()
	if err == nil || os.Geteuid() != 0 {
		return err
	}
	if _, lookErr := exec.LookPath("apt-get"); lookErr != nil {
		return fmt.Errorf("%w (and there is no apt-get to install it with)", err)
	}
	fmt.Println("Installing iproute2 and redis-server with apt-get…")
	for _, args := range [][]string{{"update", "-q"}, {"install", "-qy", "--no-install-recommends", "iproute2", "redis-server"}} {
		if out, err := exec.Command("apt-get", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", args[0], err, out)
		}
	}
	return switchtest.Missing()
}

// check refuses what no machine has room for.
func check(asics, ports int) error {
	if asics < 0 || asics > 16 {
		return fmt.Errorf("%d ASICs cannot be made: say 0 to 16 (make run ASICS=4)", asics)
	}
	if ports < 1 || ports > 512 {
		return fmt.Errorf("%d ports cannot be made: -ports is 1 to 512", ports)
	}
	return nil
}

// runSwitch brings a switch up and lets ports flap until ctx ends.
func runSwitch(ctx context.Context, program string, ports int, listen string) error {
	sw, err := switchtest.New(switchtest.Options{})
	if err != nil {
		return err
	}
	defer sw.Close()
	sw.Echo = os.Stderr
	if err := prepare(ctx, sw, ports); err != nil {
		return err
	}
	d, err := sw.StartDaemon([]string{program}, "-web.listen-address", listen, "-log.level", "NOTICE")
	if err != nil {
		return err
	}
	defer d.Stop()
	if err := comeUp(ctx, d, sw, ports); err != nil {
		return err
	}
	fmt.Printf(`
A SONiC switch with %d ports is running, in the network namespace %s. Look at it from another terminal:

  curl http://%s/metrics
  redis-cli -s %s -n %d hgetall 'PORT_TABLE|Ethernet0'
  ip -n %s link set Ethernet0 down
  redis-cli -s %[4]s -n %[5]d hgetall 'PORT_TABLE|Ethernet0'
  ./portsyncd status -control.socket %[8]s
  ./portsyncd events -recorder.file %[9]s Ethernet0
  ./portsyncd diff -db.config %[7]s -netns %[2]s

The page at http://%[3]s/ shows all of it. The last command names what the kernel and the databases disagree about: CONFIG_DB wants Ethernet0 up.
A port flaps every few seconds. Ctrl-C ends all of it and cleans up.
`, ports, sw.NetNS, listen, sw.Redis[0].Socket, sw.StateID, sw.NetNS, sw.ConfigFile, d.Control, sw.Recorder())
	return flap(ctx, d, ports, sw)
}

// prepare gives a switch its configuration and orchagent.
func prepare(ctx context.Context, sw *switchtest.Switch, ports int) error {
	if err := sw.Configure(ctx, ports); err != nil {
		return err
	}
	_, err := sw.StartOrchagent(ctx, true)
	return err
}

// comeUp waits for the ports of a switch, and does then what portmgrd would do.
func comeUp(ctx context.Context, d *switchtest.Daemon, sw *switchtest.Switch, ports int) error {
	up := 0 // of the ports, which come in any order
	all := func() bool {
		for up < ports && sw.State.HGet(ctx, sw.StateKey(switchtest.PortName(up)), "netdev_oper_status").Val() == "up" {
			up++
		}
		return up == ports || !d.Running() || ctx.Err() != nil
	}
	if err := switchtest.WaitFor(time.Minute, "all ports to come up", all); err != nil {
		return fmt.Errorf("%w: %s is the first that is not", err, switchtest.PortName(up))
	}
	if !d.Running() {
		return fmt.Errorf("portsyncd ended at once")
	}
	var mtus []string
	for i := range ports {
		mtus = append(mtus, "link set "+switchtest.PortName(i)+" mtu "+switchtest.ConfiguredMTU)
	}
	return sw.Batch(sw.NetNS, mtus...)
}

// flap pulls the cable of one port after the other until ctx ends.
func flap(ctx context.Context, d *switchtest.Daemon, ports int, switches ...*switchtest.Switch) error {
	for {
		sw, port := switches[rand.IntN(len(switches))], switchtest.PortName(rand.IntN(ports))
		for _, plugged := range []bool{false, true} {
			if !pause(ctx, 2*time.Second) {
				return nil
			}
			if !d.Running() {
				return fmt.Errorf("portsyncd ended")
			}
			if err := sw.SetCable(plugged, port); err != nil && len(switches) == 1 {
				return err
			} else if err != nil { // an ASIC whose namespace was deleted, as the demo invites to
				fmt.Println(sw.NetNS, "has no", port)
			}
		}
		if len(switches) > 1 {
			fmt.Print(sw.NetNS, " ")
		}
		fmt.Println(port, "flapped")
	}
}

// runStandalone runs the daemon on the machine's own links until ctx ends.
func runStandalone(ctx context.Context, program, listen string) error {
	d, err := switchtest.StartProgram(program, "-standalone", "-web.listen-address", listen, "-log.output", "stderr")
	if err != nil {
		return err
	}
	defer d.Stop()
	fmt.Printf("\nLook at it from another terminal:\n\n  curl http://%s/metrics\n\nCtrl-C ends it.\n", listen)
	for pause(ctx, time.Second) {
		if !d.Running() {
			return fmt.Errorf("portsyncd ended:\n%s", d.Log())
		}
	}
	return nil
}

// pause waits, and tells whether the demo goes on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
