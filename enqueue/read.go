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
	// Line is counted from 1: the header and blank lines included.
	Line int
	// Text is the whole line without its ending; of a line that is too long,
	// the first bytes.
	Text string
	// Err says what is wrong with it.
	Err error
}

// Error implements error.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns the cause.
func (e *LineError) Unwrap() error { return e.Err }

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
// are passed over, and so are blank lines. Every other line after the header is
// a task or one *LineError, and the next ones follow; any other error ends the
// file.
//
// A record is a line: a field in quotes may hold commas, but no line break. No
// id has one, and so a stray quote costs its own line and not those after it.
func ReadCSV(kind tasks.Kind, r io.Reader) iter.Seq2[tasks.Task, error] {
	return func(yield func(tasks.Task, error) bool) {
		userColumn, targetColumn, err := columns(kind)
		if err != nil {
			yield(nil, err)
			return
		}
		in, records := newLineReader(r), newRecordParser()
		header, err := readHeader(in, records)
		if err != nil {
			yield(nil, fmt.Errorf("read the header: %w", err))
			return
		}
		user, target := slices.Index(header, userColumn), slices.Index(header, targetColumn)
		if user < 0 || target < 0 {
			yield(nil, fmt.Errorf("the first line must be a header with %s and %s; it is %+.100q", userColumn, targetColumn, strings.Join(header, ",")))
			return
		}
		for _, column := range []string{userColumn, targetColumn} {
			if slices.Contains(header[slices.Index(header, column)+1:], column) {
				yield(nil, fmt.Errorf("the header names %s twice; want it once", column))
				return
			}
		}
		eachLine(in, yield, func(text []byte) (tasks.Task, error) {
			record, err := records.parse(text)
			if err != nil {
				return nil, err
			}
			if len(record) <= max(user, target) {
				return nil, fmt.Errorf("has %d columns; the header has %d", len(record), len(header))
			}
			if strings.Join(record[min(len(header), len(record)):], "") != "" {
				// Something has shifted, a stray comma perhaps: what stands in
				// the right place may be the wrong value.
				return nil, fmt.Errorf("has %d columns; the header has %d", len(record), len(header))
			}
			return newTask(kind, record[user], record[target])
		})
	}
}

// readHeader returns the names of the columns; of an empty file, none.
func readHeader(in *lineReader, records *recordParser) ([]string, error) {
	text, err := in.next()
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if bad, ok := errors.AsType[*LineError](err); ok {
		return nil, fmt.Errorf("line %d: %w", bad.Line, bad.Err) // not a *LineError: nothing follows it
	}
	if err != nil {
		return nil, err
	}
	header, err := records.parse(text)
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", in.line, err)
	}
	for i, name := range header {
		header[i] = strings.ToLower(strings.TrimSpace(name))
	}
	return header, nil
}

// recordParser takes lines apart at their commas.
type recordParser struct {
	text bytes.Reader
	in   *bufio.Reader // over text; one for all lines, since encoding/csv would make one for each
}

func newRecordParser() *recordParser {
	p := &recordParser{}
	p.in = bufio.NewReader(&p.text)
	return p
}

func (p *recordParser) parse(line []byte) ([]string, error) {
	p.text.Reset(line)
	p.in.Reset(&p.text)
	record, err := csv.NewReader(p.in).Read()
	if parse, ok := errors.AsType[*csv.ParseError](err); ok {
		err = parse.Err // its line number is always 1
	}
	return record, err
}

// ReadJSONL yields the tasks of a file with one JSON object a line, which has
// the members that are columns in CSV; others are passed over, and so are blank
// lines. Errors are as in ReadCSV. Lines that were exported from the dead
// letters are read as well.
func ReadJSONL(kind tasks.Kind, r io.Reader) iter.Seq2[tasks.Task, error] {
	return func(yield func(tasks.Task, error) bool) {
		userMember, targetMember, err := columns(kind)
		if err != nil {
			yield(nil, err)
			return
		}
		eachLine(newLineReader(r), yield, func(text []byte) (tasks.Task, error) {
			return parseLine(kind, bytes.TrimSpace(text), userMember, targetMember)
		})
	}
}

// eachLine yields what becomes of every line that is left: a task or one
// *LineError. An error of the reader itself is the last.
func eachLine(in *lineReader, yield func(tasks.Task, error) bool, parse func(text []byte) (tasks.Task, error)) {
	for {
		text, err := in.next()
		if errors.Is(err, io.EOF) {
			return
		}
		_, bad := errors.AsType[*LineError](err)
		if err != nil && !bad {
			yield(nil, fmt.Errorf("read: %w", err))
			return
		}
		var task tasks.Task
		if err == nil {
			if task, err = parse(text); err != nil {
				task, err = nil, &LineError{Line: in.line, Text: string(text), Err: err}
			}
		}
		if !yield(task, err) {
			return
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
	if _, given := members[targetMember]; !given {
		if targetMember, err = exportedTarget(kind, members, targetMember); err != nil {
			return nil, err
		}
	}
	target, err := member(members, targetMember)
	if err != nil {
		return nil, err
	}
	return newTask(kind, user, target)
}

// exportedTarget is the name of the target's member in a line that was exported
// from the dead letters: these name every kind's target alike, and their kind.
func exportedTarget(kind tasks.Kind, members map[string]json.RawMessage, targetMember string) (string, error) {
	if members["target"] == nil || members["kind"] == nil {
		return targetMember, nil
	}
	exported, err := member(members, "kind")
	if err == nil && exported != string(kind) {
		err = &tasks.FieldError{Field: "kind", Problem: fmt.Sprintf("is %+.40q; want %s", exported, kind)}
	}
	return "target", err
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

const (
	// maxLine bounds a line, and with it the memory that a file takes. A task's
	// is below 600 bytes.
	maxLine = 64 << 10
	// excerptLine is what is kept of a line that is too long.
	excerptLine = 80
)

// lineReader takes a file apart, for all formats alike.
type lineReader struct {
	in   *bufio.Reader
	line int  // the number of the line that next returned
	last bool // the input has ended; it is not asked again
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{in: bufio.NewReaderSize(skipBOM(r), maxLine+len("\r\n"))}
}

// next returns the next line that is not blank, without its ending; it is valid
// until the next call. A line that is too long is a *LineError, and the next
// ones follow; any other error is the last, and after the last line it is
// io.EOF. What was read of a line when the reader failed is dropped: half an id
// could be another one.
func (l *lineReader) next() ([]byte, error) {
	for !l.last {
		l.line++
		text, err := l.in.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
		var bad *LineError
		if long || len(text) > maxLine {
			bad = &LineError{Line: l.line, Text: string(text[:excerptLine]), Err: fmt.Errorf("is longer than %d bytes", maxLine)}
		}
		if long {
			err = l.skip()
		}
		l.last = errors.Is(err, io.EOF)
		switch {
		case err != nil && !l.last:
			return nil, err
		case bad != nil:
			return nil, bad
		case len(bytes.TrimSpace(text)) > 0:
			return text, nil
		}
	}
	return nil, io.EOF
}

// skip passes over the rest of a line.
func (l *lineReader) skip() error {
	for {
		_, err := l.in.ReadSlice('\n')
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
