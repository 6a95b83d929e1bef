package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The files that portsyncd events reads: the recorder's, or with -db.global one for each namespace.

// recordFiles are the open ones.
type recordFiles []*openedRecord

// openedRecord is one of them.
type openedRecord struct {
	namespace, path string
	reader          *recordReader
	file            *os.File
}

func (o *openedRecord) open() (err error) {
	o.reader, o.file, err = openRecordReader(o.path)
	return err
}

// openRecords opens the file of that name, and those whose names go on with a dot and a namespace.
func openRecords(path string) (files recordFiles, err error) {
	files, err = files.join(path)
	switch {
	case len(files) > 0:
		return files, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: no daemon has recorded there; "+
			"-recorder.file names another place, and a recorder in memory only "+
			"answers under %s on the control socket", err, eventsPath)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: try it as root (sudo), or as a member of the file's group", err)
	}
	return nil, err
}

// join opens those of them that are not open, and says why one that is there cannot be.
func (f recordFiles) join(path string) (_ recordFiles, err error) {
	var others []string
	if path != "" {
		others, _ = filepath.Glob(globQuoted.Replace(path) + ".*")
	}
	slices.SortFunc(others, comparePorts)
	for i, other := range append([]string{path}, others...) {
		if strings.HasSuffix(other, asideSuffix) && i > 0 ||
			slices.ContainsFunc(f, func(o *openedRecord) bool { return o.path == other }) {
			continue
		}
		o := &openedRecord{path: other}
		if i > 0 { // Glob may have written the folder otherwise
			o.namespace = strings.TrimPrefix(filepath.Base(other), filepath.Base(path)+".")
		}
		broken := o.open()
		switch {
		case broken == nil:
			f = append(f, o)
		case i == 0 || errors.Is(broken, fs.ErrPermission):
			err = broken
		}
	}
	return f, err
}

var globQuoted = strings.NewReplacer("*", "\\*", "?", "\\?", "[", "\\[", "\\", "\\\\")

func (f recordFiles) close() {
	for _, o := range f {
		o.file.Close()
	}
}

// read returns what happened to the ports that are asked for, or to all and the daemon, in order, and how many records
// are only half written. Where one of several files cannot be read the others' are told.
func (f recordFiles) read(asked []string, after cutoff) (all []happened, torn int, err error) {
	wanted := func(port string) bool { return len(asked) == 0 || slices.Contains(asked, port) }
	broken := 0
	for _, o := range f {
		of, failed := o.reader.read(wanted, len(asked) == 0, after, 0)
		boot, _ := o.reader.present() // by now: a daemon may have begun in this one meanwhile
		if failed != nil {
			broken, err = broken+1, fmt.Errorf("%s: %w", o.path, failed)
			continue
		}
		for i := range of {
			of[i].Namespace = o.namespace
			of[i].boot -= boot // each file counts for itself
		}
		all, torn = append(all, of...), torn+o.reader.torn
	}
	if broken < len(f) {
		err = nil
	}
	return newest(all, 0), torn, err
}

// know refuses names of ports of which nothing is recorded, and says which there are.
func (f recordFiles) know(asked []string) error {
	var known []string
	for _, o := range f {
		names, err := o.reader.ports()
		if err != nil && len(f) == 1 {
			return err
		}
		known = append(known, names...)
	}
	for _, name := range asked {
		if slices.Contains(known, name) {
			continue
		}
		some := strings.Join(known[:min(len(known), 8)], " ")
		if len(known) > 8 {
			some += fmt.Sprintf(" and %d more", len(known)-8)
		}
		return fmt.Errorf("nothing is recorded of %s; there are: %s", name, some)
	}
	return nil
}

// renew opens what has taken the place of a file meanwhile, and files that were not there.
func (f recordFiles) renew(path string) recordFiles {
	for _, o := range f {
		was, err := o.file.Stat()
		is, gone := os.Stat(o.path)
		if err != nil || gone != nil || os.SameFile(was, is) {
			continue
		}
		next := &openedRecord{namespace: o.namespace, path: o.path}
		if next.open() == nil {
			o.file.Close()
			*o = *next
		}
	}
	f, _ = f.join(path)
	return f
}
