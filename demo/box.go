package main

import (
	"context"
	"fmt"
	"os"

	"portsyncd/internal/switchtest"
)

// runBox brings a box of several ASICs up, with one portsyncd for all of them, and lets ports flap until ctx ends.
func runBox(ctx context.Context, program string, asics, ports int, listen string) error {
	box, err := switchtest.NewBox(asics, switchtest.Options{})
	if err != nil {
		return err
	}
	defer box.Close()
	box.Echo = os.Stderr
	for _, sw := range box.ASICs {
		if err := prepare(ctx, sw, ports); err != nil {
			return err
		}
	}
	d, err := box.StartDaemon([]string{program}, "-web.listen-address", listen, "-log.level", "NOTICE")
	if err != nil {
		return err
	}
	defer d.Stop()
	for _, sw := range box.ASICs {
		if err := comeUp(ctx, d, sw, ports); err != nil {
			return err
		}
	}
	fmt.Printf(`
A box of %d ASICs with %d ports each is running, and one portsyncd for all of them. Each ASIC has a namespace and a Redis:

`, asics, ports)
	for _, sw := range box.ASICs {
		fmt.Printf("  %s  %s\n", sw.NetNS, sw.Redis[0].Socket)
	}
	first := box.ASICs[0]
	fmt.Printf(`
Look at it from another terminal:

  curl http://%s/metrics
  ip -n %s link set Ethernet0 down
  redis-cli -s %s -n %d hgetall 'PORT_TABLE|Ethernet0'
  ./portsyncd status -control.socket %s
  ./portsyncd events -recorder.file %s Ethernet0
  ./portsyncd diff -db.global %s

  ip netns del %[2]s     # what becomes of an ASIC whose namespace goes; the others do not notice

The page at http://%[1]s/ shows all of it. A port flaps every few seconds. Ctrl-C ends all of it and cleans up.
`, listen, first.NetNS, first.Redis[0].Socket, first.StateID, d.Control, box.Recorder(), box.GlobalFile)
	return flap(ctx, d, ports, box.ASICs...)
}
