package main

import "golang.org/x/sys/unix"

// What anybody may do with the recorder while the loop records.

// trim gives the pages of the image back: what is in them stays in the file. Anybody may call it.
func (r *recorder) trim() {
	if !r.off() && r.file != nil {
		_ = unix.Madvise(r.image, unix.MADV_DONTNEED)
	}
}

// reader reads what is recorded, for anybody.
func (r *recorder) reader() (*recordReader, error) {
	if r == nil || r.file == nil {
		return nil, errNoRecorder
	}
	return newRecordReader(r.file)
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
