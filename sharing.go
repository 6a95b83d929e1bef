package main

import (
	"context"
	"hash/fnv"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// How instances with -db.global and -standby share the namespaces: whoever writes to two more than another one hands
// one over. Each works out the next move from what is in the locks' folders, and all come to the same one.

// share is who is there for one namespace.
type share struct {
	namespace string
	holder    string   // of the lock, empty: nobody
	ready     []string // who could take over
}

// move is a namespace that is to be handed over.
type move struct{ namespace, from, to string }

// score orders instances for a namespace, and namespaces for an instance, in the same way for everybody: rendezvous
// hashing. So an instance that comes back gets what it had.
func score(instance, namespace string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(instance + "\x00" + namespace))
	return h.Sum64()
}

// nextMove is what brings the shares nearer to each other: from who has most, to who has least, and only if that leaves
// it with no more than the other. Nobody who is to be left alone gets anything.
func nextMove(all []share, alone func(to string) bool) (best move, found bool) {
	loads := map[string]int{}
	for _, s := range all {
		if s.holder != "" {
			loads[s.holder]++
		}
	}
	var moves []move
	for _, s := range all {
		for _, to := range s.ready {
			if s.holder != "" && loads[to]+2 <= loads[s.holder] && !alone(to) {
				moves = append(moves, move{s.namespace, s.holder, to})
			}
		}
	}
	if len(moves) == 0 {
		return best, false
	}
	sort.SliceStable(moves, func(i, j int) bool {
		a, b := moves[i], moves[j]
		for _, order := range [...]int{loads[b.from] - loads[a.from], loads[a.to] - loads[b.to]} {
			if order != 0 {
				return order < 0
			}
		}
		return score(a.to, a.namespace) > score(b.to, b.namespace)
	})
	return moves[0], true
}

// sharer has this process do its part.
type sharer struct {
	box  *box
	me   string
	log  *slog.Logger
	news chan struct{} // a folder is known

	next  move          // that is ours to make
	since time.Time     // when it was seen first,
	pause time.Duration // and how long it has to have been the next one
	made  move          // that was made, and has not shown in the lock's file yet,
	until time.Time     // and is waited for until then
	rests map[string]*shareRest
}

// shareRest is how long an instance is left alone that was handed something, and has not taken over: it may be stopped,
// and each time nobody writes for some seconds.
type shareRest struct {
	pause time.Duration
	until time.Time
}

// The first rest of an instance, which lasts longer than its claim is believed, and the longest one.
const (
	firstRest = 2 * silentAfter
	lastRest  = 16 * firstRest
)

func newSharer(b *box, me string, log *slog.Logger) *sharer {
	return &sharer{box: b, me: me, log: log, news: make(chan struct{}, 1), rests: map[string]*shareRest{}}
}

// found is told when a lock's folder is known.
func (s *sharer) found() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// shareSettle is how long what happens in the folders is gathered.
const shareSettle = 20 * time.Millisecond

// shareRetry is when a move is tried again that could not be made: a loop is between two turns. Each time it is refused
// that takes twice as long, up to a beat. A move is made when it has been the next one for so long: one who joins
// claims its namespaces one after the other, and until another one's move shows in the lock's file, two would make one
// each where one is enough.
const shareRetry = 100 * time.Millisecond

// run looks whenever something happens in the locks' folders, and at beats, until ctx ends.
func (s *sharer) run(ctx context.Context) {
	watch := newFolderWatch(ctx, s.news, s.log)
	for ctx.Err() == nil {
		for _, u := range s.box.units() {
			if folder := u.instance.folder.Load(); folder != nil {
				watch.add(*folder)
			}
		}
		next := beatInterval
		if !s.balance(ctx) {
			next = s.pause
		}
		watch.wait(ctx, next)
	}
}

