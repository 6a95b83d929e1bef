package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The files beside APPL_DB's socket by which several portsyncd know of each other, and their locks.

const (
	defaultLockDir = "/run/portsyncd" // where Redis is reached by TCP: it has a folder for each of its addresses
	lockMode       = 0o600            // whoever may open a file may lock it
	controlDirMode = 0o755            // of the folder that they are in, or the control socket is
	lockText       = 256              // what is in a file is a multiple of it
	lockFileMost   = 16 << 20         // bytes that are read: more than 100,000 ports are
)

// What is in the folder.
const (
	lockSuffix     = ".lock"
	readySuffix    = ".standby." // and an instance's name: claimed by it while it could take over
	handoverSuffix = ".handover" // what a holder leaves for the next one
)

// lockMark is the name of a file without a place that every process has open that takes a lock before it writes: others
// can see it in /proc.
const lockMark = "portsyncd.knows-the-lock"

// bearMark has this process bear it, until unmark is called.
func bearMark() (unmark func()) {
	fd, err := unix.MemfdCreate(lockMark, unix.MFD_CLOEXEC)
	if err != nil {
		return func() {}
	}
	return sync.OnceFunc(func() { _ = unix.Close(fd) })
}

// lockFolder is where they are; diskFolder is the real one.
type lockFolder interface {
	// open opens a file, which is made if it is not there.
	open(path string) (lockFile, error)
	// look reads a file and when it was last written to.
	look(path string) (text []byte, at time.Time, err error)
	// put makes a file, or another one in its place, and remove removes it.
	put(path string, text []byte) error
	remove(path string)
	// claimed says that somebody has claimed a file, and when it was last written to.
	claimed(path string) (at time.Time, is bool)
	// starting are the files whose paths begin so.
	starting(path string) []string
}

// lockFile is an open file. Its locks go with it, and with the process.
type lockFile interface {
	// lock takes the lock of whoever writes, if nobody has it, or as soon as nobody has: a call that the kernel holds
	// back until then. errTaken: somebody has it.
	lock(wait bool) error
	// claim takes another lock, that can be looked at without taking it.
	claim() error
	// behind says that the file is the one that a path leads to.
	behind(path string) bool
	// write replaces what is in it, and touch has it look written to.
	write(text []byte) error
	touch()
	Close() error
}

// errTaken says that somebody has the lock.
var errTaken = errors.New("somebody has locked it")

// diskFolder is files of the real file system.
type diskFolder struct{}

func (diskFolder) open(path string) (lockFile, error) {
	if folder := filepath.Dir(path); strings.HasPrefix(folder+"/", defaultLockDir+"/") {
		if err := os.MkdirAll(folder, controlDirMode); err != nil {
			return nil, lockError(folder, fmt.Errorf("%v", err)) // nobody makes the folder above it later
		}
	}
	file, err := openFile(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, lockError(filepath.Dir(path), err)
	}
	return &diskFile{File: file}, nil
}

// openFile opens a file of the folder, and nothing else that bears its name there: a pipe would be waited for, and a
// link leads to somebody's file elsewhere.
func openFile(path string, how int) (*os.File, error) {
	file, err := os.OpenFile(path, how|unix.O_NOFOLLOW|unix.O_NONBLOCK, lockMode)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, cmp.Or(err, error(&os.PathError{Op: "open", Path: path, Err: errNoFile}))
	}
	return file, nil
}

// errNoLockFolder says that the folder is not there yet, or is named wrongly.
var errNoLockFolder = errors.New("the lock's folder is not there")

// lockError tells what waiting cures, a folder that is not there yet, from what it does not.
func lockError(folder string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w; make %s, or name another folder with -lock.dir", errNoLockFolder, err, folder)
	}
	return fmt.Errorf("%w: the lock of the portsyncd that writes: %w", errConfig, &unwritableFolder{folder, err})
}

// unwritableFolder is why no lock can be had, and the way out.
type unwritableFolder struct {
	folder string
	err    error
}

func (e *unwritableFolder) Error() string {
	return fmt.Sprintf("%v; make %s writable for this user, or name another folder with -lock.dir, the same for every "+
		"portsyncd of these databases", e.err, e.folder)
}

// look is no more to the runtime than identify is: a standby looks at each beat.
func (diskFolder) look(path string) (text []byte, at time.Time, err error) {
	fail := func(call string, errno unix.Errno) ([]byte, time.Time, error) {
		return nil, time.Time{}, &os.PathError{Op: call, Path: path, Err: errno}
	}
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return nil, at, err
	}
	// whatever it is, nobody waits for it
	const how = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOFOLLOW
	here := unix.AT_FDCWD
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(here), uintptr(unsafe.Pointer(name)), how, 0, 0, 0)
	if errno != 0 {
		return fail("open", errno)
	}
	defer func() { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0) }()
	var s unix.Stat_t
	if x, err := statx(int(fd), "", unix.AT_EMPTY_PATH, unix.STATX_MTIME); err == nil {
		at = time.Unix(x.Mtime.Sec, int64(x.Mtime.Nsec))
	} else if err := unix.Fstat(int(fd), &s); err == nil {
		at = time.Unix(s.Mtim.Unix())
	}
	buf := make([]byte, 4<<10)
	for {
		n, errno := rawIO(unix.SYS_READ, fd, buf)
		if errno != 0 {
			return fail("read", errno)
		}
		if text = append(text, buf[:n]...); n == 0 {
			return text, at, nil
		} else if len(text) > lockFileMost {
			return fail("read", unix.EFBIG)
		}
	}
}

