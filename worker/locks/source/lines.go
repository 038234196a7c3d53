package source

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
	"time"

	"github.com/kooworker/kooworker/tasks"
)

const (
	// maxLine bounds a line, and with it the memory that a file takes.
	maxLine = 64 << 10
	// byteOrderMark is what spreadsheets put in front of UTF-8.
	byteOrderMark = "\xef\xbb\xbf"
)

// fields are the values of a line, in the order of columnNames.
type fields [len(columnNames)]string

// readCSV yields the locks of a CSV file.
func readCSV(r io.Reader) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		in := newLineReader(r)
		t, err := readHeader(in)
		if err != nil {
			yield(tasks.Lock{}, &Error{message: "the locks' file: " + err.Error(), hint: "the first line of CSV names the columns: user_id,lock_id,expires_at", cause: err})
			return
		}
		in.each(yield, t.fields)
	}
}

// readJSONL yields the locks of a file with one JSON object a line.
func readJSONL(r io.Reader) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) { newLineReader(r).each(yield, parseObject) }
}

// lineReader takes a file apart. What was read of a line when the reader failed
// is dropped: half an id could be another one.
type lineReader struct {
	in   *bufio.Reader
	line int    // its number
	text []byte // the line without its ending; valid until the next one
	long bool   // the line is longer than maxLine, and text is empty
	err  error  // why there is no next line; nil at the end of the file
}

func newLineReader(r io.Reader) *lineReader {
	in := bufio.NewReaderSize(r, maxLine+len("\r\n"))
	if start, _ := in.Peek(len(byteOrderMark)); string(start) == byteOrderMark {
		_, _ = in.Discard(len(byteOrderMark))
	}
	return &lineReader{in: in}
}

// next goes to the next line that is not blank, and reports whether there is
// one.
func (l *lineReader) next() bool {
	for {
		l.line++
		text, err := l.in.ReadSlice('\n')
		l.long = false
		for errors.Is(err, bufio.ErrBufferFull) {
			l.long = true
			_, err = l.in.ReadSlice('\n')
		}
		atEnd := err == io.EOF // wrapped, it is somebody's failure and not the end of the file
		if err != nil && !(atEnd && (len(text) > 0 || l.long)) {
			if !atEnd {
				l.err = err
			}
			return false
		}
		if l.text = bytes.TrimRight(text, "\r\n"); l.long {
			l.text = nil
		}
		if l.long || len(bytes.TrimSpace(l.text)) > 0 {
			return true
		}
	}
}

// each yields what becomes of every line that is left.
func (l *lineReader) each(yield func(tasks.Lock, error) bool, parse func(text []byte) (fields, error)) {
	for l.next() {
		lock, row := l.lock(parse)
		if row != nil {
			row.line = true
			if !yield(tasks.Lock{}, row) {
				return
			}
		} else if !yield(lock, nil) {
			return
		}
	}
	if l.err != nil {
		yield(tasks.Lock{}, fileError(l.err))
	}
}

func (l *lineReader) lock(parse func(text []byte) (fields, error)) (tasks.Lock, *RowError) {
	if l.long {
		return tasks.Lock{}, &RowError{Row: l.line, Err: fmt.Errorf("is longer than %d bytes", maxLine)}
	}
	values, err := parse(l.text)
	// A parser that fails at the expiry alone returns the ids: see readLock.
	if err != nil && values[0] == "" {
		return tasks.Lock{}, &RowError{Row: l.line, Err: err}
	}
	return readLock(l.line, [2]string{values[0], values[1]}, func() (time.Time, error) {
		if err != nil {
			return time.Time{}, err
		}
		return tasks.ParseTime(expiryColumn, values[2])
	})
}

// table is what the header tells of the lines below it.
type table struct {
	columns [len(columnNames)]int
	width   int
}