// balance makes the next move, if it is ours to make. Whoever takes over then writes to the lock's file, and we look
// again. false: it could not be made, or not yet.
func (s *sharer) balance(ctx context.Context) bool {
	of, now := map[string]*unit{}, time.Now()
	var all []share
	for _, u := range s.box.units() {
		of[u.namespace] = u
		all = append(all, u.share())
	}
	if !s.settled(all, now) {
		return true
	}
	m, found := nextMove(all, func(to string) bool { return s.rests[to] != nil && now.Before(s.rests[to].until) })
	if !found || m.from != s.me {
		s.next = move{}
		return true
	}
	if m != s.next {
		s.next, s.since, s.pause = m, now, shareRetry
	}
	if now.Sub(s.since) < s.pause {
		return false
	}
	if err := of[m.namespace].instance.handOver(m.to); err != nil {
		s.log.Info("a namespace is not handed over", "namespace", m.namespace, "to", m.to, "err", err)
		s.since, s.pause = time.Now(), min(2*s.pause, beatInterval)
		return false
	}
	s.log.Log(ctx, levelNotice, "a namespace is handed over, to share the work", "namespace", m.namespace, "to", m.to)
	s.made, s.until = m, time.Now().Add(handoverTime)
	return true
}

// settled says that it is known what has come of the move that was made. Whoever has not taken over is left alone for a
// while, longer each time.
func (s *sharer) settled(all []share, now time.Time) bool {
	m := s.made
	if m == (move{}) {
		return true
	}
	for _, a := range all {
		if a.namespace == m.namespace && a.holder != m.from && a.holder != "" {
			s.made = move{}
			delete(s.rests, m.to)
			return true
		}
	}
	if now.Before(s.until) {
		return false
	}
	s.made = move{}
	r := s.rests[m.to]
	if r == nil {
		r = &shareRest{pause: firstRest / 2}
		s.rests[m.to] = r
	}
	r.pause = min(2*r.pause, lastRest)
	r.until = now.Add(r.pause)
	s.log.Warn("it has not taken over, and is left alone for a while", "instance", m.to, "namespace", m.namespace,
		"pause", r.pause)
	return true
}

// share is who is there for a namespace. Who only observes there, beside a portsyncd without a lock, has the lock and
// does not write.
func (u *unit) share() share {
	s := share{namespace: u.namespace}
	if folder := u.instance.folder.Load(); folder != nil {
		h, _ := u.instance.lock.holder(*folder)
		if s.ready = u.instance.ready.names(*folder); !u.instance.beside.on() {
			s.holder = h.Instance
		}
	}
	return s
}

// folderWatch hears of changes in folders (inotify(7)).
type folderWatch struct {
	file    *os.File // nil: there is none, and only time tells
	fd      int
	changed chan struct{}
}

func newFolderWatch(ctx context.Context, changed chan struct{}, log *slog.Logger) *folderWatch {
	w := &folderWatch{changed: changed}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		log.Info("changes in the locks' folders are seen at beats only", "err", err)
		return w
	}
	w.fd, w.file = fd, os.NewFile(uintptr(fd), "inotify")
	context.AfterFunc(ctx, func() { w.file.Close() })
	go w.read()
	return w
}

// read passes on that something has changed.
func (w *folderWatch) read() {
	events := make([]byte, 4<<10)
	for {
		if _, err := w.file.Read(events); err != nil {
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

// add has a folder watched: who takes a lock, or could take over, writes to a file, and one that is closed may have
// been locked. A folder that was made again is another one; one that is watched stays so.
func (w *folderWatch) add(folder string) {
	if w.file != nil {
		const changes = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE
		_, _ = unix.InotifyAddWatch(w.fd, filepath.Clean(folder), changes)
	}
}

// wait returns when something has changed, or after a time.
func (w *folderWatch) wait(ctx context.Context, most time.Duration) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(most):
		return
	case <-w.changed:
	}
	select {
	case <-ctx.Done():
	case <-time.After(shareSettle):
	}
	select { // what was gathered
	case <-w.changed:
	default:
	}
}
