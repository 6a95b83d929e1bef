package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The flight recorder's file: a head, a ring of what happened to the daemon, and a ring for each port. All numbers are
// little-endian. Each event has a checksum of its own, so that a reader, or the next daemon, never takes half an event
// for a whole one. A ring's newest event is the one with the highest number: nothing else says where it ends.

const (
	recordMagic   = "psyncrec"
	recordVersion = 1
	recordHead    = 4096 // bytes of the head; most are spare

	portEvents  = 64 // of a port's ring
	portEvent   = 60 // bytes each
	ringHead    = 32 // bytes: the port's name, and its checksum
	portRing    = ringHead + portEvents*portEvent
	ownEvents   = 512 // of the daemon's ring
	ownEvent    = 128 // bytes each
	ownText     = ownEvent - 32
	recordFixed = recordHead + ownEvents*ownEvent

	// defaultRecorderSize is enough for the rings of 523 ports.
	defaultRecorderSize = 2 << 20
	defaultRecorderFile = "/run/portsyncd/recorder"
)

var (
	recordSums    = crc32.MakeTable(crc32.Castagnoli)
	recordOrder   = binary.LittleEndian
	errNoRecorder = errors.New("not a flight recorder's file of this version")
	errRecording  = errors.New("another daemon records to it")
	errCutShort   = errors.New("it is cut short meanwhile")
	errNoFile     = errors.New("it is no regular file")
)

// portRecord is what happened to a port.
type portRecord struct {
	at                     time.Time     // when the message was received, on the wall
	since                  time.Duration // the same on the machine's clock, which nobody sets: since it booted
	boot                   byte          // of the machine, counted
	number                 uint32        // grows by one within the ring
	index                  int32         // ifindex, 0: none any more
	now, before            portState
	present                bool // there is an interface
	counted                bool // the kernel tells of carriers:
	carrierUp, carrierDown uint32
	missed                 uint32 // losses of carrier since the record before, beside this one; 65,535: or more
	faults                 faults // what orchagent says of it
	cause                  cause
	outcome                outcomeKind
	written, acknowledged  time.Duration // after at, negative: not (yet)
}

// ofLink says that a record is about the interface, and not about STATE_DB alone.
func (r *portRecord) ofLink() bool { return r.cause != causeRepaired && r.cause != causeLate }

// lost says that a record is of a carrier that was lost.
func (r *portRecord) lost() bool {
	return r.ofLink() && r.present && (r.missed > 0 || r.before.oper && !r.now.oper)
}

// unsettled says that something may still become of it.
func (r *portRecord) unsettled() bool { return !r.outcome.final() }

// noTime is a portRecord's written or acknowledged in the file, if there is none.
const noTime = ^uint32(0)

// Bits of a portRecord in the file.
const (
	bitAdmin = 1 << iota
	bitOper
	bitAdminBefore
	bitOperBefore
	bitPresent
	bitCounted
)

// put writes a record to its place in a ring.
func (r *portRecord) put(b []byte) {
	_ = b[portEvent-1]
	bits := byte(0)
	for i, on := range [...]bool{r.now.admin, r.now.oper, r.before.admin, r.before.oper, r.present, r.counted} {
		if on {
			bits |= 1 << i
		}
	}
	recordOrder.PutUint32(b[4:], r.number)
	recordOrder.PutUint64(b[8:], uint64(r.at.UnixNano()))
	recordOrder.PutUint64(b[16:], uint64(r.since))
	recordOrder.PutUint32(b[24:], uint32(r.index))
	recordOrder.PutUint32(b[28:], r.now.mtu)
	recordOrder.PutUint32(b[32:], r.before.mtu)
	recordOrder.PutUint32(b[36:], r.carrierUp)
	recordOrder.PutUint32(b[40:], r.carrierDown)
	recordOrder.PutUint16(b[44:], uint16(min(r.missed, math.MaxUint16)))
	recordOrder.PutUint16(b[46:], uint16(r.faults))
	b[48], b[49], b[50], b[51] = byte(r.cause), byte(r.outcome), bits, r.boot
	recordOrder.PutUint32(b[52:], micros(r.written))
	recordOrder.PutUint32(b[56:], micros(r.acknowledged))
	seal(b[:portEvent])
}

