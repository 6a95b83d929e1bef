package main

import (
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// What anybody may do with the recorder while the loop records.

// trim gives the pages of the image back: what is in them stays in the file. Anybody may call it.
func (r *recorder) trim() {
	if r.off() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		_ = unix.Madvise(r.image, unix.MADV_DONTNEED)
	}
}

// reader reads what is recorded, for anybody.
func (r *recorder) reader() (*recordReader, error) {
	if r == nil {
		return nil, errNoRecorder
	}
	r.mu.Lock()
	file := r.file
	r.mu.Unlock()
	if file == nil {
		return nil, errNoRecorder
	}
	return newRecordReader(file)
}

// bootNumber is the present boot of the machine, as the recorder counts, for anybody.
func (r *recorder) bootNumber() byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.boot
}

// move has the recorder go on in a file, with what another daemon has left there, or with no path in memory, with what
// it has itself. Where the file is not to be had it stays where it is. No loop records meanwhile.
func (r *recorder) move(path string) {
	if r.off() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.guard(debug.SetPanicOnFault(true))
	var file *os.File
	var image []byte
	var err error
	if path != "" {
		file, image, _, err = openRecord(path, len(r.image))
	} else if file, image, err = recordInMemory(len(r.image)); err == nil {
		copy(image, r.image)
	}
	if err != nil {
		return
	}
	_ = unix.Munmap(r.image)
	r.file.Close()
	r.file, r.image, r.own, r.at = file, image, 0, 0
	r.rows, r.byName, r.idle, r.sorted = rows[recordRow]{}, map[string]int{}, nil, false
	r.find(bootID())
	r.changes.Add(1)
}

// changed grows with whatever is written, for anybody.
func (r *recorder) changed() uint64 {
	if r == nil {
		return 0
	}
	return r.changes.Load()
}

// close lets go of the file.
func (r *recorder) close() {
	if r == nil || r.file == nil {
		return
	}
	r.dead.Store(true)
	_ = unix.Munmap(r.image)
	r.file.Close()
	r.file = nil
}
