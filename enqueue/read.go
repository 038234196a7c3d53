package enqueue

import (
	"fmt"

	"github.com/kooworker/kooworker/tasks"
)

// LineError is one line of a file that is no task, or no lock. Reading goes on
// after it.
type LineError struct {
	// Line is counted from 1: the header and blank lines included.
	Line int
	// Text is the line as it was, without its ending (\n or \r\n), so that it
	// can be repaired and fed in again; see Rejects. Of a line longer than 1 MiB
	// it is the first MiB.
	Text string
	// Cut: Text is not the whole line.
	Cut bool
	// Header is the header of the file, as Text is of the line and without a
	// byte order mark; "" where the format has none.
	Header string
	// Err says what is wrong with it.
	Err error
}

// Error implements error.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns the cause.
func (e *LineError) Unwrap() error { return e.Err }

// idNames are the names that a file gives to the ids of a kind: its columns, or
// its members. They are at most two, and the user's is the first.
func idNames(kind tasks.Kind) ([]string, error) {
	switch kind {
	case tasks.KindDeviceUnbind:
		return []string{"user_id", "device_id"}, nil
	case tasks.KindLockRelease:
		return []string{"user_id", "lock_id"}, nil
	case tasks.KindUserOffboard:
		return []string{"user_id"}, nil
	default: // a webhook is the worker's own
		return nil, fmt.Errorf("%w %q", tasks.ErrUnknownKind, kind)
	}
}

// refuseTargets refuses for off-boardings what names devices or locks: somebody
// who meant those would lose every device of their users. named reports whether
// a column or member is there.
func refuseTargets(kind tasks.Kind, named func(string) bool) error {
	if kind != tasks.KindUserOffboard {
		return nil
	}
	for _, name := range []string{"device_id", "lock_id"} {
		if named(name) {
			return &tasks.FieldError{Field: name, Problem: "is there, and an off-boarding unbinds every device of the user; want user_id without it, or another kind of task"}
		}
	}
	return nil
}

// newTask makes a task of its ids, in the order of idNames.
func newTask(kind tasks.Kind, ids [2]string) (tasks.Task, error) {
	var t tasks.Task
	switch kind {
	case tasks.KindDeviceUnbind:
		t = tasks.DeviceUnbind{UserID: ids[0], DeviceID: ids[1]}
	case tasks.KindLockRelease:
		t = tasks.LockRelease{UserID: ids[0], LockID: ids[1]}
	case tasks.KindUserOffboard:
		t = tasks.UserOffboard{UserID: ids[0]}
	default:
		return nil, fmt.Errorf("%w %q", tasks.ErrUnknownKind, kind)
	}
	return t, t.Validate()
}

// eachLine yields what becomes of every line that is left: a task, or a lock, or
// one *LineError. An error of the reader itself is the last.
func eachLine[T any](in *lineReader, header string, yield func(T, error) bool, parse func(text []byte) (T, error)) {
	var none T
	for in.next() {
		item, err := parseShort(in.text, parse)
		if err != nil {
			item, err = none, &LineError{Line: in.line, Text: string(in.text), Cut: in.cut, Header: header, Err: err}
		}
		if !yield(item, err) {
			return
		}
	}
	if in.err != nil {
		yield(none, fmt.Errorf("read: %w", in.err))
	}
}

func parseShort[T any](text []byte, parse func([]byte) (T, error)) (item T, err error) {
	if err := tooLong(text); err != nil {
		return item, err
	}
	return parse(text)
}

// tooLong refuses a line that is not worth a closer look.
func tooLong(text []byte) error {
	if len(text) > maxLine {
		return fmt.Errorf("is longer than %d bytes", maxLine)
	}
	return nil
}
