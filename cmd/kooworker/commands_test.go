package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

func TestDemo(t *testing.T) {
	t.Parallel()
	r := kooworker(t, "", "demo", "--tasks", "240")
	if r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	for _, want := range []string{"240 of 240 done", "sum                           200        40    240", "enqueued                      200        40    240", "forbidden: HTTP 403", "Next:"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the output has no %q:\n%s", want, r.stdout)
		}
	}
}

func TestWorker_CarriesOutTasksUntilSIGTERM(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t, "forbidden,target=bad-*")
	sim.Bind("u", simulator.Device{DeviceID: "d-1"})
	sim.AddLock("u", "l-1@102", time.Now().Add(time.Hour))
	p := startWorker(t, server, url)

	for _, args := range [][]string{
		{"enqueue", "unbind", "--user-id", "u", "--device-id", "d-1", "--redis-url", server.URL()},
		{"enqueue", "release", "--user-id", "u", "--lock-id", "l-1@102", "--redis-url", server.URL()},
		{"enqueue", "unbind", "--user-id", "u", "--device-id", "bad-1", "--redis-url", server.URL()},
	} {
		if r := kooworker(t, "", args...); r.code != exitDone || !strings.HasPrefix(r.stdout, "enqueued ") {
			t.Errorf("%v: %+v; want exit 0 and 'enqueued'", args, r)
		}
	}
	redistest.Eventually(t, 20*time.Second, "both tasks are done", func() bool {
		stats := sim.Stats()
		return stats.Unbound == 1 && stats.Released == 1
	})
	stats := func() map[string]any {
		return kooworker(t, "", "dead", "stats", "--json", "--redis-url", server.URL()).object(t)
	}
	redistest.Eventually(t, 20*time.Second, "one task is dead", func() bool { return stats()["total"] == 1.0 })
	want := map[string]any{"total": 1.0, "by_reason": map[string]any{"forbidden": 1.0}, "by_kind": map[string]any{"device:unbind": 1.0}}
	if diff := cmp.Diff(want, stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}

	sim.ClearFaults()
	sim.Bind("u", simulator.Device{DeviceID: "bad-1"})
	redistest.Eventually(t, 20*time.Second, "the letter is parked and replayed", func() bool {
		r := kooworker(t, "", "dead", "replay", "--all", "--json", "--redis-url", server.URL())
		return r.code == exitDone && r.object(t)["done"] == 1.0
	})
	redistest.Eventually(t, 20*time.Second, "the replayed task has unbound the device", func() bool { return sim.Stats().Unbound == 2 })
	if got := stats()["total"]; got != 0.0 {
		t.Errorf("%v dead letters are left; want 0", got)
	}
	if code := p.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("SIGTERM: exit %d; want exit 0\n%s", code, p.log())
	}
}

