package jobs

import (
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestChildren_EnqueuedAgainAfterACrash(t *testing.T) {
	t.Parallel()
	const lane = tasks.LaneUrgent
	queue := lane.Of(tasks.QueueUnbind)
	for name, inBatch := range map[string]bool{"alone": false, "in a batch": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.Start(t).Client()
			inspector, store := asynq.NewInspectorFromRedisClient(rdb), batch.NewStore(rdb)
			c := &children{rdb, store, time.Now}
			parent := tasks.UserOffboard{UserID: "u"}
			var ref tasks.BatchRef
			if inBatch {
				ref = openBatchOf(t, store, "b-1", parent)
			}
			if s, err := c.Status(t.Context(), parent, ref); err != nil || s.Round != 0 {
				t.Errorf("before: %+v, %v; want no round", s, err)
			}
			devices := []tasks.Task{tasks.DeviceUnbind{UserID: "u", DeviceID: "d-1"}, tasks.DeviceUnbind{UserID: "u", DeviceID: "d-2"}}
			for range 2 { // as after a crash
				if err := c.Enqueue(t.Context(), parent, ref, 1, lane, devices); err != nil {
					t.Fatal(err)
				}
			}
			s, err := c.Status(t.Context(), parent, ref)
			if err != nil || s.Round != 1 || s.Outstanding != 2 || len(s.Dead) != 0 {
				t.Errorf("enqueued: %+v, %v; want two outstanding in round 1", s, err)
			}
			pending, err := inspector.ListPendingTasks(queue)
			if err != nil || len(pending) != 2 {
				t.Fatalf("%d tasks are pending, %v; want each child once", len(pending), err)
			}
			_, in, err := tasks.Decode(tasks.KindDeviceUnbind, pending[0].Payload)
			if err != nil || !in.NoGuard || in.BatchRef.Batch != ref.Batch {
				t.Errorf("a child's intent is %+v, %v; want it unguarded, in its parent's batch", in, err)
			}
			if inBatch {
				if stats, err := store.Show(t.Context(), "b-1"); err != nil || stats.Total != 3 || stats.Queued != 3 {
					t.Errorf("the batch is %+v, %v; want the parent and both children in it", stats, err)
				}
			}
			// One is done. The other was never enqueued, and the round is not marked
			// as enqueued, as after a crash.
			if err := inspector.DeleteTask(queue, pending[0].ID); err != nil {
				t.Fatal(err)
			}
			if s, err = c.Status(t.Context(), parent, ref); err != nil || s.Outstanding != 1 {
				t.Errorf("one is done: %+v, %v; want one outstanding", s, err)
			}
			keys, err := rdb.Keys(t.Context(), "*brood*").Result()
			if err != nil || len(keys) != 1 {
				t.Fatalf("saved rounds %v, %v; want one", keys, err)
			}
			rdb.HDel(t.Context(), keys[0], "enqueued")
			if s, err = c.Status(t.Context(), parent, ref); err != nil || s.Outstanding != 2 {
				t.Errorf("after a crash: %+v, %v; want both enqueued again", s, err)
			}
			if err := c.Forget(t.Context(), parent, ref); err != nil {
				t.Error(err)
			}
			if n := rdb.Exists(t.Context(), keys[0]).Val(); n != 0 {
				t.Error("the saved round stays; want it forgotten")
			}
		})
	}
}

func TestChildren_StatusListsTheDead(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	c := &children{rdb, batch.NewStore(rdb), time.Now}
	parent, child := tasks.UserOffboard{UserID: "u"}, tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}
	if err := c.Enqueue(t.Context(), parent, tasks.BatchRef{}, 1, tasks.LaneSingle, []tasks.Task{child}); err != nil {
		t.Fatal(err)
	}
	id := childID(parent, tasks.BatchRef{}, child, 0)
	if err := rdb.Rename(t.Context(), asynqx.TaskKey(tasks.QueueUnbind, id), "gone").Err(); err != nil {
		t.Fatal(err)
	}
	if err := asynqx.EnqueueAll(t.Context(), rdb, []asynqx.Order{{ID: id, Kind: child.Kind(), Queue: tasks.QueueDeadLetter}}); err != nil {
		t.Fatal(err)
	}
	s, err := c.Status(t.Context(), parent, tasks.BatchRef{})
	if err != nil || s.Outstanding != 0 || len(s.Dead) != 1 || s.Dead[0] != tasks.Task(child) {
		t.Errorf("%+v, %v; want the child to be dead", s, err)
	}
}

// openBatchOf makes a batch with one queued task.
func openBatchOf(t *testing.T, store *batch.Store, id string, task tasks.Task) tasks.BatchRef {
	t.Helper()
	if _, _, err := store.Open(t.Context(), batch.Spec{ID: id}); err != nil {
		t.Fatal(err)
	}
	var digest batch.RollingDigest
	digest.AddTask(task)
	chunk, err := store.ClaimChunk(t.Context(), id, 0, []batch.Digest{digest.Digest()})
	if err != nil {
		t.Fatal(err)
	}
	ref := tasks.BatchRef{Batch: id, Index: chunk.Index(0)}
	if err := store.Mark(t.Context(), id, []batch.Mark{{Index: ref.Index, State: batch.Queued}}, nil); err != nil {
		t.Fatal(err)
	}
	return ref
}
