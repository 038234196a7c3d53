package records_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// read collects what a reader yields, one string a line.
func read(seq iter.Seq2[tasks.Task, error]) (got []string) {
	for t, err := range seq {
		var line *records.LineError
		switch {
		case errors.As(err, &line):
			got = append(got, fmt.Sprintf("bad line %d", line.Line))
		case err != nil:
			got = append(got, "end: "+err.Error())
		default:
			got = append(got, t.User()+"/"+t.Target())
		}
	}
	return got
}

// reasons is like read, and says what is wrong with a line.
func reasons(seq iter.Seq2[tasks.Task, error]) (got []string) {
	for t, err := range seq {
		var line *records.LineError
		switch {
		case errors.As(err, &line):
			got = append(got, line.Err.Error())
		case err != nil:
			got = append(got, "end: "+err.Error())
		default:
			got = append(got, t.User()+"/"+t.Target())
		}
	}
	return got
}

func TestOffboard_OnlyUserID(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"user_id\nu-1\n\n,\n":         {"u-1/", "user_id is empty; want 1 to 128 visible ASCII characters"},
		"name,User_ID\nSome Body,u-1": {"u-1/"},
		"u-1\nu-2\n":                  {`end: the first line must be a header with user_id; it is "u-1"`},
	} {
		if diff := cmp.Diff(want, reasons(records.TasksCSV(tasks.KindUserOffboard, strings.NewReader(in)))); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
	in := `{"user_id":"u-1"}
{"kind":"user:offboard","user_id":"u-2","target":""}
{"kind":"device:unbind","user_id":"u-3","target":"d-1"}
{"name":"n"}`
	want := []string{"u-1/", "u-2/", `kind is "device:unbind"; want user:offboard`, "user_id is missing"}
	if diff := cmp.Diff(want, reasons(records.TasksJSONL(tasks.KindUserOffboard, strings.NewReader(in)))); diff != "" {
		t.Errorf("JSONL (-want +got):\n%s", diff)
	}
}

func TestWebhook_UnknownKind(t *testing.T) {
	t.Parallel()
	for name, seq := range map[string]iter.Seq2[tasks.Task, error]{
		"CSV":   records.TasksCSV(tasks.KindBatchWebhook, strings.NewReader("batch_id\nb-1\n")),
		"JSONL": records.TasksJSONL(tasks.KindBatchWebhook, strings.NewReader(`{"batch_id":"b-1"}`)),
	} {
		for task, err := range seq {
			if task != nil || !errors.Is(err, tasks.ErrUnknownKind) {
				t.Errorf("%s: got %+v, %v; want ErrUnknownKind", name, task, err)
			}
		}
	}
}

func TestLineError_TextAndHeader(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 70_000)
	type kept struct {
		Line         int
		Text, Header string
	}
	for name, tc := range map[string]struct {
		seq  iter.Seq2[tasks.Task, error]
		want []kept
	}{
		"CSV": {
			records.TasksCSV(tasks.KindDeviceUnbind, strings.NewReader("\xef\xbb\xbf\n User_ID,\"device_id\",more \r\n\r\n  u, \"1,x\r\n,2,\"a, b\"\r\n"+long+"\n\xff\r\r\nu\r")),
			[]kept{
				{4, "  u, \"1,x", ` User_ID,"device_id",more `}, {5, `,2,"a, b"`, ` User_ID,"device_id",more `},
				{6, long, ` User_ID,"device_id",more `}, {7, "\xff\r", ` User_ID,"device_id",more `}, {8, "u\r", ` User_ID,"device_id",more `},
			},
		},
		"JSONL": {
			records.TasksJSONL(tasks.KindDeviceUnbind, strings.NewReader("\n \r\n {\"user_id\":1} \r\n[\n"+long+"\r\n{")),
			[]kept{{3, " {\"user_id\":1} ", ""}, {4, "[", ""}, {5, long, ""}, {6, "{", ""}},
		},
	} {
		var got []kept
		for task, err := range tc.seq {
			bad, ok := errors.AsType[*records.LineError](err)
			if !ok || bad.Truncated {
				t.Fatalf("%s: got %+v, %v; want only whole LineErrors", name, task, err)
			}
			got = append(got, kept{bad.Line, bad.Text, bad.Header})
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%.2000s", name, diff)
		}
	}
}

// nonBlank counts the lines that must yield an item or an error.
func nonBlank(in string) (n int) {
	for line := range strings.SplitSeq(strings.TrimPrefix(in, "\xef\xbb\xbf"), "\n") {
		if strings.TrimSpace(line) != "" {
			n++
		}
	}
	return n
}

func TestEveryLine_ItemOrLineError(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOf(rapid.StringMatching(`[u1,"\r \\{}\x00é]{0,12}`)).Draw(t, "lines")
		end := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "end")
		in := strings.Join(lines, end)
		if rapid.Bool().Draw(t, "ended") {
			in += end
		}
		if got, want := len(read(records.TasksCSV(tasks.KindDeviceUnbind, strings.NewReader("user_id,device_id"+end+in)))), nonBlank(in); got != want {
			t.Fatalf("CSV: got %d lines, want %d", got, want)
		}
		if got, want := len(read(records.TasksJSONL(tasks.KindLockRelease, strings.NewReader(in)))), nonBlank(in); got != want {
			t.Fatalf("JSONL: got %d lines, want %d", got, want)
		}
		if got, want := len(readLocks(records.LocksCSV(strings.NewReader("user_id,expires_at,lock_id"+end+in), nil))), nonBlank(in); got != want {
			t.Fatalf("CSV of locks: got %d lines, want %d", got, want)
		}
		if got, want := len(readLocks(records.LocksJSONL(strings.NewReader(in), nil))), nonBlank(in); got != want {
			t.Fatalf("JSONL of locks: got %d lines, want %d", got, want)
		}
	})
}

