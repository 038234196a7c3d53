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
	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// A batch is cancelled half-way. The command is killed twice on the way, and run again.
func TestBatchCancel_WhileWorkersRun(t *testing.T) {
	t.Parallel()
	const n = 40_000
	server := redistest.Start(t)
	api := newFakeAPI(t, 5*time.Millisecond)
	if r := kooworker(t, unbindsCSV(n), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	startWorker(t, server, api.URL, "--concurrency", "16")
	redistest.Eventually(t, time.Minute, "some are done", func() bool { done, _ := api.executed(); return done > 500 })
	cancel := []string{"batch", "cancel", "b-1", "--reason", "wrong file", "--redis-url", server.URL()}
	for range 2 {
		p := startProcess(t, nil, cancel...)
		<-time.After(300 * time.Millisecond)
		p.end(t, syscall.SIGKILL)
	}
	r := kooworker(t, "", append(cancel, "--json")...)
	res := r.object(t)
	if r.code != exitDone || res["in_flight"] != 0.0 || res["left"] != 0.0 || res["cancelled"].(float64) <= 0 {
		t.Errorf("%+v; want exit 0, some cancelled, and nothing in flight or left", r)
	}
	if !strings.Contains(r.stderr, `"msg":"batch cancelled"`) {
		t.Errorf("stderr: %s; want a line that says who has cancelled what", r.stderr)
	}
	done, _ := api.executed()
	state := show(t, server, "b-1")
	want := map[string]float64{"total": n, "succeeded": float64(done), "cancelled": float64(n - done)}
	if diff := cmp.Diff(want, counts(state)); diff != "" || state["done"] != true {
		t.Errorf("done %v; (-want +got):\n%s", state["done"], diff)
	}
	<-time.After(2 * time.Second) // in which a worker would go on
	if later, twice := api.executed(); later != done || len(twice) > 0 {
		t.Errorf("%d devices deleted, %d of them twice; want the %d that were deleted before", later, len(twice), done)
	}
	outcomes := map[string]int{}
	for _, line := range kooworker(t, "", "batch", "receipts", "b-1", "--redis-url", server.URL()).lines(t) {
		outcomes[fmt.Sprint(line["outcome"], " ", line["reason"])]++
	}
	if diff := cmp.Diff(map[string]int{"succeeded ok": done, "cancelled cancelled: wrong file": n - done}, outcomes); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
	if r := kooworker(t, "", append(cancel, "--json")...); r.code != exitDone || r.object(t)["cancelled"] != 0.0 {
		t.Errorf("again: %+v; want exit 0, and none", r)
	}
	if r := kooworker(t, "", "batch", "wait", "b-1", "--redis-url", server.URL()); r.code != exitPartial {
		t.Errorf("wait: %+v; want exit 3", r)
	}
	if r := kooworker(t, unbindsCSV(n), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitUsage || !strings.Contains(r.stderr, "was cancelled") {
		t.Errorf("enqueue again: code %d, %s; want exit 2, because it was cancelled", r.code, r.stderr)
	}
}

// A part of a batch is cancelled wherever its tasks are, and the others run.
func TestBatchCancel_Part(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t, "forbidden,target=device-7", "forbidden,target=device-8", "rejected,target=device-1")
	for i := range 30 {
		sim.Bind(fmt.Sprintf("user-%d", i/3), simulator.Device{DeviceID: fmt.Sprintf("device-%d", i)})
	}
	startWorker(t, server, url)
	if r := kooworker(t, unbindsCSV(9), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	redistest.Eventually(t, 20*time.Second, "two are dead, and one waits for a retry", func() bool {
		state := kooworker(t, "", "batch", "show", "b-1", "--json", "--redis-url", server.URL()).object(t)
		return state["dead"] == 2.0 && state["queued"] == 1.0
	})
	cancel := func(want float64, args ...string) {
		t.Helper()
		r := kooworker(t, "", append([]string{"batch", "cancel", "b-1", "--json", "--redis-url", server.URL()}, args...)...)
		if r.code != exitDone || r.object(t)["cancelled"] != want {
			t.Errorf("%v: %+v; want exit 0 and %g cancelled", args, r, want)
		}
	}
	cancel(0, "--user-id", "user-9")
	cancel(0, "--user-id", "user-2", "--kind", "lock:release")
	cancel(2, "--user-id", "user-2", "--kind", "device:unbind")
	cancel(1, "--user-id", "user-0")
	want := map[string]float64{"total": 9, "succeeded": 6, "cancelled": 3}
	if diff := cmp.Diff(want, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r := kooworker(t, "", "dead", "stats", "--json", "--redis-url", server.URL()); r.object(t)["total"] != 0.0 {
		t.Errorf("%+v; want no dead letter", r)
	}
	for _, args := range [][]string{{"--kind", "device:bind"}, {"--reason", "two\nlines"}, {"--reason", strings.Repeat("x", 201)}} {
		if r := kooworker(t, "", append([]string{"batch", "cancel", "b-1", "--redis-url", server.URL()}, args...)...); r.code != exitUsage {
			t.Errorf("%q: %+v; want exit 2", args, r)
		}
	}
	if r := kooworker(t, "", "batch", "cancel", "never", "--redis-url", server.URL()); r.code != exitFailed || !strings.Contains(r.stderr, "there is no batch") {
		t.Errorf("%+v; want exit 1 and 'there is no batch'", r)
	}
}

// What somebody has deleted in asynqmon is cancelled, too, and so is what is enqueued
// after the fact by a producer that does not know of it yet.
func TestBatchCancel_LostTasks(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	if r := kooworker(t, unbindsCSV(100), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	inspector := asynq.NewInspectorFromRedisClient(server.Client())
	for _, lane := range lanesOf(t, inspector, tasks.QueueUnbind) {
		if _, err := inspector.DeleteAllPendingTasks(lane); err != nil {
			t.Fatal(err)
		}
	}
	if r := kooworker(t, "", "batch", "cancel", "b-1", "--json", "--redis-url", server.URL()); r.code != exitDone || r.object(t)["cancelled"] != 100.0 {
		t.Errorf("%+v; want exit 0 and 100 cancelled", r)
	}
	if diff := cmp.Diff(map[string]float64{"total": 100, "cancelled": 100}, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A producer that feeds a batch is told that it is cancelled, and stops.
func TestBatchCancel_ProducerIsTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	producer := startProcess(t, nil, "enqueue", "unbind", "--file", pipe, "--batch", "b-1", "--redis-url", server.URL())
	input, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = input.Close() }()
	lines := strings.SplitAfter(unbindsCSV(20), "\n")
	_, _ = input.WriteString(strings.Join(lines[:11], ""))
	redistest.Eventually(t, 20*time.Second, "ten are enqueued", func() bool {
		r := kooworker(t, "", "batch", "show", "b-1", "--json", "--redis-url", server.URL())
		return r.code == exitDone && r.object(t)["queued"] == 10.0
	})
	if r := kooworker(t, "", "batch", "cancel", "b-1", "--json", "--redis-url", server.URL()); r.code != exitDone || r.object(t)["cancelled"] != 10.0 {
		t.Errorf("%+v; want exit 0 and 10 cancelled", r)
	}
	_, _ = input.WriteString(strings.Join(lines[11:], ""))
	if err := producer.cmd.Wait(); producer.cmd.ProcessState.ExitCode() != exitUsage || !strings.Contains(producer.log(), "batch b-1 was cancelled") {
		t.Errorf("%v: %s; want exit 2, because the batch was cancelled", err, producer.log())
	}
	if diff := cmp.Diff(map[string]float64{"total": 10, "cancelled": 10}, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Nothing of a batch runs after it is deleted, unless it was in flight.
func TestBatchDelete_CancelsFirst(t *testing.T) {
	t.Parallel()
	const n = 3000
	server := redistest.Start(t)
	api := newFakeAPI(t, 20*time.Millisecond)
	if r := kooworker(t, unbindsCSV(n), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	worker := startWorker(t, server, api.URL, "--log-successes=false")
	redistest.Eventually(t, time.Minute, "some are done", func() bool { done, _ := api.executed(); return done > 20 })
	if r := kooworker(t, "", "batch", "delete", "b-1", "--redis-url", server.URL()); r.code != exitUsage || !strings.Contains(r.stderr, "batch cancel b-1") {
		t.Errorf("%+v; want exit 2, and the command that cancels", r)
	}
	r := kooworker(t, "", "batch", "delete", "b-1", "--force", "--redis-url", server.URL())
	if r.code != exitDone || !strings.Contains(r.stdout, "cancelled\n") || !strings.Contains(r.stdout, "deleted b-1\n") {
		t.Errorf("%+v; want exit 0, and what it did", r)
	}
	done, _ := api.executed()
	<-time.After(2 * time.Second) // in which a worker would go on
	later, _ := api.executed()
	if logged := strings.Count(worker.log(), "no receipt"); later != done+logged {
		t.Errorf("%d devices were deleted after the batch, and %d lines logged; want a line for each", later-done, logged)
	}
}
