package main

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/internal/redistest"
)

// expiries returns the expiries of the locks that a command lists.
func expiries(t *testing.T, r result) map[string]time.Time {
	t.Helper()
	out := map[string]time.Time{}
	for _, line := range r.lines(t) {
		at, err := time.Parse(time.RFC3339, line["expires_at"].(string))
		if err != nil {
			t.Fatal(err)
		}
		out[line["user_id"].(string)+"/"+line["lock_id"].(string)] = at
	}
	return out
}

// statuses returns the counts of a summary.
func statuses(t *testing.T, r result) map[string]any {
	t.Helper()
	object := r.object(t)
	out := map[string]any{"total": object["total"], "rejected": object["rejected"]}
	maps.Copy(out, object["by_status"].(map[string]any))
	return out
}

func TestLocksTrack_ExpiriesFromFile(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	dir := t.TempDir()
	file, rejects := filepath.Join(dir, "locks.csv"), filepath.Join(dir, "rejects.csv")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := func(args ...string) result {
		t.Helper()
		return kooworker(t, "", append(append([]string{"locks"}, args...), "--json", "--redis-url", server.URL())...)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339Nano) }
	const header = "expires_at,host,lock_id,user_id\n"
	bad := []string{
		"tomorrow,h,bad-1,u",
		now.Add(time.Hour).Format(time.DateTime) + ",h,bad-2,u", // no zone
		"1769848200,h,bad-3,u",
		"0001-01-01T00:00:00Z,h,bad-4,u",
		",h,bad 5,u",
	}
	write(file, header+strings.Join([]string{
		at(3*time.Hour) + ",h,later,u",
		now.Add(-time.Hour).In(time.FixedZone("", 19800)).Format(time.RFC3339Nano) + ",h,gone@102,u",
		bad[0], bad[1],
		at(-time.Minute) + ",h,within-the-grace,u",
		",h,default-1,u", `"",h,default-2,v`,
		bad[2], bad[3], bad[4],
		at(-48*time.Hour) + ",h,gone@102,v",
		at(2*365*24*time.Hour) + ",h,too-far,u",
	}, "\n")+"\n")

	before := time.Now()
	r := command("track", "--file", file, "--expires-in", "30m", "--rejects", rejects)
	after := time.Now()
	if diff := cmp.Diff(map[string]any{"total": 12.0, "rejected": 5.0, "tracked": 6.0, "refused": 1.0}, statuses(t, r)); diff != "" || r.code != exitPartial {
		t.Fatalf("(-want +got):\n%s%+v", diff, r)
	}
	if !strings.Contains(r.stderr, `line 4: expires_at is "tomorrow"; want RFC 3339`) {
		t.Errorf("%+v; want the number and the reason of line 4", r)
	}
	listed := expiries(t, command("list"))
	for _, name := range []string{"u/default-1", "v/default-2"} {
		// Redis counts from the start of a millisecond.
		if got := listed[name]; got.Before(before.Add(30*time.Minute-time.Millisecond)) || got.After(after.Add(30*time.Minute+time.Millisecond)) {
			t.Errorf("%s expires at %s; want 30m from %s", name, got, before)
		}
		delete(listed, name)
	}
	if diff := cmp.Diff(map[string]time.Time{
		"u/later": now.Add(3 * time.Hour), "u/gone@102": now.Add(-time.Hour), "v/gone@102": now.Add(-48 * time.Hour), "u/within-the-grace": now.Add(-time.Minute),
	}, listed); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	for grace, want := range map[string][]string{
		"30m": {"u/gone@102", "v/gone@102"},
		"0s":  {"u/gone@102", "u/within-the-grace", "v/gone@102"},
	} {
		stale := slices.Sorted(maps.Keys(expiries(t, command("list", "--stale", "--grace", grace))))
		if diff := cmp.Diff(want, stale); diff != "" {
			t.Errorf("stale for %s (-want +got):\n%s", grace, diff)
		}
	}

	kept, err := os.ReadFile(rejects)
	if diff := cmp.Diff(header+strings.Join(bad, "\n")+"\n", string(kept)); diff != "" || err != nil {
		t.Errorf("rejects (-want +got):\n%s%v", diff, err)
	}
	write(rejects, strings.NewReplacer(
		"tomorrow,", at(24*time.Hour)+",", now.Add(time.Hour).Format(time.DateTime), at(time.Hour),
		"1769848200,", at(-2*time.Hour)+",", "0001-01-01T00:00:00Z,", ",", "bad 5", "bad-5",
	).Replace(string(kept)))
	r = command("track", "--file", rejects)
	if diff := cmp.Diff(map[string]any{"total": 5.0, "rejected": 0.0, "tracked": 5.0}, statuses(t, r)); diff != "" || r.code != exitDone {
		t.Errorf("repaired (-want +got):\n%s%+v", diff, r)
	}
	listed = expiries(t, command("list"))
	for name, want := range map[string]time.Time{"u/bad-1": now.Add(24 * time.Hour), "u/bad-2": now.Add(time.Hour), "u/bad-3": now.Add(-2 * time.Hour)} {
		if !listed[name].Equal(want) {
			t.Errorf("repaired: %s expires at %s; want %s", name, listed[name], want)
		}
	}
	if len(listed) != 11 {
		t.Errorf("repaired: %d locks; want 11", len(listed))
	}
}

