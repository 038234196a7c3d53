package worker_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// No worker knows the source of a release any more. Its batch must be complete some
// day, and somebody must see that the lock was not released.
func TestWorker_WaitForASourceEnds(t *testing.T) {
	t.Parallel()
	b := setup(t, newStandIn(t, always(done)).URL)
	release := tasks.LockRelease{UserID: "u", LockID: "l@102", Evidence: tasks.SweepEvidence{Source: tasks.SourceSQL, ExpiredAt: time.UnixMilli(1000)}}
	b.openBatch(release)
	pending, err := b.inspector.ListPendingTasks(tasks.QueueRelease)
	if err != nil || len(pending) != 1 {
		t.Fatalf("pending %v, %v; want the release", pending, err)
	}
	key := asynqx.TaskKey(tasks.QueueRelease, pending[0].ID)
	_, stop := b.start()
	redistest.Eventually(t, settleIn, "it waits", func() bool {
		return b.rdb.HExists(t.Context(), key, "kooworker_waits_since").Val() && b.rdb.HGet(t.Context(), key, asynqx.FieldState).Val() == "retry"
	})
	stop()
	// A day later, on another worker.
	if err := b.rdb.HIncrBy(t.Context(), key, "kooworker_waits_since", -24*60*60).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.inspector.RunAllRetryTasks(tasks.QueueRelease); err != nil {
		t.Fatal(err)
	}
	b.cfg.Registry = prometheus.NewRegistry()
	b.start()
	redistest.Eventually(t, settleIn, "the batch is complete", func() bool {
		stats, err := batch.NewStore(b.rdb).Show(t.Context(), testBatch)
		return err == nil && stats.Done && stats.Dead == 1
	})
	b.awaitSettled()
	const want = `waiting: this worker does not know the source "sql" of locks; it has waited for 24h0m0s`
	if l := b.dead()["l@102"]; l.Reason != tasks.Waiting || l.Error != want {
		t.Errorf("the letter is %+v; want one that says %q", l, want)
	}
	if r := b.receipts()["l@102"]; r.Outcome != tasks.Dead || r.Reason != tasks.Waiting {
		t.Errorf("the receipt is %+v; want it dead, since it waited too long", r)
	}
	if n := b.rdb.Exists(t.Context(), key).Val(); n != 0 {
		t.Error("the task is left in Redis; want it gone with its note")
	}

	// Somebody replays the letter, and still no worker has the source. It waits anew.
	if _, err := b.inspector.RunAllRetryTasks(tasks.QueueDeadLetter); err != nil {
		t.Fatal(err)
	}
	letter := asynqx.TaskKey(tasks.QueueDeadLetter, pending[0].ID)
	redistest.Eventually(t, settleIn, "the replay waits", func() bool { return b.rdb.HExists(t.Context(), letter, "kooworker_waits_since").Val() })
}
