package terminal

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// blockRows is how many rows are aligned with each other. Without blocks a table
// of a million rows would stay in memory until its end.
const blockRows = 1000

// Table writes rows in aligned columns.
type Table struct {
	header  []any
	rows    int
	columns *tabwriter.Writer
	out     *bufio.Writer // keeps the first error for Close
}

// NewTable returns a table. Its header, if it has one, appears with the first row.
func NewTable(out io.Writer, header ...any) *Table {
	buffered := bufio.NewWriter(out)
	return &Table{header: header, columns: tabwriter.NewWriter(buffered, 0, 0, 2, ' ', 0), out: buffered}
}

// Row adds a row of at least one cell.
func (t *Table) Row(cells ...any) {
	if t.rows == 0 && len(t.header) > 0 {
		t.write(t.header)
	}
	if t.rows++; t.rows%blockRows == 0 {
		_ = t.columns.Flush() // Close returns the error
	}
	t.write(cells)
}

func (t *Table) write(cells []any) {
	fmt.Fprintf(t.columns, strings.Repeat("%v\t", len(cells)-1)+"%v\n", cells...)
}

// Close writes what is left. A table without rows is replaced by the text empty.
func (t *Table) Close(empty string) error {
	if t.rows == 0 {
		fmt.Fprint(t.columns, empty)
	}
	_ = t.columns.Flush() // the next line returns the error
	if err := t.out.Flush(); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}
