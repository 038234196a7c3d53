package doctor_test

import (
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
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
