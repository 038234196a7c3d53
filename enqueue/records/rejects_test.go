package records_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue/records"
)

func TestRejects_Content(t *testing.T) {
	t.Parallel()
	const header = ` "User_ID",device_id`
	for name, tc := range map[string]struct {
		lines []*records.LineError
		want  string
	}{
		"none":           {nil, ""},
		"CSV":            {[]*records.LineError{{Header: header, Text: "u,"}, {Header: header, Text: " \"x"}}, header + "\nu,\n \"x\n"},
		"JSONL":          {[]*records.LineError{{Text: "{}"}, {Text: "["}}, "{}\n[\n"},
		"returns":        {[]*records.LineError{{Text: "{}\r"}, {Text: "[\r\r"}}, "{}\r\r\n[\r\r\r\n"},
		"begins as mark": {[]*records.LineError{{Text: "\xef\xbb\xbf{}"}, {Text: "\xef\xbb\xbf{}"}}, "\xef\xbb\xbf\xef\xbb\xbf{}\n\xef\xbb\xbf{}\n"},
		"begins as gzip": {[]*records.LineError{{Header: "\x1f\x8b,user_id", Text: "\x1f\x8b"}}, "\xef\xbb\xbf\x1f\x8b,user_id\n\x1f\x8b\n"},
	} {
		var file bytes.Buffer
		rejects := records.NewRejects(&file)
		for _, bad := range tc.lines {
			if err := rejects.Add(bad); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := rejects.Flush(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tc.want, file.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRejects_TwoHeaders(t *testing.T) {
	t.Parallel()
	var file bytes.Buffer
	rejects := records.NewRejects(&file)
	if err := rejects.Add(&records.LineError{Header: "user_id,device_id", Text: "u"}); err != nil {
		t.Error(err)
	}
	if err := rejects.Add(&records.LineError{Header: "device_id,user_id", Text: "u"}); err == nil {
		t.Error("added a line with another header; want it refused")
	}
	if err := rejects.Flush(); err != nil || file.String() != "user_id,device_id\nu\n" {
		t.Errorf("wrote %q, %v; want the first line below its header", file.String(), err)
	}
}

func TestRejects_WriteFails(t *testing.T) {
	t.Parallel()
	full := errors.New("full")
	rejects := records.NewRejects(failingWriter{full})
	if err := rejects.Add(&records.LineError{Text: strings.Repeat("x", 1<<20)}); !errors.Is(err, full) {
		t.Errorf("Add: got %v, want the error of the writer", err)
	}
	if err := rejects.Flush(); !errors.Is(err, full) {
		t.Errorf("Flush: got %v, want the error of the writer", err)
	}
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }
