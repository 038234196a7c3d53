package main

import (
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// While a worker runs, the batch commands say how long the rest takes.
func TestBatch_TimeLeft(t *testing.T) {
	t.Parallel()
	const n = 4000
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
	unknown := func() {
		t.Helper()
		if left, known := batchCommand("show", "--json").object(t)["left_seconds"]; known {
			t.Errorf("left_seconds %v without a worker; want none", left)
		}
		if r := batchCommand("show"); !strings.Contains(r.stdout, "unknown: no worker runs") {
			t.Errorf("%+v without a worker; want this to be the reason", r)
		}
	}
	if r := kooworker(t, unbindsCSV(n), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	unknown()
	p := startWorker(t, server, url)
	redistest.Eventually(t, 20*time.Second, "the time left is about what the quota allows", func() bool {
		state := batchCommand("show", "--json").object(t)
		queued, _ := state["queued"].(float64)
		left, _ := state["left_seconds"].(float64)
		return left >= math.Ceil(queued/200) && left < queued/150
	})
	if r := batchCommand("show"); !strings.Contains(r.stdout, "time left") || strings.Contains(r.stdout, "unknown") {
		t.Errorf("%+v; want the time left", r)
	}
	watch := startProcess(t, nil, "batch", "watch", "b-1", "--redis-url", server.URL())
	redistest.Eventually(t, 20*time.Second, "watch shows the time left", func() bool { return strings.Contains(watch.log(), " s left") })
	watch.end(t, syscall.SIGINT)
	if code := p.end(t, syscall.SIGTERM); code != exitDone {
		t.Fatalf("exit %d; want exit 0:\n%s", code, p.log())
	}
	unknown()
}
