package main

import "time"

// rest is what the daemon takes when nothing happens.
func (b *bench) rest() error {
	for range 5 { // what the scrapes left behind
		if err := b.settle(); err != nil {
			return err
		}
	}
	return b.quiet()
}

func (b *bench) quiet() error {
	if err := b.watch("idle"); err != nil {
		return err
	}
	threads, err := b.daemon.Threads()
	b.note("threads", "", float64(threads))
	return err
}

// watch is the processor time of the next -idle, as of ten seconds.
func (b *bench) watch(when string) error {
	before, err := b.daemon.CPU()
	if err != nil {
		return err
	}
	select {
	case <-time.After(b.idle):
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
	after, err := b.daemon.CPU()
	if err != nil {
		return err
	}
	b.note(when+": processor time in 10 s", "ms", ms(after-before)*10/b.idle.Seconds())
	return nil
}

// resident is the memory after all of that.
func (b *bench) resident() error {
	rss, anonymous, err := b.daemon.Memory()
	b.note("resident memory", "MiB", float64(rss)/(1<<20))
	b.note("anonymous memory", "MiB", float64(anonymous)/(1<<20))
	return err
}
