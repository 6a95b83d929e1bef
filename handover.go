package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Handing over on purpose: portsyncd handover over the control socket, or SIGUSR2.

// errNoStandby says that nobody could take over.
var errNoStandby = errors.New("no standby is ready, so this portsyncd goes on")

// errNotWriting says that there is nothing to hand over.
var errNotWriting = errors.New("this portsyncd does not write")

// handoverTime is for a hand-over as a whole.
const handoverTime = 3 * time.Second

// handOver has a standby take over, the one of a name or any that is ready, and returns when it may: nothing is written
// by this one any more.
func (i *instance) handOver(to string) error {
	answer, err := i.askHandOver(to)
	if err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-time.After(handoverTime):
		return errors.New("the loop has not ended its writing in time: look at its health")
	}
}

// askHandOver has the turn at writing end, if a standby is ready. What comes of it is answered.
func (i *instance) askHandOver(to string) (answer chan error, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	folder := i.folder.Load()
	if i.endTurn == nil || i.asked != nil || folder == nil || !i.lock.held() {
		return nil, errNotWriting
	}
	ready := i.ready.names(*folder)
	if len(ready) == 0 || to != "" && !slices.Contains(ready, to) {
		return nil, errNoStandby
	}
	i.standby.Store(true)
	answer = make(chan error, 1)
	i.asked, i.to = answer, to
	i.endTurn()
	return answer, nil
}

// giveUp has a standby that is ready take over from a writer whose start cannot come to an end because the databases do
// not answer it: they answer that one. It comes to the lock first where the other one was not ready yet. That is tried
// once: where what is wrong is wrong for both, it would go on for ever.
func (i *instance) giveUp() {
	if i == nil { // as role: a unit on a bench has none
		return
	}
	why := i.health.databaseError()
	switch {
	case !i.writing.Load() || !i.standby.Load():
		return
	case i.health.published():
		i.gaveUp.Store(false)
		return
	case why == "" || i.gaveUp.Load():
		return
	}
	if _, err := i.askHandOver(""); err == nil {
		i.gaveUp.Store(true)
		i.log.Warn("the databases do not answer this one, but another that stands by: handing over", "err", why)
	}
}

// giveUp looks whether any namespace's has to, at a beat.
func (b *box) giveUp() {
	for _, u := range b.units() {
		u.instance.giveUp()
	}
}

// handoverPath is answered on the control socket only.
const handoverPath = "/api/v1/handover"

// handoverAnswer is the answer to it: the namespaces that are handed over, or with ?force=1 those that this portsyncd
// is told to write to. Without -db.global that is one without a name.
type handoverAnswer struct {
	HandedOver []string `json:"handed_over"`
	TakenOver  []string `json:"taken_over"`
	Errors     []string `json:"errors"`
}

// handOver hands over all that the process writes, or with force has it write where it only observes because of another
// one.
func (b *box) handOver(force bool) (a handoverAnswer) {
	a = handoverAnswer{[]string{}, []string{}, []string{}}
	done, order := &a.HandedOver, func(u *unit) error { return u.instance.handOver("") }
	if force {
		done, order = &a.TakenOver, func(u *unit) error { return u.instance.beside.force() }
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	var nothing []string // of the errors
	for _, u := range b.units() {
		all.Go(func() {
			err := order(u)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				*done = append(*done, u.namespace)
				return
			}
			idle := errors.Is(err, errNotWriting) || errors.Is(err, errNotBeside)
			text := strings.TrimPrefix(u.namespace+": "+err.Error(), ": ")
			if a.Errors = append(a.Errors, text); idle {
				nothing = append(nothing, text)
			}
		})
	}
	all.Wait()
	if len(*done) > 0 { // of a box that is shared with others: there was nothing to be done to the rest
		a.Errors = slices.DeleteFunc(a.Errors, func(text string) bool { return slices.Contains(nothing, text) })
	}
	return a
}

func (a *api) serveHandover(w http.ResponseWriter, r *http.Request) {
	done, code := a.box.handOver(r.URL.Query().Get("force") == "1"), http.StatusOK
	if len(done.Errors) > 0 {
		code = http.StatusConflict
	}
	answerJSON(w, code, done)
}

// handOverOn hands over whenever SIGUSR2 comes, until ctx ends.
func (b *box) handOverOn(ctx context.Context, refused func(why string)) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR2)
	defer signal.Stop(asked)
	for {
		select {
		case <-ctx.Done():
			return
		case <-asked:
			for _, why := range b.handOver(false).Errors {
				refused(why)
			}
		}
	}
}

// handoverOptions are the flags of portsyncd handover.
type handoverOptions struct {
	socket string
	force  bool
}

func parseHandover(args []string, stderr io.Writer) (*handoverOptions, error) {
	o := new(handoverOptions)
	f := flag.NewFlagSet(appName+" handover", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.socket, "control.socket", defaultControlSocket,
		"`path` of the daemon's socket, as in its own flag")
	f.BoolVar(&o.force, "force", false, "have a standby write that only observes, because a portsyncd that knows of "+
		"no lock, such as the C++ one, writes or has written: end that one first")
	f.Usage = func() {
		fmt.Fprintf(stderr, "Usage: %s handover [flags]\n\nHas the running daemon end its writing, and the standby "+
			"that is ready take over.\nExit code 0: done, 1: it goes on, 2: it cannot tell.\n\n", appName)
		f.PrintDefaults()
	}
	err := f.Parse(args)
	if err == nil && f.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q: there are flags only", f.Arg(0))
		fmt.Fprintln(stderr, "portsyncd handover:", err)
	}
	return o, err
}

// runHandover is the command without the process: it returns the exit code.
func runHandover(args []string, stdout, stderr io.Writer) int {
	o, err := parseHandover(args, stderr)
	return command("handover", stderr, err, func(_ context.Context) (int, error) {
		request := "POST " + handoverPath
		if o.force {
			request += "?force=1"
		}
		status, text, err := sendDaemon(o.socket, request, time.Now().Add(2*handoverTime))
		var answer handoverAnswer
		if err == nil && strings.HasSuffix(status, " 404 Not Found") {
			err = errors.New("the daemon is of a version that hands nothing over")
		}
		if err == nil {
			err = json.Unmarshal(text, &answer)
		}
		if err != nil {
			return exitUnsure, err
		}
		for _, why := range answer.Errors {
			fmt.Fprintln(stderr, "portsyncd handover:", why)
		}
		for _, done := range []struct {
			what  string
			where []string
		}{{"handed over", answer.HandedOver}, {"taken over", answer.TakenOver}} {
			if len(done.where) > 0 {
				fmt.Fprintln(stdout, strings.TrimSpace(done.what+" "+strings.Join(done.where, " ")))
			}
		}
		if len(answer.Errors) > 0 {
			return exitNotWell, nil
		}
		return exitOK, nil
	})
}
