package main

import (
	"fmt"
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// When the workers have learnt KooDrive's quota, the batch commands say how long the rest
// takes at least.
func TestBatch_TimeLeft(t *testing.T) {
	t.Parallel()
	const n, perSecond = 4000, 0.992 * 200 // the share of a limit that is used
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	limit, err := simulator.ParseQuota("fixed:200/s,tell=text")
	if err == nil {
		err = sim.AddQuota(limit)
	}
	if err != nil {
		t.Fatal(err)
	}
	batchCommand := func(command string, args ...string) result {
		t.Helper()
		return kooworker(t, "", append([]string{"batch", command, "b-1", "--redis-url", server.URL()}, args...)...)
	}
	if r := kooworker(t, unbindsCSV(n), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	if left, known := batchCommand("show", "--json").object(t)["left_seconds"]; known {
		t.Errorf("left_seconds %v before any call; want none", left)
	}
	if r := batchCommand("show"); strings.Contains(r.stdout, "time left") {
		t.Errorf("%+v before any call; want no time left", r)
	}
	p := startWorker(t, server, url)
	redistest.Eventually(t, 20*time.Second, "the time left is known", func() bool {
		return batchCommand("show", "--json").object(t)["left_seconds"] != nil
	})
	if code := p.end(t, syscall.SIGTERM); code != exitDone {
		t.Fatalf("exit %d; want exit 0:\n%s", code, p.log())
	}

	// Without a worker nothing changes any more.
	state := batchCommand("show", "--json").object(t)
	queued, _ := state["queued"].(float64)
	want := math.Ceil(queued / perSecond)
	if queued == 0 || state["left_seconds"] != want {
		t.Fatalf("%v; want left_seconds %g", state, want)
	}
	if r := batchCommand("show"); !strings.Contains(r.stdout, fmt.Sprintf("at least %.0f s, at 198/s", want)) {
		t.Errorf("%+v; want the time left", r)
	}
	watch := startProcess(t, nil, "batch", "watch", "b-1", "--redis-url", server.URL())
	redistest.Eventually(t, 20*time.Second, "watch shows the time left", func() bool {
		return strings.Contains(watch.log(), fmt.Sprintf("%.0f of %d tasks, 0.0/s, %.0f s left", n-queued, n, queued/perSecond))
	})
	watch.end(t, syscall.SIGINT)
}

// A limit counts if the calls of the batch fall under it.
func TestCallLimits(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	limits, store := newCallLimits(rdb), batch.NewStore(rdb)
	if got := limits.of(t.Context(), "b-1"); got != 0 {
		t.Errorf("%g calls a second in an empty Redis; want 0", got)
	}
	rdb.HSet(t.Context(), "{kooworker:fleet}:quota", "unbind:rate", 200, "unbind:phase", "following", "list:rate", 50, "list:phase", "following")
	for _, tc := range []struct {
		receipts []tasks.Kind
		want     float64
	}{
		{nil, 0},
		{[]tasks.Kind{tasks.KindDeviceUnbind, tasks.KindDeviceUnbind}, 200},
		{[]tasks.Kind{tasks.KindLockRelease}, 0},
		{[]tasks.Kind{tasks.KindUserOffboard, tasks.KindDeviceUnbind}, 250},
		{[]tasks.Kind{tasks.KindLockRelease, tasks.KindDeviceUnbind}, 0},
	} {
		id := fmt.Sprint("b-", len(tc.receipts), "-", tc.want)
		for i, kind := range tc.receipts {
			key := "kooworker:{batch:" + id + "}:receipts"
			rdb.Do(t.Context(), "XADD", key, "*", "k", string(kind), "i", i)
		}
		if got := limits.of(t.Context(), id); got != tc.want {
			t.Errorf("%v: %g calls a second; want %g", tc.receipts, got, tc.want)
		}
	}
	if kinds, err := store.LatestKinds(t.Context(), "b-none"); err != nil || len(kinds) != 0 {
		t.Errorf("%v, %v of a batch without receipts; want none", kinds, err)
	}
	rdb.Del(t.Context(), "{kooworker:fleet}:quota")
	rdb.Set(t.Context(), "{kooworker:fleet}:quota", "of a later version", 0)
	if got := limits.of(t.Context(), "b-2-200"); got != 0 {
		t.Errorf("%g calls a second although the quota cannot be read; want 0", got)
	}
}

// Each task that calls KooDrive has its call.
func TestCallOf(t *testing.T) {
	t.Parallel()
	calls := map[gate.Kind]bool{}
	for _, kind := range tasks.Kinds() {
		if call := callOf(kind); call != "" {
			calls[call] = true
		}
	}
	if len(calls) != len(gate.Kinds()) {
		t.Errorf("tasks make the calls %v; want %v", calls, gate.Kinds())
	}
}
