package enqueue_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// unbinds is an input of n unbinds.
func unbinds(n int) iter.Seq2[tasks.Task, error] {
	return func(yield func(tasks.Task, error) bool) {
		for i := range n {
			if !yield(unbindOf(i), nil) {
				return
			}
		}
	}
}

func unbindOf(i int) tasks.DeviceUnbind {
	return tasks.DeviceUnbind{UserID: fmt.Sprintf("user-%d", i/3), DeviceID: fmt.Sprintf("d-%d", i)}
}

// stats returns the counts of a batch, whose audit must be clean.
func (b *bundle) stats(t *testing.T, id string) tasks.BatchStats {
	t.Helper()
	audit, err := batch.NewStore(b.rdb).Audit(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if !audit.Clean() {
		t.Errorf("the audit of batch %s finds %v; want it clean", id, audit.Problems)
	}
	return audit.Stats
}

// queued returns the outstanding unbinds, by their target.
func (b *bundle) queued(t *testing.T) map[string][]*asynq.TaskInfo {
	t.Helper()
	out := map[string][]*asynq.TaskInfo{}
	for _, lane := range unbindLanes(t, b.inspector) {
		infos, err := b.inspector.ListPendingTasks(lane, asynq.PageSize(1_000_000))
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range infos {
			task, _, err := tasks.Decode(tasks.Kind(info.Type), info.Payload)
			if err != nil {
				t.Fatal(err)
			}
			out[task.Target()] = append(out[task.Target()], info)
		}
	}
	return out
}

// unbindLanes returns the lanes of the unbinds that asynq knows.
func unbindLanes(t *testing.T, inspector *asynq.Inspector) []string {
	t.Helper()
	names, err := inspector.Queues()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(name string) bool { of, _ := tasks.SplitQueue(name); return of != tasks.QueueUnbind })
}

func TestBulk_Batch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 1300 // two chunks and a half
	o := enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-1"}, Options: []enqueue.Option{enqueue.NoGuard()}}
	seen := map[int64]enqueue.Status{}
	o.OnItem = func(item enqueue.Item) { seen[item.Number] = item.Status }
	res, err := b.client.Bulk(t.Context(), unbinds(n), o)
	if want := (enqueue.BulkResult{Batch: "b-1", Total: n, Enqueued: n}); err != nil || res != want {
		t.Fatalf("%+v, %v; want %+v", res, err, want)
	}
	if len(seen) != n || seen[0] != enqueue.Enqueued || seen[n-1] != enqueue.Enqueued {
		t.Errorf("%d items were reported; want %d, all enqueued", len(seen), n)
	}
	stats := b.stats(t, "b-1")
	if stats.Total != n || stats.Queued != n || stats.Done {
		t.Errorf("%+v; want %d tasks queued", stats, n)
	}
	queued := b.queued(t)
	for i := range n {
		infos := queued[fmt.Sprintf("d-%d", i)]
		if len(infos) != 1 {
			t.Fatalf("d-%d is queued %d times; want once", i, len(infos))
		}
		task, in, err := tasks.Decode(tasks.Kind(infos[0].Type), infos[0].Payload)
		if err != nil || in.BatchRef != (tasks.BatchRef{Batch: "b-1", Index: int64(i)}) || !in.NoGuard || infos[0].ID != tasks.BatchIdentity("b-1", task) {
			t.Fatalf("task %s has the intent %+v, %v; want it unguarded, with index %d", infos[0].ID, in, err, i)
		}
		if infos[0].MaxRetry != tasks.MaxRetry || infos[0].Timeout != tasks.Timeout {
			t.Fatalf("task %s has the retry limit %d and the timeout %s; want those of package tasks", infos[0].ID, infos[0].MaxRetry, infos[0].Timeout)
		}
	}

	res, err = b.client.Bulk(t.Context(), unbinds(n), o)
	if want := (enqueue.BulkResult{Batch: "b-1", Total: n, Skipped: n}); err != nil || res != want {
		t.Errorf("again: %+v, %v; want %+v", res, err, want)
	}
}

func TestBulk_AnotherInput(t *testing.T) {
	t.Parallel()
	b := setup(t)
	o := enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-1"}}
	if _, err := b.client.Bulk(t.Context(), unbinds(1300), o); err != nil {
		t.Fatal(err)
	}
	changed := func(at int) iter.Seq2[tasks.Task, error] {
		return func(yield func(tasks.Task, error) bool) {
			for i := range 1300 {
				task := unbindOf(i)
				if i == at {
					task.UserID = "somebody-else"
				}
				if !yield(task, nil) {
					return
				}
			}
		}
	}
	for name, input := range map[string]iter.Seq2[tasks.Task, error]{
		"the first item":    changed(0),
		"within a chunk":    changed(700),
		"the last item":     changed(1299),
		"longer":            unbinds(1301),
		"longer by a chunk": unbinds(2000),
		"shorter":           unbinds(1299),
		"empty":             unbinds(0),
		"shorter by chunks": unbinds(512),
	} {
		res, err := b.client.Bulk(t.Context(), input, o)
		other, refused := errors.AsType[*batch.InputError](err)
		if !refused || other.Hint() == "" || res.Enqueued != 0 {
			t.Errorf("%s: %+v, %v; want a batch.InputError and nothing enqueued", name, res, err)
		}
	}
	if stats := b.stats(t, "b-1"); stats.Total != 1300 || len(b.queued(t)) != 1300 {
		t.Errorf("after the refused inputs: %+v; want 1300 tasks", stats)
	}
	o.Options = []enqueue.Option{enqueue.NoGuard()}
	if _, err := b.client.Bulk(t.Context(), unbinds(1300), o); err == nil || !strings.Contains(err.Error(), "no-guard") {
		t.Errorf("with no-guard: %v; want an error that names no-guard", err)
	}
}

