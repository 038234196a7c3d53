package batch_test

import (
	"errors"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

func (b *bundle) cancel(tb testing.TB, c batch.Cancellation) {
	tb.Helper()
	if err := b.store.Cancel(tb.Context(), c); err != nil {
		tb.Fatal(err)
	}
}

func (b *bundle) cancellations(tb testing.TB, known *batch.Cancellations) *batch.Cancellations {
	tb.Helper()
	all, err := b.store.Cancellations(tb.Context(), known)
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

func TestCancel_WorkersAreTold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	one, two := b.open(t, batch.Spec{ID: "one"}), b.open(t, batch.Spec{ID: "two"})
	none := b.cancellations(t, nil)
	b.cancel(t, batch.Cancellation{Batch: one, Reason: "wrong file", By: "ann@ops"})
	b.cancel(t, batch.Cancellation{Batch: two, UserID: "u:1", Kind: tasks.KindLockRelease})
	b.cancel(t, batch.Cancellation{Batch: two, UserID: "v"})
	all := b.cancellations(t, none)
	unbind := func(user string) tasks.Task { return tasks.DeviceUnbind{UserID: user, DeviceID: "d"} }
	release := func(user string) tasks.Task { return tasks.LockRelease{UserID: user, LockID: "l"} }
	for _, tc := range []struct {
		batch string
		task  tasks.Task
		want  bool
	}{
		{one, unbind("u"), true}, {one, tasks.UserOffboard{UserID: "x"}, true},
		{two, release("u:1"), true}, {two, unbind("u:1"), false}, {two, release("u"), false},
		{two, unbind("v"), true}, {two, release("v"), true}, {"three", unbind("v"), false}, {"", unbind("v"), false},
	} {
		ref := tasks.BatchRef{Batch: tc.batch}
		if _, got := all.Of(ref, tc.task); got != tc.want {
			t.Errorf("%s in batch %q is cancelled: %t; want %t", tasks.Identity(tc.task), tc.batch, got, tc.want)
		}
		if _, before := none.Of(ref, tc.task); before {
			t.Errorf("%s in batch %q was cancelled before", tasks.Identity(tc.task), tc.batch)
		}
	}
	if c, _ := all.Of(tasks.BatchRef{Batch: one}, unbind("u")); c.Reason != "wrong file" || c.By != "ann@ops" || c.ReceiptReason() != "cancelled: wrong file" {
		t.Errorf("%+v, %q; want who and why", c, c.ReceiptReason())
	}
	if again := b.cancellations(t, all); again != all {
		t.Error("nothing has changed; want what was known")
	}
	b.rdb.FlushAll(t.Context())
	if _, still := b.cancellations(t, all).Of(tasks.BatchRef{Batch: one}, unbind("u")); still {
		t.Error("Redis was emptied; want nothing cancelled")
	}
}

func TestCancel_ProducersAreTold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const items = batch.ChunkSize + 3
	all := digests(input("", items))
	id := b.open(t, batch.Spec{ID: "b"})
	b.claim(t, id, 0, chunkOf(all, 0))
	b.cancel(t, batch.Cancellation{Batch: id, UserID: "u"})
	b.claim(t, id, 0, chunkOf(all, 0)) // a part of the batch goes on
	b.cancel(t, batch.Cancellation{Batch: id})
	for n := range int64(2) {
		_, err := b.store.ClaimChunk(t.Context(), id, n, chunkOf(all, int(n)))
		if cancelled, ok := errors.AsType[*batch.CancelledError](err); !ok || cancelled.Hint() == "" {
			t.Errorf("claim of chunk %d: %v; want a CancelledError with a hint", n, err)
		}
	}
	missing := batch.Cancellation{Batch: "never"}
	if err := b.store.Cancel(t.Context(), missing); !errors.As(err, new(*batch.NotFoundError)) {
		t.Errorf("%v; want a NotFoundError", err)
	}
}

// A cancelled task stays cancelled, whatever a late worker says.
func TestCancelRest_RecordsWhatIsLost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const items = 5000
	id, indexes := b.closedBatch(t, batch.Spec{Keep: time.Hour}, items)
	b.recordOutcomes(t, receipt(id, indexes[0], tasks.Succeeded), receipt(id, indexes[4999], tasks.Dead), receipt(id, indexes[7], tasks.Cancelled))
	c := batch.Cancellation{Batch: id, Reason: "lost"}
	b.cancel(t, c)
	n, err := b.store.CancelRest(t.Context(), c)
	if err != nil || n != items-2 {
		t.Errorf("%d, %v; want %d", n, err, items-2)
	}
	if n, err := b.store.CancelRest(t.Context(), c); err != nil || n != 0 {
		t.Errorf("again: %d, %v; want 0", n, err)
	}
	b.recordOutcomes(t, receipt(id, indexes[9], tasks.Succeeded), receipt(id, indexes[4999], tasks.Dead))
	stats := b.stats(t, id)
	if stats.Cancelled != items-1 || stats.Succeeded != 1 || !stats.Done || stats.CompletedAt.IsZero() || stats.Failed() != items-1 {
		t.Errorf("%+v; want it done, with %d cancelled", stats, items-1)
	}
	b.wantTTLs(t, id, time.Hour, "meta", "receipts", "revised", "slots", "states", "users")
	seen := 0
	for r, err := range b.store.Receipts(t.Context(), id, batch.ReceiptOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Index == indexes[9] && (r.Outcome != tasks.Cancelled || r.Reason != "cancelled: lost" || r.UserID != "") {
			t.Errorf("%+v; want it cancelled, and nobody named", r)
		}
		seen++
	}
	if seen != items {
		t.Errorf("%d receipts; want %d", seen, items)
	}
}

func TestPruneCancelled_KeepsWhileTheNameIsReserved(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{ID: "b"}, 1)
	b.cancel(t, batch.Cancellation{Batch: id})
	b.recordAll(t, id, indexes, tasks.Cancelled)
	if err := b.store.Delete(t.Context(), id, false); err != nil {
		t.Fatal(err)
	}
	ref, task := tasks.BatchRef{Batch: id}, tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}
	known := b.cancellations(t, nil)
	prune := func() *batch.Cancellations {
		t.Helper()
		var at batch.ListPosition
		if _, err := b.store.PruneCancelled(t.Context(), &at); err != nil {
			t.Fatal(err)
		}
		return b.cancellations(t, known)
	}
	if _, ok := prune().Of(ref, task); !ok {
		t.Error("a task of a batch that was deleted may turn up; want it cancelled")
	}
	b.rdb.Del(t.Context(), "kooworker:{batch:b}:used")
	if _, ok := prune().Of(ref, task); ok {
		t.Error("the name may be used again; want no cancellation")
	}
}
