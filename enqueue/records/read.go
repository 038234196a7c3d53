package records

import (
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

const expiryColumn = "expires_at"

// schema says which columns, or members, a file has.
type schema struct {
	kind tasks.Kind // of the tasks; a lock is read as its release
	// parseExpiry reads expires_at. Nil: it is ignored, as other columns are.
	parseExpiry    func(text string) (time.Time, error)
	expiryRequired bool
}

func lockSchema(checkExpiry func(time.Time) error) schema {
	s := schema{kind: tasks.KindLockRelease, expiryRequired: checkExpiry != nil}
	if checkExpiry == nil {
		checkExpiry = refuseZero
	}
	s.parseExpiry = func(text string) (time.Time, error) {
		at, err := tasks.ParseTime(expiryColumn, text)
		if err == nil {
			err = checkExpiry(at)
		}
		return at, err
	}
	return s
}

// refuseZero refuses the zero time: in a lock it means that the file does not say
// when the lock expires.
func refuseZero(at time.Time) error {
	if at.IsZero() {
		return &tasks.FieldError{Field: expiryColumn, Problem: "is the beginning of the year 1, which stands for no time; want one, or leave it out"}
	}
	return nil
}

// ids returns the columns of the ids. There are at most two, and the user's is
// the first.
func (s schema) ids() ([]string, error) {
	switch s.kind {
	case tasks.KindDeviceUnbind:
		return []string{"user_id", "device_id"}, nil
	case tasks.KindLockRelease:
		return []string{"user_id", "lock_id"}, nil
	case tasks.KindUserOffboard:
		return []string{"user_id"}, nil
	default: // files hold no tasks that only workers enqueue
		return nil, fmt.Errorf("%w %q", tasks.ErrUnknownKind, s.kind)
	}
}

// refuseTargets refuses off-boardings that name a device or a lock. If somebody
// meant only that one, the user would lose all devices. has reports whether there
// is a column, or a member, with this name.
func (s schema) refuseTargets(has func(name string) bool) error {
	if s.kind != tasks.KindUserOffboard {
		return nil
	}
	for _, name := range []string{"device_id", "lock_id"} {
		if has(name) {
			return &tasks.FieldError{Field: name, Problem: "is there, and an off-boarding unbinds every device of the user; want user_id without it, or another kind of task"}
		}
	}
	return nil
}

// record holds the values of one line.
type record struct {
	ids       [2]string // in the order of schema.ids, not validated
	expiresAt time.Time // zero if the line does not say
	expiryErr error     // what is wrong with expires_at; an error in the ids comes first
}

func asTask(t tasks.Task, _ time.Time) tasks.Task { return t }

func asLock(t tasks.Task, expiresAt time.Time) tasks.Lock {
	return tasks.Lock{UserID: t.User(), LockID: t.Target(), ExpiresAt: expiresAt}
}

// parser takes one line apart.
type parser func(line []byte) (record, error)

// read yields what each line holds: an item, or one *LineError. newParser
// returns the format's parser, and the header if the format has one.
func read[T any](r io.Reader, s schema, newParser func(schema, *lineReader) (p parser, header string, err error), as func(tasks.Task, time.Time) T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		in := newLineReader(r)
		parse, header, err := newParser(s, in)
		if err != nil {
			yield(none, err)
			return
		}
		for in.next() {
			task, expiresAt, err := readLine(in, s.kind, parse)
			if err == nil {
				if !yield(as(task, expiresAt), nil) {
					return
				}
				continue
			}
			bad := &LineError{Line: in.line, Text: string(in.text), Truncated: in.truncated, Header: header, Err: err}
			if task != nil {
				bad.Lock = tasks.LockID{UserID: task.User(), LockID: task.Target()}
			}
			if !yield(none, bad) {
				return
			}
		}
		if in.err != nil {
			yield(none, fmt.Errorf("read: %w", in.err))
		}
	}
}

// readLine returns a task together with an error if only the expiry is wrong.
func readLine(in *lineReader, kind tasks.Kind, parse parser) (tasks.Task, time.Time, error) {
	if err := in.tooLong(); err != nil {
		return nil, time.Time{}, err
	}
	rec, err := parse(in.text)
	if err != nil {
		return nil, time.Time{}, err
	}
	task, err := newTask(kind, rec.ids)
	if err != nil {
		return nil, time.Time{}, err
	}
	return task, rec.expiresAt, rec.expiryErr
}

// newTask makes the task of two ids, and validates it.
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
