package terminal

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		header []any
		rows   [][]any
		want   string
	}{
		"header and rows":   {[]any{"ID", "TOTAL"}, [][]any{{"b-1", 10}, {"batch-2", 7}}, "ID       TOTAL\nb-1      10\nbatch-2  7\n"},
		"rows of any width": {nil, [][]any{{"total", "", 3}, {"kind", "device:unbind", 3}}, "total                 3\nkind   device:unbind  3\n"},
		"no rows":           {[]any{"ID"}, nil, "Nothing.\n"},
	} {
		var out bytes.Buffer
		table := NewTable(&out, tc.header...)
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

func TestDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", 2 * time.Hour: "2h", time.Hour + time.Second: "1h0m1s",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%d) is %q; want %q", d, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0 dead letters", 1: "1 dead letter", 2: "2 dead letters", 11: "11 dead letters", -1: "-1 dead letters"} {
		if got := Count(n, "dead letters"); got != want {
			t.Errorf("Count(%d) is %q; want %q", n, got, want)
		}
	}
	if got := Count(int64(1), "done"); got != "1 done" {
		t.Errorf("%q; want 1 done, which has no plural", got)
	}
}
