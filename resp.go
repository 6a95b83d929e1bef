package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// Redis' protocol (RESP2) where nobody waits for one answer to one question, as the client does.

// errGarbled says that an answer makes no sense.
var errGarbled = errors.New("the answer of Redis makes no sense")

const (
	answerMost = 1 << 20 // bytes: more than all instances' rows take
	depthMost  = 8       // lists within each other, in an answer
	lineMost   = 512     // bytes of an answer that is one line
)

// appendCommand appends a command.
func appendCommand(b []byte, words []string) []byte {
	b = append(strconv.AppendInt(append(b, '*'), int64(len(words)), 10), "\r\n"...)
	for _, word := range words {
		b = append(strconv.AppendInt(append(b, '$'), int64(len(word)), 10), "\r\n"...)
		b = append(append(b, word...), "\r\n"...)
	}
	return b
}

// refused is an answer that is an error.
type refused string

func (r refused) Error() string { return string(r) }

// readReply reads an answer from the beginning of what was received (RESP2): a text, an int64, nil, refused, or a list
// of these. whole is false if more has to come.
func readReply(b []byte) (a any, rest []byte, whole bool, err error) { return readWithin(b, 0) }

func readWithin(b []byte, depth int) (a any, rest []byte, whole bool, err error) {
	end := bytes.Index(b[:min(len(b), lineMost)], []byte("\r\n"))
	if end < 0 {
		if len(b) >= lineMost {
			err = errGarbled
		}
		return nil, b, false, err
	}
	line, rest := string(b[:end]), b[end+2:]
	if line == "" || depth > depthMost {
		return nil, b, false, errGarbled
	}
	n, numErr := strconv.ParseInt(line[1:], 10, 64)
	switch line[0] {
	case '+':
		return line[1:], rest, true, nil
	case '-':
		return refused(line[1:]), rest, true, nil
	case ':', '$', '*':
		if numErr != nil || n > answerMost {
			return nil, b, false, fmt.Errorf("%w: %q", errGarbled, line)
		}
	default:
		return nil, b, false, fmt.Errorf("%w: %q", errGarbled, line)
	}
	switch {
	case line[0] == ':':
		return n, rest, true, nil
	case n < 0:
		return nil, rest, true, nil
	case line[0] == '$':
		if len(rest) < int(n)+2 {
			return nil, b, false, nil
		}
		return string(rest[:n]), rest[n+2:], true, nil
	}
	list := []any{}
	for range n {
		var item any
		if item, rest, whole, err = readWithin(rest, depth+1); !whole {
			return nil, b, false, err
		}
		list = append(list, item)
	}
	return list, rest, true, nil
}