func (diskFolder) put(path string, text []byte) error {
	made := path + ".new"
	_ = os.Remove(made) // of one that was killed as it wrote, or whatever somebody has left there
	file, err := openFile(made, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err = cmp.Or(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(made, path)
}

func (diskFolder) remove(path string) { _ = os.Remove(path) }

func (diskFolder) claimed(path string) (at time.Time, is bool) {
	file, err := openFile(path, os.O_RDONLY) // closing it is no change to who watches the folder
	if err != nil {
		return at, false
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return at, false
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	err = unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &whole)
	return info.ModTime(), err == nil && whole.Type != unix.F_UNLCK
}

func (diskFolder) starting(path string) (all []string) {
	entries, _ := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		if name := filepath.Join(filepath.Dir(path), e.Name()); strings.HasPrefix(name, path) {
			all = append(all, name)
		}
	}
	return all
}

// diskFile is a file of the real file system.
type diskFile struct {
	*os.File
	length int64  // of what is written in it
	id     fileID // zero: not asked yet
}

// lock is flock(2), which signals interrupt.
func (f *diskFile) lock(wait bool) error {
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		switch err := unix.Flock(int(f.Fd()), how); err {
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return errTaken
		case nil:
			return nil
		default:
			return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
	}
}

func (f *diskFile) claim() error {
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
}

// behind is asked before every flush, on the loop's thread.
func (f *diskFile) behind(path string) bool {
	if f.id == (fileID{}) { // which an open file keeps
		f.id, _ = identify(int(f.Fd()), "", unix.AT_EMPTY_PATH)
	}
	named, err := identify(unix.AT_FDCWD, path, 0)
	return err == nil && named == f.id && f.id != fileID{}
}

// fileID is which file it is.
type fileID struct {
	major, minor uint32
	inode        uint64
}

// identify is statx(2) of path, or of the file dir with AT_EMPTY_PATH, without telling the runtime: any system call
// that it is told of wakes its monitor, which costs an idle daemon's change as much as all the rest. The files are in a
// folder that is in memory.
func identify(dir int, path string, flags int) (fileID, error) {
	x, err := statx(dir, path, flags, unix.STATX_INO)
	switch err {
	case nil:
		return fileOf(&x), nil
	case unix.ENOSYS, unix.EPERM: // a kernel before 4.11, or a filter that does not know it
		return identifyOld(dir, path)
	}
	return fileID{}, err
}

func fileOf(x *unix.Statx_t) fileID { return fileID{x.Dev_major, x.Dev_minor, x.Ino} }

func statx(dir int, path string, flags, mask int) (x unix.Statx_t, err error) {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return x, err
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(flags),
		uintptr(mask), uintptr(unsafe.Pointer(&x)), 0)
	if errno != 0 {
		return x, errno
	}
	return x, nil
}

// fileStamp is another one when a file was written, or replaced. The zero value is no file's.
type fileStamp struct {
	id      fileID
	size    uint64
	written unix.StatxTimestamp
	changed unix.StatxTimestamp
}

// stampOf is a file's, zero where the kernel does not tell, and for one that was written so lately that its time may
// stay as it is when that happens again. It is no more to the runtime than identify is.
func stampOf(path string, now time.Time) (s fileStamp) {
	x, err := statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_SIZE|unix.STATX_MTIME|unix.STATX_CTIME)
	if err != nil || now.Sub(time.Unix(x.Ctime.Sec, int64(x.Ctime.Nsec))).Abs() < stampAge {
		return s
	}
	return fileStamp{fileOf(&x), x.Size, x.Mtime, x.Ctime}
}

const stampAge = 2 * time.Second // longer than a clock tick, by which the kernel's times go on

// identifyOld is identify with stat(2) and fstat(2).
func identifyOld(dir int, path string) (id fileID, err error) {
	var s unix.Stat_t
	if path == "" {
		err = unix.Fstat(dir, &s)
	} else {
		err = unix.Stat(path, &s)
	}
	dev := uint64(s.Dev) // 32 bits on MIPS
	return fileID{unix.Major(dev), unix.Minor(dev), uint64(s.Ino)}, err
}

// write fills the text up with blanks, to a length that hardly ever changes: whoever reads meanwhile finds the one or
// the other.
func (f *diskFile) write(text []byte) error {
	if short := (lockText - (len(text)+1)%lockText) % lockText; short > 0 {
		text = append(text, bytes.Repeat([]byte{' '}, short)...)
	}
	text = append(text, '\n')
	f.length = int64(len(text))
	_, err := f.WriteAt(text, 0)
	if err == nil {
		err = f.Truncate(f.length)
	}
	if err != nil {
		return fmt.Errorf("write to the lock: %w", err)
	}
	return nil
}

// touch sets the file's time to now, as futimens(3) does, at each beat and raw like identify. Where a filter does not
// let it, it writes the last byte again, a newline, so that no half of the text is ever read.
func (f *diskFile) touch() {
	if _, _, errno := unix.RawSyscall6(unix.SYS_UTIMENSAT, f.Fd(), 0, 0, 0, 0, 0); errno != 0 {
		_, _ = f.WriteAt([]byte{'\n'}, max(0, f.length-1))
	}
}
