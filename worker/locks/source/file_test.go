package source

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func openFile(t *testing.T, name, content string) *File {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	write(t, path, content)
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// The release of a lock that KooDrive does not know would count as done.
func TestFile_IDsThatNoSystemGives(t *testing.T) {
	t.Parallel()
	f := openFile(t, "f.csv", "user_id,lock_id,expires_at\n1.50508E+18,l1,2026-01-31T08:30:00Z\nu2,l2,2026-01-31T08:30:00Z\n")
	const want = `line 2 (user 1.50508E+18, lock l1): user_id is "1.50508E+18", which looks like a number`
	if got := list(t, f.Locks(t.Context())); got.err != nil || len(got.locks) != 1 || len(got.rows) != 1 || !strings.HasPrefix(got.rows[0].Error(), want) {
		t.Errorf("got %+v; want one lock, and %q", got, want)
	}
	if l, found, err := lookup(t.Context(), f, "1.50508E+18", "l1"); asRowError(err) == nil || found {
		t.Errorf("got %v, found %t, %v; want a RowError: the lock must stay", l, found, err)
	}
	anyID, err := OpenFile(f.path, records.AnyID())
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, anyID.Locks(t.Context())); got.err != nil || len(got.locks) != 2 {
		t.Errorf("with AnyID: got %+v; want both locks", got)
	}
}

const long = "0123456789"

func TestFile_Locks(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)
	one := []tasks.Lock{{UserID: "u1", LockID: "l1@1", ExpiresAt: at}}
	for name, tc := range map[string]struct {
		file, content string
		locks         []tasks.Lock
		rows          []string // how they begin
		err           string
	}{
		"csv":            {"f.csv", "user_id,lock_id,expires_at\nu1,l1@1,2026-01-31T08:30:00Z\n", one, nil, ""},
		"any order":      {"f", "\xef\xbb\xbfx, Expires_At ,lock_id,\"user_id\"\r\n\"a,b\",2026-01-31T10:30:00+02:00,l1@1,u1\r\n\r\n", one, nil, ""},
		"no last ending": {"f.csv", "user_id,lock_id,expires_at\nu1,l1@1,2026-01-31T08:30:00Z,,", one, nil, ""},
		"bad lines": {
			"f.csv", "user_id,lock_id,expires_at\nu1,l1\n\nu 1,l1,2026-01-31T08:30:00Z\nu1,l1,2026-01-31T08:30:00\nu1,l1,2026-01-31T08:30:00Z,x\n" +
				strings.Repeat(long, 7000) + "\nu1,l\"1,\n,l1,2026-01-31T08:30:00Z\nu1,l1,\nu1,l1,0001-01-01T00:00:00Z\nu1,l1@1,2026-01-31T08:30:00Z\n" + strings.Repeat(long, 20000),
			one,
			[]string{
				"line 2: has 2 columns", "line 4: user_id ", `line 5 (user u1, lock l1): expires_at is "2026-01-31T08:30:00"; want RFC 3339`, "line 6: has 4 columns",
				"line 7: is longer", "line 8: bare", "line 9: user_id is empty", "line 10 (user u1, lock l1): expires_at is empty", "line 11 (user u1, lock l1): expires_at is in the year 1", "line 13: is longer",
			},
			"",
		},
		"empty":       {"f.csv", "", nil, nil, "must be a header with user_id, lock_id and expires_at"},
		"no header":   {"f.csv", "u1,l1@1,2026-01-31T08:30:00Z\n", nil, nil, "must be a header"},
		"no expiry":   {"f.csv", "user_id,lock_id\nu,l\n", nil, nil, "must be a header"},
		"twice":       {"f.csv", "user_id,lock_id,expires_at,user_id\n", nil, nil, "names user_id twice"},
		"long header": {"f.csv", strings.Repeat(long, 7000), nil, nil, "read the header: line 1: is longer"},
		"jsonl":       {"f.jsonl", `{"lock_id":"l1@1","x":{"user_id":[1]},"user_id":"u1","expires_at":"2026-01-31T08:30:00Z"}`, one, nil, ""},
		"empty jsonl": {"f.ndjson", "\n", nil, nil, ""},
		"bad objects": {
			"f.jsonl", "[]\n{\n{\"user_id\":1}\n{\"user_id\":\"u\"}\n{\"user_id\":\"u\",\"user_id\":\"v\"}\n" +
				`{"user_id":"u","lock_id":"l","expires_at":1769848200}` + "\n" + `{"user_id":"u","lock_id":"l","expires_at":null} {}` + "\n" +
				`{"user_id":"u","lock_id":"l"}` + "\n" + `{"user_id":"u1","lock_id":"l1@1","expires_at":"2026-01-31T08:30:00Z"}`,
			one,
			[]string{
				"line 1: is not a JSON object", "line 2: is not JSON", "line 3: user_id is a number; want a string", "line 4: lock_id is missing", "line 5: gives a member twice; want it once",
				"line 6 (user u, lock l): expires_at is a number; want a string", "line 7: is not JSON: invalid character '{' after top-level value", "line 8 (user u, lock l): expires_at is missing",
			},
			"",
		},
	} {
		got := list(t, openFile(t, tc.file, tc.content).Locks(t.Context()))
		if diff := cmp.Diff(tc.locks, got.locks); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", name, diff)
		}
		for i := range max(len(got.rows), len(tc.rows)) {
			if i >= len(got.rows) || i >= len(tc.rows) || !strings.HasPrefix(got.rows[i].Error(), tc.rows[i]) {
				t.Errorf("%s: got %v, want %q", name, got.rows, tc.rows)
				break
			}
		}
		if (tc.err == "") != (got.err == nil) || got.err != nil && (!strings.Contains(got.err.Error(), tc.err) || !strings.HasPrefix(hintIn(got.err), "the first line of CSV names the columns")) {
			t.Errorf("%s: got %v; hint: %s; want %q", name, got.err, hintIn(got.err), tc.err)
		}
	}
}

