package recovery_test

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/recovery"
)

// A dead worker's leases end over some seconds, in several queues.
func TestReap_DeadWorkerIsNamedOnce(t *testing.T) {
	t.Parallel()
	const n = 15
	b := setup(t)
	core, logs := observer.New(zap.InfoLevel)
	b.cfg.Logger = zap.New(core)
	died := ago(33 * time.Second)
	for i := range n {
		for queue, after := range map[string]time.Duration{unbind: 0, tasks.QueueRelease: 5 * time.Second} {
			id := fmt.Sprint(queue, "-", i)
			b.enqueue(queue, id)
			b.take(queue, id, died.Add(30*time.Second+after))
		}
	}
	b.leaveHeartbeat("node-1:77:5ca1ab1e", died)
	b.run()
	redistest.Eventually(t, 30*time.Second, "all are requeued", func() bool { return b.counts.of(recovery.Requeued) == 2*n })
	lines := func() []observer.LoggedEntry { return logs.FilterMessageSnippet("run again").All() }
	redistest.Eventually(t, 30*time.Second, "the dead worker is named", func() bool { return len(lines()) > 0 })
	fields := lines()[0].ContextMap()
	for name, want := range map[string]any{"host": "node-1", "pid": "77", "requeued": int64(2 * n), "suspects": int64(2 * n)} {
		if fields[name] != want {
			t.Errorf("%s is %v in %v; want %v", name, fields[name], fields, want)
		}
	}
	if repaired := logs.FilterMessageSnippet("repaired").All(); len(repaired) != 0 || len(lines()) != 1 {
		t.Errorf("%d lines name a worker, and there are also %v; want one line", len(lines()), repaired)
	}
}

// The repairer stops before all leases of the dead worker have ended. What it has counted is
// not lost.
func TestReap_StopNamesDeadWorker(t *testing.T) {
	t.Parallel()
	b := setup(t)
	core, logs := observer.New(zap.InfoLevel)
	b.cfg.Logger = zap.New(core)
	died := ago(33 * time.Second)
	b.enqueue(unbind, "x")
	b.take(unbind, "x", died.Add(30*time.Second))
	b.leaveHeartbeat("node-1:77:5ca1ab1e", died)
	stop := b.run()
	redistest.Eventually(t, 30*time.Second, "it is requeued", func() bool { return b.counts.of(recovery.Requeued) == 1 })
	stop()
	if found := logs.FilterMessage("a worker died: its tasks run again").All(); len(found) != 1 {
		t.Errorf("%v; want the line about the dead worker", logs.All())
	}
}

// Nobody knows whose these tasks were.
func TestReap_TasksOfUnknownWorkers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	core, logs := observer.New(zap.InfoLevel)
	b.cfg.Logger = zap.New(core)
	for i := range 10 {
		id := fmt.Sprint("x-", i)
		b.enqueue(unbind, id)
		b.take(unbind, id, ago(10*time.Second))
	}
	b.run()
	redistest.Eventually(t, 30*time.Second, "a line says how many", func() bool {
		found := logs.FilterMessageSnippet("leases had expired").All()
		return len(found) == 1 && found[0].ContextMap()["requeued"] == int64(10) && found[0].ContextMap()["suspects"] == int64(0)
	})
}
