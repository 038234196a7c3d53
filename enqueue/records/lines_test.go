package records_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// gzipped returns a gzip file with one member for each text.
func gzipped(texts ...string) []byte {
	var file bytes.Buffer
	for _, text := range texts {
		z := gzip.NewWriter(&file)
		_, _ = io.WriteString(z, text) // into memory
		_ = z.Close()
	}
	return file.Bytes()
}

func TestGzip_Decompressed(t *testing.T) {
	t.Parallel()
	csv := gzipped("\xef\xbb\xbfuser_id,dev", "ice_id\r\nu,1\nu,", "", "2\nu\nu,3")
	if diff := cmp.Diff([]string{"u/1", "u/2", "bad line 4", "u/3"}, read(records.TasksCSV(tasks.KindDeviceUnbind, bytes.NewReader(csv)))); diff != "" {
		t.Errorf("CSV (-want +got):\n%s", diff)
	}
	jsonl := gzipped("\xef\xbb\xbf{\"user_id\":\"u\",\"device_id\":\"1\"}\n", "{}")
	if diff := cmp.Diff([]string{"u/1", "bad line 2"}, read(records.TasksJSONL(tasks.KindDeviceUnbind, iotest.OneByteReader(bytes.NewReader(jsonl))))); diff != "" {
		t.Errorf("JSONL (-want +got):\n%s", diff)
	}
}

// TestGzip_CutOff cuts a file after every byte. What is yielded before the error is
// the beginning of what the whole file yields.
func TestGzip_CutOff(t *testing.T) {
	t.Parallel()
	const header = "user_id,device_id\n"
	whole := gzipped(header+"u,100\nu,200\nu,3", "00\nu,400")
	between := len(gzipped(header + "u,100\nu,200\nu,3")) // nothing shows that the second member is missing
	want := []string{"u/100", "u/200", "u/300", "u/400"}
	for n := 2; n < len(whole); n++ {
		got := read(records.TasksCSV(tasks.KindDeviceUnbind, bytes.NewReader(whole[:n])))
		if n == between {
			continue
		}
		end := got[len(got)-1]
		if !strings.HasPrefix(end, "end: read") || !strings.HasSuffix(end, ": decompress: the file is cut off: unexpected EOF") {
			t.Errorf("after %d bytes: %q", n, got)
		}
		if tasks := got[:len(got)-1]; len(tasks) > 0 && !cmp.Equal(tasks, want[:len(tasks)]) {
			t.Errorf("after %d bytes: %q", n, got)
		}
	}
}