func TestFile_Lookup(t *testing.T) {
	t.Parallel()
	const header = "user_id,lock_id,expires_at\n"
	f := openFile(t, "f.csv", header+"u1,l1,2026-01-31T08:30:00Z\nu1,l1,2026-01-31T09:30:00Z\nu1,l1,2026-01-31T07:30:00Z\nu2,l2,soon\nu3,l3,2026-01-31T08:30:00Z\nu3,l3,\n")
	expiryOf := func(user, lock string) string {
		t.Helper()
		l, found, err := lookup(t.Context(), f, user, lock)
		switch {
		case asRowError(err) != nil:
			return "bad"
		case err != nil:
			t.Fatal(err)
		case !found:
			return "gone"
		}
		return l.ExpiresAt.Format("15:04")
	}
	for id, want := range map[[2]string]string{{"u1", "l1"}: "09:30", {"u2", "l2"}: "bad", {"u3", "l3"}: "bad", {"u1", "l2"}: "gone"} {
		if got := expiryOf(id[0], id[1]); got != want {
			t.Errorf("%s: got %s, want %s", id, got, want)
		}
	}
	// The file has the same size and, for the file system, the same time.
	info, err := os.Stat(f.path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f.path, header+"u1,l1,2026-01-31T08:30:00Z\n")
	if got := expiryOf("u1", "l1"); got != "08:30" {
		t.Errorf("shorter: got %s, want 08:30", got)
	}
	write(t, f.path, header+"u1,l1,2026-01-31T08:45:00Z\n")
	if err := os.Chtimes(f.path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if got := expiryOf("u1", "l1"); got != "08:45" {
		t.Errorf("renewed in the same instant: got %s, want 08:45", got)
	}
	// An old file is indexed once, and again when another file replaces it.
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(f.path, old, old); err != nil {
		t.Fatal(err)
	}
	expiryOf("u1", "l1")
	index := f.index
	if expiryOf("u1", "l1"); f.index != index {
		t.Error("the unchanged file was read again")
	}
	write(t, f.path+".new", header+"u1,l1,2026-01-31T08:50:00Z\n")
	if err := errors.Join(os.Chtimes(f.path+".new", old, old), os.Rename(f.path+".new", f.path)); err != nil {
		t.Fatal(err)
	}
	if got := expiryOf("u1", "l1"); got != "08:50" {
		t.Errorf("replaced: got %s, want 08:50", got)
	}
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	if _, found, err := lookup(t.Context(), f, "u1", "l1"); !errors.Is(err, os.ErrNotExist) || found || hintIn(err) == "" {
		t.Errorf("removed: found %t, %v; want ErrNotExist and a hint", found, err)
	}
}

func TestFile_ChangesWhileRead(t *testing.T) {
	t.Parallel()
	f := openFile(t, "f.csv", "user_id,lock_id,expires_at\nu1,l1,2026-01-31T08:30:00Z\nu2,l2,2026-01-31T08:30:00Z\n")
	var last error
	for _, err := range f.Locks(t.Context()) {
		if last = err; err == nil {
			write(t, f.path, "user_id,lock_id,expires_at\n")
		}
	}
	if last == nil || !strings.Contains(last.Error(), "changed while it was read") {
		t.Errorf("got %v; want that the file changed", last)
	}
}

func TestFile_Refused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "none"), "/dev/null"} {
		if _, err := OpenFile(path); err == nil {
			t.Errorf("%s: got no error", path)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := openFile(t, "f.csv", "user_id,lock_id,expires_at\nu1,l1,2026-01-31T08:30:00Z\n")
	if got := list(t, f.Locks(ctx)); !errors.Is(got.err, context.Canceled) || len(got.locks) > 0 {
		t.Errorf("Locks: got %+v, want context.Canceled", got)
	}
	if _, _, err := lookup(ctx, f, "u1", "l1"); !errors.Is(err, context.Canceled) {
		t.Errorf("Lookup: got %v, want context.Canceled", err)
	}
}

func TestFile_Gzip(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"f.csv":   "user_id,lock_id,expires_at\nu1,l1,2026-01-31T08:30:00Z\n",
		"f.jsonl": `{"user_id":"u1","lock_id":"l1","expires_at":"2026-01-31T08:30:00Z"}`,
	} {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		check := func(what string, err error) {
			t.Helper()
			e, ok := errors.AsType[*Error](err)
			if !ok || !strings.HasSuffix(e.Error(), name+" is compressed with gzip; want plain text") || !strings.Contains(e.Hint(), "unpack it") {
				t.Errorf("%s: %s: got %q; hint: %s; want that it is compressed", name, what, err, hintIn(err))
			}
		}
		f := openFile(t, name, content)
		if _, found, err := lookup(t.Context(), f, "u1", "l1"); err != nil || !found {
			t.Errorf("%s: found %t, %v; want the lock", name, found, err)
		}
		// The file is compressed after it was opened.
		write(t, f.path, packed.String())
		got := list(t, f.Locks(t.Context()))
		check("list", got.err)
		if len(got.locks)+len(got.rows) > 0 {
			t.Errorf("%s: got %+v, want no locks", name, got)
		}
		_, err := f.Lookup(t.Context(), []tasks.LockID{{UserID: "u1", LockID: "l1"}})
		check("lookup", err)
		_, err = OpenFile(f.path)
		check("open", err)
		write(t, f.path, "\x1f") // half of what a gzip file begins with
		if _, err := OpenFile(f.path); err != nil {
			t.Errorf("%s: a file of one byte: %v", name, err)
		}
	}
}

