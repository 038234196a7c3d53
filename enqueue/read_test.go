package enqueue_test

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
		"bad ones":       {"user_id,device_id\nu,..\nu,1\n,2\nu\nu,3\n", []string{"bad line 2", "u/1", "bad line 4", "bad line 5", "u/3"}},
		"stray quote":    {"user_id,device_id\nu,a\"b\nu,2\n", []string{"bad line 2", "u/2"}},
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

func FuzzReadCSV(f *testing.F) {
	f.Add("user_id,device_id\nu,1\n\"a\"b,2\n")
	f.Add("\xef\xbb\xbfdevice_id,user_id\r\n\"x\ny\",2\r\n")
	f.Fuzz(func(t *testing.T, in string) {
		for task, err := range enqueue.ReadCSV(tasks.KindDeviceUnbind, strings.NewReader(in)) {
			if (task == nil) == (err == nil) || err == nil && task.Validate() != nil {
				t.Fatalf("%q yields %+v, %v", in, task, err)
			}
		}
	})
}

func FuzzReadJSONL(f *testing.F) {
	f.Add("{\"user_id\":\"u\",\"lock_id\":\"l\"}\n{}\nnull\n[")
	f.Fuzz(func(t *testing.T, in string) {
		for task, err := range enqueue.ReadJSONL(tasks.KindLockRelease, strings.NewReader(in)) {
			if (task == nil) == (err == nil) || err == nil && task.Validate() != nil {
				t.Fatalf("%q yields %+v, %v", in, task, err)
			}
		}
	})
}
