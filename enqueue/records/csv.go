package records

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// csvTable takes apart the lines below a header, which says where the ids are.
type csvTable struct {
	schema
	columns []int // of the ids, and last of the time; -1 if there is none
	width   int

	// What split needs.
	fields []string
	text   bytes.Reader
	in     *bufio.Reader // over text
	csv    *csv.Reader   // over in
}

// newCSVParser reads the header, and also returns it as it was.
func newCSVParser(s schema, in *lineReader) (parser, string, error) {
	t := &csvTable{schema: s}
	t.in = bufio.NewReader(&t.text)
	t.csv = csv.NewReader(t.in)
	t.csv.FieldsPerRecord = -1 // the header sets the number, not the first line with a quote
	t.csv.ReuseRecord = true
	text := ""
	var header []string
	if in.next() {
		err := in.tooLong()
		if err == nil {
			header, err = t.split(in.text)
		}
		if err != nil {
			return nil, "", headerErrorf("read the header: line %d: %v", in.line, err)
		}
		text = string(in.text)
	}
	if in.err != nil {
		return nil, "", fmt.Errorf("read the header: %w", in.err)
	}
	return t.parse, text, t.findColumns(header)
}

func (t *csvTable) findColumns(header []string) error {
	for i, name := range header {
		header[i] = strings.ToLower(strings.TrimSpace(name))
	}
	t.width = len(header)
	names := append(slices.Clone(t.names), t.timeName)
	required := strings.Join(t.names, " and ")
	if t.timeRequired {
		required = strings.Join(t.names, ", ") + " and " + t.timeName
	}
	for _, name := range names {
		column := slices.Index(header, name)
		if column < 0 && (name != t.timeName || t.timeRequired) {
			return headerErrorf("the first line must be a header with %s; it is %+.100q", required, strings.Join(header, ","))
		}
		if column >= 0 && slices.Contains(header[column+1:], name) {
			return headerErrorf("the header names %s twice; want it once", name)
		}
		t.columns = append(t.columns, column)
	}
	if err := t.refuseTargets(func(name string) bool { return slices.Contains(header, name) }); err != nil {
		return headerErrorf("the header: %v", err)
	}
	return nil
}

func (t *csvTable) parse(line []byte) (rec record, err error) {
	fields, err := t.split(line)
	if err != nil {
		return rec, err
	}
	// Spreadsheets leave commas at the end for columns that were emptied.
	if len(fields) < t.width || strings.Join(fields[t.width:], "") != "" {
		columns := "columns"
		if len(fields) == 1 {
			columns = "column"
		}
		return rec, fmt.Errorf("has %d %s; the header has %d", len(fields), columns, t.width)
	}
	for i := range t.names {
		rec.ids[i] = fields[t.columns[i]]
	}
	if slices.Equal(rec.ids[:len(t.names)], t.names) {
		return rec, errors.New("is a header once more; files with headers cannot be joined as they are")
	}
	if column := t.columns[len(t.names)]; column >= 0 && (t.timeRequired || fields[column] != "") {
		rec.at, rec.timeErr = t.parseTime(fields[column])
	}
	return rec, nil
}

// split splits a line at its commas. The slice that it returns is valid until the
// next call; the fields in it stay valid.
func (t *csvTable) split(line []byte) ([]string, error) {
	if bytes.IndexByte(line, '"') < 0 { // most lines have no quotes, and this is faster
		// A carriage return at the end belongs to the ending, as it does for encoding/csv.
		text := string(bytes.TrimSuffix(line, []byte("\r")))
		t.fields = slices.AppendSeq(t.fields[:0], strings.SplitSeq(text, ","))
		return t.fields, nil
	}
	t.text.Reset(line)
	t.in.Reset(&t.text)
	fields, err := t.csv.Read()
	if parse, ok := errors.AsType[*csv.ParseError](err); ok {
		err = parse.Err // csv counts only the lines that it was given
	}
	return fields, err
}
