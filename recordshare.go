package main

import "golang.org/x/sys/unix"

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

// changed grows with whatever is written, for anybody.
func (r *recorder) changed() uint64 {
	if r == nil {
		return 0
	}
	return r.changes.Load()
}
