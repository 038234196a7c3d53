package enqueue

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/kooworker/kooworker/tasks"
)

// LineError is one line of a file that is no task. Reading goes on after it.
type LineError struct {
	Line int    // counted from 1, the header included
	Text string // the line, or what was read of its record
	Err  error
}

// Error implements error.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns the cause.
func (e *LineError) Unwrap() error { return e.Err }

// maxLine bounds a line of JSON. A task's is below 600 bytes.
const maxLine = 64 << 10

// columns are the names that a file gives to a kind's user and target.
func columns(kind tasks.Kind) (user, target string, err error) {
	switch kind {
	case tasks.KindDeviceUnbind:
		return "user_id", "device_id", nil
	case tasks.KindLockRelease:
		return "user_id", "lock_id", nil
	default:
		return "", "", fmt.Errorf("%w %q", tasks.ErrUnknownKind, kind)
	}
}

func newTask(kind tasks.Kind, user, target string) (tasks.Task, error) {
	var t tasks.Task
	switch kind {
	case tasks.KindDeviceUnbind:
		t = tasks.DeviceUnbind{UserID: user, DeviceID: target}
	case tasks.KindLockRelease:
		t = tasks.LockRelease{UserID: user, LockID: target}
	default:
		return nil, fmt.Errorf("%w %q", tasks.ErrUnknownKind, kind)
	}
	return t, t.Validate()
}

// ReadCSV yields the tasks of a CSV file with a header: user_id and device_id
// for unbinds, user_id and lock_id for releases, in any order; other columns
// are passed over. A *LineError is one bad line, and the next ones follow; any
// other error ends the file.
func ReadCSV(kind tasks.Kind, r io.Reader) iter.Seq2[tasks.Task, error] {
	return func(yield func(tasks.Task, error) bool) {
		userColumn, targetColumn, err := columns(kind)
		if err != nil {
			yield(nil, err)
			return
		}
		in := csv.NewReader(skipBOM(r))
		in.FieldsPerRecord, in.ReuseRecord = -1, true
		header, err := in.Read()
		if err != nil && !errors.Is(err, io.EOF) {
			yield(nil, fmt.Errorf("read the header: %w", err))
			return
		}
		for i, name := range header {
			header[i] = strings.ToLower(strings.TrimSpace(name))
		}
		user, target := slices.Index(header, userColumn), slices.Index(header, targetColumn)
		if user < 0 || target < 0 {
			yield(nil, fmt.Errorf("the first line must be a header with %s and %s; it is %+.100q", userColumn, targetColumn, strings.Join(header, ",")))
			return
		}
		for {
			record, err := in.Read()
			if errors.Is(err, io.EOF) {
				return
			}
			var line int
			text := strings.Join(record, ",")
			var parse *csv.ParseError
			switch {
			case errors.As(err, &parse):
				line, err = parse.StartLine, parse.Err
			case err != nil:
				yield(nil, fmt.Errorf("read: %w", err))
				return
			default:
				line, _ = in.FieldPos(0)
			}
			var task tasks.Task
			if err == nil && len(record) <= max(user, target) {
				err = fmt.Errorf("has %d columns; the header has %d", len(record), len(header))
			}
			if err == nil {
				task, err = newTask(kind, record[user], record[target])
			}
			if err != nil {
				task, err = nil, &LineError{Line: line, Text: text, Err: err}
			}
			if !yield(task, err) {
				return
			}
		}
	}
}

// ReadJSONL yields the tasks of a file with one JSON object a line, which has
// the members that are columns in CSV; others are passed over, and so are empty
// lines. Errors are as in ReadCSV.
func ReadJSONL(kind tasks.Kind, r io.Reader) iter.Seq2[tasks.Task, error] {
	return func(yield func(tasks.Task, error) bool) {
		userMember, targetMember, err := columns(kind)
		if err != nil {
			yield(nil, err)
			return
		}
		in := bufio.NewReaderSize(skipBOM(r), maxLine)
		for line := 1; ; line++ {
			text, err := in.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) {
				excerpt := string(text[:80])
				if err := skipLine(in); err != nil && !errors.Is(err, io.EOF) {
					yield(nil, fmt.Errorf("read: %w", err))
					return
				}
				if !yield(nil, &LineError{Line: line, Text: excerpt, Err: fmt.Errorf("is longer than %d bytes", maxLine)}) {
					return
				}
				continue
			}
			if err != nil && !errors.Is(err, io.EOF) {
				yield(nil, fmt.Errorf("read: %w", err))
				return
			}
			last := errors.Is(err, io.EOF)
			if text = bytes.TrimSpace(text); len(text) > 0 {
				task, err := parseLine(kind, text, userMember, targetMember)
				if err != nil {
					task, err = nil, &LineError{Line: line, Text: string(text), Err: err}
				}
				if !yield(task, err) {
					return
				}
			}
			if last {
				return
			}
		}
	}
}

func parseLine(kind tasks.Kind, text []byte, userMember, targetMember string) (tasks.Task, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, errors.New("is not a JSON object")
	}
	user, err := member(members, userMember)
	if err != nil {
		return nil, err
	}
	target, err := member(members, targetMember)
	if err != nil {
		return nil, err
	}
	return newTask(kind, user, target)
}

func member(members map[string]json.RawMessage, name string) (string, error) {
	raw, ok := members[name]
	if !ok {
		return "", &tasks.FieldError{Field: name, Problem: "is missing"}
	}
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", &tasks.FieldError{Field: name, Problem: "is not a string; ids are strings even where they look like numbers"}
	}
	return *s, nil
}

func skipLine(in *bufio.Reader) error {
	for {
		_, err := in.ReadSlice('\n')
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// skipBOM passes over the mark that spreadsheets put in front of UTF-8.
func skipBOM(r io.Reader) io.Reader {
	in := bufio.NewReader(r)
	if start, err := in.Peek(3); err == nil && string(start) == "\xef\xbb\xbf" {
		_, _ = in.Discard(len(start))
	}
	return in
}
