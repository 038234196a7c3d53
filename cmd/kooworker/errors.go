package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/kooworker/kooworker/worker/outage"
)

// The exit codes, as the README lists them.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitPartial = 3 // done, but something was rejected or is dead
	exitTimeout = 4 // timed out waiting
)

// commandError is an error with the exit code that it makes. An error without one
// makes 1.
type commandError struct {
	error
	code int
	hint string // what to do about it; an error that it wraps may have a better one
}

func (e commandError) Unwrap() error { return e.error }

// usageError is about a wrong flag or configuration.
func usageError(err error) error { return commandError{err, exitUsage, ""} }

func usagef(format string, args ...any) error { return usageError(fmt.Errorf(format, args...)) }

// is reports whether err is a T, or wraps one.
func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// errPartial makes the exit code 3. The command has printed the reason already.
var errPartial = errors.New("done, but something was rejected or is dead")

// errShown makes the exit code 1. The command has printed the reason already.
var errShown = errors.New("failed, as the output says")

// errInterrupted is for commands that can be run again, whether or not Redis has carried
// them out: those that read, enqueue one task, change one lock, or delete a batch.
var errInterrupted = errors.New("interrupted; it is safe to run the same command again")

// redisError adds to an error of Redis a hint what to do about it. After an interrupt there
// is nothing wrong with Redis.
func redisError(err error) error {
	if errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	return commandError{err, exitFailed, outage.Hint(err)}
}

// report prints an error in one line and its hint in a second one. It returns the
// exit code.
func report(stderr io.Writer, err error) int {
	text, hint, code := describe(err)
	if text != "" {
		fmt.Fprintf(stderr, "kooworker: %s\n", text)
	}
	if hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	return code
}

// describe returns what to print of an error, if anything, and its exit code. It is the only
// place where errors become exit codes.
func describe(err error) (text, hint string, code int) {
	if err == nil {
		return "", "", exitDone
	}
	if errors.Is(err, errPartial) {
		return "", "", exitPartial
	}
	if errors.Is(err, errShown) {
		return "", "", exitFailed
	}
	text = asynqCode.ReplaceAllString(err.Error(), "$1")
	known := commandError{code: exitFailed}
	_ = errors.As(err, &known)
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		known.hint = hinted.Hint()
	}
	return strings.ReplaceAll(text, "\n", " "), known.hint, known.code
}

// asynqCode matches what asynq puts before the cause of a Redis error. The error's
// type is internal to asynq, so only the text can be matched.
var asynqCode = regexp.MustCompile(`(^|: |\()(?:(?:UNKNOWN|INTERNAL_ERROR): )+`)