// takePortRecord reads a record, and says whether there is a whole one.
func takePortRecord(b []byte) (r portRecord, whole bool) {
	if recordOrder.Uint32(b[4:]) == 0 || !sealed(b[:portEvent]) { // numbers begin at 1
		return r, false
	}
	bits := b[50]
	return portRecord{
		number: recordOrder.Uint32(b[4:]), at: time.Unix(0, int64(recordOrder.Uint64(b[8:]))),
		since: time.Duration(recordOrder.Uint64(b[16:])), index: int32(recordOrder.Uint32(b[24:])),
		now:     portState{bits&bitAdmin != 0, bits&bitOper != 0, recordOrder.Uint32(b[28:])},
		before:  portState{bits&bitAdminBefore != 0, bits&bitOperBefore != 0, recordOrder.Uint32(b[32:])},
		present: bits&bitPresent != 0, counted: bits&bitCounted != 0,
		carrierUp: recordOrder.Uint32(b[36:]), carrierDown: recordOrder.Uint32(b[40:]),
		missed: uint32(recordOrder.Uint16(b[44:])), faults: faults(recordOrder.Uint16(b[46:])),
		cause: cause(b[48]), outcome: outcomeKind(b[49]), boot: b[51],
		written: fromMicros(recordOrder.Uint32(b[52:])), acknowledged: fromMicros(recordOrder.Uint32(b[56:])),
	}, true
}

func micros(d time.Duration) uint32 {
	if d < 0 {
		return noTime
	}
	return uint32(min(d.Microseconds(), int64(noTime-1)))
}

func fromMicros(n uint32) time.Duration {
	if n == noTime {
		return -1
	}
	return time.Duration(n) * time.Microsecond
}

// ownRecord is what happened to the daemon.
type ownRecord struct {
	at     time.Time
	since  time.Duration
	boot   byte
	number uint32
	kind   ownKind
	text   string // at most ownText bytes
}

func (r *ownRecord) put(b []byte) {
	clear(b[4:ownEvent])
	recordOrder.PutUint32(b[4:], r.number)
	recordOrder.PutUint64(b[8:], uint64(r.at.UnixNano()))
	recordOrder.PutUint64(b[16:], uint64(r.since))
	b[24], b[26] = byte(r.kind), r.boot
	b[25] = byte(copy(b[32:ownEvent], r.text))
	seal(b[:ownEvent])
}

func takeOwnRecord(b []byte) (r ownRecord, whole bool) {
	if recordOrder.Uint32(b[4:]) == 0 || !sealed(b[:ownEvent]) {
		return r, false
	}
	return ownRecord{
		number: recordOrder.Uint32(b[4:]), at: time.Unix(0, int64(recordOrder.Uint64(b[8:]))),
		since: time.Duration(recordOrder.Uint64(b[16:])), kind: ownKind(b[24]), boot: b[26],
		text: strings.ToValidUTF8(string(b[32:32+min(int(b[25]), ownText)]), ""), // it may be cut within a character
	}, true
}

// seal puts the checksum of what follows it into the first four bytes, and sealed compares it.
func seal(b []byte) { recordOrder.PutUint32(b, crc32.Checksum(b[4:], recordSums)) }

// sealed is false for bytes that are all zero, too: their checksum is not.
func sealed(b []byte) bool { return recordOrder.Uint32(b) == crc32.Checksum(b[4:], recordSums) }

// following is the number after another: 0 is that of no record.
func following(number uint32) uint32 { return max(number+1, 1) }

// newer says that a record's number comes after another's; numbers begin anew after 2^32.
func newer(a, b uint32) bool { return int32(a-b) > 0 }

// newestNumber is that of a ring's newest record: the highest, or where numbers have begun anew the highest since. When
// a record is added it is that one's, whatever numbers are there that no recorder has written.
type newestNumber struct{ high, since uint32 }

// begunAnew is a number up to which those of before may still be in a ring.
const begunAnew = 2 * ownEvents

func (n *newestNumber) add(number uint32) {
	n.high = max(n.high, number)
	if number <= begunAnew {
		n.since = max(n.since, number)
	}
}

func (n *newestNumber) get() uint32 {
	if n.since != 0 && n.high > math.MaxUint32-begunAnew {
		return n.since
	}
	return n.high
}

// ringOf is the place of a port's ring.
func ringOf(image []byte, ring int) []byte {
	return image[recordFixed+ring*portRing:][:portRing]
}

// ringName is the port that a ring is of, empty: nobody's.
func ringName(ring []byte) string {
	if !sealed(ring[:ringHead]) {
		return ""
	}
	return string(text(ring[4 : 4+unix.IFNAMSIZ]))
}

// nameable says that an interface can have a name, and a ring: entries of STATE_DB may have any.
func nameable(name string) bool {
	return len(name) < unix.IFNAMSIZ && len(text([]byte(name))) == len(name) && name != ""
}

func nameRing(ring []byte, name string) {
	clear(ring)
	copy(ring[4:4+unix.IFNAMSIZ-1], name)
	seal(ring[:ringHead])
}

// eventAt is where the event with a number is in a port's ring, ownAt in the daemon's.
func eventAt(ring []byte, number uint32) []byte {
	return ring[ringHead+int(number%portEvents)*portEvent:][:portEvent]
}

func ownAt(image []byte, number uint32) []byte {
	return image[recordHead+int(number%ownEvents)*ownEvent:][:ownEvent]
}

