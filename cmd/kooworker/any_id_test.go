package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/internal/redistest"
)

// KooDrive does not know such ids, and what names them would count as done.
func TestAnyID_EveryDoorRefusesIDsThatNoSystemGives(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	folder := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const rounded = "1.50508E+18"
	devices, devicesJSON := file("devices.csv", "user_id,device_id\n"+rounded+",d\n"), file("devices.jsonl", `{"user_id":"`+rounded+`","device_id":"d"}`)
	locks, locksJSON := file("locks.csv", "user_id,lock_id\n"+rounded+",l\n"), file("locks.jsonl", `{"user_id":"`+rounded+`","lock_id":"l"}`)
	users, stale := file("users.csv", "user_id\n"+rounded+"\n"), file("stale.csv", "user_id,lock_id,expires_at\n"+rounded+",l,2026-01-31T08:30:00Z\n")
	for _, tc := range []struct {
		args string
		code int // the ids of a single order are wrong flags, those of a file are rejected
	}{
		{"enqueue unbind --device-id d --user-id " + rounded, exitUsage},
		{"enqueue release --lock-id l --user-id " + rounded, exitUsage},
		{"enqueue offboard --user-id " + rounded, exitUsage},
		{"enqueue unbind --batch single --device-id d --user-id " + rounded, exitUsage},
		{"enqueue unbind --file " + devices, exitPartial},
		{"enqueue unbind --file " + devicesJSON, exitPartial},
		{"enqueue unbind --batch file --file " + devices, exitPartial},
		{"enqueue release --file " + locks, exitPartial},
		{"enqueue offboard --file " + users, exitPartial},
		{"locks track --lock-id l --user-id " + rounded, exitUsage},
		{"locks renew --lock-id l --user-id " + rounded, exitUsage},
		{"locks track --file " + locks, exitPartial},
		{"locks renew --file " + locksJSON, exitPartial},
		{"locks sweep --source-file " + stale, exitPartial},
	} {
		args := append(strings.Fields(tc.args), "--redis-url", server.URL())
		const want = `user_id is "` + rounded + `", which looks like a number that a spreadsheet or a program has rounded`
		if r := kooworker(t, "", args...); r.code != tc.code || !strings.Contains(r.stderr, want) || tc.code == exitUsage && !strings.Contains(r.stderr, "--allow-any-id") {
			t.Errorf("%s: %+v; want exit %d and %s", tc.args, r, tc.code, want)
		}
		if keys := server.Client().Keys(t.Context(), "*"+rounded+"*").Val(); len(keys) > 0 {
			t.Fatalf("%s: Redis has %v; want nothing stored", tc.args, keys)
		}
	}
	for _, args := range []string{
		"enqueue unbind --device-id d --user-id " + rounded, "enqueue unbind --batch any --file " + devices, "enqueue offboard --file " + users,
		"locks track --lock-id l --user-id " + rounded, "locks renew --file " + locks, "locks sweep --source-file " + stale,
	} {
		if r := kooworker(t, "", append(strings.Fields(args), "--allow-any-id", "--redis-url", server.URL())...); r.code != exitDone {
			t.Errorf("%s with --allow-any-id: %+v; want exit 0", args, r)
		}
	}
	if r := kooworker(t, "", "locks", "forget", "--lock-id", "l", "--user-id", rounded, "--redis-url", server.URL()); r.code != exitDone || !strings.Contains(r.stdout, "forgotten") {
		t.Errorf("locks forget: %+v; want the lock forgotten, whatever its id", r)
	}
}
