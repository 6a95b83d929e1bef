package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// database_global.json: the namespaces of a switch with several ASICs, and where the databases of each are (SONIC.md,
// "Several ASICs").

const (
	defaultDBGlobal = "/var/run/redis/sonic-db/database_global.json"
	autoDBGlobal    = "auto"
	dbGlobalUsage   = "database_global.json: a `file` whose namespaces are all looked after, each by itself; auto: " +
		defaultDBGlobal + ", if it lists namespaces; empty: one namespace, that of -db.config and -netns"
)

// namespaceConfig is an entry of the file: an ASIC's network namespace, and its database_config.json.
type namespaceConfig struct {
	name, dbConfig string
}

// dbGlobal is the file, as far as it concerns us.
type dbGlobal struct {
	Includes []struct {
		Namespace string `json:"namespace"`
		Container string `json:"container_name"`
		Include   string `json:"include"`
	} `json:"INCLUDES"`
}

// dbGlobalFile is the file while it is looked at again and again, as dbConfigFile is.
type dbGlobalFile struct {
	path   string
	now    func() time.Time
	broken brokenSince
	stamp  fileStamp // of what was read last, zero: it has to be read
	listed []namespaceConfig
}

// read reads the file. errNoDBConfig: come again; errConfig: what it says makes no sense.
func (f *dbGlobalFile) read() ([]namespaceConfig, error) {
	stamp := stampOf(f.path, f.now())
	if stamp != (fileStamp{}) && stamp == f.stamp {
		return f.listed, nil
	}
	n, err := readDBGlobal(f.path)
	if f.listed, f.stamp = n, stamp; err != nil {
		f.stamp = fileStamp{}
	}
	return n, f.broken.judge(err, f.now())
}

// errNoNamespaces says that the file lists none.
var errNoNamespaces = errors.New("lists no namespaces")

// readDBGlobal reads the file: the namespaces in order of their names, errNoNamespaces if there are none. The host's
// own databases, and those of DPUs (container_name), are not ours. Errors are those of readDBConfig.
func readDBGlobal(path string) ([]namespaceConfig, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: -db.global: %v", errNoDBConfig, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: -db.global: %v", errConfig, err)
	}
	g := new(dbGlobal)
	if err := json.Unmarshal(text, g); err != nil {
		kind := errConfig
		if !json.Valid(text) {
			kind = errNotJSON
		}
		return nil, fmt.Errorf("%w: -db.global %s%s: %v", kind, path, lineOf(text, err), err)
	}
	var all []namespaceConfig
	for i, entry := range g.Includes {
		bad := func(why string) error {
			return fmt.Errorf("%w: -db.global %s: INCLUDES[%d]: %s", errConfig, path, i, why)
		}
		same := func(n namespaceConfig) bool { return n.name == entry.Namespace }
		switch name := entry.Namespace; {
		case entry.Container != "" || name == "":
			continue
		case strings.ContainsAny(name, "/\x00") || name == "." || name == "..":
			return nil, bad(fmt.Sprintf("%q is no name of a namespace", name))
		case entry.Include == "":
			return nil, bad(fmt.Sprintf("%q has no include, the path of its database_config.json", name))
		case slices.ContainsFunc(all, same):
			return nil, bad(fmt.Sprintf("%q is there twice", name))
		}
		include := entry.Include
		if !filepath.IsAbs(include) {
			include = filepath.Join(filepath.Dir(path), include)
		}
		all = append(all, namespaceConfig{entry.Namespace, include})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: -db.global %s %w; without this flag one is looked after, that of -netns",
			errConfig, path, errNoNamespaces)
	}
	sort.SliceStable(all, func(i, j int) bool { return comparePorts(all[i].name, all[j].name) < 0 })
	return all, nil
}

// listNamespaces is what a flag -db.global comes to: the namespaces of the file, nil where one is looked after.
func listNamespaces(file string) ([]namespaceConfig, error) {
	switch file {
	case "":
		return nil, nil
	case autoDBGlobal:
		n, err := readDBGlobal(defaultDBGlobal)
		if errors.Is(err, errNoDBConfig) || errors.Is(err, errNoNamespaces) {
			return nil, nil
		}
		return n, err
	}
	return readDBGlobal(file)
}

// lineOf is where JSON is wrong, as ":3", or empty where that is not known.
func lineOf(text []byte, err error) string {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	at := int64(-1)
	switch {
	case errors.As(err, &syntax):
		at = syntax.Offset
	case errors.As(err, &kind):
		at = kind.Offset
	}
	if at < 0 || at > int64(len(text)) {
		return ""
	}
	return fmt.Sprintf(":%d", 1+strings.Count(string(text[:at]), "\n"))
}
