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

// The short form of what `make chaos` does at length.

func TestAProducerIsKilledAndResumed(t *testing.T) {
	t.Parallel()
	aProducerIsKilled(t, 4000, 3)
}

// aProducerIsKilled kills a producer at random points, and lets it go on each
// time, while a worker carries out what it has enqueued.
func aProducerIsKilled(t *testing.T, lines, kills int) {
	t.Helper()
	server := redistest.Start(t)
	api := newLedger(t, 0)
	startWorker(t, server, api.URL, "--concurrency", "64", "--pollers", "8")
	file := filepath.Join(t.TempDir(), "devices.csv")
	if err := os.WriteFile(file, []byte(csvOf(lines)), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"enqueue", "unbind", "--file", file, "--batch", "b-1", "--redis-url", server.URL()}
	killed := 0
	for killed < kills {
		p := startProcess(t, nil, args...)
		redistest.Eventually(t, 20*time.Second, "it has begun", func() bool {
			return p.log() != ""
		})
		elapse(rand.N(time.Duration(lines) * 3 * time.Microsecond)) //nolint:gosec // less than what the rest takes
		if p.end(t, syscall.SIGKILL) == -1 {
			killed++
			continue
		}
		t.Log("it was done before it was killed")
		break
	}
	r := kooworker(t, "", append(args, "--json")...)
	if sum := r.object(t); r.code != exitDone || sum["enqueued"].(float64)+sum["skipped"].(float64) != float64(lines) {
		t.Fatalf("%+v", r)
	}
	t.Logf("killed %d times; the last run had %v to enqueue", killed, r.object(t)["enqueued"])
	if r := kooworker(t, "", "batch", "wait", "b-1", "--timeout", "10m", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v", r)
	}
	state := counts(show(t, server, "b-1"))
	if state["total"] != float64(lines) || state["succeeded"]+state["already_gone"] != float64(lines) {
		t.Errorf("%v; want %d lines", state, lines)
	}
	done, twice := api.executed()
	if done != lines {
		t.Errorf("%d devices were deleted; want %d", done, lines)
	}
	t.Logf("%d deleted, %d of them asked for again", done, len(twice))
}

func TestAWorkerIsKilledDuringABatch(t *testing.T) {
	t.Parallel()
	aWorkerIsKilledDuringABatch(t, 1500, 1)
}

// aWorkerIsKilledDuringABatch kills the worker a few times while it works on a
// batch, and starts another one each time.
func aWorkerIsKilledDuringABatch(t *testing.T, n, kills int) {
	t.Helper()
	server := redistest.Start(t)
	api := newLedger(t, 2*time.Millisecond)
	start := func() *process { return startWorker(t, server, api.URL, "--concurrency", "64", "--pollers", "8") }
	if r := kooworker(t, csvOf(n), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v", r)
	}
	for kill := range kills {
		p := start()
		redistest.Eventually(t, time.Minute, "it has done its share", func() bool {
			done, _ := api.executed()
			return done > n*(kill+1)/(kills+2)
		})
		p.end(t, syscall.SIGKILL)
	}
	start()
	if r := kooworker(t, "", "batch", "wait", "b-1", "--timeout", "4m", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v", r)
	}
	state := counts(show(t, server, "b-1"))
	want := map[string]float64{"total": float64(n), "succeeded": state["succeeded"], "already_gone": state["already_gone"]}
	if diff := cmp.Diff(want, state); diff != "" || state["succeeded"]+state["already_gone"] != float64(n) {
		t.Errorf("%v (-want +got):\n%s", state, diff)
	}
	seen := map[string]bool{}
	for _, line := range kooworker(t, "", "batch", "receipts", "b-1", "--history", "--redis-url", server.URL()).lines(t) {
		target := fmt.Sprint(line["target"])
		if seen[target] {
			t.Errorf("%s has two receipts", target)
		}
		seen[target] = true
	}
	if len(seen) != n {
		t.Errorf("%d receipts; want %d", len(seen), n)
	}
	_, twice := api.executed()
	t.Logf("%v; %d asked for again", state, len(twice))
}
