package terminal

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rivo/uniseg"
	"golang.org/x/term"

	"github.com/kooworker/kooworker/internal/humanize"
)

const (
	// MaxWidth is the greatest width of a table, in columns of the terminal.
	MaxWidth = 100
	// minWidth is the least width that a table is written for.
	minWidth = 20
	// minText is the least width of a column of long text.
	minText = 24
	// gap is the distance between two columns.
	gap = 2
	// blockRows is how many rows are aligned with each other. Without blocks a table
	// of a million rows would stay in memory until its end.
	blockRows = 1000
)

// Width returns the width of the tables that are written to out: that of the terminal,
// else the variable COLUMNS, else MaxWidth, and never more than MaxWidth.
func Width(out any) int {
	width := MaxWidth
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		width = n
	}
	if f, ok := out.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
			width = n
		}
	}
	return min(max(width, minWidth), MaxWidth)
}

// Optional is the header of a column that is left out if it is empty or 0 in all rows.
type Optional string

// ID is a cell that people copy. It is never cut. If it does not fit in a line it has
// lines of its own, and breaks at MaxWidth only: a narrower terminal wraps it, and what
// is selected there is whole.
type ID string

// Table writes rows in columns or, if these are wider than the table may be, as cards:
// a line "name: value" for each cell, and an empty line between two cards. Text in the
// last column continues in the lines below.
//
// Every block of rows chooses between columns and cards, and its optional columns. If
// it has other columns than the block before, the header is written once more.
type Table struct {
	columns []column
	isList  bool // each row is a name and a value, and there is no header
	width   int
	rows    [][]cell // of the current block
	above   *layout  // of the block before; nil: there is none
	out     *bufio.Writer
}

type column struct {
	name       string
	isOptional bool
}

type cell struct {
	text     string
	isID     bool
	isNumber bool
}

// NewTable returns a table. Its header, strings or Optional, appears with the first row.
// Without a header, each row is a name and a value.
func NewTable(out io.Writer, header ...any) *Table { return NewTableOf(out, Width(out), header...) }

// NewTableOf returns a table of a given width, for an output that goes to a terminal later.
func NewTableOf(out io.Writer, width int, header ...any) *Table {
	t := &Table{isList: len(header) == 0, width: width, out: bufio.NewWriter(out)}
	if t.isList {
		header = []any{"", ""}
	}
	for _, name := range header {
		_, isOptional := name.(Optional)
		t.columns = append(t.columns, column{fmt.Sprint(name), isOptional})
	}
	return t
}

// Row adds a row of as many cells as there are columns. Columns of numbers are aligned
// at their right.
func (t *Table) Row(cells ...any) {
	if len(t.rows) == blockRows {
		t.writeBlock()
	}
	row := make([]cell, len(t.columns))
	for i, value := range cells {
		_, isID := value.(ID)
		v := reflect.ValueOf(value)
		row[i] = cell{printable(fmt.Sprint(value)), isID, v.CanInt() || v.CanUint() || v.CanFloat()}
	}
	t.rows = append(t.rows, row)
}

// printable writes by its code what a terminal would obey instead of showing it.
func printable(text string) string { return humanize.Visible(text, "\u00a0\u3000") }

func (c cell) isEmpty() bool { return c.text == "" || c.isNumber && c.text == "0" }

