package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// auditB1 runs the audit of b-1.
func auditB1(t *testing.T, server *redistest.Server) (code int, missing float64, text string) {
	t.Helper()
	r := kooworker(t, "", "batch", "audit", "b-1", "--json", "--redis-url", server.URL())
	report := r.object(t)
	missing, _ = report["missing"].(float64)
	named, _ := report["missing_tasks"].([]any)
	if float64(len(named)) != missing || (r.code == exitDone) != (report["clean"] == true) {
		t.Errorf("%d named, %+v; want each missing task named, and exit 0 only if it is clean", len(named), r)
	}
	people := kooworker(t, "", "batch", "audit", "b-1", "--redis-url", server.URL())
	if people.code != r.code {
		t.Errorf("exit %d without --json; want %d", people.code, r.code)
	}
	return r.code, missing, people.stdout + people.stderr
}

// Tasks that somebody has deleted in asynqmon are named. They can be restored, or
// cancelled.
func TestBatchAudit_NamesWhatWasDeleted(t *testing.T) {
	t.Parallel()
	const n = 1200
	server := redistest.Start(t)
	rdb := server.Client()
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	enqueue := func(args ...string) {
		t.Helper()
		args = append([]string{"enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()}, args...)
		if r := kooworker(t, unbindsCSV(n), args...); r.code != exitDone {
			t.Fatalf("%+v; want exit 0", r)
		}
	}
	enqueue()
	if code, missing, _ := auditB1(t, server); code != exitDone || missing != 0 {
		t.Errorf("exit %d, %g missing; want it clean", code, missing)
	}
	remove := func() {
		t.Helper()
		queue := lanesOf(t, inspector, tasks.QueueUnbind)[0]
		infos, err := inspector.ListPendingTasks(queue, asynq.PageSize(n))
		if err != nil || len(infos) != n {
			t.Fatalf("%d tasks, %v; want %d", len(infos), err, n)
		}
		kept := 0
		for _, info := range infos {
			task, _, err := tasks.Decode(tasks.Kind(info.Type), info.Payload)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(task.Target(), "device-1") && kept < 200 {
				kept++
				continue
			}
			if err := inspector.DeleteTask(queue, info.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove()
	code, missing, text := auditB1(t, server)
	if code != exitFailed || missing != n-200 || !strings.Contains(text, "missing: items ") || !strings.Contains(text, "of the input (queued)") ||
		!strings.Contains(text, "1000 of the tasks") || !strings.Contains(text, "--restore") || !strings.Contains(text, "batch cancel b-1") {
		t.Errorf("exit %d, %g missing, %s; want exit 1, 1000 missing, which, and what to do", code, missing, text)
	}
	enqueue("--restore")
	if code, missing, text := auditB1(t, server); code != exitDone || missing != 0 {
		t.Errorf("restored: exit %d, %g missing, %s; want it clean", code, missing, text)
	}
	remove()
	if r := kooworker(t, "", "batch", "cancel", "b-1", "--json", "--redis-url", server.URL()); r.code != exitDone || r.object(t)["cancelled"] != float64(n) {
		t.Errorf("%+v; want exit 0, and all cancelled", r)
	}
	if code, missing, text := auditB1(t, server); code != exitDone || missing != 0 {
		t.Errorf("cancelled: exit %d, %g missing, %s; want it clean", code, missing, text)
	}
	if diff := cmp.Diff(map[string]float64{"total": n, "cancelled": n}, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A dead letter that somebody has deleted cannot be restored.
func TestBatchAudit_DeadLetter(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	inspector := asynq.NewInspectorFromRedisClient(server.Client())
	sim, url := startSimulator(t, "forbidden,target=device-2", "forbidden,target=device-4")
	startWorker(t, server, url)
	for i := range 5 {
		sim.Bind(fmt.Sprintf("user-%d", i/3), simulator.Device{DeviceID: fmt.Sprintf("device-%d", i)})
	}
	if r := kooworker(t, unbindsCSV(5), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	redistest.Eventually(t, 20*time.Second, "two are dead", func() bool {
		state := kooworker(t, "", "batch", "show", "b-1", "--json", "--redis-url", server.URL()).object(t)
		return state["dead"] == 2.0 && state["queued"] == 0.0
	})
	if code, missing, _ := auditB1(t, server); code != exitDone || missing != 0 {
		t.Errorf("exit %d, %g missing; want it clean", code, missing)
	}
	for letter, err := range deadletter.NewStore(server.Client()).List(t.Context(), deadletter.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if letter.Target != "device-2" {
			continue
		}
		if err := inspector.DeleteTask(tasks.QueueDeadLetter, letter.ID); err != nil {
			t.Fatal(err)
		}
	}
	code, missing, text := auditB1(t, server)
	if code != exitFailed || missing != 1 || !strings.Contains(text, "missing: item 3 of the input (dead)\n") || strings.Contains(text, "--restore") {
		t.Errorf("exit %d, %g missing, %s; want item 3 named, and no word of --restore", code, missing, text)
	}
}