func TestBulk_RejectedAndDuplicateItems(t *testing.T) {
	t.Parallel()
	b := setup(t)
	input := func(yield func(tasks.Task, error) bool) {
		_ = yield(unbindOf(0), nil) &&
			yield(nil, &records.LineError{Line: 3, Text: "x", Err: errors.New("is not a task")}) &&
			yield(unbindOf(0), nil) &&
			yield(tasks.DeviceUnbind{UserID: "u", DeviceID: "../x"}, nil) &&
			yield(unbindOf(1), nil)
	}
	o := enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-1"}}
	for try, want := range []enqueue.BulkResult{
		{Batch: "b-1", Total: 5, Enqueued: 2, Duplicate: 1, Rejected: 2},
		{Batch: "b-1", Total: 5, Skipped: 3, Rejected: 2}, // rejected items are reported again, since the file of rejects is written again
	} {
		if res, err := b.client.Bulk(t.Context(), input, o); err != nil || res != want {
			t.Errorf("run %d: %+v, %v; want %+v", try, res, err, want)
		}
	}
	want := tasks.BatchStats{ID: "b-1", Total: 5, Queued: 2, Duplicate: 1, Rejected: 2}
	got := b.stats(t, "b-1")
	got.CreatedAt = want.CreatedAt
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestBulk_WithoutBatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, want := range []enqueue.BulkResult{{Total: 700, Enqueued: 700}, {Total: 700, Duplicate: 700}} {
		if res, err := b.client.Bulk(t.Context(), unbinds(700), enqueue.BulkOptions{}); err != nil || res != want {
			t.Errorf("%+v, %v; want %+v", res, err, want)
		}
	}
	for _, want := range []enqueue.Status{enqueue.Enqueued, enqueue.Duplicate} {
		if res, err := b.client.Unbind(t.Context(), unbindOf(5)); err != nil || res.Status != want {
			t.Errorf("a single order for one of them: %+v, %v; want it %s, since it does not wait for the file", res, err, want)
		}
	}
}

func TestBulk_TwoBatchesOfOneDevice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, id := range []string{"b-1", "b-2"} {
		if _, err := b.client.Bulk(t.Context(), unbinds(1), enqueue.BulkOptions{Batch: &batch.Spec{ID: id}}); err != nil {
			t.Fatal(err)
		}
	}
	if infos := b.queued(t)["d-0"]; len(infos) != 2 {
		t.Errorf("the device is queued %d times; want once for each batch", len(infos))
	}
}

func TestBulk_RedisForgetsScripts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	calls := 0
	res, err := b.client.Bulk(t.Context(), unbinds(5000), enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-1"}, OnItem: func(enqueue.Item) {
		if calls++; calls%1000 == 1 {
			b.rdb.ScriptFlush(t.Context())
		}
	}})
	if err != nil || res.Enqueued != 5000 {
		t.Errorf("%+v, %v; want 5000 enqueued", res, err)
	}
}