// Close writes what is left. A table without rows is replaced by the text empty.
func (t *Table) Close(empty string) error {
	if len(t.rows) > 0 {
		t.writeBlock()
	} else if t.above == nil {
		_, _ = t.out.WriteString(empty) // Flush returns the error
	}
	if err := t.out.Flush(); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// layout is how a block is written.
type layout struct {
	columns   []int  // those that are shown
	widths    []int  // of these
	isNumeric []bool // of these: they have numbers only
	isCards   bool
}

// writeBlock writes the rows that wait.
func (t *Table) writeBlock() {
	l := t.layout()
	if l.isCards {
		t.writeCards(l)
	} else {
		t.writeColumns(l)
	}
	t.above, t.rows = &l, t.rows[:0]
}

// layout chooses how the rows that wait are written.
func (t *Table) layout() (l layout) {
	for i, c := range t.columns {
		if !c.isOptional || slices.ContainsFunc(t.rows, func(row []cell) bool { return !row[i].isEmpty() }) {
			l.columns = append(l.columns, i)
		}
	}
	left := t.width + gap
	for at, i := range l.columns {
		width, least := t.columnWidth(i)
		if at == len(l.columns)-1 {
			width = max(least, min(width, max(left-gap, minText)))
		}
		l.widths = append(l.widths, width)
		l.isNumeric = append(l.isNumeric, !slices.ContainsFunc(t.rows, func(row []cell) bool { return !row[i].isNumber }))
		left -= width + gap
	}
	l.isCards = left < 0
	return l
}

// columnWidth returns how wide a column is, and how wide if its text is wrapped.
func (t *Table) columnWidth(i int) (width, least int) {
	least = widthOf(t.columns[i].name)
	width = least
	for _, row := range t.rows {
		n := widthOf(row[i].text)
		width = max(width, n)
		if row[i].isID || row[i].isNumber {
			least = max(least, n)
		}
	}
	return width, least
}

func (t *Table) writeColumns(l layout) {
	isLikeAbove := t.above != nil && !t.above.isCards && slices.Equal(l.columns, t.above.columns)
	if !t.isList && !isLikeAbove {
		t.writeHeader(l)
	}
	for _, row := range t.rows {
		t.writeRow(l, row)
	}
}

func (t *Table) writeHeader(l layout) {
	if t.above != nil {
		t.writeLine("")
	}
	header := make([]cell, len(t.columns))
	for i, c := range t.columns {
		header[i].text = c.name
	}
	t.writeRow(l, header)
}

// writeRow writes a row in columns.
func (t *Table) writeRow(l layout, row []cell) {
	cells, height := make([][]string, len(l.columns)), 1
	for at, i := range l.columns {
		cells[at] = wrap(row[i].text, l.widths[at], l.widths[at])
		height = max(height, len(cells[at]))
	}
	for y := range height {
		var line strings.Builder
		for at := range l.columns {
			text := ""
			if y < len(cells[at]) {
				text = cells[at][y]
			}
			space := strings.Repeat(" ", l.widths[at]-widthOf(text))
			if l.isNumeric[at] {
				text, space = space+text, ""
			}
			line.WriteString(text + space + strings.Repeat(" ", gap))
		}
		t.writeLine(line.String())
	}
}

// writeCards writes a card for each row, or one card for a list.
func (t *Table) writeCards(l layout) {
	for n, row := range t.rows {
		if t.isList {
			t.writeField(row[0].text, row[1])
			continue
		}
		if n > 0 || t.above != nil {
			t.writeLine("")
		}
		for _, i := range l.columns {
			if !t.columns[i].isOptional || !row[i].isEmpty() {
				t.writeField(strings.ToLower(t.columns[i].name), row[i])
			}
		}
	}
}

// writeField writes a name and a value.
func (t *Table) writeField(name string, value cell) {
	if name != "" {
		name += ": "
	}
	room, below, indent := t.width-widthOf(name), t.width-gap, gap
	if value.isID && widthOf(value.text) > room {
		if name != "" {
			t.writeLine(name)
		}
		name, room, below, indent = "", MaxWidth, MaxWidth, 0
	}
	for i, line := range wrap(value.text, room, below) {
		if i > 0 {
			name = strings.Repeat(" ", indent)
		}
		t.writeLine(name + line)
	}
}

// writeLine writes a line without the spaces at its end. Close returns its error.
func (t *Table) writeLine(line string) {
	_, _ = t.out.WriteString(strings.TrimRight(line, " ") + "\n")
}

// Wrap breaks text into lines as wide as a width, at spaces if there are any, without what a
// terminal would obey.
func Wrap(text string, width int) (lines []string) { return wrap(printable(text), width, width) }

// wrap breaks text into lines, at spaces if there are any. The first line is as wide as
// first, the others as below.
func wrap(text string, first, below int) (lines []string) {
	for width := max(first, 1); ; width = max(below, 1) {
		if widthOf(text) <= width {
			return append(lines, text)
		}
		end := prefix(text, width)
		if end == len(text) { // one character that is wider than a line
			return append(lines, text)
		}
		if text[end] != ' ' {
			if space := strings.LastIndexByte(text[:end], ' '); space > 0 {
				end = space
			}
		}
		lines = append(lines, text[:end])
		text = strings.TrimLeft(text[end:], " ")
	}
}

// prefix returns how many bytes of a text fit into a width: at least one character.
func prefix(text string, width int) (n int) {
	for state := -1; n < len(text); {
		character, _, w, next := uniseg.FirstGraphemeClusterInString(text[n:], state)
		if width -= w; width < 0 && n > 0 {
			break
		}
		n, state = n+len(character), next
	}
	return n
}

// widthOf returns how many columns of the terminal a text takes.
func widthOf(text string) int {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return uniseg.StringWidth(text)
		}
	}
	return len(text)
}
