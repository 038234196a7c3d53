package enqueue_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/tasks"
)

func ExampleRejects() {
	rejects := enqueue.NewRejects(os.Stdout) // a file, for anything but an example
	file := strings.NewReader("name,user_id,device_id\nAda,u-1,42\nBob,,43\nEve,u-3,not/valid\n")
	for task, err := range enqueue.ReadCSV(tasks.KindDeviceUnbind, file) {
		bad, ok := errors.AsType[*enqueue.LineError](err)
		switch {
		case ok:
			err = rejects.Add(bad)
		case err == nil:
			_ = task // enqueue it
		}
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	if err := rejects.Flush(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// name,user_id,device_id
	// Bob,,43
	// Eve,u-3,not/valid
}

func TestRejectsHoldTheBadLinesAndNothingElse(t *testing.T) {
	t.Parallel()
	const header = ` "User_ID",device_id`
	for name, tc := range map[string]struct {
		lines []*enqueue.LineError
		want  string
	}{
		"none":           {nil, ""},
		"CSV":            {[]*enqueue.LineError{{Header: header, Text: "u,"}, {Header: header, Text: " \"x"}}, header + "\nu,\n \"x\n"},
		"JSONL":          {[]*enqueue.LineError{{Text: "{}"}, {Text: "["}}, "{}\n[\n"},
		"returns":        {[]*enqueue.LineError{{Text: "{}\r"}, {Text: "[\r\r"}}, "{}\r\r\n[\r\r\r\n"},
		"begins as mark": {[]*enqueue.LineError{{Text: "\xef\xbb\xbf{}"}, {Text: "\xef\xbb\xbf{}"}}, "\xef\xbb\xbf\xef\xbb\xbf{}\n\xef\xbb\xbf{}\n"},
		"begins as gzip": {[]*enqueue.LineError{{Header: "\x1f\x8b,user_id", Text: "\x1f\x8b"}}, "\xef\xbb\xbf\x1f\x8b,user_id\n\x1f\x8b\n"},
	} {
		var file bytes.Buffer
		rejects := enqueue.NewRejects(&file)
		for _, bad := range tc.lines {
			if err := rejects.Add(bad); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := rejects.Flush(); err != nil || rejects.Count() != int64(len(tc.lines)) {
			t.Errorf("%s: %d lines, %v", name, rejects.Count(), err)
		}
		if diff := cmp.Diff(tc.want, file.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRejectsTakeLinesOfOneFile(t *testing.T) {
	t.Parallel()
	rejects := enqueue.NewRejects(&bytes.Buffer{})
	if err := rejects.Add(&enqueue.LineError{Header: "user_id,device_id", Text: "u"}); err != nil {
		t.Error(err)
	}
	if err := rejects.Add(&enqueue.LineError{Header: "device_id,user_id", Text: "u"}); err == nil || rejects.Count() != 1 {
		t.Errorf("%d lines, %v", rejects.Count(), err)
	}
}

func TestRejectsThatCannotBeWrittenAreAnError(t *testing.T) {
	t.Parallel()
	full := errors.New("full")
	rejects := enqueue.NewRejects(failingWriter{full})
	if err := rejects.Add(&enqueue.LineError{Text: strings.Repeat("x", 1<<20)}); !errors.Is(err, full) {
		t.Errorf("Add: %v", err)
	}
	if err := rejects.Flush(); !errors.Is(err, full) {
		t.Errorf("Flush: %v", err)
	}
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }
