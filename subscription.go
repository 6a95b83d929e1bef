package main

import (
	"context"
)

// A subscription to a server's events. The client's own takes 64 KiB of buffers, which are nearly always empty.

// eventBuffer is how much is read at once: an event has less than 100 bytes.
const eventBuffer = 2 << 10

// subscribe follows channels by patterns until ctx ends, or the connection does, and why. confirmed is called when all
// of them are, and event for each message.
func subscribe(ctx context.Context, conn *promptConn, patterns []string, confirmed func(),
	event func(channel, payload string)) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := conn.Write(appendCommand(nil, append([]string{"psubscribe"}, patterns...))); err != nil {
		return err
	}
	buf := make([]byte, 0, eventBuffer)
	for {
		n, err := conn.Read(buf[len(buf):cap(buf)])
		if err != nil {
			return err
		}
		buf = buf[:len(buf)+n]
		rest := buf
		for {
			reply, after, whole, err := readReply(rest)
			if err != nil {
				return err
			}
			if !whole {
				break
			}
			rest = after
			if err := take(reply, len(patterns), confirmed, event); err != nil {
				return err
			}
		}
		buf = buf[:copy(buf[:cap(buf)], rest)]
		if len(buf) == cap(buf) { // longer than any event of ours
			buf = append(buf, 0)[:len(buf)]
		}
		if len(buf) > answerMost {
			return errGarbled
		}
	}
}

// take is for one message of a subscription: a confirmation, an event, or an answer to a nudge, which says nothing.
func take(reply any, patterns int, confirmed func(), event func(channel, payload string)) error {
	if why, no := reply.(refused); no {
		return why
	}
	words, _ := reply.([]any)
	if len(words) < 3 {
		return nil
	}
	switch words[0] {
	case "psubscribe":
		if words[2] == int64(patterns) {
			confirmed()
		}
	case "pmessage":
		channel, _ := words[2].(string)
		payload, _ := words[len(words)-1].(string)
		event(channel, payload)
	}
	return nil
}
