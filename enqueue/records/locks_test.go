package records_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// readLocks collects what a reader of locks yields, one string a line: the lock
// with its expiry as it is in memory, or what is wrong with the line.
func readLocks(seq iter.Seq2[tasks.Lock, error]) (got []string) {
	for l, err := range seq {
		bad, isLine := errors.AsType[*records.LineError](err)
		switch {
		case err != nil && l != tasks.Lock{}:
			got = append(got, fmt.Sprintf("a lock with an error: %+v, %v", l, err))
		case isLine:
			got = append(got, bad.Err.Error())
		case err != nil:
			got = append(got, "end: "+err.Error())
		case l.ExpiresAt.IsZero():
			got = append(got, l.UserID+"/"+l.LockID)
		default:
			got = append(got, l.UserID+"/"+l.LockID+" "+l.ExpiresAt.Format("2006-01-02T15:04:05.999999999 MST"))
		}
	}
	return got
}

// locksCSV reads files in which the expiry is optional.
func locksCSV(r io.Reader) iter.Seq2[tasks.Lock, error] { return records.LocksCSV(r, nil) }

func locksJSONL(r io.Reader) iter.Seq2[tasks.Lock, error] { return records.LocksJSONL(r, nil) }

func TestLocksCSV(t *testing.T) {
	t.Parallel()
	const notRead = "; want RFC 3339 with a time zone, such as 2026-01-31T08:30:00Z"
	for name, tc := range map[string]struct {
		in   string
		want []string
	}{
		"plain":            {"user_id,lock_id,expires_at\nu,l@1,2026-01-31T08:30:00Z\n", []string{"u/l@1 2026-01-31T08:30:00 UTC"}},
		"expiry first":     {"\xef\xbb\xbf Expires_At ,x,lock_id,USER_ID\r\n2026-01-31T08:30:00Z,\"a, b\",l,u\r\n", []string{"u/l 2026-01-31T08:30:00 UTC"}},
		"expiry between":   {"lock_id,expires_at,user_id\nl,\"2026-01-31T08:30:00Z\",u", []string{"u/l 2026-01-31T08:30:00 UTC"}},
		"no such column":   {"lock_id,user_id\nl,u\nl2,u,,\n", []string{"u/l", "u/l2"}},
		"another name":     {"lock_id,user_id,expiry\nl,u,tomorrow\n", []string{"u/l"}},
		"empty value":      {"expires_at,user_id,lock_id\n,u,l\n\"\",u,l2\n2026-01-31T08:30:00Z,u,l3\n,u,l4\n", []string{"u/l", "u/l2", "u/l3 2026-01-31T08:30:00 UTC", "u/l4"}},
		"cut off":          {"user_id,lock_id,expires_at\nu,l\nu,l,\n", []string{"has 2 columns; the header has 3", "u/l"}},
		"too many":         {"user_id,lock_id,expires_at\nu,l,,2026-01-31T08:30:00Z\n", []string{"has 4 columns; the header has 3"}},
		"bad expiry":       {"user_id,lock_id,expires_at\nu,l,soon\nu,l2,\n", []string{`expires_at is "soon"` + notRead, "u/l2"}},
		"bad id":           {"user_id,lock_id,expires_at\nu,a_b,soon\n,l,\n", []string{`lock_id is "a_b"; want 1 to 64 letters, digits or hyphens, and optionally @ with 1 to 8 digits`, "user_id is empty; want 1 to 128 visible ASCII characters"}},
		"joined files":     {"user_id,lock_id,expires_at\nuser_id,lock_id,expires_at\n", []string{"is a header once more; files with headers cannot be joined as they are"}},
		"expiry twice":     {"user_id,expires_at,lock_id,EXPIRES_AT\nu,,l,\n", []string{"end: the header names expires_at twice; want it once"}},
		"user twice":       {"user_id,expires_at,lock_id,user_id\nu,,l,u\n", []string{"end: the header names user_id twice; want it once"}},
		"columns no names": {"user_id,,lock_id,\nu,1,l,2\n", []string{"u/l"}},
		"no lock":          {"user_id,expires_at\nu,\n", []string{`end: the first line must be a header with user_id and lock_id; it is "user_id,expires_at"`}},
		"empty":            {"", []string{`end: the first line must be a header with user_id and lock_id; it is ""`}},
		"header only":      {"user_id,lock_id,expires_at\n", nil},
	} {
		if diff := cmp.Diff(tc.want, readLocks(locksCSV(strings.NewReader(tc.in)))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestLocksJSONL(t *testing.T) {
	t.Parallel()
	const notRead = "; want RFC 3339 with a time zone, such as 2026-01-31T08:30:00Z"
	for line, want := range map[string]string{
		`{"user_id":"u","lock_id":"l@1","expires_at":"2026-01-31T08:30:00Z"}`:                                       "u/l@1 2026-01-31T08:30:00 UTC",
		` { "expires_at" : "2026-01-31T09:30:00\u002b01:00", "x":{"expires_at":1}, "lock_id":"l", "user_id":"u" } `: "u/l 2026-01-31T08:30:00 UTC",
		`{"user_id":"u","lock_id":"l"}`:                                                              "u/l",
		`{"user_id":"u","lock_id":"l","Expires_At":"soon"}`:                                          "u/l",
		`{"user_id":"u","lock_id":"l","expires_at":""}`:                                              "expires_at is empty",
		`{"user_id":"u","lock_id":"l","expires_at":"soon"}`:                                          `expires_at is "soon"` + notRead,
		`{"user_id":"u","lock_id":"l","expires_at":1769848200}`:                                      "expires_at is a number; want a string, in quotes",
		`{"user_id":"u","lock_id":"l","expires_at":null}`:                                            "expires_at is null; want a string, in quotes",
		`{"user_id":"u","lock_id":"l","expires_at":{}}`:                                              "expires_at is an object; want a string, in quotes",
		`{"user_id":"u","lock_id":"l","expires_at":[]}`:                                              "expires_at is a list; want a string, in quotes",
		`{"user_id":"u","lock_id":"l","expires_at":false}`:                                           "expires_at is a boolean; want a string, in quotes",
		`{"expires_at":"2026-01-31T08:30:00Z","user_id":"u","lock_id":"l","expires\u005fat":"soon"}`: "gives a member twice; want it once",
		`{"user_id":"u","lock_id":"l","expires_at":"2026-01-31T08:30:00Z"`:                           "is not JSON: unexpected end of JSON input",
		`{"user_id":"u","lock_id":"a_b","expires_at":"soon"}`:                                        `lock_id is "a_b"; want 1 to 64 letters, digits or hyphens, and optionally @ with 1 to 8 digits`,
		`{"user_id":"u","expires_at":"soon"}`:                                                        "lock_id is missing",
		`{"kind":"lock:release","user_id":"u","target":"l"}`:                                         "u/l",
		`{"kind":"device:unbind","user_id":"u","target":"d"}`:                                        `kind is "device:unbind"; want lock:release`,
	} {
		in := `{"user_id":"u","lock_id":"1"}` + "\n" + line + "\n" + `{"user_id":"u","lock_id":"2"}`
		if diff := cmp.Diff([]string{"u/1", want, "u/2"}, readLocks(locksJSONL(strings.NewReader(in)))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	}
}

func TestLocks_StrictExpiry(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"2026-01-31T08:30:00Z":                "2026-01-31T08:30:00",
		"2026-01-31T08:30:00+00:00":           "2026-01-31T08:30:00",
		"2026-01-31T08:30:00-00:00":           "2026-01-31T08:30:00",
		"2026-01-31T09:30:00+01:00":           "2026-01-31T08:30:00",
		"2026-01-31T14:15:00+05:45":           "2026-01-31T08:30:00",
		"2026-01-31T00:30:00-08:00":           "2026-01-31T08:30:00",
		"2026-02-01T08:29:00+23:59":           "2026-01-31T08:30:00",
		"2026-01-31T08:30:00.25Z":             "2026-01-31T08:30:00.25",
		"2026-01-31T08:30:00.000000001-00:30": "2026-01-31T09:00:00.000000001",
		"2028-02-29T23:59:59Z":                "2028-02-29T23:59:59",
		"1970-01-01T00:00:00Z":                "1970-01-01T00:00:00",
		"9999-12-31T23:59:59Z":                "9999-12-31T23:59:59",

		"2026-01-31T08:30:00":       "",
		"2026-01-31 08:30:00Z":      "",
		"2026-01-31 08:30:00":       "",
		"2026-01-31T08:30Z":         "",
		"2026-01-31":                "",
		"20260131T083000Z":          "",
		"2026-01-31T8:30:00Z":       "",
		"2026-01-31T8:30:00+01:00":  "",
		"2026-01-31T08:30:00,25Z":   "",
		"2026-01-31T08:30:00.Z":     "",
		"2026-01-31t08:30:00z":      "",
		"2026-01-31T08:30:00+01":    "",
		"2026-01-31T08:30:00+0100":  "",
		"2026-01-31T08:30:00+24:00": "",
		"2026-01-31T08:30:00+00:60": "",
		"2026-01-31T08:30:00 CET":   "",
		"2026-01-31T24:00:00Z":      "",
		"2026-01-31T08:30:60Z":      "",
		"2026-02-29T08:30:00Z":      "",
		"2026-13-01T08:30:00Z":      "",
		"0000-00-00T00:00:00Z":      "",
		"10000-01-01T00:00:00Z":     "",
		"26-01-31T08:30:00Z":        "",
		" 2026-01-31T08:30:00Z":     "",
		"2026-01-31T08:30:00Z ":     "",
		"1769848200":                "",
		"1769848200000":             "",
		"10m":                       "",
		"never":                     "",
		"null":                      "",
		"\xff":                      "",
	} {
		wanted := "u/l " + want + " UTC"
		if want == "" {
			wanted = fmt.Sprintf("expires_at is %+q; want RFC 3339 with a time zone, such as 2026-01-31T08:30:00Z", text)
		}
		// In quotes, since some hold a comma.
		if diff := cmp.Diff([]string{wanted}, readLocks(locksCSV(strings.NewReader("user_id,lock_id,expires_at\nu,l,\""+text+"\"\n")))); diff != "" {
			t.Errorf("%q in CSV (-want +got):\n%s", text, diff)
		}
		if text == "\xff" { // JSON makes another character of it
			continue
		}
		in := `{"user_id":"u","lock_id":"l","expires_at":"` + text + `"}`
		if diff := cmp.Diff([]string{wanted}, readLocks(locksJSONL(strings.NewReader(in)))); diff != "" {
			t.Errorf("%q in JSONL (-want +got):\n%s", text, diff)
		}
	}
}

// The zero time in a Lock means that the file does not say. A file that names that
// time does not mean that --expires-in counts.
func TestLocks_ZeroExpiry(t *testing.T) {
	t.Parallel()
	const want = "expires_at is the beginning of the year 1, which stands for no time; want one, or leave it out"
	in := "user_id,lock_id,expires_at\nu,l,0001-01-01T00:00:00Z\nu,l,0001-01-01T01:00:00+01:00\nu,l,0001-01-01T00:00:01Z\n"
	if diff := cmp.Diff([]string{want, want, "u/l 0001-01-01T00:00:01 UTC"}, readLocks(locksCSV(strings.NewReader(in)))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// With checkExpiry every lock has an expiry, and an error in it says which lock's.
func TestLocks_CheckExpiry(t *testing.T) {
	t.Parallel()
	check := func(at time.Time) error {
		if at.Year() < 2000 {
			return &tasks.FieldError{Field: "expires_at", Problem: "is too old"}
		}
		return nil
	}
	collect := func(seq iter.Seq2[tasks.Lock, error]) (got []string) {
		for l, err := range seq {
			bad, _ := errors.AsType[*records.LineError](err)
			_, header := errors.AsType[*records.HeaderError](err)
			switch {
			case bad != nil:
				got = append(got, fmt.Sprintf("%s/%s %v", bad.Lock.UserID, bad.Lock.LockID, bad.Err))
			case header:
				got = append(got, "header: "+err.Error())
			case err != nil:
				got = append(got, "end: "+err.Error())
			default:
				got = append(got, l.UserID+"/"+l.LockID)
			}
		}
		return got
	}
	for in, want := range map[string][]string{
		"user_id,lock_id,expires_at\nu,l,2026-01-31T08:30:00Z\nu,l2,0001-01-01T00:00:00Z\nu,l3,\nu,l4,soon\n,l5,\nu\n": {
			"u/l", "u/l2 expires_at is too old", "u/l3 expires_at is empty",
			`u/l4 expires_at is "soon"; want RFC 3339 with a time zone, such as 2026-01-31T08:30:00Z`,
			"/ user_id is empty; want 1 to 128 visible ASCII characters", "/ has 1 column; the header has 3",
		},
		"user_id,lock_id\nu,l\n":                            {`header: the first line must be a header with user_id, lock_id and expires_at; it is "user_id,lock_id"`},
		"user_id,lock_id,expires_at,expires_at\n":           {"header: the header names expires_at twice; want it once"},
		"\"user_id,lock_id,expires_at\n":                    {`header: read the header: line 1: extraneous or missing " in quoted-field`},
		over("user_id,", 1e4) + "lock_id,expires_at\nu,l\n": {"header: read the header: line 1: is longer than 65536 bytes"},
	} {
		if diff := cmp.Diff(want, collect(records.LocksCSV(strings.NewReader(in), check))); diff != "" {
			t.Errorf("%.60q (-want +got):\n%s", in, diff)
		}
	}
	in := `{"user_id":"u","lock_id":"l","expires_at":"2026-01-31T08:30:00Z"}
{"user_id":"u","lock_id":"l2","expires_at":"0001-01-01T00:00:00Z"}
{"user_id":"u","lock_id":"l3"}
{"user_id":"u","lock_id":"l4","expires_at":1769848200}
{"user_id":"u","expires_at":""}
{"kind":"lock:release","user_id":"u","target":"l","expires_at":"2026-01-31T08:30:00Z"}`
	want := []string{"u/l", "u/l2 expires_at is too old", "u/l3 expires_at is missing", "u/l4 expires_at is a number; want a string, in quotes", "/ lock_id is missing", "/ lock_id is missing"}
	if diff := cmp.Diff(want, collect(records.LocksJSONL(strings.NewReader(in), check))); diff != "" {
		t.Errorf("JSONL (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"end: read the header: broken"}, collect(records.LocksCSV(failing("user_id", errors.New("broken")), check))); diff != "" {
		t.Errorf("a reader that fails (-want +got):\n%s", diff)
	}
}

func TestLocks_Gzip(t *testing.T) {
	t.Parallel()
	csv := gzipped("user_id,lock_id,exp", "ires_at\nu,l,2026-01-31T08:30:", "00Z\nu,l,soon\nu,l2,\n")
	want := []string{"u/l 2026-01-31T08:30:00 UTC", `expires_at is "soon"; want RFC 3339 with a time zone, such as 2026-01-31T08:30:00Z`, "u/l2"}
	if diff := cmp.Diff(want, readLocks(locksCSV(bytes.NewReader(csv)))); diff != "" {
		t.Errorf("CSV (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"end: read the header: decompress: the file is cut off: unexpected EOF"}, readLocks(locksCSV(bytes.NewReader(csv[:20])))); diff != "" {
		t.Errorf("cut off (-want +got):\n%s", diff)
	}
	jsonl := gzipped(`{"user_id":"u","lock_id":"l","expires_at":"2026-01-31T`, `08:30:00Z"}`+"\n")
	if diff := cmp.Diff(want[:1], readLocks(locksJSONL(bytes.NewReader(jsonl)))); diff != "" {
		t.Errorf("JSONL (-want +got):\n%s", diff)
	}
}

// TestLocks_SameAsReleases reads one file as locks and as releases. Only the
// expiry makes a difference.
func TestLocks_SameAsReleases(t *testing.T) {
	t.Parallel()
	word := rapid.SampledFrom([]string{"u", "l@1", "2026-01-31T08:30:00Z", "", "soon", "a_b", `"u"`, `"l`, "u,l", "\r", "user_id", "lock_id", "expires_at"})
	rapid.Check(t, func(t *rapid.T) {
		lines := []string{strings.Join(rapid.Permutation([]string{"user_id", "lock_id", "expires_at", "x"}).Draw(t, "header"), ",")}
		for range rapid.IntRange(0, 5).Draw(t, "lines") {
			lines = append(lines, strings.Join(rapid.SliceOfN(word, 3, 5).Draw(t, "line"), ","))
		}
		checkAlike(t, locksCSV, records.TasksCSV, strings.Join(lines, "\n"))
		var objects strings.Builder
		for range rapid.IntRange(0, 5).Draw(t, "objects") {
			value := rapid.SampledFrom([]string{`"u"`, `"l"`, `"2026-01-31T08:30:00Z"`, `"soon"`, `1`, `null`, `"lock:release"`})
			for i, name := range rapid.SliceOfN(rapid.SampledFrom([]string{"user_id", "lock_id", "expires_at", "kind", "target"}), 2, 4).Draw(t, "names") {
				fmt.Fprintf(&objects, "%c%q:%s", "{,,,"[i], name, value.Draw(t, "value"))
			}
			objects.WriteString("}\n")
		}
		checkAlike(t, locksJSONL, records.TasksJSONL, objects.String())
	})
}

// Such a lock is named, so that a source can say that it must stay.
func TestLocks_IDsThatNoSystemGives(t *testing.T) {
	t.Parallel()
	const lines = "user_id,lock_id\n1.50508E+18,l\nu,NULL\nu,l\n"
	var good, bad []string
	for l, err := range records.LocksCSV(strings.NewReader(lines), nil) {
		if line, ok := errors.AsType[*records.LineError](err); ok {
			bad = append(bad, line.Lock.UserID+" "+line.Lock.LockID+": "+err.Error())
			continue
		}
		good = append(good, l.UserID)
	}
	if len(good) != 1 || len(bad) != 2 || !strings.HasPrefix(bad[0], `1.50508E+18 l: line 2: user_id is "1.50508E+18", which looks like a number`) || !strings.HasPrefix(bad[1], `u NULL: line 3: lock_id is "NULL", which stands for no value`) {
		t.Errorf("good %v, bad %v; want one lock, and two lines refused with their fields", good, bad)
	}
	for _, err := range records.LocksCSV(strings.NewReader(lines), nil, records.AnyID()) {
		if err != nil {
			t.Errorf("with AnyID: %v; want the line accepted", err)
		}
	}
}

func checkAlike(t *rapid.T, locks func(io.Reader) iter.Seq2[tasks.Lock, error], releases func(tasks.Kind, io.Reader, ...records.Option) iter.Seq2[tasks.Task, error], in string) {
	next, stop := iter.Pull2(releases(tasks.KindLockRelease, strings.NewReader(in)))
	defer stop()
	for l, err := range locks(strings.NewReader(in)) {
		release, releaseErr, ok := next()
		if field, isField := errors.AsType[*tasks.FieldError](err); isField && field.Field == "expires_at" && releaseErr == nil {
			continue // only a lock has one
		}
		switch {
		case !ok:
			t.Fatalf("%q: the lock %+v, %v has no release", in, l, err)
		case err == nil && releaseErr == nil:
			if release != (tasks.LockRelease{UserID: l.UserID, LockID: l.LockID}) {
				t.Fatalf("%q: got the lock %+v, but the release %+v", in, l, release)
			}
		case err == nil || releaseErr == nil || err.Error() != releaseErr.Error():
			t.Fatalf("%q: got %v for the lock, but %v for the release", in, err, releaseErr)
		}
	}
	if release, err, ok := next(); ok {
		t.Fatalf("%q: the release %+v, %v has no lock", in, release, err)
	}
}

// validateLock checks that the ledger can take a lock.
func validateLock(l tasks.Lock) error {
	if l.ExpiresAt.Location() != time.UTC {
		return fmt.Errorf("its expiry is in the zone %s; want UTC", l.ExpiresAt.Location())
	}
	return l.ID().Validate()
}

func FuzzLocksCSV(f *testing.F) {
	f.Add("user_id,lock_id,expires_at\nu,l@1,2026-01-31T08:30:00Z\nu,l,\nu,l,soon\n")
	f.Add("expires_at,lock_id,user_id\r\n2026-01-31T8:30:00Z,l,u\n\"2026-01-31T08:30:00,5+00:00\",l,u\n0001-01-01T00:00:00Z,l,u\n")
	f.Add("user_id,lock_id\nu,l\n")
	f.Fuzz(func(t *testing.T, in string) { checkLines(t, in, 1, locksCSV, validateLock) })
}

func FuzzLocksJSONL(f *testing.F) {
	f.Add("{\"user_id\":\"u\",\"lock_id\":\"l\",\"expires_at\":\"2026-01-31T09:30:00.5+01:00\"}\n{\"user_id\":\"u\",\"lock_id\":\"l\",\"expires_at\":null}")
	f.Add("{\"user_id\":\"u\",\"lock_id\":\"l\"}\n{\"user_id\":\"u\",\"target\":\"l\",\"kind\":\"lock:release\",\"expires_at\":\"soon\"}")
	f.Fuzz(func(t *testing.T, in string) { checkLines(t, in, 0, locksJSONL, validateLock) })
}

func BenchmarkLocksCSV(b *testing.B) {
	const lines = 10_000
	in := "user_id,lock_id,expires_at\n" + numbered("2f6a1c9e4b7d4c0f8a31-%07d,78e41c7e-db02-4d55-85b3-8153%07d@102,2026-01-31T09:30:00+01:00\n", lines)
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range records.LocksCSV(strings.NewReader(in), nil) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/lines, "ns/line")
}
