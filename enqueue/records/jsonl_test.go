package records_test

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

func TestTasksJSONL(t *testing.T) {
	t.Parallel()
	in := "\xef\xbb\xbf" + strings.Join([]string{
		`{"user_id":"u","lock_id":"l@102"}`,
		``,
		`{"lock_id":"l2","user_id":"u","more":1}`,
		` { "user_id" : "u" , "lock_id" : "l3" , "more" : { "user_id" : [ ":" , { } ] , "\"" : "\\" } } ` + "\r",
		`{"user_id":"u"}`,
		`{"user_id":"u","lock_id":"` + strings.Repeat("x", 100_000) + `"}`,
		`{"user_id":"u","lock_id":"last"}`,
	}, "\n")
	want := []string{"u/l@102", "u/l2", "u/l3", "bad line 5", "bad line 6", "u/last"}
	if diff := cmp.Diff(want, read(records.TasksJSONL(tasks.KindLockRelease, strings.NewReader(in)))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTasksJSONL_LineErrors(t *testing.T) {
	t.Parallel()
	const (
		user   = "; want 1 to 128 visible ASCII characters"
		device = "; want 1 to 64 letters, digits, hyphens or underscores"
		twice  = "gives a member twice; want it once"
	)
	for line, want := range map[string]string{
		`u-1,d-1`:                                       "is not JSON: invalid character 'u' looking for beginning of value",
		`{"user_id":"u-1","device_id":"d-1"`:            "is not JSON: unexpected end of JSON input",
		`{"user_id":"u-1","device_id":"d-1",}`:          "is not JSON: invalid character '}' looking for beginning of object key string",
		`{"user_id":"u-1","device_id":"d-1"} {}`:        "is not JSON: invalid character '{' after top-level value",
		`{"user_id":"u-1","device_id":"d-1"}{}`:         "is not JSON: invalid character '{' after top-level value",
		"{\"user_id\":\"u\x00\",\"device_id\":\"d-1\"}": `is not JSON: invalid character '\x00' in string literal`,
		"\x00":                                `is not JSON: invalid character '\x00' looking for beginning of value`,
		`["u-1","d-1"]`:                       "is not a JSON object",
		`"u-1"`:                               "is not a JSON object",
		`null`:                                "is not a JSON object",
		`{}`:                                  "user_id is missing",
		`{"user_id":"u-1"}`:                   "device_id is missing",
		`{"user_id":"u-1","lock_id":"l-1"}`:   "device_id is missing",
		`{"User_ID":"u-1","device_id":"d-1"}`: "user_id is missing",
		`{"user_id":"u-1","DEVICE_ID":"d-1"}`: "device_id is missing",
		`{"task":{"user_id":"u-1","device_id":"d-1"}}`:           "user_id is missing",
		`{"user_id":{"id":"u-1"},"device_id":"d-1"}`:             "user_id is an object; want a string, in quotes",
		`{"user_id":"u-1","device_id":["d-1"]}`:                  "device_id is a list; want a string, in quotes",
		`{"user_id":"u-1","device_id":1775406005920779393}`:      "device_id is a number; want a string, in quotes",
		`{"user_id":"u-1","device_id":-1}`:                       "device_id is a number; want a string, in quotes",
		`{"user_id":true,"device_id":"d-1"}`:                     "user_id is a boolean; want a string, in quotes",
		`{"user_id":null,"device_id":"d-1"}`:                     "user_id is null; want a string, in quotes",
		`{"user_id":"u-1","user_id":"u-2","device_id":"d-1"}`:    twice,
		`{"user_id":"u-1","device_id":"d-1","device_id":"d-1"}`:  twice,
		`{"user_id":"u-1","device_id":"d-1","user\u005fid":"u"}`: twice,
		`{"user_id":"u-1","device_id":"d-1","x":"\"","x":[{}]}`:  twice,
		`{"user_id":"","device_id":"d-1"}`:                       "user_id is empty" + user,
		`{"user_id":"u-1","device_id":""}`:                       "device_id is empty" + device,
		`{"user_id":"u-1","device_id":"a/b"}`:                    `device_id is "a/b"` + device,
		`{"user_id":"u\n1","device_id":"d-1"}`:                   "user_id has the character 0x0a at byte 1" + user,
		`{"user_id":"u\u0000","device_id":"d-1"}`:                "user_id has the character 0x00 at byte 1" + user,
		`{"user_id":"ü","device_id":"d-1"}`:                      "user_id has the character 0xc3 at byte 0" + user,
		"{\"user_id\":\"u\xff\",\"device_id\":\"d-1\"}":          "user_id has the character 0xef at byte 1" + user,
		`{"user_id":"` + over("u", 128) + `","device_id":"d-1"}`: "user_id is 129 bytes long" + user,
		`{"user_id":"u-1","device_id":"` + over("d", 64) + `"}`:  `device_id is "` + over("d", 64) + `"` + device,
		`{"user_id":"u-1","device_id":"` + over("x", 7e4) + `"}`: "is longer than 65536 bytes",
	} {
		in := `{"user_id":"u","device_id":"1"}` + "\n" + line + "\n" + `{"user_id":"u","device_id":"2"}`
		if diff := cmp.Diff([]string{"u/1", want, "u/2"}, reasons(records.TasksJSONL(tasks.KindDeviceUnbind, strings.NewReader(in)))); diff != "" {
			t.Errorf("%.60q (-want +got):\n%s", line, diff)
		}
	}
}

func TestTasksJSONL_ExportedDeadLetters(t *testing.T) {
	t.Parallel()
	in := `{"id":"x","kind":"device:unbind","user_id":"u","target":"d-1","reason":"forbidden","error":"e","attempts":1,"dead_at":"2026-05-01T12:00:00Z","batch":""}
{"id":"y","kind":"lock:release","user_id":"u","target":"l-1"}
{"kind":"device:unbind","user_id":"u"}
{"user_id":"u","target":"d-2"}
`
	want := []string{"u/d-1", "bad line 2", "bad line 3", "bad line 4"}
	if diff := cmp.Diff(want, read(records.TasksJSONL(tasks.KindDeviceUnbind, strings.NewReader(in)))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func BenchmarkTasksJSONL(b *testing.B) {
	const lines = 10_000
	in := numbered("{\"user_id\":\"2f6a1c9e4b7d4c0f8a31-%07d\",\"device_id\":\"1775406005920%06d\"}\n", lines)
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range records.TasksJSONL(tasks.KindDeviceUnbind, strings.NewReader(in)) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/lines, "ns/line")
}

func TestOnLine_TellsNumberAndRef(t *testing.T) {
	t.Parallel()
	in := strings.Join([]string{
		`{"user_id":"u","ref":"a"}`,
		``,
		`{"ref":{"n": 7},"user_id":"u"}`,
		`{"user_id":"u"}`,
		`{"user_id":"","ref":5}`,
		`{"user_id":"u","ref":"` + strings.Repeat("x", 255) + `"}`,
		`no JSON`,
	}, "\n")
	var got []string
	onLine := records.OnLine(func(line int, ref json.RawMessage) { got = append(got, fmt.Sprintf("%d %s", line, ref)) })
	for task, err := range records.TasksJSONL(tasks.KindUserOffboard, strings.NewReader(in), onLine) {
		if err == nil {
			got = append(got, task.User())
		} else {
			got = append(got, "bad "+err.Error())
		}
	}
	want := []string{
		`1 "a"`, "u", `3 {"n": 7}`, "u", "4 ", "u",
		"5 5", "bad line 5: user_id is empty; want 1 to 128 visible ASCII characters",
		"6 ", "bad line 6: ref is 257 bytes long; want at most 256",
		"7 ", "bad line 7: is not JSON: invalid character 'o' in literal null (expecting 'u')",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A program that writes into a pipe waits for the answer to its first line, however
// short the line is.
func TestTasksJSONL_ReadsNoFurtherThanTheLine(t *testing.T) {
	t.Parallel()
	in, out := io.Pipe()
	go func() { _, _ = out.Write([]byte("1\n")) }() // the pipe stays open
	for _, err := range records.TasksJSONL(tasks.KindUserOffboard, in) {
		if err == nil {
			t.Error("a number was taken for a task")
		}
		break
	}
	_ = out.Close()
}
