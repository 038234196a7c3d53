package records

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// The columns, or members, with a time: of locks and of tasks.
const (
	expiryColumn = "expires_at"
	runAtColumn  = "run_at"
)

// schema says which columns, or members, a file has.
type schema struct {
	kind         tasks.Kind                     // a lock is read as its release
	names        []string                       // of the ids; at most two, and the user's is the first
	newTask      func(ids [2]string) tasks.Task // nil if files cannot hold the kind
	anyID        bool
	timeName     string // of the column with a time
	parseTime    func(text string) (time.Time, error)
	timeRequired bool
	onLine       func(line int, ref json.RawMessage) // nil: ref is ignored
}

func taskSchema(kind tasks.Kind, opts ...Option) schema {
	s := schema{kind: kind, timeName: runAtColumn}
	s.parseTime = func(text string) (time.Time, error) { return tasks.ParseTime(runAtColumn, text) }
	switch kind {
	case tasks.KindDeviceUnbind:
		s.names = []string{"user_id", "device_id"}
		s.newTask = func(ids [2]string) tasks.Task { return tasks.DeviceUnbind{UserID: ids[0], DeviceID: ids[1]} }
	case tasks.KindLockRelease:
		s.names = []string{"user_id", "lock_id"}
		s.newTask = func(ids [2]string) tasks.Task { return tasks.LockRelease{UserID: ids[0], LockID: ids[1]} }
	case tasks.KindUserOffboard:
		s.names = []string{"user_id"}
		s.newTask = func(ids [2]string) tasks.Task { return tasks.UserOffboard{UserID: ids[0]} }
	default: // only workers enqueue the other kinds
	}
	for _, opt := range opts {
		opt(&s)
	}
	return s
}

func lockSchema(checkExpiry func(time.Time) error, opts ...Option) schema {
	s := taskSchema(tasks.KindLockRelease, opts...)
	s.timeName, s.timeRequired = expiryColumn, checkExpiry != nil
	if checkExpiry == nil {
		checkExpiry = refuseZero
	}
	s.parseTime = func(text string) (time.Time, error) {
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
	ids     [2]string // in the order of schema.names, not validated
	at      time.Time // of schema.timeName; zero if the line does not say
	timeErr error     // what is wrong with it; an error in the ids comes first
	ref     json.RawMessage
}

// parser takes one line apart.
type parser func(line []byte) (record, error)

// read yields what each line holds: an item, or one *LineError. newParser
// returns the format's parser, and the header if the format has one.
func read[T any](r io.Reader, s schema, newParser func(schema, *lineReader) (p parser, header string, err error), newItem func(tasks.Task, time.Time) T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		if s.newTask == nil {
			yield(none, fmt.Errorf("%w %q", tasks.ErrUnknownKind, s.kind))
			return
		}
		in := newLineReader(r)
		parse, header, err := newParser(s, in)
		if err != nil {
			yield(none, err)
			return
		}
		for in.next() {
			task, rec, err := readLine(in, s, parse)
			item := none
			if err == nil {
				item = newItem(task, rec.at)
			} else {
				bad := &LineError{Line: in.line, Text: string(in.text), Truncated: in.truncated, Header: header, Err: err}
				if task != nil {
					bad.Lock = tasks.LockID{UserID: task.User(), LockID: task.Target()}
				}
				err = bad
			}
			if s.onLine != nil {
				s.onLine(in.line, rec.ref)
			}
			if !yield(item, err) {
				return
			}
		}
		if in.err != nil {
			yield(none, fmt.Errorf("read: %w", in.err))
		}
	}
}

// maxRetained is the length of a line up to which a task may keep the line in
// memory. Thousands of tasks are in memory at a time, and a line may have long
// columns that nobody reads.
const maxRetained = 1 << 10

// readLine returns a task together with an error if its ids are well formed, and only
// the time is wrong or no system gives such ids.
func readLine(in *lineReader, s schema, parse parser) (tasks.Task, record, error) {
	if err := in.tooLong(); err != nil {
		return nil, record{}, err
	}
	rec, err := parse(in.text)
	if err != nil {
		return nil, rec, err
	}
	if len(in.text) > maxRetained {
		for i, id := range rec.ids { // an id may be a part of the line's text
			rec.ids[i] = strings.Clone(id)
		}
	}
	task := s.newTask(rec.ids)
	if err := task.Validate(); err != nil {
		return nil, rec, err
	}
	if !s.anyID {
		if err := tasks.CheckPlausible(task); err != nil {
			return task, rec, err
		}
	}
	return task, rec, rec.timeErr
}

func newTaskItem(t tasks.Task, runAt time.Time) tasks.Task {
	if runAt.IsZero() {
		return t
	}
	return tasks.Timed{Task: t, RunAt: runAt}
}

func newLockItem(t tasks.Task, expiresAt time.Time) tasks.Lock {
	return tasks.Lock{UserID: t.User(), LockID: t.Target(), ExpiresAt: expiresAt}
}