// While an input pauses, the items that it has yielded are enqueued.
func TestBulk_InputPauses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	seen := make(chan string, 10)
	next := make(chan bool)
	input := func(yield func(tasks.Task, error) bool) {
		for i := 0; ; i++ {
			if !<-next || !yield(unbindOf(i), nil) {
				return
			}
		}
	}
	o := enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-1"}, OnItem: func(item enqueue.Item) { seen <- item.ID }}
	result := make(chan error, 1)
	go func() {
		_, err := b.client.Bulk(t.Context(), input, o)
		result <- err
	}()
	for i := range 3 {
		next <- true
		select {
		case id := <-seen:
			if want := tasks.BatchIdentity("b-1", unbindOf(i)); id != want {
				t.Errorf("enqueued %s; want %s", id, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("an item was not enqueued while the input paused")
		}
	}
	close(next)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	o.OnItem = nil
	if res, err := b.client.Bulk(t.Context(), unbinds(3), o); err != nil || res.Skipped != 3 {
		t.Errorf("the same input without pauses: %+v, %v; want 3 skipped", res, err)
	}
}

func TestBulk_StopsInTime(t *testing.T) {
	t.Parallel()
	for name, hinder := range map[string]func(*bundle){
		"while the input blocks": func(*bundle) {},
		"while Redis hangs":      func(b *bundle) { b.redis.Freeze() },
	} {
		b := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		block := make(chan struct{})
		var stopped time.Time
		input := func(yield func(tasks.Task, error) bool) {
			for i := range 2000 {
				if !yield(unbindOf(i), nil) {
					return
				}
			}
			hinder(b)
			time.AfterFunc(time.Second, func() { stopped = time.Now(); cancel() })
			for i := range 2000 {
				if !yield(unbindOf(2000+i), nil) {
					return
				}
			}
			<-block
		}
		res, err := b.client.Bulk(ctx, input, enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-1"}})
		if took := time.Since(stopped); !errors.Is(err, context.Canceled) || took > 2*time.Second {
			t.Errorf("%s: %+v, %v after %s; want the context's error within 2s", name, res, err, took)
		}
		close(block)
		if name == "while Redis hangs" {
			b.redis.Thaw()
		}
		if stats := b.stats(t, "b-1"); stats.Total < res.Total || stats.Done {
			t.Errorf("%s: the batch has %+v; want it not done, with at least what was reported: %+v", name, stats, res)
		}
	}
}

func TestBulk_InputFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	broken := errors.New("the disk has failed")
	input := func(yield func(tasks.Task, error) bool) {
		_ = yield(unbindOf(0), nil) && yield(nil, broken) && yield(unbindOf(1), nil)
	}
	res, err := b.client.Bulk(t.Context(), input, enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-1"}})
	if _, ok := errors.AsType[*enqueue.InputError](err); !ok || !errors.Is(err, broken) || res.Enqueued != 1 {
		t.Errorf("%+v, %v; want an InputError, and the item before it enqueued", res, err)
	}
	if stats := b.stats(t, "b-1"); stats.Done || stats.Queued != 1 {
		t.Errorf("%+v; want one task queued, and the batch not done", stats)
	}
	if _, err := b.client.Bulk(t.Context(), func(yield func(tasks.Task, error) bool) { yield(nil, broken) }, enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-3"}}); !errors.Is(err, broken) {
		t.Errorf("an input that cannot be read: %v; want its error", err)
	}
	if _, err := batch.NewStore(b.rdb).Show(t.Context(), "b-3"); err == nil {
		t.Error("an input that cannot be read leaves a batch; want none")
	}
	if res, err := b.client.Bulk(t.Context(), unbinds(0), enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-2"}}); err != nil || res.Total != 0 || !b.stats(t, "b-2").Done {
		t.Errorf("an empty input: %+v, %v; want a batch that is done", res, err)
	}
}

func TestBulk_Delayed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var ids []string
	res, err := b.client.Bulk(t.Context(), unbinds(3), enqueue.BulkOptions{
		Options: []enqueue.Option{enqueue.In(time.Hour)},
		OnItem:  func(item enqueue.Item) { ids = append(ids, item.ID) },
	})
	if err != nil || res.Enqueued != 3 {
		t.Fatalf("%+v, %v; want 3 enqueued", res, err)
	}
	slices.Sort(ids)
	if diff := cmp.Diff([]string{"device:unbind:user-0:d-0", "device:unbind:user-0:d-1", "device:unbind:user-0:d-2"}, ids); diff != "" {
		t.Errorf("IDs (-want +got):\n%s", diff)
	}
	if info, err := b.inspector.GetQueueInfo(tasks.LaneBulk.Of(tasks.QueueUnbind)); err != nil || info.Scheduled != 3 {
		t.Errorf("%+v, %v; want 3 scheduled tasks", info, err)
	}
}

func TestBulk_StopsInTimeWhileItsBatchIsOpened(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.redis.Freeze()
	defer b.redis.Thaw()
	ctx, cancel := context.WithCancel(t.Context())
	var stopped time.Time
	time.AfterFunc(time.Second, func() { stopped = time.Now(); cancel() })
	_, err := b.client.Bulk(ctx, unbinds(600), enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-1"}})
	if took := time.Since(stopped); !errors.Is(err, context.Canceled) || took > 2*time.Second {
		t.Errorf("%v after %s; want the context's error within 2s", err, took)
	}
}

// The deadline passes while the bulk runs. Redis is not to blame, and more tries
// would not help.
func TestBulk_DeadlinePassesMeanwhile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	start := time.Now()
	now := start
	client, err := enqueue.New(enqueue.Config{Redis: b.rdb, Now: func() time.Time {
		defer func() { now = start.Add(time.Hour) }()
		return now
	}})
	if err != nil {
		t.Fatal(err)
	}
	o := enqueue.BulkOptions{Timeout: 3 * time.Second, Options: []enqueue.Option{enqueue.Deadline(start.Add(time.Minute))}}
	_, err = client.Bulk(t.Context(), unbinds(3), o)
	if err == nil || !strings.Contains(err.Error(), "the deadline is") {
		t.Errorf("%v; want an error that names the deadline", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the bulk tried for %s; want it to end at once", took)
	}
}
