package enqueue

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/kooworker/kooworker/tasks"
)

// ReadCSV yields the tasks of a CSV file with a header: user_id and device_id
// for unbinds, user_id and lock_id for releases, user_id for off-boardings, in
// any order; other columns are passed over, and so are blank lines. Every other
// line after the header is a task or one *LineError, and the next ones follow;
// any other error ends the file. A line has as many columns as the header: where
// one is missing or too many, what stands in the right place may be the wrong
// value.
//
// A record is a line: a field in quotes may hold commas, but no line break. No
// id has one, and so a stray quote costs its own line and not those after it.
//
// A file that begins like gzip is decompressed. Its checksum comes last, so of a
// damaged file some tasks are yielded before the error.
func ReadCSV(kind tasks.Kind, r io.Reader) iter.Seq2[tasks.Task, error] {
	return func(yield func(tasks.Task, error) bool) {
		in := newLineReader(r)
		t, err := readHeader(in, kind, "")
		if err != nil {
			yield(nil, err)
			return
		}
		eachLine(in, t.header, yield, func(text []byte) (tasks.Task, error) {
			ids, _, err := t.values(text)
			if err != nil {
				return nil, err
			}
			return newTask(kind, ids)
		})
	}
}

// table is what the header tells of the lines below it.
type table struct {
	header   string // as it was
	names    []string
	columns  []int // of these names, which are those of the ids
	optional int   // the column that may be there; -1 if it is not
	width    int
	records  *recordParser
}

// readHeader finds the columns of the ids, and an optional one unless that is "".
// Its errors are no *LineError: nothing follows them.
func readHeader(in *lineReader, kind tasks.Kind, optional string) (*table, error) {
	names, err := idNames(kind)
	if err != nil {
		return nil, err
	}
	t := &table{names: names, optional: -1, records: newRecordParser()}
	var header []string
	if in.next() {
		err := tooLong(in.text)
		if err == nil {
			header, err = t.records.parse(in.text)
		}
		if err != nil {
			return nil, fmt.Errorf("read the header: line %d: %w", in.line, err)
		}
		t.header, t.width = string(in.text), len(header)
	}
	if in.err != nil {
		return nil, fmt.Errorf("read the header: %w", in.err)
	}
	for i, name := range header {
		header[i] = strings.ToLower(strings.TrimSpace(name))
	}
	for _, name := range names {
		column, err := columnOf(header, name)
		if err != nil {
			return nil, err
		}
		if column < 0 {
			return nil, fmt.Errorf("the first line must be a header with %s; it is %+.100q", strings.Join(names, " and "), strings.Join(header, ","))
		}
		t.columns = append(t.columns, column)
	}
	if optional != "" {
		if t.optional, err = columnOf(header, optional); err != nil {
			return nil, err
		}
	}
	if err := refuseTargets(kind, func(name string) bool { return slices.Contains(header, name) }); err != nil {
		return nil, errors.New("the header: " + err.Error()) // as a FieldError it would be about a line
	}
	return t, nil
}

// columnOf returns -1 if there is no column with this name.
func columnOf(header []string, name string) (int, error) {
	column := slices.Index(header, name)
	if column >= 0 && slices.Contains(header[column+1:], name) {
		return 0, fmt.Errorf("the header names %s twice; want it once", name)
	}
	return column, nil
}

// values takes the ids out of a line, in the order of idNames, and the value of
// the optional column.
func (t *table) values(text []byte) (ids [2]string, optional string, err error) {
	record, err := t.records.parse(text)
	if err != nil {
		return ids, "", err
	}
	// Commas at the end are what spreadsheets leave of columns that were emptied.
	if len(record) < t.width || strings.Join(record[t.width:], "") != "" {
		return ids, "", fmt.Errorf("has %d columns; the header has %d", len(record), t.width)
	}
	for i, column := range t.columns {
		ids[i] = record[column]
	}
	if slices.Equal(ids[:len(t.names)], t.names) {
		return ids, "", errors.New("is a header once more; files with headers cannot be joined as they are")
	}
	if t.optional >= 0 {
		optional = record[t.optional]
	}
	return ids, optional, nil
}

// recordParser takes lines apart at their commas. What it returns is valid until
// the next line; the fields themselves stay.
type recordParser struct {
	record []string
	text   bytes.Reader
	in     *bufio.Reader // over text
	csv    *csv.Reader   // over in
}

func newRecordParser() *recordParser {
	p := &recordParser{}
	p.in = bufio.NewReader(&p.text)
	p.csv = csv.NewReader(p.in)
	p.csv.FieldsPerRecord = -1 // the header decides, and not the first line with a quote
	p.csv.ReuseRecord = true
	return p
}

func (p *recordParser) parse(line []byte) ([]string, error) {
	if bytes.IndexByte(line, '"') >= 0 {
		return p.parseQuoted(line)
	}
	// The short way, for most lines of most files. Like encoding/csv it takes a
	// carriage return at the end for a part of the ending.
	p.record = p.record[:0]
	for field := range strings.SplitSeq(string(bytes.TrimSuffix(line, []byte("\r"))), ",") {
		p.record = append(p.record, field)
	}
	return p.record, nil
}

func (p *recordParser) parseQuoted(line []byte) ([]string, error) {
	p.text.Reset(line)
	p.in.Reset(&p.text)
	record, err := p.csv.Read()
	if parse, ok := errors.AsType[*csv.ParseError](err); ok {
		err = parse.Err // its line number means nothing here
	}
	return record, err
}