// Every lock that is read from a file is valid, and the numbers of bad lines grow.
func FuzzReadFile(f *testing.F) {
	f.Add("user_id,lock_id,expires_at\nu1,\"l1@1\",2026-01-31T08:30:00Z\r\n", false)
	f.Add(`{"user_id":"u1","lock_id":"l1","expires_at":"2026-01-31T08:30:00.5+02:00"}`, true)
	f.Add(`{"user_id":"u1","lock_id":"\u0000","expires_at":{"a":[]}}`+"\n\n{", true)
	f.Fuzz(func(t *testing.T, content string, jsonl bool) {
		path := "f.csv"
		if jsonl {
			path = "f.jsonl"
		}
		last := 0
		for l, err := range parse(path, strings.NewReader(content)) {
			row := asRowError(err)
			switch {
			case err == nil:
				if err := errors.Join(l.ID().Validate(), checkExpiry(l.ExpiresAt)); err != nil || l.ExpiresAt.Location() != time.UTC {
					t.Errorf("got %+v: %v; want a valid lock in UTC", l, err)
				}
			case row != nil:
				if row.Row <= last || row.Error() == "" {
					t.Errorf("got row %d after row %d", row.Row, last)
				}
				last = row.Row
			}
		}
	})
}

func ExampleOpenFile() {
	dir, err := os.MkdirTemp("", "locks")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "locks.csv")
	if err := os.WriteFile(path, []byte("user_id,lock_id,expires_at\nu1,backup-7@3,2026-01-31T08:30:00Z\nu2,backup-8,soon\n"), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	f, err := OpenFile(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = f.Close() }()
	for l, err := range f.Locks(context.Background()) {
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(l.UserID, l.LockID, l.ExpiresAt)
	}
	// Output:
	// u1 backup-7@3 2026-01-31 08:30:00 +0000 UTC
	// line 3 (user u2, lock backup-8): expires_at is "soon"; want RFC 3339 with a time zone, such as 2026-01-31T08:30:00Z
}
