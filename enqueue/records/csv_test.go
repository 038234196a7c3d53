package records_test

import (
	"encoding/csv"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

func TestTasksCSV(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   string
		want []string
	}{
		"plain":          {"user_id,device_id\nu,1\nu,2\n", []string{"u/1", "u/2"}},
		"no newline":     {"user_id,device_id\nu,1", []string{"u/1"}},
		"crlf and bom":   {"\xef\xbb\xbfuser_id,device_id\r\nu,1\r\n", []string{"u/1"}},
		"cr at the end":  {"user_id,device_id\r\r\nu,1\r\r\n\"u\",2\r\r\nu,3\r", []string{"u/1", "u/2", "u/3"}},
		"other order":    {"name,device_id,x,User_ID\n\"a, b\",1,,u\n", []string{"u/1"}},
		"quoted":         {"user_id,device_id\n\"u\",\"1\"\n", []string{"u/1"}},
		"quoted widths":  {"\"user_id\",\"device_id\"\n\"u\",\"1\",\n\"u\"\n\"u\",\"2\"\n", []string{"u/1", "bad line 3", "u/2"}},
		"longest line":   {"user_id,device_id,x\nu,1," + strings.Repeat("x", 65532) + "\r\nu,2," + strings.Repeat("x", 65533) + "\n", []string{"u/1", "bad line 3"}},
		"too many":       {"user_id,device_id\nu,1,c2\nu,2,\n", []string{"bad line 2", "u/2"}},
		"too few":        {"user_id,name,device_id,since\nu,1,2026\nu,n,2,2026\n", []string{"bad line 2", "u/2"}},
		"named twice":    {"user_id,device_id,user_id\nu,1,v\n", []string{"end: the header names user_id twice; want it once"}},
		"bad ones":       {"user_id,device_id\nu,..\nu,1\n,2\nu\nu,3\n", []string{"bad line 2", "u/1", "bad line 4", "bad line 5", "u/3"}},
		"stray quote":    {"user_id,device_id\nu,a\"b\nu,2\n", []string{"bad line 2", "u/2"}},
		"open quote":     {"user_id,device_id\nu,\"1\nu,2\nu,3\"\nu,4\n", []string{"bad line 2", "u/2", "bad line 4", "u/4"}},
		"open to end":    {"user_id,device_id\n\"u,1\nu,2", []string{"bad line 2", "u/2"}},
		"comma in quote": {"name,user_id,device_id\n\"a, \"\"b\"\"\",u,1\n", []string{"u/1"}},
		"latin-1 beside": {"name,user_id,device_id\nJos\xe9,u,1\n", []string{"u/1"}},
		"blank lines":    {"\n \r\nuser_id,device_id\n\r\n\t\nu,1\n\nu,\n\n", []string{"u/1", "bad line 8"}},
		"line too long":  {"user_id,device_id\nu," + strings.Repeat("x", 200_000) + "\nu,2\n", []string{"bad line 2", "u/2"}},
		"no end of line": {"user_id,device_id\n" + strings.Repeat("u,1,", 50_000), []string{"bad line 2"}},
		"long header":    {"user_id,device_id," + strings.Repeat("x", 100_000) + "\nu,1\n", []string{"end: read the header: line 1: is longer than 65536 bytes"}},
		"quoted header":  {"\n\"user_id,device_id\nu,1\n", []string{"end: read the header: line 2: extraneous or missing \" in quoted-field"}},
		"nameless":       {",user_id,,device_id,,\n1,u,2,1,,\n", []string{"u/1"}},
		"header only":    {"user_id,device_id\n", nil},
		"no header":      {"u,1\n", []string{`end: the first line must be a header with user_id and device_id; it is "u,1"`}},
		"empty":          {"", []string{`end: the first line must be a header with user_id and device_id; it is ""`}},
		"another kind's": {"user_id,lock_id\nu,1\n", []string{`end: the first line must be a header with user_id and device_id; it is "user_id,lock_id"`}},
	} {
		if diff := cmp.Diff(tc.want, read(records.TasksCSV(tasks.KindDeviceUnbind, strings.NewReader(tc.in)))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestTasksCSV_LineErrors(t *testing.T) {
	t.Parallel()
	const (
		user   = "; want 1 to 128 visible ASCII characters"
		device = "; want 1 to 64 letters, digits, hyphens or underscores"
	)
	for line, want := range map[string]string{
		"u-1":                    "has 1 column; the header has 2",
		"u-1,d-1,d-2":            "has 3 columns; the header has 2",
		"u-1,d\"1":               `bare " in non-quoted-field`,
		"u-1,\"d-1":              `extraneous or missing " in quoted-field`,
		"\"u\"-1,d-1":            `extraneous or missing " in quoted-field`,
		",d-1":                   "user_id is empty" + user,
		"\"\",d-1":               "user_id is empty" + user,
		"u-1,":                   "device_id is empty" + device,
		",":                      "user_id is empty" + user,
		"u-1,../d":               `device_id is "../d"` + device,
		"u-1, d-1":               `device_id is " d-1"` + device,
		"u\t1,d-1":               "user_id has the character 0x09 at byte 1" + user,
		"u\r1,d-1":               "user_id has the character 0x0d at byte 1" + user,
		"u-1,d\x7f":              `device_id is "d\x7f"` + device,
		"u-1\x00,d-1":            "user_id has the character 0x00 at byte 3" + user,
		"\x00\x00\x00":           "has 1 column; the header has 2",
		"ü-1,d-1":                "user_id has the character 0xc3 at byte 0" + user,
		"u-1,d-\u0661":           `device_id is "d-\u0661"` + device,
		"u\xff,d-1":              "user_id has the character 0xff at byte 1" + user,
		"u-1,\xc3\x28":           `device_id is "\xc3("` + device,
		"u-1;d-1":                "has 1 column; the header has 2",
		over("u", 128) + ",d-1":  "user_id is 129 bytes long" + user,
		"u-1," + over("d", 64):   `device_id is "` + over("d", 64) + `"` + device,
		"u-1," + over("x", 7e4):  "is longer than 65536 bytes",
		over("\x00", 2<<20) + "": "is longer than 65536 bytes",
	} {
		in := "user_id,device_id\nu,1\n" + line + "\nu,2\n"
		if diff := cmp.Diff([]string{"u/1", want, "u/2"}, reasons(records.TasksCSV(tasks.KindDeviceUnbind, strings.NewReader(in)))); diff != "" {
			t.Errorf("%.40q (-want +got):\n%s", line, diff)
		}
	}
}

// TestTasksCSV_UnquotedAsEncodingCSV compares the two ways in which
// lines are split.
func TestTasksCSV_UnquotedAsEncodingCSV(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.StringMatching(`[u1,,\r\x00é ]{0,8}[u1,\r]`).Draw(t, "line")
		if strings.TrimSpace(line) == "" {
			return
		}
		record, err := csv.NewReader(strings.NewReader(line)).Read()
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"bad line 2"}
		if len(record) >= 2 && strings.Join(record[2:], "") == "" {
			if task := (tasks.DeviceUnbind{UserID: record[0], DeviceID: record[1]}); task.Validate() == nil {
				want = []string{task.UserID + "/" + task.DeviceID}
			}
		}
		if diff := cmp.Diff(want, read(records.TasksCSV(tasks.KindDeviceUnbind, strings.NewReader("user_id,device_id\n"+line)))); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", line, diff)
		}
	})
}

// over repeats s once more than limit.
func over(s string, limit int) string { return strings.Repeat(s, limit+1) }

func BenchmarkTasksCSV(b *testing.B) {
	for name, tc := range map[string]struct{ header, line string }{
		"plain":  {"user_id,device_id", "2f6a1c9e4b7d4c0f8a31-%07d,1775406005920%06d\n"},
		"quoted": {"user_id,device_id", "\"2f6a1c9e4b7d4c0f8a31-%07d\",\"1775406005920%06d\"\n"},
		"wide":   {"name,user_id,mail,device_id,since", "Some Body,2f6a1c9e4b7d4c0f8a31-%07d,somebody@example.com,1775406005920%06d,2026-01-31T09:30:00Z\n"},
	} {
		b.Run(name, func(b *testing.B) {
			const lines = 10_000
			in := tc.header + "\n" + numbered(tc.line, lines)
			b.ReportAllocs()
			for b.Loop() {
				for _, err := range records.TasksCSV(tasks.KindDeviceUnbind, strings.NewReader(in)) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/lines, "ns/line")
		})
	}
}

func numbered(line string, n int) string {
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, line, i, i)
	}
	return lines.String()
}
