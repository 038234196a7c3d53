package doctor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/doctor"
	"github.com/kooworker/kooworker/worker/fleet"
)

// An ID that waits without its task, and one whose task cannot be read. Fix can repair neither: a
// worker has to take them first.
func TestTasks_PendingWithoutATask(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, id := range []string{"lost", "well", "garbage"} {
		b.enqueue(tasks.QueueUnbind, id)
	}
	b.must(b.rdb.Del(t.Context(), asynqx.TaskKey(tasks.QueueUnbind, "lost")).Err())
	b.must(b.rdb.HSet(t.Context(), asynqx.TaskKey(tasks.QueueUnbind, "garbage"), "msg", "xxnotproto").Err())
	f := b.run()
	f.want("tasks.leaked", doctor.Error, "queue unbind has 1 ID without a task in its pending list (lost)", "never runs", "start a worker")
	f.want("tasks.leaked", doctor.Error, "queue unbind has 1 unreadable task in its pending list (garbage)", "a new order with its ID is refused", "start a worker")
	for _, got := range f.byName["tasks.leaked"] {
		if got.Fixable {
			t.Errorf("%+v is fixable; want it left to a worker", got)
		}
	}
	b.aWorker("w", fleet.Report{Host: "w", Version: "v1"})
	b.run().want("tasks.leaked", doctor.Error, "(lost)", "when a worker takes such an ID")

	b.cfg.Quick = true
	b.run().want("tasks.leaked", doctor.Skipped, "--quick")
	b.must(b.rdb.Del(t.Context(), asynqx.PendingKey(tasks.QueueUnbind), asynqx.TaskKey(tasks.QueueUnbind, "garbage")).Err())
	b.enqueue(tasks.QueueUnbind, "another")
	b.waitSince(tasks.QueueUnbind, "another", time.Second)
	b.cfg.Quick = false
	b.run().want("tasks.leaked", doctor.OK, "no ID lacks its task")
}

// A lease of an ID that has no task, and an active task without a lease: one call of Fix repairs both,
// and says when the task is put back.
func TestFix_LeaseOfNoTask(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.enqueue(tasks.QueueUnbind, "x")
	b.must(b.rdb.LMove(t.Context(), asynqx.PendingKey(tasks.QueueUnbind), asynqx.ActiveKey(tasks.QueueUnbind), "RIGHT", "LEFT").Err())
	b.must(b.rdb.HSet(t.Context(), asynqx.TaskKey(tasks.QueueUnbind, "x"), "state", "active").Err())
	b.must(b.rdb.ZAdd(t.Context(), asynqx.LeaseKey(tasks.QueueUnbind), redis.Z{Score: float64(time.Now().Add(-time.Hour).Unix()), Member: "ghost"}).Err())
	text := strings.Join(b.fix(), "\n")
	for _, want := range []string{"gave a lease to 1 active task without one; if its worker is dead", "in two minutes", "removed 1 ID without a task"} {
		if !strings.Contains(text, want) {
			t.Errorf("Fix says %q; want %q", text, want)
		}
	}
	b.run().want("tasks.active", doctor.OK)
}

// What Fix has made a dead letter of waits for a worker that parks it, and is a dead letter all
// the same.
func TestFix_ArchivedIsADeadLetter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, id := range []string{"a", "b"} {
		b.enqueue(tasks.QueueUnbind, id)
		b.must(asynq.NewInspectorFromRedisClient(b.rdb).ArchiveTask(tasks.QueueUnbind, id))
	}
	b.fix()
	stats, err := deadletter.NewStore(b.rdb).Stats(t.Context(), deadletter.Filter{})
	b.must(err)
	if stats.Total != 2 {
		t.Fatalf("dead stats counts %d; want 2", stats.Total)
	}
	f := b.run()
	f.want("dead.letters", doctor.Warning, "2 letters of 2 died as")
	f.want("dead.letters", doctor.Warning, "2 dead letters wait for a worker to put them away", "kooworker worker")
	b.aWorker("w", fleet.Report{Host: "w", Version: "v1"})
	if f := b.run(); len(f.byName["dead.letters"]) != 1 {
		t.Errorf("with a worker: %+v; want one finding, since the worker is about to take them", f.byName["dead.letters"])
	}
}
