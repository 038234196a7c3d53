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

// work settles the tasks of a batch from several goroutines, in no order: a
// third dies first, and half of these more than once. It counts what is settled
// at least once.
func (b *bundle) work(t *testing.T, id string, at []int64, settled *atomic.Int64) (wait func()) {
	t.Helper()
	mixed := make([]int64, len(at))
	for i := range at {
		mixed[i] = at[i*7919%len(at)] // a prime: each is there once
	}
	var wg sync.WaitGroup
	settle := func(indexes []int64, outcome tasks.Outcome) {
		var receipts []tasks.Receipt
		for _, i := range indexes {
			receipts = append(receipts, receipt(id, i, outcome))
		}
		if _, err := b.store.RecordOutcomes(t.Context(), receipts); err != nil {
			t.Error(err)
		}
	}
	for part := range slices.Chunk(mixed, (len(at)+3)/4) {
		wg.Go(func() {
			for some := range slices.Chunk(part, 7) {
				dead, discarded := some[:len(some)/3], some[:len(some)/6]
				settle(some[len(dead):], tasks.Succeeded)
				settle(dead, tasks.Dead)
				settled.Add(int64(len(some)))
				settle(discarded, tasks.Discarded)
				settle(dead, tasks.AlreadyGone)
			}
		})
	}
	return wg.Wait
}

// An export misses nothing that was settled before it began, and shows a task
// twice only if its receipt was revised meanwhile. Once the batch is done each
// task is there once.
func TestExportWhileOthersSettle(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 6000
	id, at := b.sealed(t, batch.Spec{}, n)
	var settled atomic.Int64
	wait := b.work(t, id, at, &settled)
	exports, twice := 0, 0
	for done := false; !done; exports++ {
		done = settled.Load() == n
		least := settled.Load()
		seen := map[int64]tasks.Outcome{}
		for _, r := range b.receipts(t, id, batch.ReceiptOptions{}) {
			if was, again := seen[r.Index]; again {
				if twice++; was != tasks.Dead && was != tasks.Discarded || was == r.Outcome {
					t.Errorf("%d is %s, and then %s", r.Index, was, r.Outcome)
				}
			}
			seen[r.Index] = r.Outcome
		}
		if int64(len(seen)) < least {
			t.Errorf("export %d shows %d tasks; want %d at least", exports, len(seen), least)
		}
	}
	wait()
	t.Logf("%d exports, %d receipts of which came twice", exports, twice)
	last := map[int64]int{}
	for _, r := range b.receipts(t, id, batch.ReceiptOptions{}) {
		if last[r.Index]++; r.Outcome != tasks.Succeeded && r.Outcome != tasks.AlreadyGone {
			t.Errorf("%d is %s at last", r.Index, r.Outcome)
		}
	}
	for _, index := range at {
		if last[index] != 1 {
			t.Errorf("%d is there %d times; want once", index, last[index])
		}
	}
	b.balance(t, id)
}

// Who follows sees every receipt there is, in their order, and then it ends.
func TestFollow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 4000
	id, at := b.sealed(t, batch.Spec{}, n+1)
	var settled atomic.Int64
	wait := b.work(t, id, at[:n], &settled)
	seen := 0
	var followed []tasks.Receipt
	for r, err := range b.store.Receipts(t.Context(), id, batch.ReceiptOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		followed = append(followed, r)
		if seen++; seen == n { // the last one, when the others are
			wait()
			b.settle(t, receipt(id, at[n], tasks.Succeeded))
		}
	}
	if history := b.receipts(t, id, batch.ReceiptOptions{History: true}); !slices.Equal(history, followed) {
		t.Errorf("followed %d receipts; want the %d that were written", len(followed), len(history))
	}
}

func TestFollowUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, at := b.sealed(t, batch.Spec{}, 2)
	b.settle(t, receipt(id, at[0], tasks.Succeeded))
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
		t.Errorf("%d receipts, %v; want one, and that it was canceled", n, last)
	}
}

// A batch that goes while it is read is no batch that ends there.
func TestReceiptsOfABatchThatGoesMeanwhile(t *testing.T) {
	t.Parallel()
	for _, options := range []batch.ReceiptOptions{{}, {Follow: true}, {History: true}} {
		for _, page := range []int{1, 2, 3} {
			b := setup(t)
			id, at := b.sealed(t, batch.Spec{}, 1500)
			b.settleAll(t, id, at, tasks.Succeeded)
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
				t.Errorf("%+v, gone before page %d: %d receipts and %v; want a NotFoundError", options, page, n, last)
			}
		}
	}
}

func TestReceiptsWhenRedisHangs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, at := b.sealed(t, batch.Spec{}, 1)
	b.settleAll(t, id, at, tasks.Succeeded)
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
