package batches_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/batches"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is batches in a Redis server of their own. No worker runs.
type bundle struct {
	t      *testing.T
	rdb    redis.UniversalClient
	ledger *batch.Store
}

func setup(t *testing.T) *bundle {
	t.Helper()
	rdb := redistest.Start(t).Client()
	return &bundle{t, rdb, batch.NewStore(rdb)}
}

func (b *bundle) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// queue enqueues a batch of unbinds of two users in turns, and returns the IDs of the tasks and
// their queue.
func (b *bundle) queue(id string, n int) (ids []string, queue string) {
	b.t.Helper()
	ctx := b.t.Context()
	_, _, err := b.ledger.Open(ctx, batch.Spec{ID: id})
	b.must(err)
	lane, err := b.ledger.Lane(ctx, id)
	b.must(err)
	queue = lane.Of(tasks.QueueUnbind)
	var rolling batch.RollingDigest
	var digests []batch.Digest
	var marks []batch.Mark
	var orders []asynqx.Order
	for i := range n {
		task := tasks.DeviceUnbind{UserID: fmt.Sprint("u-", i%2), DeviceID: fmt.Sprint("d-", i)}
		rolling.AddTask(task)
		digests, marks = append(digests, rolling.Digest()), append(marks, batch.Mark{Index: int64(i), State: batch.Queued})
		payload, err := tasks.Encode(task, tasks.Intent{BatchRef: tasks.BatchRef{Batch: id, Index: int64(i)}, EnqueuedAt: time.Now()})
		b.must(err)
		ids = append(ids, tasks.BatchIdentity(id, task))
		orders = append(orders, asynqx.Order{ID: ids[i], Kind: task.Kind(), Queue: queue, Payload: payload})
	}
	_, err = b.ledger.ClaimChunk(ctx, id, 0, digests)
	b.must(err)
	b.must(b.ledger.Mark(ctx, id, marks, nil))
	b.must(b.ledger.CloseInput(ctx, id, int64(n)))
	b.must(asynqx.EnqueueAll(ctx, b.rdb, orders))
	return ids, queue
}

func (b *bundle) pending(queue string) int64 {
	return b.rdb.LLen(b.t.Context(), asynqx.PendingKey(queue)).Val()
}

func TestCancel(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, queue := b.queue("b-1", 10)
	for _, tc := range []struct {
		c             batch.Cancellation
		want, pending int64
	}{
		{batch.Cancellation{Batch: "b-1", UserID: "u-1", Reason: "left"}, 5, 5},
		{batch.Cancellation{Batch: "b-1"}, 5, 0},
		{batch.Cancellation{Batch: "b-1"}, 0, 0}, // again
	} {
		var progress int64
		res, err := batches.Cancel(t.Context(), b.rdb, tc.c, func(n int64) { progress = n })
		if want := (batches.CancelResult{Cancelled: tc.want, IsKnown: true}); err != nil || res != want || progress != tc.want {
			t.Errorf("%+v: %+v, progress %d, %v; want %+v", tc.c, res, progress, err, want)
		}
		if n := b.pending(queue); n != tc.pending {
			t.Errorf("%+v: %d are pending; want %d", tc.c, n, tc.pending)
		}
	}
	stats, err := b.ledger.Show(t.Context(), "b-1")
	if err != nil || stats.Cancelled != 10 || !stats.Done {
		t.Errorf("%+v, %v; want ten cancelled, and the batch done", stats, err)
	}
	if _, err := batches.Cancel(t.Context(), b.rdb, batch.Cancellation{Batch: "none"}, func(int64) {}); err == nil {
		t.Error("no error for a batch that does not exist")
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, queue := b.queue("b-1", 4)
	ignore := func(int64) {}
	res, err := batches.Hold(t.Context(), b.rdb, batch.Hold{Batch: "b-1", By: "alice"}, ignore)
	if err != nil || res.Moved != 4 || res.InFlight != 0 || b.pending(queue) != 0 {
		t.Errorf("%+v, %v, %d pending; want four put off", res, err, b.pending(queue))
	}
	var earlier *batches.EarlierError
	if _, err := batches.Hold(t.Context(), b.rdb, batch.Hold{Batch: "b-1", Until: time.Now().Add(time.Hour)}, ignore); !errors.As(err, &earlier) || earlier.Hint() == "" {
		t.Errorf("a shorter hold: %v; want an EarlierError with a hint", err)
	}
	for _, want := range []int64{4, 0} { // the second time there is no hold
		res, err = batches.Release(t.Context(), b.rdb, "b-1", ignore)
		if err != nil || res.Moved != want || b.pending(queue) != 4 {
			t.Errorf("released %+v, %v, %d pending; want %d moved, and four pending", res, err, b.pending(queue), want)
		}
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids, queue := b.queue("b-1", 6)
	if missing, err := batches.Missing(t.Context(), b.rdb, "b-1"); err != nil || len(missing) != 0 {
		t.Errorf("%v, %v; want none", missing, err)
	}
	for _, i := range []int{1, 4} { // as somebody deletes tasks in asynqmon
		b.rdb.LRem(t.Context(), asynqx.PendingKey(queue), 1, ids[i])
		b.rdb.Del(t.Context(), asynqx.TaskKey(queue, ids[i]))
	}
	missing, err := batches.Missing(t.Context(), b.rdb, "b-1")
	want := []batch.Missing{{Index: 1, Item: 2, State: "queued"}, {Index: 4, Item: 5, State: "queued"}}
	if err != nil || !slices.Equal(missing, want) {
		t.Errorf("%v, %v; want %v", missing, err, want)
	}
}
