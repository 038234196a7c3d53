package records

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Option changes how a file is read.
type Option func(*schema)

// AnyID accepts ids that tasks.CheckPlausible refuses.
func AnyID() Option { return func(s *schema) { s.anyID = true } }

// OnLine calls f for each line of JSON Lines, just before the line's item is yielded. It
// tells the number of the line, and the line's member ref, by which a caller recognizes the
// line: any JSON value of at most 256 bytes, unchanged; nil if there is none. Without OnLine
// a member ref is ignored, as others are.
func OnLine(f func(line int, ref json.RawMessage)) Option {
	return func(s *schema) { s.onLine = f }
}

// TasksCSV yields the tasks of a CSV file. Every line below the header is a task
// or one *LineError. Any other error is the last; it is a *HeaderError if the
// header is wrong. A task with a time in the optional column run_at is a tasks.Timed;
// the time is written like expires_at in LocksCSV.
func TasksCSV(kind tasks.Kind, r io.Reader, opts ...Option) iter.Seq2[tasks.Task, error] {
	return read(r, taskSchema(kind, opts...), newCSVParser, newTaskItem)
}

// TasksJSONL yields the tasks of a file with one JSON object a line. Errors are
// as in TasksCSV.
func TasksJSONL(kind tasks.Kind, r io.Reader, opts ...Option) iter.Seq2[tasks.Task, error] {
	return read(r, taskSchema(kind, opts...), newJSONParser, newTaskItem)
}

// LocksCSV yields the locks of a CSV file. Errors are as in TasksCSV.
//
// expires_at is a time as of RFC 3339 with its zone, such as
// 2026-01-31T08:30:00Z or 2026-01-31T09:30:00.5+01:00, and is yielded in UTC.
//
// Without checkExpiry it is optional: if the column is missing, or is empty in a
// line, ExpiresAt is zero. With checkExpiry the column and its values are required,
// and checkExpiry says what is wrong with a time, as a *tasks.FieldError.
func LocksCSV(r io.Reader, checkExpiry func(time.Time) error, opts ...Option) iter.Seq2[tasks.Lock, error] {
	return read(r, lockSchema(checkExpiry, opts...), newCSVParser, newLockItem)
}

// LocksJSONL yields the locks of a file with one JSON object a line. checkExpiry is
// as in LocksCSV: without it expires_at may be left out, but null and "" are refused.
func LocksJSONL(r io.Reader, checkExpiry func(time.Time) error, opts ...Option) iter.Seq2[tasks.Lock, error] {
	return read(r, lockSchema(checkExpiry, opts...), newJSONParser, newLockItem)
}

// LineError is one line that is no task, or no lock. Reading goes on after it.
type LineError struct {
	// Line is counted from 1. The header and blank lines count.
	Line int
	// Text is the line as it was, without its ending (\n or \r\n), so that it
	// can be repaired and read again; see Rejects. Of a line longer than 1 MiB it
	// is the first MiB.
	Text string
	// Truncated: Text is not the whole line.
	Truncated bool
	// Header is the header of the file, as Text is of the line and without a
	// byte order mark; "" if the format has none.
	Header string
	// Lock names the lock if only its expiry is wrong, or if only AnyID would accept it.
	// Else it is zero.
	Lock tasks.LockID
	// Err says what is wrong with the line.
	Err error
}

// Error implements error.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns the cause.
func (e *LineError) Unwrap() error { return e.Err }

// HeaderError means that the header of a CSV file is wrong, so that none of its
// lines can be read. It wraps nothing: a *tasks.FieldError inside would look like
// the error of a line.
type HeaderError struct{ problem string }

// Error implements error.
func (e *HeaderError) Error() string { return e.problem }

func headerErrorf(format string, args ...any) error {
	return &HeaderError{fmt.Sprintf(format, args...)}
}