func TestGzip_Damaged(t *testing.T) {
	t.Parallel()
	flip := func(file []byte, at int) []byte {
		file[(at+len(file))%len(file)] ^= 0xff
		return file
	}
	file := func() []byte { return gzipped("user_id,device_id\nu,1\nu,2") }
	for name, tc := range map[string]struct {
		in   []byte
		want []string
	}{
		"header":   {flip(file(), 2), []string{"end: read the header: decompress: gzip: invalid header"}},
		"data":     {flip(file(), 10), []string{"end: read the header: decompress: flate: corrupt input before offset 4"}},
		"checksum": {flip(file(), -5), []string{"u/1", "end: read: decompress: gzip: invalid checksum"}},
		"tail":     {append(file(), "more"...), []string{"u/1", "end: read: decompress: the file is cut off: unexpected EOF"}},
		"trailer":  {append(file(), "more than a header"...), []string{"u/1", "end: read: decompress: gzip: invalid header"}},
	} {
		if diff := cmp.Diff(tc.want, read(records.TasksCSV(tasks.KindDeviceUnbind, bytes.NewReader(tc.in)))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// failing returns text, then err once, and then more text if it is read again.
func failing(text string, err error) io.Reader {
	return io.MultiReader(strings.NewReader(text), &failsOnce{err: err}, strings.NewReader("\nu,9\n"))
}

type failsOnce struct{ err error }

func (f *failsOnce) Read([]byte) (int, error) {
	err := f.err
	f.err = io.EOF
	return 0, err
}

func TestReader_FailsInTheMiddle(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	csv := func(in io.Reader) []string { return read(records.TasksCSV(tasks.KindDeviceUnbind, in)) }
	jsonl := func(in io.Reader) []string { return read(records.TasksJSONL(tasks.KindDeviceUnbind, in)) }
	for name, tc := range map[string]struct{ got, want []string }{
		"CSV":         {csv(failing("user_id,device_id\nu,1\nu,22", broken)), []string{"u/1", "end: read: broken"}},
		"JSONL":       {jsonl(failing("{\"user_id\":\"u\",\"device_id\":\"1\"}\n{", broken)), []string{"u/1", "end: read: broken"}},
		"header":      {csv(failing("user_id,dev", broken)), []string{"end: read the header: broken"}},
		"at once":     {jsonl(failing("", broken)), []string{"end: read: broken"}},
		"first byte":  {jsonl(failing("{", broken)), []string{"end: read: broken"}},
		"long line":   {csv(failing("user_id,device_id\nu,"+over("1", 7e4), broken)), []string{"end: read: broken"}},
		"in gzip":     {csv(failing(string(gzipped("user_id,device_id\nu,1\nu,22")[:40]), broken)), []string{"u/1", "end: read: decompress: broken"}},
		"wrapped EOF": {csv(failing("user_id,device_id\nu,1\nu,22", fmt.Errorf("connection lost: %w", io.EOF))), []string{"u/1", "end: read: connection lost: EOF"}},
		"a real EOF":  {csv(failing("user_id,device_id\nu,1\nu,22", io.EOF)), []string{"u/1", "u/22", "u/9"}},
	} {
		if diff := cmp.Diff(tc.want, tc.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestLineError_TextUpToOneMiB(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, tc := range map[string]struct {
		line, ending string
		size         int
		truncated    bool
	}{
		"a MiB":                    {strings.Repeat("x", mib), "\r\n", mib, false},
		"a MiB at the end":         {strings.Repeat("x", mib), "", mib, false},
		"a byte more":              {over("x", mib), "\n", mib, true},
		"two more at the end":      {over("x", mib) + "\r", "", mib, true},
		"a return at the edge":     {strings.Repeat("x", mib) + "\ry", "\n", mib, true},
		"two returns at the edge":  {strings.Repeat("x", mib) + "\r", "\r\n", mib, true},
		"much more":                {strings.Repeat("x", 3*mib), "\n", mib, true},
		"blank as far as is known": {strings.Repeat(" ", mib) + "x", "\n", mib, true},
		"almost too long for one":  {over("x", 65536), "\r\n", 65537, false},
		"the same at the end":      {over("x", 65537), "", 65538, false},
	} {
		var lines []*records.LineError
		for _, err := range records.TasksJSONL(tasks.KindDeviceUnbind, strings.NewReader("{}\n"+tc.line+tc.ending)) {
			bad, ok := errors.AsType[*records.LineError](err)
			if !ok {
				t.Fatal(err)
			}
			lines = append(lines, bad)
		}
		if len(lines) != 2 || lines[1].Text != tc.line[:tc.size] || lines[1].Truncated != tc.truncated || lines[1].Line != 2 {
			t.Errorf("%s: got %d lines, the last one of %d bytes, truncated: %t; want 2, %d, %t", name, len(lines), len(lines[1].Text), lines[1].Truncated, tc.size, tc.truncated)
		}
	}
}

// repeated is a long text that takes no memory.
type repeated struct{ left int }

func (r *repeated) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), r.left)
	for i := range p[:n] {
		p[i] = 'x'
	}
	r.left -= n
	return n, nil
}

// TestLongLine_Memory is not parallel: it counts what the process allocates.
func TestLongLine_Memory(t *testing.T) {
	const size = 256 << 20
	in := io.MultiReader(strings.NewReader("user_id,device_id\n"), &repeated{left: size}, strings.NewReader("\nu,1\n"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := read(records.TasksCSV(tasks.KindDeviceUnbind, in))
	runtime.ReadMemStats(&after)
	if diff := cmp.Diff([]string{"bad line 2", "u/1"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > size/16 {
		t.Errorf("took %d bytes for a line of %d; want less than a sixteenth", took, size)
	}
}
