package waiting_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/enqueue/waiting"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const lane = tasks.Lane("batch-7")

// bundle is queues in a Redis server of their own.
type bundle struct {
	tb     testing.TB
	rdb    *redis.Client
	queues *waiting.Store
	client *asynq.Client
}

func setup(tb testing.TB) *bundle {
	tb.Helper()
	rdb := redistest.Start(tb).Client()
	return &bundle{tb, rdb, waiting.NewStore(rdb), asynq.NewClientFromRedisClient(rdb)}
}

// enqueue enqueues the unbind of a device of a batch, and returns its ID.
func (b *bundle) enqueue(batchID string, index int, opts ...asynq.Option) string {
	b.tb.Helper()
	task := tasks.DeviceUnbind{UserID: fmt.Sprint("u", index/2), DeviceID: fmt.Sprint("d", index)}
	payload, err := tasks.Encode(task, tasks.Intent{BatchRef: tasks.BatchRef{Batch: batchID, Index: int64(index)}, EnqueuedAt: time.Now()})
	if err != nil {
		b.tb.Fatal(err)
	}
	id := tasks.BatchIdentity(batchID, task)
	opts = append([]asynq.Option{asynq.TaskID(id), asynq.Queue(lane.Of(tasks.QueueUnbind)), asynq.MaxRetry(tasks.MaxRetry)}, opts...)
	if _, err := b.client.EnqueueContext(b.tb.Context(), asynq.NewTask(string(task.Kind()), payload), opts...); err != nil {
		b.tb.Fatal(err)
	}
	return id
}

// remove removes the tasks of the batch "mine" once, and returns their indexes in order.
func (b *bundle) remove(matches func(waiting.Task) bool) (indexes []int64) {
	b.tb.Helper()
	pages := make(chan []waiting.Task, 1000)
	n, err := b.queues.Remove(b.tb.Context(), waiting.OfBatch("mine", lane, matches), func(_ context.Context, page []waiting.Task) error {
		pages <- page
		return nil
	})
	close(pages)
	for page := range pages {
		for _, t := range page {
			indexes = append(indexes, t.Intent.BatchRef.Index)
		}
	}
	slices.Sort(indexes)
	if err != nil || int(n) != len(indexes) {
		b.tb.Fatalf("removed %d, recorded %d, %v; want the same", n, len(indexes), err)
	}
	return indexes
}

func (b *bundle) pending() []string {
	return b.rdb.LRange(b.tb.Context(), asynqx.PendingKey(lane.Of(tasks.QueueUnbind)), 0, -1).Val()
}

// size is what asynq counts.
func (b *bundle) size() asynq.QueueInfo {
	b.tb.Helper()
	info, err := asynq.NewInspectorFromRedisClient(b.rdb).GetQueueInfo(lane.Of(tasks.QueueUnbind))
	if err != nil {
		b.tb.Fatal(err)
	}
	return *info
}

func numbers(from, to, step int) (out []int64) {
	for i := from; i < to; i += step {
		out = append(out, int64(i))
	}
	return out
}

// The tasks of other batches keep their order.
func TestRemove_FromTheMiddle(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 249, 250, 251, 1100} {
		b := setup(t)
		var stay []string
		for i := range n {
			b.enqueue("mine", i)
			stay = append(stay, b.enqueue("mine-2", i))
			if i%3 == 0 {
				stay = append(stay, b.enqueue("min", i))
			}
		}
		slices.Reverse(stay) // the first is at the right
		if diff := cmp.Diff(numbers(0, n, 1), b.remove(nil)); diff != "" {
			t.Errorf("%d: removed (-want +got):\n%s", n, diff)
		}
		if diff := cmp.Diff(stay, b.pending()); diff != "" {
			t.Errorf("%d: the others (-want +got):\n%s", n, diff)
		}
		if got := len(b.remove(nil)); got != 0 {
			t.Errorf("%d: again: %d; want none", n, got)
		}
		keys := b.rdb.Keys(t.Context(), "asynq:{*}:t:mine:*").Val()
		if info := b.size(); len(keys) != 0 || info.Size != len(stay) || info.Scheduled != 0 {
			t.Errorf("%d: %v left, %+v; want none of it", n, keys, info)
		}
	}
}

