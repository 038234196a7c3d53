package terminal

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	t.Parallel()
	long := ID("deletions-2026:AbCdEfGhIjKlMnOpQrStUv")
	for name, tc := range map[string]struct {
		width  int
		header []any
		rows   [][]any
		want   string
	}{
		"columns":                {40, []any{"ID", "TOTAL", "DONE"}, [][]any{{"b-1", 10, "yes"}, {"batch-2", 700_000, ""}}, "ID        TOTAL  DONE\nb-1          10  yes\nbatch-2  700000\n"},
		"columns that just fit":  {20, []any{"ID", "TOTAL"}, [][]any{{ID("0123456789012"), 10}}, "ID             TOTAL\n0123456789012     10\n"},
		"columns that are wider": {20, []any{"ID", "TOTAL"}, [][]any{{ID("01234567890123"), 10}, {ID("b-2"), 0}}, "id: 01234567890123\ntotal: 10\n\nid: b-2\ntotal: 0\n"},
		"text at the end": {40, []any{"ID", "ERROR"}, [][]any{{ID("b-1"), "forbidden: HTTP 403, code 13000410: no permission"}, {ID("b-2"), "x"}},
			"ID   ERROR\nb-1  forbidden: HTTP 403, code 13000410:\n     no permission\nb-2  x\n"},
		"text without room": {40, []any{"ID", "ERROR"}, [][]any{{ID("b-123456789012345"), "forbidden: HTTP 403, code 13000410: no permission"}},
			"id: b-123456789012345\nerror: forbidden: HTTP 403, code\n  13000410: no permission\n"},
		"an id at the end is not text": {44, []any{"ERROR", "ID"}, [][]any{{"no permission", long}}, "error: no permission\nid: " + string(long) + "\n"},
		"an id that is too long":       {32, []any{"ID", "TOTAL"}, [][]any{{long, 1}}, "id:\n" + string(long) + "\ntotal: 1\n"},
		"an id without end": {40, []any{"ID"}, [][]any{{ID(strings.Repeat("0123456789", 11))}},
			"id:\n" + strings.Repeat("0123456789", 10) + "\n0123456789\n"},
		"text without spaces":               {20, []any{"ERROR", "N"}, [][]any{{"01234567890123456789012345678901", 1}}, "error: 0123456789012\n  345678901234567890\n  1\nn: 1\n"},
		"wide characters":                   {20, []any{"ERROR", "N"}, [][]any{{"没有权限没有权限没有权限", 1}}, "error: 没有权限没有\n  权限没有权限\nn: 1\n"},
		"wide characters in columns":        {20, []any{"NAME", "N"}, [][]any{{"没有权限", 1}, {"none", 22}}, "NAME       N\n没有权限   1\nnone      22\n"},
		"optional columns":                  {20, []any{"ID", Optional("DEAD"), Optional("DEVICE"), Optional("LOCK")}, [][]any{{"a", 0, "", "l"}, {"b", 0, "", ""}}, "ID  LOCK\na   l\nb\n"},
		"optional columns that do not fit":  {20, []any{"ID", Optional("DEAD"), Optional("LOCK")}, [][]any{{"a", 0, "01234567890"}, {"b", 7, ""}}, "id: a\nlock: 01234567890\n\nid: b\ndead: 7\n"},
		"a list":                            {30, nil, [][]any{{"batch", ID("b-1")}, {"already gone", 3}}, "batch         b-1\nalready gone  3\n"},
		"a list that is wider":              {24, nil, [][]any{{"batch", ID("b-123456789012345")}, {"already gone", 3}}, "batch: b-123456789012345\nalready gone: 3\n"},
		"what a terminal would obey":        {60, []any{"ID"}, [][]any{{"a\x1b[2J\n\u202eb"}}, "ID\na[U+001B][2J[U+000A][U+202E]b\n"},
		"no rows":                           {20, []any{"ID"}, nil, "Nothing.\n"},
		"columns without a name, as a card": {20, []any{"", "UNBINDS", "RELEASES", "TOTAL"}, [][]any{{"sum", 1, 2, 3}}, "sum\nunbinds: 1\nreleases: 2\ntotal: 3\n"},
	} {
		var out bytes.Buffer
		table := NewTable(&out, tc.header...)
		table.width = tc.width
		for _, row := range tc.rows {
			table.Row(row...)
		}
		if err := table.Close("Nothing.\n"); err != nil {
			t.Errorf("%s: %v; want no error", name, err)
		}
		if diff := cmp.Diff(tc.want, out.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Each block of rows has columns of its own.
func TestTable_BlocksThatDiffer(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	table := NewTable(&out, "ID", Optional("DEAD"))
	table.width = 20
	for i := range 4 * blockRows {
		switch i / blockRows {
		case 0, 1:
			table.Row("a", 0)
		case 2:
			table.Row("a", 7)
		case 3:
			table.Row(ID("01234567890123456789"), 1)
		}
	}
	if err := table.Close(""); err != nil {
		t.Fatal(err)
	}
	want := "ID\n" + strings.Repeat("a\n", 2*blockRows) + "\nID  DEAD\n" + strings.Repeat("a      7\n", blockRows) +
		strings.Repeat("\nid:\n01234567890123456789\ndead: 1\n", blockRows)
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWidth(t *testing.T) {
	for columns, want := range map[string]int{"": 100, "80": 80, "40": 40, "3": 20, "120": 100, "0": 100, "-1": 100, "x": 100} {
		t.Setenv("COLUMNS", columns)
		if got := Width(&bytes.Buffer{}); got != want {
			t.Errorf("COLUMNS=%s: %d; want %d", columns, got, want)
		}
	}
}

// full is a writer that fails, as a full disk does.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, bytes.ErrTooLarge }

func TestTable_LongTables(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	table, failing := NewTable(&out, "ID"), NewTable(full{}, "ID")
	for range 10 * blockRows {
		table.Row("x")
		failing.Row("x")
	}
	if written := strings.Count(out.String(), "x\n"); written < 5*blockRows {
		t.Errorf("%d rows are written before Close; want most of %d", written, 10*blockRows)
	}
	if err := table.Close(""); err != nil || strings.Count(out.String(), "x\n") != 10*blockRows {
		t.Errorf("%d rows, %v; want %d", strings.Count(out.String(), "x\n"), err, 10*blockRows)
	}
	if err := failing.Close(""); err == nil {
		t.Error("no error of a writer that fails; want one")
	}
}
