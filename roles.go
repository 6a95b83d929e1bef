package main

// What a portsyncd is to the others and to whoever asks, by what its instance does.

// Roles.
const (
	roleWriter   = "writer"
	roleObserver = "observer"
	roleStandby  = "standby"
)

// role is what it does, for people and programs.
func (i *instance) role() string {
	switch {
	case i == nil:
	case i.observe:
		return roleObserver
	case i.standby.Load() && !i.writing.Load():
		return roleStandby
	}
	return roleWriter
}

// holder is who has the lock, for people; empty: it is not known where that is, or there is none.
func (i *instance) holder() string {
	if i == nil {
		return ""
	}
	folder := i.folder.Load()
	if folder == nil || i.lock.missing() != nil {
		return ""
	}
	h, _ := i.lock.holder(*folder)
	return h.String()
}

// may is asked before a link is set down.
func (i *instance) may() (over func(), err error) {
	if !i.writing.Load() {
		return nil, errObserves
	}
	return i.lock.leave, i.lock.enterAside()
}
