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
	"strings"
	"sync"
	"syscall"
	"time"
)

// Handing over on purpose: portsyncd handover over the control socket, or SIGUSR2.

// handoverPath is answered on the control socket only.
const handoverPath = "/api/v1/handover"

// handoverAnswer is the answer to it: the namespaces that are handed over. Without -db.global that is one without a
// name.
type handoverAnswer struct {
	HandedOver []string `json:"handed_over"`
	Errors     []string `json:"errors"`
}

// handOver hands over all that the process writes.
func (b *box) handOver() (a handoverAnswer) {
	a.HandedOver, a.Errors = []string{}, []string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, u := range b.units() {
		all.Go(func() {
			err := u.instance.handOver()
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				a.HandedOver = append(a.HandedOver, u.namespace)
				return
			}
			a.Errors = append(a.Errors, strings.TrimPrefix(u.namespace+": "+err.Error(), ": "))
		})
	}
	all.Wait()
	return a
}

func (a *api) serveHandover(w http.ResponseWriter, _ *http.Request) {
	done, code := a.box.handOver(), http.StatusOK
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
			for _, why := range b.handOver().Errors {
				refused(why)
			}
		}
	}
}

func parseHandover(args []string, stderr io.Writer) (*string, error) {
	f := flag.NewFlagSet(appName+" handover", flag.ContinueOnError)
	f.SetOutput(stderr)
	socket := f.String("control.socket", defaultControlSocket, "`path` of the daemon's socket, as in its own flag")
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
	return socket, err
}

// runHandover is the command without the process: it returns the exit code.
func runHandover(args []string, stdout, stderr io.Writer) int {
	return command("handover", args, stderr, parseHandover, func(_ context.Context, socket *string) (int, error) {
		status, text, err := sendDaemon(*socket, "POST "+handoverPath, time.Now().Add(2*handoverTime))
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
		if len(answer.Errors) > 0 {
			return exitNotWell, nil
		}
		fmt.Fprintln(stdout, strings.TrimSpace("handed over "+strings.Join(answer.HandedOver, " ")))
		return exitOK, nil
	})
}
