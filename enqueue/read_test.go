package enqueue_test

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/tasks"
)

// read collects what a reader yields, one word a line.
func read(seq iter.Seq2[tasks.Task, error]) (got []string) {
	for t, err := range seq {
		var line *enqueue.LineError
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

func TestReadCSV(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   string
		want []string
	}{
		"plain":          {"user_id,device_id\nu,1\nu,2\n", []string{"u/1", "u/2"}},
		"no newline":     {"user_id,device_id\nu,1", []string{"u/1"}},
		"crlf and bom":   {"\xef\xbb\xbfuser_id,device_id\r\nu,1\r\n", []string{"u/1"}},
		"other order":    {"name,device_id,x,User_ID\n\"a, b\",1,,u\n", []string{"u/1"}},
		"quoted":         {"user_id,device_id\n\"u\",\"1\"\n", []string{"u/1"}},
		"too many":       {"user_id,device_id\nu,1,c2\nu,2,\n", []string{"bad line 2", "u/2"}},
		"named twice":    {"user_id,device_id,user_id\nu,1,v\n", []string{"end: the header names user_id twice; want it once"}},
		"bad ones":       {"user_id,device_id\nu,..\nu,1\n,2\nu\nu,3\n", []string{"bad line 2", "u/1", "bad line 4", "bad line 5", "u/3"}},
		"stray quote":    {"user_id,device_id\nu,a\"b\nu,2\n", []string{"bad line 2", "u/2"}},
		"open quote":     {"user_id,device_id\nu,\"1\nu,2\nu,3\"\nu,4\n", []string{"bad line 2", "u/2", "bad line 4", "u/4"}},
		"open to end":    {"user_id,device_id\n\"u,1\nu,2", []string{"bad line 2", "u/2"}},
		"comma in quote": {"name,user_id,device_id\n\"a, \"\"b\"\"\",u,1\n", []string{"u/1"}},
		"blank lines":    {"\n \r\nuser_id,device_id\n\r\n\t\nu,1\n\nu,\n\n", []string{"u/1", "bad line 8"}},
		"line too long":  {"user_id,device_id\nu," + strings.Repeat("x", 200_000) + "\nu,2\n", []string{"bad line 2", "u/2"}},
		"no end of line": {"user_id,device_id\n" + strings.Repeat("u,1,", 50_000), []string{"bad line 2"}},
		"long header":    {"user_id,device_id," + strings.Repeat("x", 100_000) + "\nu,1\n", []string{"end: read the header: line 1: is longer than 65536 bytes"}},
		"quoted header":  {"\n\"user_id,device_id\nu,1\n", []string{"end: read the header: line 2: extraneous or missing \" in quoted-field"}},
		"header only":    {"user_id,device_id\n", nil},
		"no header":      {"u,1\n", []string{`end: the first line must be a header with user_id and device_id; it is "u,1"`}},
		"empty":          {"", []string{`end: the first line must be a header with user_id and device_id; it is ""`}},
		"another kind's": {"user_id,lock_id\nu,1\n", []string{`end: the first line must be a header with user_id and device_id; it is "user_id,lock_id"`}},
	} {
		if diff := cmp.Diff(tc.want, read(enqueue.ReadCSV(tasks.KindDeviceUnbind, strings.NewReader(tc.in)))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestReadJSONL(t *testing.T) {
	t.Parallel()
	in := strings.Join([]string{
		`{"user_id":"u","lock_id":"l@102"}`,
		``,
		`{"lock_id":"l2","user_id":"u","more":1}`,
		`{"user_id":"u"}`,
		`{"user_id":"u","lock_id":5}`,
		`[1]`,
		`{"user_id":"u","lock_id":"` + strings.Repeat("x", 100_000) + `"}`,
		`{"user_id":"u","lock_id":"last"}`,
	}, "\n")
	want := []string{"u/l@102", "u/l2", "bad line 4", "bad line 5", "bad line 6", "bad line 7", "u/last"}
	if diff := cmp.Diff(want, read(enqueue.ReadJSONL(tasks.KindLockRelease, strings.NewReader(in)))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestABadLineIsKeptWhole(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1<<16)
	csv := "\xef\xbb\xbfuser_id,device_id,more\r\n\r\n  u, \"1,x\r\n,2,\"a, b\"\r\n" + long + "\n" + long + "x\nu"
	jsonl := "\n \r\n {\"user_id\":1} \r\n[\n" + long + "\n" + long + "x\r\n{"
	for name, tc := range map[string]struct {
		seq  iter.Seq2[tasks.Task, error]
		want map[int]string
	}{
		"csv": {
			enqueue.ReadCSV(tasks.KindDeviceUnbind, strings.NewReader(csv)),
			map[int]string{3: "  u, \"1,x", 4: ",2,\"a, b\"", 5: long, 6: long[:80], 7: "u"},
		},
		"jsonl": {
			enqueue.ReadJSONL(tasks.KindDeviceUnbind, strings.NewReader(jsonl)),
			map[int]string{3: " {\"user_id\":1} ", 4: "[", 5: long, 6: long[:80], 7: "{"},
		},
	} {
		got := map[int]string{}
		for task, err := range tc.seq {
			bad, ok := errors.AsType[*enqueue.LineError](err)
			if !ok {
				t.Fatalf("%s: %+v, %v", name, task, err)
			}
			got[bad.Line] = bad.Text
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// nonBlank counts what the readers owe an account of.
func nonBlank(in string) (n int) {
	for line := range strings.SplitSeq(strings.TrimPrefix(in, "\xef\xbb\xbf"), "\n") {
		if strings.TrimSpace(line) != "" {
			n++
		}
	}
	return n
}

func TestEveryLineIsATaskOrABadLine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOf(rapid.StringMatching(`[u1,"\r \\{}\x00é]{0,12}`)).Draw(t, "lines")
		end := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "end")
		in := strings.Join(lines, end)
		if rapid.Bool().Draw(t, "ended") {
			in += end
		}
		if got, want := len(read(enqueue.ReadCSV(tasks.KindDeviceUnbind, strings.NewReader("user_id,device_id"+end+in)))), nonBlank(in); got != want {
			t.Fatalf("CSV: %d of %d lines", got, want)
		}
		if got, want := len(read(enqueue.ReadJSONL(tasks.KindLockRelease, strings.NewReader(in)))), nonBlank(in); got != want {
			t.Fatalf("JSONL: %d of %d lines", got, want)
		}
	})
}

// failing breaks off after what it holds.
func failing(text string) io.Reader {
	return io.MultiReader(strings.NewReader(text), iotest.ErrReader(errors.New("broken")))
}

func TestAReadThatFailsEndsTheFileAndHalfALineIsNoTask(t *testing.T) {
	t.Parallel()
	got := read(enqueue.ReadCSV(tasks.KindDeviceUnbind, failing("user_id,device_id\nu,1\nu,22")))
	if diff := cmp.Diff([]string{"u/1", "end: read: broken"}, got); diff != "" {
		t.Errorf("CSV (-want +got):\n%s", diff)
	}
	got = read(enqueue.ReadJSONL(tasks.KindDeviceUnbind, failing("{\"user_id\":\"u\",\"device_id\":\"1\"}\n{")))
	if diff := cmp.Diff([]string{"u/1", "end: read: broken"}, got); diff != "" {
		t.Errorf("JSONL (-want +got):\n%s", diff)
	}
	got = read(enqueue.ReadCSV(tasks.KindDeviceUnbind, failing("user_id,dev")))
	if diff := cmp.Diff([]string{"end: read the header: broken"}, got); diff != "" {
		t.Errorf("the header (-want +got):\n%s", diff)
	}
}

func TestReadJSONLReadsWhatWasExported(t *testing.T) {
	t.Parallel()
	in := `{"id":"x","kind":"device:unbind","user_id":"u","target":"d-1","reason":"forbidden","error":"e","attempts":1,"dead_at":"2026-05-01T12:00:00Z","batch":""}
{"id":"y","kind":"lock:release","user_id":"u","target":"l-1"}
{"kind":"device:unbind","user_id":"u"}
{"user_id":"u","target":"d-2"}
`
	want := []string{"u/d-1", "bad line 2", "bad line 3", "bad line 4"}
	if diff := cmp.Diff(want, read(enqueue.ReadJSONL(tasks.KindDeviceUnbind, strings.NewReader(in)))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzReadCSV(f *testing.F) {
	f.Add("user_id,device_id\nu,1\n\"a\"b,2\n")
	f.Add("\xef\xbb\xbfdevice_id,user_id\r\n\"x\ny\",2\r\n")
	f.Add("user_id,device_id\n\"u,1\n\r\nu\r,2\r\r\n\"u\",\"3")
	f.Fuzz(func(t *testing.T, in string) {
		n, whole := 1, true // the header
		for task, err := range enqueue.ReadCSV(tasks.KindDeviceUnbind, strings.NewReader(in)) {
			if (task == nil) == (err == nil) || err == nil && task.Validate() != nil {
				t.Fatalf("%q yields %+v, %v", in, task, err)
			}
			n++
			if _, bad := errors.AsType[*enqueue.LineError](err); err != nil && !bad {
				whole = false
			}
		}
		if whole && n != nonBlank(in) {
			t.Fatalf("%q: %d of %d lines", in, n, nonBlank(in))
		}
	})
}

func FuzzReadJSONL(f *testing.F) {
	f.Add("{\"user_id\":\"u\",\"lock_id\":\"l\"}\n{}\nnull\n[")
	f.Fuzz(func(t *testing.T, in string) {
		n := 0
		for task, err := range enqueue.ReadJSONL(tasks.KindLockRelease, strings.NewReader(in)) {
			if (task == nil) == (err == nil) || err == nil && task.Validate() != nil {
				t.Fatalf("%q yields %+v, %v", in, task, err)
			}
			n++
		}
		if n != nonBlank(in) {
			t.Fatalf("%q: %d of %d lines", in, n, nonBlank(in))
		}
	})
}
