package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/internal/redistest"
)

// These are short forms of the tests of `make chaos`.

func TestEnqueueFile_ResumesAfterKill(t *testing.T) {
	t.Parallel()
	testKilledProducer(t, 4000, 3)
}

// testKilledProducer kills a producer at random moments and resumes it each time,
// while a worker carries out what is enqueued.
func testKilledProducer(t *testing.T, lines, kills int) {
	t.Helper()
	server := redistest.Start(t)
	api := newFakeAPI(t, 0)
	startWorker(t, server, api.URL, "--concurrency", "64")
	file := filepath.Join(t.TempDir(), "devices.csv")
	if err := os.WriteFile(file, []byte(unbindsCSV(lines)), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"enqueue", "unbind", "--file", file, "--batch", "b-1", "--redis-url", server.URL()}
	killed := 0
	for killed < kills {
		p := startProcess(t, nil, args...)
		redistest.Eventually(t, 20*time.Second, "the producer has started", func() bool {
			return p.log() != ""
		})
		letTimePass(rand.N(time.Duration(lines) * 3 * time.Microsecond)) //nolint:gosec // less than the time that the rest takes
		if p.end(t, syscall.SIGKILL) == -1 {
			killed++
			continue
		}
		t.Log("the producer had finished before the kill")
		break
	}
	r := kooworker(t, "", append(args, "--json")...)
	if sum := r.object(t); r.code != exitDone || sum["enqueued"].(float64)+sum["skipped"].(float64) != float64(lines) {
		t.Fatalf("%+v; want exit 0, and %d lines enqueued or skipped", r, lines)
	}
	t.Logf("killed %d times; the last run had %v to enqueue", killed, r.object(t)["enqueued"])
	if r := kooworker(t, "", "batch", "wait", "b-1", "--timeout", "10m", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	state := counts(show(t, server, "b-1"))
	if state["total"] != float64(lines) || state["succeeded"]+state["already_gone"] != float64(lines) {
		t.Errorf("%v; want a total of %d, all of it succeeded or already gone", state, lines)
	}
	done, twice := api.executed()
	if done != lines {
		t.Errorf("%d devices were deleted; want %d", done, lines)
	}
	t.Logf("%d deleted, %d of them asked for again", done, len(twice))
}

func TestBatch_BalancesAfterWorkerKill(t *testing.T) {
	t.Parallel()
	testBatchWithKilledWorkers(t, 1500, 1)
}

// testBatchWithKilledWorkers kills the worker several times during a batch, and
// starts another one each time.
func testBatchWithKilledWorkers(t *testing.T, n, kills int) {
	t.Helper()
	server := redistest.Start(t)
	api := newFakeAPI(t, 2*time.Millisecond)
	start := func() *process { return startWorker(t, server, api.URL, "--concurrency", "64") }
	if r := kooworker(t, unbindsCSV(n), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	for kill := range kills {
		p := start()
		redistest.Eventually(t, time.Minute, "the worker has done its part", func() bool {
			done, _ := api.executed()
			return done > n*(kill+1)/(kills+2)
		})
		p.end(t, syscall.SIGKILL)
	}
	start()
	if r := kooworker(t, "", "batch", "wait", "b-1", "--timeout", "4m", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	state := counts(show(t, server, "b-1"))
	want := map[string]float64{"total": float64(n), "succeeded": state["succeeded"], "already_gone": state["already_gone"]}
	if diff := cmp.Diff(want, state); diff != "" || state["succeeded"]+state["already_gone"] != float64(n) {
		t.Errorf("%v; want %d tasks succeeded or already gone (-want +got):\n%s", state, n, diff)
	}
	seen := map[string]bool{}
	for _, line := range kooworker(t, "", "batch", "receipts", "b-1", "--history", "--redis-url", server.URL()).lines(t) {
		target := fmt.Sprint(line["target"])
		if seen[target] {
			t.Errorf("%s has two receipts; want one", target)
		}
		seen[target] = true
	}
	if len(seen) != n {
		t.Errorf("%d receipts; want %d", len(seen), n)
	}
	_, twice := api.executed()
	t.Logf("%v; %d asked for again", state, len(twice))
}