func TestRemove_WhereverTheyWait(t *testing.T) {
	t.Parallel()
	b := setup(t)
	queue := lane.Of(tasks.QueueUnbind)
	for i := range 60 {
		var opts []asynq.Option
		if i >= 20 && i < 30 {
			opts = append(opts, asynq.ProcessIn(time.Hour))
		}
		if i >= 50 {
			opts = append(opts, asynq.Queue(tasks.LaneBulk.Of(tasks.QueueUnbind)))
		}
		id := b.enqueue("mine", i, opts...)
		from := asynqx.PendingKey(queue)
		var to, state string
		switch i / 10 {
		case 3:
			to, state = asynqx.RetryKey(queue), "retry"
		case 4:
			to, state = asynqx.ArchivedKey(queue), "archived"
		default:
			continue
		}
		b.rdb.LRem(t.Context(), from, 0, id)
		b.rdb.ZAdd(t.Context(), to, redis.Z{Score: float64(time.Now().Add(time.Minute).Unix()), Member: id})
		b.rdb.HSet(t.Context(), asynqx.TaskKey(queue, id), asynqx.FieldState, state)
	}
	even := func(t waiting.Task) bool { return t.Intent.BatchRef.Index%2 == 0 && t.Task.User() != "u0" }
	seen := 0
	for _, err := range b.queues.Each(t.Context(), waiting.OfBatch("mine", lane, even)) {
		if err != nil {
			t.Fatal(err)
		}
		seen++
	}
	want := numbers(2, 60, 2)
	if seen != len(want) {
		t.Errorf("Each yields %d; want %d", seen, len(want))
	}
	if diff := cmp.Diff(want, b.remove(even)); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append([]int64{0}, numbers(1, 60, 2)...), b.remove(nil)); diff != "" {
		t.Errorf("removed then (-want +got):\n%s", diff)
	}
}

// A worker that takes tasks meanwhile gets each task once, and Remove gets the others.
func TestRemove_WhileWorkersTakeTasks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 6000
	for i := range n {
		b.enqueue("mine", i)
	}
	ran := make(chan string, n)
	server := asynq.NewServerFromRedisClient(b.rdb, asynq.Config{Concurrency: 8, Queues: map[string]int{lane.Of(tasks.QueueUnbind): 1}, LogLevel: asynq.FatalLevel})
	if err := server.Start(asynq.HandlerFunc(func(_ context.Context, task *asynq.Task) error { ran <- string(task.Payload()); return nil })); err != nil {
		t.Fatal(err)
	}
	removed := 0
	for b.size().Size > 0 {
		removed += len(b.remove(nil))
	}
	server.Shutdown()
	close(ran)
	seen := map[string]bool{}
	for payload := range ran {
		if seen[payload] {
			t.Errorf("%s ran twice", payload)
		}
		seen[payload] = true
	}
	if removed+len(seen) != n || removed == 0 {
		t.Errorf("%d removed, %d ran; want %d together, and some removed", removed, len(seen), n)
	}
}

// If a page cannot be recorded, its tasks come back later, and nothing is lost.
func TestRemove_RecordFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 300 {
		b.enqueue("mine", i)
	}
	failure := errors.New("no ledger")
	n, err := b.queues.Remove(t.Context(), waiting.OfBatch("mine", lane, nil), func(context.Context, []waiting.Task) error { return failure })
	if n != 0 || !errors.Is(err, failure) {
		t.Errorf("%d, %v; want 0 and the failure", n, err)
	}
	info := b.size()
	if info.Size != 300 || info.Scheduled == 0 {
		t.Errorf("%+v; want all, some of them scheduled", info)
	}
	for _, z := range b.rdb.ZRangeWithScores(t.Context(), asynqx.ScheduledKey(lane.Of(tasks.QueueUnbind)), 0, -1).Val() {
		if left := time.Until(time.Unix(int64(z.Score), 0)); left < 9*time.Minute || left > 10*time.Minute {
			t.Fatalf("it comes back in %s; want 10 minutes", left)
		}
	}
	if got := len(b.remove(nil)); got != 300 {
		t.Errorf("removed %d then; want 300", got)
	}
}

