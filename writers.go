package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Which other portsyncd is there: what an observer can find out in /proc, which is what its own container shows.

// otherDaemon is a process that mirrors the same links.
type otherDaemon struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
}

// daemonFinder looks for them, at most every few seconds.
type daemonFinder struct {
	netns string // of our links
	mu    sync.Mutex
	found []otherDaemon
	until time.Time
}

const foundFor = 5 * time.Second

// find returns those that it can find.
func (f *daemonFinder) find(now time.Time) []otherDaemon {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Before(f.until) {
		return f.found
	}
	f.found, f.until = []otherDaemon{}, now.Add(foundFor)
	home, err := netNSOf(linksOf("/proc/self", f.netns))
	if err != nil {
		return f.found
	}
	processes, _ := filepath.Glob("/proc/[1-9]*")
	for _, folder := range processes {
		pid, err := strconv.Atoi(filepath.Base(folder))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if comm, _ := os.ReadFile(folder + "/comm"); strings.TrimSpace(string(comm)) != appName {
			continue
		}
		text, _ := os.ReadFile(folder + "/cmdline")
		if len(text) == 0 { // it is ending
			continue
		}
		args := strings.Split(string(bytes.TrimRight(text, "\x00")), "\x00")
		if mirrors(args) && slices.Contains(netNSsOf(folder, args), home) {
			f.found = append(f.found, otherDaemon{pid, args[0]})
		}
	}
	return f.found
}

// withoutLock are those that know of no lock: the C++ portsyncd, or one of ours of before there was one.
func (f *daemonFinder) withoutLock() (all []otherDaemon) {
	f.mu.Lock()
	f.until = time.Time{} // what was found before says nothing of now
	f.mu.Unlock()
	for _, d := range f.find(time.Now()) {
		process := "/proc/" + strconv.Itoa(d.PID)
		if knowsLock(process) {
			continue
		}
		if text, _ := os.ReadFile(process + "/cmdline"); len(text) > 0 { // else it has ended meanwhile
			all = append(all, d)
		}
	}
	return all
}

// knowsLock says that a process bears the mark. Where we may not look counts as no.
func knowsLock(process string) bool {
	files, _ := filepath.Glob(process + "/fd/*")
	for _, file := range files {
		if target, _ := os.Readlink(file); strings.HasPrefix(target, "/memfd:"+lockMark) {
			return true
		}
	}
	return false
}

// netNSsOf is where the links are that a daemon with a command line mirrors, as far as can be told.
func netNSsOf(folder string, args []string) (all []netNSID) {
	names := []string{linksOf(folder, flagOf(args, "netns"))}
	if listed, err := listNamespaces(flagOf(args, "db.global")); err == nil && listed != nil {
		names = nil
		for _, n := range listed {
			names = append(names, n.name)
		}
	}
	for _, name := range names {
		if id, err := netNSOf(name); err == nil {
			all = append(all, id)
		}
	}
	return all
}

// linksOf is where the links are that a process mirrors, by its -netns.
func linksOf(process, netns string) string {
	if netns == "" {
		return process + "/ns/net"
	}
	return netns
}

// mirrors says that a command line is a daemon's that writes: not an observer's, and none of the commands.
func mirrors(args []string) bool {
	return !(len(args) > 1 && slices.Contains([]string{"diff", "events", "handover", "status"}, args[1])) &&
		!isOn(flagOf(args, "observe")) && !isOn(flagOf(args, "standalone"))
}

// isOn reads the value of a flag that is on or off, as a command line has it.
func isOn(value string) bool {
	on, err := strconv.ParseBool(value)
	return value != "" && (err != nil || on)
}

// flagOf is a flag's value on a command line, "true" for one without, empty: it is not there.
func flagOf(args []string, name string) string {
	for i, arg := range args {
		flag, value, given := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case flag != name || !strings.HasPrefix(arg, "-"):
		case given:
			return value
		case i+1 < len(args) && !strings.HasPrefix(args[i+1], "-"):
			return args[i+1]
		default:
			return "true"
		}
	}
	return ""
}

// describeDaemons is them for people.
func describeDaemons(all []otherDaemon) string {
	if len(all) == 0 {
		return "no other portsyncd is to be seen from here"
	}
	var texts []string
	for _, d := range all {
		texts = append(texts, fmt.Sprintf("process %d (%s)", d.PID, d.Command))
	}
	verb := " writes"
	if len(all) > 1 {
		verb = " write"
	}
	return strings.Join(texts, ", ") + verb
}