// rings is how many ports an image has room for.
func rings(image []byte) int { return (len(image) - recordFixed) / portRing }

// Places in the head, which the checksum in its first four bytes covers.
const (
	headSum    = 64
	headBoots  = 20 // how often the machine was booted meanwhile,
	headBootID = 24 // and which time this is
)

// bootCount is how often the machine was booted since the file was made: times of one boot can be compared.
func bootCount(image []byte, id string) byte {
	place := image[headBootID:headSum]
	if string(text(place)) != id {
		clear(place)
		copy(place, id)
		image[headBoots]++
		seal(image[:headSum])
	}
	return image[headBoots]
}

func putHead(image []byte) {
	copy(image[4:], recordMagic)
	recordOrder.PutUint32(image[12:], recordVersion)
	recordOrder.PutUint32(image[16:], uint32(len(image)))
	seal(image[:headSum])
}

// whole says that an image is one of this version.
func whole(image []byte) bool { return wholeHead(image, len(image)) }

// wholeHead says that a file of that size which begins with head is a recorder's of this version.
func wholeHead(head []byte, size int) bool {
	return size >= recordFixed && len(head) >= headSum && sealed(head[:headSum]) && string(head[4:12]) == recordMagic &&
		recordOrder.Uint32(head[12:]) == recordVersion && int(recordOrder.Uint32(head[16:])) == size
}

const asideSuffix = ".aside"

// openRecord opens a recorder's file of so many bytes, or makes it, and maps it. A file that is none, or of another
// size, is set aside: aside is its new name then. Of two daemons only the first records to it.
func openRecord(path string, size int) (file *os.File, image []byte, aside string, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, "", err
	}
	for range 2 {
		file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o640)
		if err != nil {
			return nil, nil, aside, err
		}
		var usable bool
		if image, usable, err = mapRecord(file, size); usable || err != nil {
			break
		}
		file.Close()
		aside = path + asideSuffix
		if err := os.Rename(path, aside); err != nil {
			return nil, nil, "", fmt.Errorf("%w, and cannot be set aside: %w", errNoRecorder, err)
		}
	}
	if err == nil && image == nil {
		err = errNoRecorder
	}
	if err != nil {
		file.Close()
		return nil, nil, aside, err
	}
	return file, image, aside, nil
}

// mapRecord maps a file if it is empty, or a recorder's of that size. Its space is claimed: a page of a mapping that
// finds none ends a process.
func mapRecord(file *os.File, size int) (image []byte, usable bool, err error) {
	info, err := file.Stat()
	if err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() { // /dev/null, which nobody wants to be set aside
		return nil, false, errNoFile
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, false, errRecording
	}
	if info, err = file.Stat(); err != nil { // what whoever had the lock has left
		return nil, false, err
	}
	fresh := info.Size() == 0
	if !fresh && info.Size() != int64(size) {
		return nil, false, nil
	}
	err = unix.EINTR // a signal ends it, and the runtime sends some
	for range 100 {
		if err = unix.Fallocate(int(file.Fd()), 0, 0, int64(size)); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		if !errors.Is(err, unix.EOPNOTSUPP) {
			if fresh { // a reader would take an empty one for a broken one
				_ = os.Remove(file.Name())
			}
			return nil, false, fmt.Errorf("claim %d bytes: %w", size, err)
		}
		if fresh {
			if _, err := file.WriteAt(make([]byte, size), 0); err != nil {
				return nil, false, err
			}
		}
	}
	if image, err = unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, false, fmt.Errorf("map it: %w", err)
	}
	if usable, err = begin(image, fresh); !usable {
		_ = unix.Munmap(image)
		return nil, false, err
	}
	return image, true, nil
}

// begin gives a fresh image its head, and one whose daemon was killed before it did; or says whether the head of
// another one is whole.
func begin(image []byte, fresh bool) (usable bool, err error) {
	was := debug.SetPanicOnFault(true)
	defer func() {
		if faulted(was, recover()) {
			usable, err = false, errCutShort
		}
	}()
	if fresh || bytes.Equal(image[:headSum], make([]byte, headSum)) {
		putHead(image)
	}
	return whole(image), nil
}

// faulted is told what was recovered behind memory that a file backs, and says whether it was a fault: somebody may
// have cut the file short. Not every kernel says where a fault was. was is what debug.SetPanicOnFault returned.
func faulted(was bool, why any) bool {
	debug.SetPanicOnFault(was)
	if why == nil {
		return false
	}
	if _, is := why.(runtime.Error); !is {
		panic(why)
	}
	return true
}

// recordInMemory is a recorder that ends with the process.
func recordInMemory(size int) (file *os.File, image []byte, err error) {
	fd, err := unix.MemfdCreate("portsyncd-recorder", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	file = os.NewFile(uintptr(fd), "recorder in memory")
	image, _, err = mapRecord(file, size)
	return file, image, err
}
