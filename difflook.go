package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"
)

// One look at a port from four sides: the kernel, listed anew, and the databases, of which nothing is written.

// lookLimit is how long the kernel, or the databases, may take.
const lookLimit = 3 * time.Second

// lookAtAll reads all four. The databases come first: what the kernel says meanwhile is no older than they are.
func lookAtAll(ctx context.Context, links *linkLister, db *sonicDB) (ports map[string]*sides, err error) {
	ctx, stop := context.WithTimeout(ctx, lookLimit)
	defer stop()
	ports = make(map[string]*sides)
	of := func(name string) *sides {
		if ports[name] == nil {
			ports[name] = new(sides)
		}
		return ports[name]
	}
	if err := db.readConfigSide(ctx, of); err != nil {
		return nil, err
	}
	stored, err := db.listState(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range stored {
		of(name)
	}
	kernel, err := links.list(ctx)
	if err != nil {
		return nil, err
	}
	for name := range kernel {
		of(name)
	}
	old, err := db.readEntries(ctx, ports)
	if err != nil {
		return nil, err
	}
	for name, k := range kernel {
		k.leftOver = old != nil && old.has(leftover{k.Ifindex, name, links.Home().inode})
		of(name).Kernel = k
	}
	return ports, nil
}

// readConfigSide reads CONFIG_DB's ports.
func (d *sonicDB) readConfigSide(ctx context.Context, of func(name string) *sides) error {
	c, err := d.Load(ctx)
	if err != nil {
		return err
	}
	for _, p := range c.ports {
		of(p.name).Config = &side{Admin: p.fields.after("admin_status"), MTU: p.fields.after("mtu")}
	}
	return nil
}

// readEntries reads what STATE_DB and APPL_DB have of ports, and which interfaces portsyncd took for old.
func (d *sonicDB) readEntries(ctx context.Context, ports map[string]*sides) (old *recordedOld, err error) {
	var names []string
	var applKeys []*string
	var appl []redis.Cmder
	for name := range ports {
		key := d.applKey(name)
		names, applKeys = append(names, name), append(applKeys, &key)
		appl = append(appl, redis.NewIntCmd(ctx, "exists", key))
	}
	entries := entryCommands(ctx, d.stateKeys(names))
	oldRow := d.oldCommand(ctx)
	err = pipeline(ctx, d.m, d.state, append(slices.Clone(entries), oldRow))
	said := entriesFrom(d.m, entries, len(names), func(i int, entry *hashAnswer) {
		there := func(f hashField) bool { return f.text != "" }
		if f := entry.fields; slices.ContainsFunc(f, there) {
			ports[names[i]].State = &side{State: f[0].text, Oper: f[1].text, Admin: f[2].text, MTU: f[3].text}
		}
	})
	if err = cmp.Or(err, said); err != nil {
		return nil, fmt.Errorf("read STATE_DB: %w", err)
	}
	entries = hashCommands(ctx, applKeys, "oper_status", "admin_status", "mtu")
	err = pipeline(ctx, d.m, d.appl, append(slices.Clone(entries), appl...))
	said = hashesFrom(d.m, entries, len(names), 3, func(i int, entry *hashAnswer) {
		if intOf(appl[i]) != 1 {
			return
		}
		s := new(side)
		if f := entry.fields; entry.err == nil {
			s.Oper, s.Admin, s.MTU = f[0].text, f[1].text, f[2].text
		}
		ports[names[i]].Appl = s
	})
	if err = cmp.Or(err, said); err != nil {
		return nil, fmt.Errorf("read APPL_DB: %w", err)
	}
	return d.recalledOld(oldRow), nil
}

// fieldsOf is n fields of a hash; they are empty where it has none, or is no hash.
func fieldsOf(answer redis.Cmder, n int) []string {
	fields := make([]string, n)
	for i, f := range answer.(*redis.SliceCmd).Val() {
		fields[i], _ = f.(string)
	}
	return fields
}

// linkList takes one listing of all links.
type linkList struct {
	ports map[string]*side
	lags  map[uint32]bool   // ifindexes of teams and bonds
	in    map[string]uint32 // ports' masters
	done  bool
	torn  bool // links changed meanwhile, and some may be missing
	err   error
}

func (l *linkList) live(*linkMessage)       {}
func (l *linkList) lost(string)             {}
func (l *linkList) malformed(error)         {}
func (l *linkList) received(time.Time, int) {}

func (l *linkList) dumped(m *linkMessage) {
	if kind := string(m.kind); kind == "team" || kind == "bond" {
		l.lags[uint32(m.index)] = true
	}
	name := string(m.name)
	if m.family != unix.AF_UNSPEC || !globs(nil).isPort(m.name) || strings.HasPrefix(name, "PortChannel") {
		return
	}
	state := stateOf(m)
	l.ports[name] = &side{Ifindex: m.index, Admin: upDown(state.admin), Oper: upDown(state.oper),
		MTU: strconv.FormatUint(uint64(state.mtu), 10)}
	l.in[name] = m.master
}

func (l *linkList) dumpDone(interrupted bool, err error) {
	l.done, l.torn, l.err = true, interrupted, err
}

// mostListings is how often links are listed that change meanwhile. What the last listing misses has to be missing in
// the next look, too, before anybody hears of it.
const mostListings = 5

// list lists all links once.
func (l *linkList) list(links *kernelLinks) error {
	l.done, l.torn = false, false
	l.ports, l.lags, l.in = map[string]*side{}, map[uint32]bool{}, map[string]uint32{}
	err := links.StartDump()
	for err == nil && !l.done {
		if _, err = links.Receive(l); err == nil && !l.done {
			err = links.Wait(lookLimit)
		}
	}
	return errors.Join(err, l.err)
}

// errLinksHeld says that the kernel did not list its links in time.
var errLinksHeld = errors.New("the kernel has not listed its links in time: something holds its lock for link " +
	"changes (rtnl); see what ip link hangs behind with: cat /proc/*/stack")

// linkLister lists links over sockets of its own.
type linkLister struct {
	*kernelLinks
	held <-chan error // a listing that was left behind uses the sockets until it says so; nil: none was
}

// end closes the sockets as soon as nothing uses them, and then calls over.
func (l *linkLister) end(over func()) {
	last := func() {
		l.Close()
		over()
	}
	if l.held == nil {
		last()
		return
	}
	go func() {
		<-l.held
		last()
	}()
}

// list lists the links that are ports. The kernel may hold the thread that asks it: it is left behind then.
func (links *linkLister) list(ctx context.Context) (map[string]*side, error) {
	l := &linkList{torn: true}
	done := make(chan error, 1)
	go func() {
		var err error
		for n := 0; n < mostListings && l.torn && err == nil; n++ {
			err = l.list(links.kernelLinks)
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return nil, fmt.Errorf("list the links: %w", err)
		}
	case <-ctx.Done():
		links.held = done
		return nil, errLinksHeld
	}
	for name, k := range l.ports {
		k.inLAG = l.lags[l.in[name]]
	}
	return l.ports, nil
}