// Of a task whose last call has no known answer, nobody knows whether it was carried out.
func TestEach_MayBeDone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	queue := lane.Of(tasks.QueueUnbind)
	for i, text := range []string{"", "network: reset", "rejected: no", "throttled", "timeout", "crashed: w"} {
		id := b.enqueue("mine", i)
		key := asynqx.TaskKey(queue, id)
		message, err := b.rdb.HGet(t.Context(), key, asynqx.FieldMsg).Bytes()
		if err == nil && text != "" {
			message, err = asynqx.RewriteFailure(message, 1, text, time.Now())
		}
		if err != nil {
			t.Fatal(err)
		}
		b.rdb.HSet(t.Context(), key, asynqx.FieldMsg, message)
	}
	want := map[int64]bool{1: true, 4: true, 5: true}
	for task, err := range b.queues.Each(t.Context(), waiting.OfBatch("mine", lane, nil)) {
		if err != nil {
			t.Fatal(err)
		}
		if index := task.Intent.BatchRef.Index; task.MayBeDone != want[index] {
			t.Errorf("%d may be done: %t; want %t", index, task.MayBeDone, want[index])
		}
	}
}

func TestCountActive(t *testing.T) {
	t.Parallel()
	b := setup(t)
	queue := lane.Of(tasks.QueueUnbind)
	for i := range 10 {
		id := b.enqueue("mine", i)
		b.enqueue("other", i)
		if i < 7 {
			b.rdb.LRem(t.Context(), asynqx.PendingKey(queue), 0, id)
			b.rdb.LPush(t.Context(), asynqx.ActiveKey(queue), id)
		}
	}
	n, err := b.queues.CountActive(t.Context(), waiting.OfBatch("mine", lane, nil))
	if err != nil || n != 7 {
		t.Errorf("%d, %v; want 7", n, err)
	}
}

// What is held is due at the end of the hold, and what is released is pending in its old order.
// Tasks that are scheduled for the same time stay scheduled.
func TestHoldAndRelease(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 600
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	queue := lane.Of(tasks.QueueUnbind)
	later := b.enqueue("mine", n, asynq.ProcessAt(end))
	retry := b.enqueue("mine", n+1)
	b.rdb.LRem(t.Context(), asynqx.PendingKey(queue), 0, retry)
	b.rdb.ZAdd(t.Context(), asynqx.RetryKey(queue), redis.Z{Score: float64(end.Unix() + 1), Member: retry}) // by a worker
	for i := range n {
		b.enqueue("mine", i)
		b.enqueue("other", i)
	}
	before := b.pending()
	query := waiting.OfBatch("mine", lane, nil)
	if moved, err := b.queues.Hold(t.Context(), query, end, func(int64) {}); err != nil || moved != n {
		t.Errorf("%d held, %v; want %d", moved, err, n)
	}
	if info := b.size(); info.Pending != n || info.Scheduled != n+1 || info.Retry != 1 {
		t.Errorf("%+v; want the others pending", info)
	}
	if released, err := b.queues.Release(t.Context(), query, end.Add(-time.Minute), func(int64) {}); err != nil || released != 0 {
		t.Errorf("%d released, %v; want none of another time", released, err)
	}
	if released, err := b.queues.Release(t.Context(), query, end, func(int64) {}); err != nil || released != n+1 {
		t.Errorf("%d released, %v; want %d", released, err, n+1)
	}
	if info := b.size(); info.Pending != 2*n+1 || info.Scheduled != 1 || info.Retry != 0 {
		t.Errorf("%+v; want all pending but the one that is scheduled", info)
	}
	after := b.pending()
	slices.Sort(before)
	slices.Sort(after)
	if diff := cmp.Diff(before, slices.DeleteFunc(after, func(id string) bool { return id == retry })); diff != "" {
		t.Errorf("pending (-before +after):\n%s", diff)
	}
	if info, err := asynq.NewInspectorFromRedisClient(b.rdb).GetTaskInfo(queue, later); err != nil || info.State != asynq.TaskStateScheduled || !info.NextProcessAt.Equal(end) {
		t.Errorf("%+v, %v; want it due at %s", info, err, end)
	}
}