func TestEnqueue_SingleTaskAndDuplicate(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	args := []string{"enqueue", "unbind", "--user-id", "u", "--device-id", "d", "--json", "--redis-url", server.URL()}
	want := map[string]any{"id": "device:unbind:u:d", "kind": "device:unbind", "queue": "unbind", "user_id": "u", "target": "d", "status": "enqueued"}
	if diff := cmp.Diff(want, kooworker(t, "", args...).object(t)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r := kooworker(t, "", args...)
	if want["status"] = "duplicate"; r.code != exitDone {
		t.Errorf("a duplicate: exit %d; want exit 0", r.code)
	}
	if diff := cmp.Diff(want, r.object(t)); diff != "" {
		t.Errorf("again (-want +got):\n%s", diff)
	}
}

func TestEnqueue_WithoutRedisFailsWithAHint(t *testing.T) {
	t.Parallel()
	r := kooworker(t, "", "enqueue", "unbind", "--user-id", "u", "--device-id", "d", "--redis-url", "redis://:geheim@127.0.0.1:1")
	if r.code != exitFailed || !strings.Contains(r.stderr, "refused") || !strings.Contains(r.stderr, "hint: ") || strings.Contains(r.stderr, "geheim") {
		t.Errorf("%+v; want exit 1, 'refused', 'hint:' and no 'geheim'", r)
	}
}

func TestEnqueueFile_RejectsAndDuplicates(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var csv strings.Builder
	csv.WriteString("user_id,device_id\n")
	const n = 500
	for i := range n {
		fmt.Fprintf(&csv, "user-%d,device-%d\n", i/3, i)
	}
	csv.WriteString("u,../x\nu,device-1\n,y\n")
	rejects := filepath.Join(t.TempDir(), "rejects.jsonl")
	args := []string{"enqueue", "unbind", "--file", "-", "--rejects", rejects, "--json", "--redis-url", server.URL()}

	r := kooworker(t, csv.String(), args...)
	sum := r.object(t)
	if r.code != exitPartial || sum["total"] != 503.0 || sum["enqueued"] != 501.0 || sum["rejected"] != 2.0 || sum["duplicate"] != 0.0 {
		t.Errorf("%+v; want exit 3, total 503, enqueued 501, rejected 2 and duplicate 0", r)
	}
	want := map[string]bool{"batch": true, "total": true, "enqueued": true, "duplicate": true, "rejected": true, "skipped": true, "seconds": true}
	if diff := cmp.Diff(want, keys(sum)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	kept, err := os.ReadFile(rejects)
	if err != nil || string(kept) != "user_id,device_id\nu,../x\n,y\n" {
		t.Errorf("rejects: %q, %v; want the header and both refused lines", kept, err)
	}
	if sum := kooworker(t, csv.String(), args...).object(t); sum["enqueued"] != 0.0 || sum["duplicate"] != 501.0 {
		t.Errorf("again: %v; want enqueued 0 and duplicate 501", sum)
	}

	file := filepath.Join(t.TempDir(), "locks.jsonl")
	if err := os.WriteFile(file, []byte("{\"user_id\":\"u\",\"lock_id\":\"l@100\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := kooworker(t, "", "enqueue", "release", "--file", file, "--redis-url", server.URL()); r.code != exitDone || !strings.Contains(r.stdout, "1 enqueued") {
		t.Errorf("%+v; want exit 0 and '1 enqueued'", r)
	}
	if r := kooworker(t, "u,1\n", args...); r.code != exitUsage || !strings.Contains(r.stderr, "header with user_id and device_id") {
		t.Errorf("without a header: %+v; want exit 2 and 'header with user_id and device_id'", r)
	}
}

func TestDead_ListReplayDiscard(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, url := startSimulator(t, "forbidden")
	dead := func(args ...string) result {
		t.Helper()
		return kooworker(t, "", append(append([]string{"dead"}, args...), "--redis-url", server.URL())...)
	}
	if r := dead("list"); r.code != exitDone || r.stdout != "No dead letters.\n" {
		t.Errorf("%+v; want exit 0 and 'No dead letters.'", r)
	}
	startWorker(t, server, url)
	for i := range 3 {
		kooworker(t, "", "enqueue", "unbind", "--user-id", "u", "--device-id", fmt.Sprint("d-", i), "--redis-url", server.URL())
	}
	redistest.Eventually(t, 20*time.Second, "all are parked", func() bool {
		parked := dead("replay", "--all", "--dry-run", "--json").object(t) // letters that are not parked yet are skipped
		return parked["matched"] == 3.0 && parked["skipped"] == 0.0 && dead("discard", "--id", "none", "--yes").code == exitDone
	})
	lines := dead("list", "--json").lines(t)
	if len(lines) != 3 {
		t.Fatalf("listed %v; want 3 dead letters", lines)
	}
	want := map[string]any{
		"id": lines[0]["id"], "kind": "device:unbind", "user_id": "u", "target": lines[0]["target"], "reason": "forbidden",
		"error": "forbidden: HTTP 403, code 13000410: no permission", "attempts": 1.0, "dead_at": lines[0]["dead_at"], "batch": "",
	}
	if diff := cmp.Diff(want, lines[0]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(lines, dead("export").lines(t)); diff != "" {
		t.Errorf("export and list differ (-list +export):\n%s", diff)
	}
	if r := dead("list", "--limit", "1"); strings.Count(r.stdout, "device:unbind:u:d-") != 1 || !strings.Contains(strings.Join(strings.Fields(r.stdout), " "), "code 13000410: no permission") {
		t.Errorf("%+v; want one letter, with 'no permission'", r)
	}
	if r := dead("list", "--user-id", "other", "--json"); r.stdout != "" {
		t.Errorf("%+v; want nothing on stdout", r)
	}
	if r := dead("replay", "--all", "--canary", "1", "--min-success", "0.5"); r.code != exitPartial || !strings.Contains(r.stderr, "0 of 1 succeeded") || !strings.Contains(r.stderr, "hint: ") {
		t.Errorf("a canary that fails: %+v; want exit 3, '0 of 1 succeeded' and 'hint:'", r)
	}
	if r := dead("replay", "--all", "--canary=-1"); r.code != exitUsage {
		t.Errorf("a canary of -1: %+v; want exit 2", r)
	}
	if r := dead("discard", "--user-id", "nobody", "--yes"); !strings.Contains(r.stderr, `"msg":"dead letters discarded"`) || !strings.Contains(r.stderr, "nobody") {
		t.Errorf("%+v; want an audit line that names the filter", r)
	}
	redistest.Eventually(t, 20*time.Second, "all letters are discarded", func() bool {
		return dead("discard", "--reason", "forbidden", "--yes", "--json").code == exitDone && dead("stats", "--json").object(t)["total"] == 0.0
	})
}

func TestWorker_StrictRedisRefusesWhatIsUnknown(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes")
	if err := server.Client().Do(t.Context(), "ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", "-info").Err(); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, []string{"KOODRIVE_TOKEN=t0ken", "REDIS_URL=redis://limited:pw@" + server.Addr()}, "worker", "--strict-redis", "--koodrive-url", "http://127.0.0.1:1")
	if _ = p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != exitUsage || !strings.Contains(p.log(), "+info") {
		t.Errorf("exit %d: %s; want exit 2, and which permission is missing", p.cmd.ProcessState.ExitCode(), p.log())
	}
}