func FuzzTasksCSV(f *testing.F) {
	f.Add("user_id,device_id\nu,1\n\"a\"b,2\n")
	f.Add("\xef\xbb\xbfdevice_id,user_id\r\n\"x\ny\",2\r\n")
	f.Add("user_id,device_id\n\"u,1\n\r\nu\r,2\r\r\n\"u\",\"3")
	f.Add("\xef\xbb\xbf\xef\xbb\xbfuser_id,user_id,device_id\r\r\nx\r\r\nx\r")
	f.Add("\xef\xbb\xbf\x1f\x8b,user_id,device_id\n,,\n")
	f.Add(string(gzipped("user_id,device_id\nu,1\nu\n")))
	f.Fuzz(func(t *testing.T, in string) {
		checkLines(t, in, 1, func(r io.Reader) iter.Seq2[tasks.Task, error] { return records.TasksCSV(tasks.KindDeviceUnbind, r) }, tasks.Task.Validate)
	})
}

func FuzzTasksJSONL(f *testing.F) {
	f.Add("{\"user_id\":\"u\",\"lock_id\":\"l\"}\n{}\nnull\n[")
	f.Add("{\"user_id\":\"u\",\"lock_id\":\"l\",\"user\\u005fid\":\"\\\\\\\"\"}\r\r\n{\"a\":{\"b\":[1]}}\r")
	f.Add("\n\xef\xbb\xbf{\"user_id\":\"u\",\"lock_id\":\"l\"}\n{}")
	f.Add("\n\x1f\x8b\n{}")
	f.Add(string(gzipped("{\"user_id\":\"u\",\"lock_id\":\"l\"}\n{}")))
	f.Fuzz(func(t *testing.T, in string) {
		checkLines(t, in, 0, func(r io.Reader) iter.Seq2[tasks.Task, error] { return records.TasksJSONL(tasks.KindLockRelease, r) }, tasks.Task.Validate)
	})
}

// checkLines checks that every line of a file yields a valid item or is refused,
// if the file can be read to its end. Lines that are refused are refused again,
// unchanged, when they are read from a file of rejects.
func checkLines[T comparable](t *testing.T, in string, headers int, read func(io.Reader) iter.Seq2[T, error], validate func(T) error) {
	t.Helper()
	var (
		none     T
		file     bytes.Buffer
		rejects  = records.NewRejects(&file)
		refused  []string
		lines    = headers
		complete = true
	)
	for item, err := range read(strings.NewReader(in)) {
		if (item == none) == (err == nil) || err == nil && validate(item) != nil {
			t.Fatalf("%q yields %+v, %v; want a valid item or an error", in, item, err)
		}
		lines++
		bad, ok := errors.AsType[*records.LineError](err)
		switch {
		case ok && bad.Truncated:
		case ok:
			refused = append(refused, bad.Text)
			if err := rejects.Add(bad); err != nil {
				t.Fatal(err)
			}
		case err != nil:
			complete = false
		}
	}
	if compressed := strings.HasPrefix(in, "\x1f\x8b"); complete && !compressed && lines != nonBlank(in) {
		t.Fatalf("%q: got %d lines, want %d", in, lines, nonBlank(in))
	}
	if err := rejects.Flush(); err != nil {
		t.Fatal(err)
	}
	if len(refused) == 0 {
		if file.Len() > 0 {
			t.Fatalf("%q: no line is refused, but %q was written", in, file.String())
		}
		return
	}
	var again []string
	for item, err := range read(&file) {
		bad, ok := errors.AsType[*records.LineError](err)
		if !ok {
			t.Fatalf("%q: a refused line yields %+v, %v; want a LineError", in, item, err)
		}
		again = append(again, bad.Text)
	}
	if diff := cmp.Diff(refused, again); diff != "" {
		t.Fatalf("%q: read again (-want +got):\n%s", in, diff)
	}
}

func TestOffboard_FileOfUnbinds(t *testing.T) {
	t.Parallel()
	for name, seq := range map[string]iter.Seq2[tasks.Task, error]{
		"CSV":   records.TasksCSV(tasks.KindUserOffboard, strings.NewReader("user_id,device_id\nu,d\n")),
		"JSONL": records.TasksJSONL(tasks.KindUserOffboard, strings.NewReader(`{"user_id":"u","lock_id":"l"}`)),
	} {
		for task, err := range seq {
			if err == nil || task != nil || !strings.Contains(err.Error(), "every device") {
				t.Errorf("%s: %v, %v; want it refused", name, task, err)
			}
		}
	}
}

func TestTasks_IDsThatNoSystemGives(t *testing.T) {
	t.Parallel()
	const lines = "user_id,device_id\nu,1775406005920779393\n1.50508E+18,d\nu,NULL\nu,d\n"
	var bad []string
	good := 0
	for _, err := range records.TasksCSV(tasks.KindDeviceUnbind, strings.NewReader(lines)) {
		if err == nil {
			good++
			continue
		}
		bad = append(bad, err.Error())
	}
	if good != 2 || len(bad) != 2 || !strings.HasPrefix(bad[0], `line 3: user_id is "1.50508E+18", which looks like a number`) || !strings.HasPrefix(bad[1], `line 4: device_id is "NULL", which stands for no value`) {
		t.Errorf("%d tasks, and %q; want lines 3 and 4 refused by field", good, bad)
	}
	for _, err := range records.TasksCSV(tasks.KindDeviceUnbind, strings.NewReader("user_id,device_id\nnone,NULL\n"), records.AnyID()) {
		if err != nil {
			t.Errorf("with AnyID: %v; want the line accepted", err)
		}
	}
}
