package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// trackLocks adds n locks to the ledger and to KooDrive. The first ones, as many as
// stale says, expired an hour ago.
func trackLocks(t *testing.T, server *redistest.Server, sim *simulator.Simulator, n, stale int) {
	t.Helper()
	entries := make([]locks.TrackRequest, n)
	for i := range entries {
		entries[i] = locks.TrackRequest{UserID: fmt.Sprintf("user-%d", i), LockID: fmt.Sprintf("lock-%d@102", i), ExpiresIn: time.Hour}
		if i < stale {
			entries[i].ExpiresIn, entries[i].ExpiresAt = 0, time.Now().Add(-time.Hour)
		}
		sim.AddLock(entries[i].UserID, entries[i].LockID, time.Now().Add(time.Hour))
	}
	if _, err := locks.NewStore(server.Client()).Track(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
}

func TestLocksSweep_ReleasesExactlyStaleLocks(t *testing.T) {
	t.Parallel()
	testExactSweep(t, 100)
}

// testExactSweep sweeps n locks, of which 40 % are stale.
func testExactSweep(t *testing.T, n int) {
	t.Helper()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	stale := n * 2 / 5
	trackLocks(t, server, sim, n, stale)
	startWorker(t, server, url)
	sweep := func(args ...string) result {
		t.Helper()
		return kooworker(t, "", append([]string{"locks", "sweep", "--json", "--redis-url", server.URL()}, args...)...)
	}
	r := sweep() // 40 % is more than the default share
	if o := r.object(t); r.code != exitPartial || o["stale"] != float64(stale) || o["enqueued"] != 0.0 || o["held_back"] != float64(stale) || !strings.Contains(r.stderr, "held_back") {
		t.Errorf("%+v; want exit 3, and %d stale locks held back", r, stale)
	}
	dry := sweep("--max-share", "0.5", "--dry-run")
	if r := kooworker(t, "", "locks", "sweep", "--max-share", "0.5", "--dry-run", "--redis-url", server.URL()); strings.Count(r.stdout, "lock-") != stale {
		t.Errorf("a dry run: %+v; want %d locks listed", r, stale)
	}
	r = sweep("--max-share", "0.5")
	if r.code != exitDone || r.object(t)["enqueued"] != float64(stale) || dry.object(t)["enqueued"] != float64(stale) || dry.object(t)["stale"] != r.object(t)["stale"] {
		t.Errorf("%+v, after the dry run %+v; want exit 0 and %d releases in both", r, dry, stale)
	}
	id, _ := r.object(t)["batch"].(string)
	if r := kooworker(t, "", "batch", "wait", id, "--timeout", "5m", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	if diff := cmp.Diff(map[string]float64{"total": float64(stale), "succeeded": float64(stale)}, counts(show(t, server, id))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i := range n {
		if held := len(sim.Locks(fmt.Sprintf("user-%d", i))) == 1; held != (i >= stale) {
			t.Errorf("lock %d is held: %t; want %t", i, held, i >= stale)
		}
	}
	left := kooworker(t, "", "locks", "list", "--json", "--redis-url", server.URL()).lines(t)
	if len(left) != n-stale {
		t.Errorf("the ledger keeps %d locks; want %d", len(left), n-stale)
	}
	if r := sweep(); r.code != exitDone || r.object(t)["stale"] != 0.0 {
		t.Errorf("again: %+v; want exit 0 and stale 0", r)
	}
}

func TestLocksSweep_RenewedSinceSweepStays(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	trackLocks(t, server, sim, 3, 3)
	r := kooworker(t, "", "locks", "sweep", "--max-share", "1", "--json", "--redis-url", server.URL())
	id, _ := r.object(t)["batch"].(string)
	for verb, user := range map[string]string{"renew": "user-0", "forget": "user-1"} {
		lock := strings.Replace(user, "user", "lock", 1) + "@102"
		if r := kooworker(t, "", "locks", verb, "--user-id", user, "--lock-id", lock, "--redis-url", server.URL()); r.code != exitDone {
			t.Errorf("%s: %+v; want exit 0", verb, r)
		}
	}
	startWorker(t, server, url)
	if r := kooworker(t, "", "batch", "wait", id, "--timeout", "60s", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	if diff := cmp.Diff(map[string]float64{"total": 3, "succeeded": 1, "superseded": 2}, counts(show(t, server, id))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if stats := sim.Stats(); stats.Released != 1 {
		t.Errorf("%d locks were released; want 1", stats.Released)
	}
}

func TestWorker_ScheduledSweepReleases(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	trackLocks(t, server, sim, 10, 2)
	startWorker(t, server, url, "--with-scheduler", "--sweep-every", "1s")
	redistest.Eventually(t, 30*time.Second, "the stale locks are released", func() bool { return sim.Stats().Released == 2 })
	left := kooworker(t, "", "locks", "list", "--json", "--redis-url", server.URL()).lines(t)
	if len(left) > 10 || len(left) < 8 {
		t.Errorf("%d locks are left; want 8, or up to 10 while the ledger is updated", len(left))
	}
}

func TestLocks_CommandLine(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	lock := func(args ...string) result {
		t.Helper()
		return kooworker(t, "user_id,lock_id\nu,l-1@102\nu,bad lock\nv,l-2\n", append(append([]string{"locks"}, args...), "--redis-url", server.URL())...)
	}
	if r := lock("track", "--user-id", "u", "--lock-id", "l@102", "--expires-in", "5m", "--json"); r.code != exitDone || r.object(t)["status"] != "tracked" {
		t.Errorf("%+v; want exit 0 and status tracked", r)
	}
	if r := lock("renew", "--user-id", "u", "--lock-id", "l@102"); r.code != exitDone || r.stdout != "renewed l@102\n" {
		t.Errorf("%+v; want exit 0 and 'renewed l@102'", r)
	}
	if r := lock("track", "--file", "-", "--json"); r.code != exitPartial || r.object(t)["total"] != 3.0 || r.object(t)["rejected"] != 1.0 {
		t.Errorf("%+v; want exit 3, total 3 and rejected 1", r)
	}
	if r := lock("renew", "--file", "-"); r.code != exitPartial || r.stdout != "3 lines: 2 unchanged, 1 rejected\n" && r.stdout != "3 lines: 2 renewed, 1 rejected\n" {
		t.Errorf("%+v; want exit 3, 2 unchanged or renewed and 1 rejected", r)
	}
	// The output names each lock that the ledger refuses, and the reason.
	const far = "kooworker: l-1@102 of u: its expiry is more than 365 days away\n"
	if r := lock("track", "--file", "-", "--expires-in", "9000h"); r.code != exitPartial || r.stdout != "3 lines: 2 refused, 1 rejected\n" || !strings.Contains(r.stderr, far) {
		t.Errorf("%+v; want exit 3, 2 refused and the reason", r)
	}
	refused := []any{map[string]any{"user_id": "u", "lock_id": "l-1@102", "status": "refused"}, map[string]any{"user_id": "v", "lock_id": "l-2", "status": "refused"}}
	if r := lock("renew", "--file", "-", "--expires-in", "9000h", "--json"); r.code != exitPartial || !cmp.Equal(r.object(t)["refused"], any(refused)) {
		t.Errorf("%+v; want exit 3, and refused %v", r, refused)
	}
	if r := lock("track", "--user-id", "u", "--lock-id", "l-1@102", "--expires-in", "9000h"); r.code != exitPartial || r.stdout != "refused l-1@102\n" || r.stderr != far {
		t.Errorf("%+v; want exit 3, 'refused l-1@102' and the reason", r)
	}
	if lines := lock("list", "--user-id", "u", "--json").lines(t); len(lines) != 2 || lines[0]["module"] != "102" {
		t.Errorf("%v; want 2 locks, and module 102", lines)
	}
	if r := lock("forget", "--user-id", "u", "--lock-id", "l@102"); r.code != exitDone || r.stdout != "forgotten l@102\n" {
		t.Errorf("%+v; want exit 0 and 'forgotten l@102'", r)
	}
	for _, args := range [][]string{
		{"track", "--user-id", "u"}, {"track", "--user-id", "u", "--lock-id", "../x"}, {"track", "--user-id", "u", "--lock-id", "l", "--expires-in=-1s"},
		{"sweep", "--max-share", "2"}, {"sweep", "--max", "0"}, {"sweep", "--max=-1"}, {"sweep", "--max-share", "NaN"}, {"sweep", "--grace=-1s"}, {"track", "--file", "-", "--user-id", "u"},
	} {
		if r := lock(args...); r.code != exitUsage {
			t.Errorf("%v: %+v; want exit 2", args, r)
		}
	}
	for _, args := range [][]string{{}, {"--sweep-every", "1500ms"}, {"--sweep-cron", "x"}, {"--sweep-cron", "* * * * *", "--sweep-every", "2s"}, {"--sweep-cron", "* * * * *", "--sweep-zone", "Nowhere"}, {"--sweep-every", "2s", "--sweep-zone", "Europe/Berlin"}} {
		if r := kooworker(t, "", append([]string{"scheduler", "--redis-url", server.URL()}, args...)...); r.code != exitUsage {
			t.Errorf("scheduler %v: %+v; want exit 2", args, r)
		}
	}
}