func TestLocksRenew_ExpiriesFromFile(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	command := func(stdin string, args ...string) result {
		t.Helper()
		return kooworker(t, stdin, append(append([]string{"locks"}, args...), "--json", "--redis-url", server.URL())...)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339Nano) }
	if r := command("user_id,lock_id\nu,later\nu,sooner\nu,default\n", "track", "--file", "-", "--expires-in", "1h"); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	r := command(`{"user_id":"u","lock_id":"later","expires_at":"`+at(3*time.Hour)+`"}
{"user_id":"u","lock_id":"sooner","expires_at":"`+at(-time.Hour)+`"}
{"user_id":"u","lock_id":"default"}
{"user_id":"u","lock_id":"default","expires_at":null}
`, "renew", "--file", "-", "--format", "jsonl", "--expires-in", "2h")
	if diff := cmp.Diff(map[string]any{"total": 4.0, "rejected": 1.0, "renewed": 2.0, "unchanged": 1.0}, statuses(t, r)); diff != "" || r.code != exitPartial {
		t.Errorf("(-want +got):\n%s%+v", diff, r)
	}
	list := command("", "list")
	listed := expiries(t, list)
	if got := listed["u/later"]; !got.Equal(now.Add(3 * time.Hour)) {
		t.Errorf("u/later expires at %s; want %s", got, at(3*time.Hour))
	}
	if got := listed["u/sooner"]; got.Before(now.Add(time.Hour)) || got.After(now.Add(90*time.Minute)) {
		t.Errorf("u/sooner expires at %s; want its earlier expiry, 1h from the start", got)
	}
	if got := listed["u/default"]; got.Before(now.Add(2*time.Hour)) || got.After(now.Add(150*time.Minute)) {
		t.Errorf("u/default expires at %s; want --expires-in, 2h from the start", got)
	}

	// The output of list can be tracked again, and changes nothing.
	r = command(list.stdout, "track", "--file", "-", "--format", "jsonl")
	if diff := cmp.Diff(map[string]any{"total": 3.0, "rejected": 0.0, "unchanged": 3.0}, statuses(t, r)); diff != "" || r.code != exitDone {
		t.Errorf("tracked as listed (-want +got):\n%s%+v", diff, r)
	}
	// Forget ignores the expiries, even malformed and doubled ones.
	r = command("user_id,lock_id,expires_at,expires_at\nu,later,tomorrow,\nu,sooner,,\nu,unknown,,never\n", "forget", "--file", "-")
	if diff := cmp.Diff(map[string]any{"total": 3.0, "rejected": 0.0, "forgotten": 2.0, "unknown": 1.0}, statuses(t, r)); diff != "" || r.code != exitDone {
		t.Errorf("forget (-want +got):\n%s%+v", diff, r)
	}
	if left := expiries(t, command("", "list")); len(left) != 1 || left["u/default"].IsZero() {
		t.Errorf("%v are left; want u/default alone", left)
	}
	// With two columns of the name it is unclear which one counts.
	if r := command("user_id,lock_id,expires_at,expires_at\n", "track", "--file", "-"); r.code != exitUsage || !strings.Contains(r.stderr, "names expires_at twice") {
		t.Errorf("%+v; want exit 2 and 'names expires_at twice'", r)
	}
}

func TestLocksFile_InterruptIsNoWrongUsage(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr redistest.Buffer
	code := run(ctx, []string{"locks", "track", "--file", "-", "--redis-url", "redis://127.0.0.1:1"}, strings.NewReader("user_id,lock_id\n"), io.Discard, &stderr)
	if want := "kooworker: interrupted; so far 0 rejected; it is safe to run the same command again\n"; code != exitFailed || stderr.String() != want {
		t.Errorf("exit %d, %q; want exit 1 and %q", code, stderr.String(), want)
	}
}
