package main

import (
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// How the flight recorder comes to its file, at the start and whenever it fails: somebody may have cut the file short.

// openRecorder opens a recorder on a file of at most so many bytes, or, where that cannot be had, in memory. Where
// there is not even memory it records nothing until there is.
func openRecorder(path string, size int, m *metrics, log *slog.Logger) *recorder {
	size = recordFixed + max(0, size-recordFixed)/portRing*portRing
	place := openPlace(path, size, log)
	r := newRecorder(place.file, place.image, m, log, bootID(), time.Now())
	if r.path, r.size, r.memory = path, size, place.memory; place.err != nil {
		r.fail(place.err.Error())
	}
	return r
}

// newRecorder goes on where an image ends, in a boot of the machine.
func newRecorder(file *os.File, image []byte, m *metrics, log *slog.Logger, boot string, now time.Time) *recorder {
	r := &recorder{m: m, log: log, opened: now, booted: machineClock()}
	r.settleIn(file, image, boot)
	return r
}

// openPlace opens the file, or memory, and says in the log what it came to. It may take as long as a disk does.
func openPlace(path string, size int, log *slog.Logger) (place recordPlace) {
	err := errNoRecorder
	if path != "" {
		var aside string
		place.file, place.image, aside, err = openRecord(path, size)
		if aside != "" {
			log.Warn("the flight recorder's file was none of this version and size, and is set aside", "file", path,
				"now", aside)
		}
		if err != nil {
			log.Warn("the flight recorder is in memory only, and ends with this process", "file", path, "err", err,
				"remedy", "make its directory writable, with room for it, or name another file with -recorder.file")
		} else if !inMemory(place.file) {
			log.Warn("the flight recorder's file is on a disk: what is recorded may have to wait for it", "file", path,
				"remedy", "name a file on a tmpfs, such as /dev/shm/portsyncd, with -recorder.file")
		}
	}
	if err != nil {
		place.memory = true
		if place.file, place.image, place.err = recordInMemory(size); place.err != nil {
			log.Warn("there is no flight recorder", "err", place.err)
		}
	}
	return place
}

// inMemory says that a file's pages are never written to a disk, or that nobody knows.
func inMemory(file *os.File) bool {
	var fs unix.Statfs_t
	if unix.Fstatfs(int(file.Fd()), &fs) != nil {
		return true
	}
	kind := uint32(fs.Type)
	return kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC || kind == unix.HUGETLBFS_MAGIC
}

// settleIn begins with a file and its image, whatever was before.
func (r *recorder) settleIn(file *os.File, image []byte, boot string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin(file, image, boot)
}

// replace lets go of the file and begins with another one, with what was recorded if that one is new. Whoever notes
// something finds one of the two.
func (r *recorder) replace(place recordPlace) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.waiting() {
		r.copyTo(place.image)
	}
	r.unmap()
	r.rows, r.memory = rows[recordRow]{}, place.memory
	r.begin(place.file, place.image, bootID())
	r.changes.Add(1)
}

// copyTo copies the image to one that nobody has recorded to.
func (r *recorder) copyTo(image []byte) {
	defer r.guard(debug.SetPanicOnFault(true))
	if recordOrder.Uint32(ownAt(image, 1)[4:]) == 0 {
		copy(image, r.image)
	}
}

func (r *recorder) begin(file *os.File, image []byte, boot string) {
	r.file, r.image = file, image
	r.byName, r.idle, r.sorted, r.own = map[string]int{}, nil, false, 0
	r.why.Store(nil)
	r.dead.Store(false)
	if image != nil {
		r.find(boot)
	}
	if file != nil {
		_ = unix.Madvise(image, unix.MADV_DONTNEED) // all of it was looked at; it stays in the file
	}
}

// beginAnew is for another set of ports, those of a loop that begins anew after the one before has ended.
func (r *recorder) beginAnew(m *metrics) {
	r.m = m
	r.forgetPorts()
	r.note(ownStarted, "portsyncd "+m.version, time.Now())
}

// forgetPorts is for a loop that begins: no port is known.
func (r *recorder) forgetPorts() {
	if r == nil {
		return
	}
	r.rows, r.again = rows[recordRow]{}, time.Time{}
	if r.file != nil {
		r.settleIn(r.file, r.image, bootID())
	}
}

// find looks what is in the image.
func (r *recorder) find(boot string) {
	defer r.guard(debug.SetPanicOnFault(true))
	r.boot = bootCount(r.image, boot)
	var named []int
	end := dataEnd(r.file, len(r.image))
	for i := range rings(r.image) {
		if at := recordFixed + i*portRing; at >= end {
			r.idle = append(r.idle, i)
		} else if name := ringName(ringOf(r.image, i)); name != "" {
			if _, twice := r.byName[name]; twice { // of a file that is broken
				nameRing(ringOf(r.image, i), "")
				r.idle = append(r.idle, i)
				continue
			}
			r.byName[name] = i
			named = append(named, i)
		} else {
			r.idle = append(r.idle, i)
		}
	}
	r.idle = append(r.idle, named...)
	var there newestNumber
	for i := uint32(0); i < ownEvents && recordHead+int(i)*ownEvent < end; i++ {
		if e, whole := takeOwnRecord(ownAt(r.image, i)); whole {
			there.add(e.number)
		}
	}
	r.own = there.get()
}

// dataEnd is where a file has no data any more: what is claimed and was never written is not looked at, because each
// page of it would have to be made for that, 512 of them at every start (lseek(2), SEEK_DATA).
func dataEnd(file *os.File, size int) (end int) {
	for range dataParts {
		data, err := unix.Seek(int(file.Fd()), int64(end), unix.SEEK_DATA)
		if err == unix.ENXIO {
			return end
		}
		hole := int64(size)
		if err == nil {
			hole, err = unix.Seek(int(file.Fd()), data, unix.SEEK_HOLE)
		}
		if err != nil || hole <= int64(end) || hole >= int64(size) {
			return size
		}
		end = int(hole)
	}
	return size
}

// dataParts is how many parts of a file are looked for before all of it is taken for data.
const dataParts = 64

// letGo gives file and memory back.
func (r *recorder) letGo() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unmap()
}

func (r *recorder) unmap() {
	if r.file != nil {
		_ = unix.Munmap(r.image)
		r.file.Close()
		r.file, r.image = nil, nil
	}
}

// reader reads what is recorded, for anybody.
func (r *recorder) reader() (*recordReader, error) {
	if r == nil {
		return nil, errNoRecorder
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return nil, errNoRecorder
	}
	return newRecordReader(r.file)
}

// close lets go of the file for good.
func (r *recorder) close() {
	if r != nil {
		r.dead.Store(true)
		r.letGo()
	}
}