// readHeader's errors are no *RowError: nothing follows them.
func readHeader(in *lineReader) (t table, err error) {
	var header []string
	switch {
	case !in.next() && in.err != nil:
		return t, in.err
	case in.long:
		return t, fmt.Errorf("the header is longer than %d bytes", maxLine)
	case len(in.text) > 0:
		if header, err = parseRecord(in.text); err != nil {
			return t, fmt.Errorf("the header: %w", err)
		}
	}
	for i, name := range header {
		header[i] = strings.ToLower(strings.TrimSpace(name))
	}
	for i, name := range columnNames {
		column := slices.Index(header, name)
		if column < 0 {
			return t, fmt.Errorf("the first line must be a header with %s; it is %+.100q", joinNames(columnNames[:]), strings.Join(header, ","))
		}
		if slices.Contains(header[column+1:], name) {
			return t, fmt.Errorf("the header names %s twice; want it once", name)
		}
		t.columns[i] = column
	}
	t.width = len(header)
	return t, nil
}

// fields takes the values out of a line. A line has as many columns as the
// header: where one is missing or too many, what stands in the right place may
// be the wrong value.
func (t table) fields(text []byte) (values fields, err error) {
	record, err := parseRecord(text)
	if err != nil {
		return values, err
	}
	// Commas at the end are what spreadsheets leave of columns that were emptied.
	if len(record) < t.width || strings.Join(record[t.width:], "") != "" {
		return values, fmt.Errorf("has %d columns; the header has %d", len(record), t.width)
	}
	for i, column := range t.columns {
		values[i] = record[column]
	}
	if values[0] == "" {
		return values, &tasks.FieldError{Field: userColumn, Problem: "is empty"}
	}
	return values, nil
}

// parseRecord takes a line apart at its commas.
func parseRecord(line []byte) ([]string, error) {
	if bytes.IndexByte(line, '"') < 0 {
		return strings.Split(string(line), ","), nil
	}
	in := csv.NewReader(bytes.NewReader(line))
	record, err := in.Read()
	if parse, ok := errors.AsType[*csv.ParseError](err); ok {
		err = parse.Err // its line number means nothing here
	}
	return record, err
}

// parseObject reads a line of JSONL. A member that is given twice is an error:
// nobody knows which of them is meant.
func parseObject(text []byte) (values fields, err error) {
	in := json.NewDecoder(bytes.NewReader(text))
	if start, err := in.Token(); err != nil || start != json.Delim('{') {
		return values, errors.New("is not a JSON object")
	}
	var members [len(columnNames)]json.RawMessage
	for in.More() {
		name, err := in.Token()
		if err != nil {
			return values, fmt.Errorf("is not JSON: %w", err)
		}
		var value json.RawMessage
		if err := in.Decode(&value); err != nil {
			return values, fmt.Errorf("is not JSON: %w", err)
		}
		text, _ := name.(string) // the decoder has seen to it
		i := slices.Index(columnNames[:], text)
		if i < 0 {
			continue
		}
		if members[i] != nil {
			return values, &tasks.FieldError{Field: text, Problem: "is given twice; want it once"}
		}
		members[i] = value
	}
	if _, err := in.Token(); err != nil {
		return values, fmt.Errorf("is not JSON: %w", err)
	}
	if _, err := in.Token(); err != io.EOF {
		return values, errors.New("has something behind its JSON object")
	}
	for i, name := range columnNames {
		if values[i], err = textMember(name, members[i]); err != nil {
			return clearUnlessIDs(values, i), err
		}
	}
	return values, nil
}

// clearUnlessIDs keeps the ids of a line that was wrong at column failed, where
// both were read before it.
func clearUnlessIDs(values fields, failed int) fields {
	if columnNames[failed] == expiryColumn {
		return values
	}
	return fields{}
}

func textMember(name string, raw json.RawMessage) (string, error) {
	if raw == nil {
		return "", &tasks.FieldError{Field: name, Problem: "is missing"}
	}
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", &tasks.FieldError{Field: name, Problem: fmt.Sprintf("is %.20s; want a string, in quotes", raw)}
	}
	if *s == "" {
		return "", &tasks.FieldError{Field: name, Problem: "is empty"}
	}
	return *s, nil
}

// joinNames is for errors: a, b and c.
func joinNames(names []string) string {
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}
