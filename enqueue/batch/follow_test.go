package batch_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

func xadd(id string, values []string) *redis.XAddArgs {
	return &redis.XAddArgs{Stream: "kooworker:{batch:" + id + "}:receipts", Values: values}
}

// work records outcomes of a batch's tasks from several goroutines, in no order.
// A third of the tasks is dead first, and half of these are discarded; all succeed
// or are already gone at last. recorded counts the tasks that have an outcome.
func (b *bundle) work(t *testing.T, id string, indexes []int64, recorded *atomic.Int64) (wait func()) {
	t.Helper()
	mixed := make([]int64, len(indexes))
	for i := range indexes {
		mixed[i] = indexes[i*7919%len(indexes)] // 7919 is a prime, so each index occurs once
	}
	var wg sync.WaitGroup
	record := func(indexes []int64, outcome tasks.Outcome) {
		var receipts []tasks.Receipt
		for _, i := range indexes {
			receipts = append(receipts, receipt(id, i, outcome))
		}
		if _, _, err := b.store.RecordOutcomes(t.Context(), receipts); err != nil {
			t.Error(err)
		}
	}
	for part := range slices.Chunk(mixed, (len(indexes)+3)/4) {
		wg.Go(func() {
			for some := range slices.Chunk(part, 7) {
				dead, discarded := some[:len(some)/3], some[:len(some)/6]
				record(some[len(dead):], tasks.Succeeded)
				record(dead, tasks.Dead)
				recorded.Add(int64(len(some)))
				record(discarded, tasks.Discarded)
				record(dead, tasks.AlreadyGone)
			}
		})
	}
	return wg.Wait
}

// An export contains every outcome that was recorded before it began. It contains
// a task twice only if its outcome was revised meanwhile. Once the batch is done,
// it contains each task once.
func TestReceipts_WhileOutcomesAreRecorded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 6000
	id, indexes := b.closedBatch(t, batch.Spec{}, n)
	var recorded atomic.Int64
	wait := b.work(t, id, indexes, &recorded)
	exports, twice := 0, 0
	for done := false; !done; exports++ {
		done = recorded.Load() == n
		least := recorded.Load()
		seen := map[int64]tasks.Outcome{}
		for _, r := range b.receipts(t, id, batch.ReceiptOptions{}) {
			if was, again := seen[r.Index]; again {
				if twice++; was != tasks.Dead && was != tasks.Discarded || was == r.Outcome {
					t.Errorf("task %d is first %s and then %s; want two receipts only for a revision", r.Index, was, r.Outcome)
				}
			}
			seen[r.Index] = r.Outcome
		}
		if int64(len(seen)) < least {
			t.Errorf("export %d contains %d tasks; want at least %d", exports, len(seen), least)
		}
	}
	wait()
	t.Logf("%d exports, %d tasks occurred twice", exports, twice)
	last := map[int64]int{}
	for _, r := range b.receipts(t, id, batch.ReceiptOptions{}) {
		if last[r.Index]++; r.Outcome != tasks.Succeeded && r.Outcome != tasks.AlreadyGone {
			t.Errorf("task %d is %s at last; want succeeded or already_gone", r.Index, r.Outcome)
		}
	}
	for _, index := range indexes {
		if last[index] != 1 {
			t.Errorf("task %d has %d receipts; want one", index, last[index])
		}
	}
	b.stats(t, id)
}

// Follow yields every receipt in order, and ends when the batch is done.
func TestReceipts_Follow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 4000
	id, indexes := b.closedBatch(t, batch.Spec{}, n+1)
	var recorded atomic.Int64
	wait := b.work(t, id, indexes[:n], &recorded)
	seen := 0
	var followed []tasks.Receipt
	for r, err := range b.store.Receipts(t.Context(), id, batch.ReceiptOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		followed = append(followed, r)
		if seen++; seen == n { // record the last task when all others have an outcome
			wait()
			b.recordOutcomes(t, receipt(id, indexes[n], tasks.Succeeded))
		}
	}
	if history := b.receipts(t, id, batch.ReceiptOptions{History: true}); !slices.Equal(history, followed) {
		t.Errorf("followed %d receipts; want the %d that were written", len(followed), len(history))
	}
}

func TestReceipts_FollowEndsWithContext(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 2)
	b.recordOutcomes(t, receipt(id, indexes[0], tasks.Succeeded))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	n := 0
	for _, err := range b.store.Receipts(ctx, id, batch.ReceiptOptions{Follow: true}) {
		if last = err; err == nil {
			n++
			time.AfterFunc(50*time.Millisecond, cancel)
		}
	}
	if n != 1 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d receipts, %v; want one receipt and the context's error", n, last)
	}
}

// If a batch is deleted during the reading, that must not look like the end of its
// receipts.
func TestReceipts_BatchDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	for _, options := range []batch.ReceiptOptions{{}, {Follow: true}, {History: true}} {
		for _, page := range []int{1, 2, 3} {
			b := setup(t)
			id, indexes := b.closedBatch(t, batch.Spec{}, 1500)
			b.recordAll(t, id, indexes, tasks.Succeeded)
			pages := 0
			store := b.hooked("xrange", func() {
				if pages++; pages == page {
					if err := b.store.Delete(t.Context(), id, false); err != nil {
						t.Error(err)
					}
				}
			})
			var last error
			n := 0
			for _, err := range store.Receipts(t.Context(), id, options) {
				if last = err; err == nil {
					n++
				}
			}
			if _, ok := errors.AsType[*batch.NotFoundError](last); !ok {
				t.Errorf("%+v, deleted before page %d: %d receipts and %v; want a NotFoundError", options, page, n, last)
			}
		}
	}
}

func TestReceipts_RedisHangs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 1)
	b.recordAll(t, id, indexes, tasks.Succeeded)
	b.redis.Freeze()
	defer b.redis.Thaw()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	var failed error
	for _, err := range b.store.Receipts(ctx, id, batch.ReceiptOptions{Follow: true}) {
		failed = errors.Join(failed, err)
	}
	if took := time.Since(start); failed == nil || took > 2*time.Second {
		t.Errorf("%v after %s; want an error by the deadline", failed, took)
	}
}
