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

func (b *bundle) stops(tb testing.TB, known *batch.Stops) *batch.Stops {
	tb.Helper()
	all, err := b.store.Stops(tb.Context(), known)
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

func TestCancel_WorkersAreTold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	one, two := b.open(t, batch.Spec{ID: "one"}), b.open(t, batch.Spec{ID: "two"})
	none := b.stops(t, nil)
	b.cancel(t, batch.Cancellation{Batch: one, Reason: "wrong file", By: "ann@ops"})
	b.cancel(t, batch.Cancellation{Batch: two, UserID: "u:1", Kind: tasks.KindLockRelease})
	b.cancel(t, batch.Cancellation{Batch: two, UserID: "v"})
	all := b.stops(t, none)
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
		if _, got := all.Cancelled(ref, tc.task); got != tc.want {
			t.Errorf("%s in batch %q is cancelled: %t; want %t", tasks.Identity(tc.task), tc.batch, got, tc.want)
		}
		if _, before := none.Cancelled(ref, tc.task); before {
			t.Errorf("%s in batch %q was cancelled before", tasks.Identity(tc.task), tc.batch)
		}
	}
	if c, _ := all.Cancelled(tasks.BatchRef{Batch: one}, unbind("u")); c.Reason != "wrong file" || c.By != "ann@ops" || c.ReceiptReason() != "cancelled: wrong file" {
		t.Errorf("%+v, %q; want who and why", c, c.ReceiptReason())
	}
	if again := b.stops(t, all); again != all {
		t.Error("nothing has changed; want what was known")
	}
	b.rdb.FlushAll(t.Context())
	if _, still := b.stops(t, all).Cancelled(tasks.BatchRef{Batch: one}, unbind("u")); still {
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

func TestPruneStops_KeepsWhileTheNameIsReserved(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{ID: "b"}, 1)
	b.cancel(t, batch.Cancellation{Batch: id})
	b.recordAll(t, id, indexes, tasks.Cancelled)
	if err := b.store.Delete(t.Context(), id, false); err != nil {
		t.Fatal(err)
	}
	ref, task := tasks.BatchRef{Batch: id}, tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}
	known := b.stops(t, nil)
	prune := func() *batch.Stops {
		t.Helper()
		var at batch.ListPosition
		if _, err := b.store.PruneStops(t.Context(), &at); err != nil {
			t.Fatal(err)
		}
		return b.stops(t, known)
	}
	if _, ok := prune().Cancelled(ref, task); !ok {
		t.Error("a task of a batch that was deleted may turn up; want it cancelled")
	}
	b.rdb.Del(t.Context(), "kooworker:{batch:b}:used")
	if _, ok := prune().Cancelled(ref, task); ok {
		t.Error("the name may be used again; want no cancellation")
	}
}

// A hold that somebody makes while the one before is released stays.
func TestHold_AgainWhileItIsReleased(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{ID: "b"}, 1)
	ref := tasks.BatchRef{Batch: id, Index: indexes[0]}
	hold := func(h batch.Hold) batch.Hold {
		t.Helper()
		if err := b.store.Hold(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		got, ok, err := b.store.HoldOf(t.Context(), id)
		if err != nil || !ok || got != h {
			t.Fatalf("%+v, %t, %v; want %+v", got, ok, err, h)
		}
		return got
	}
	first := hold(batch.Hold{Batch: id, Reason: "one", By: "ann@ops"})
	if _, ok := b.stops(t, nil).Held(ref, time.Now()); !ok {
		t.Error("it is not held; want it held")
	}
	ended, err := b.store.End(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := b.stops(t, nil).Held(ref, time.Now()); ok {
		t.Error("it is held; want it to run while it is released")
	}
	until := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	second := hold(batch.Hold{Batch: id, Reason: "two", By: "bob@ops", Until: until})
	if err := b.store.ForgetHold(t.Context(), ended); !errors.As(err, new(*batch.HeldAgainError)) {
		t.Errorf("%v; want a HeldAgainError", err)
	}
	if _, err := b.store.End(t.Context(), first); !errors.As(err, new(*batch.HeldAgainError)) {
		t.Errorf("%v; want a HeldAgainError", err)
	}
	if h, ok := b.stops(t, nil).Held(ref, time.Now()); !ok || h != second {
		t.Errorf("%+v, %t; want the second hold", h, ok)
	}
	if _, ok := b.stops(t, nil).Held(ref, until); ok {
		t.Error("it is held at its end; want it to run")
	}
	if err := b.store.ForgetHold(t.Context(), second); err != nil {
		t.Error(err)
	}
	if _, ok, err := b.store.HoldOf(t.Context(), id); ok || err != nil {
		t.Errorf("%t, %v; want no hold", ok, err)
	}
}
