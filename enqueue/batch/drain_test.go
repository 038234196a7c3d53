package batch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

const openKey = "kooworker:batches:open"

// drained returns the batches that DrainCompleted reports, sorted by ID.
func (b *bundle) drained(tb testing.TB) (ids []string) {
	tb.Helper()
	_, err := b.store.DrainCompleted(tb.Context(), func(_ context.Context, stats tasks.BatchStats) error {
		if !stats.Done || stats.CompletedAt.IsZero() {
			tb.Errorf("the reported batch is %+v; want it done", stats)
		}
		ids = append(ids, stats.ID)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	slices.Sort(ids)
	return ids
}

func (b *bundle) completeBatch(tb testing.TB, spec batch.Spec) string {
	tb.Helper()
	id := b.open(tb, spec)
	if !b.closeInput(tb, id, 0) {
		tb.Fatal("the closed empty batch is not complete")
	}
	return id
}

func TestDrainCompleted_ReportsOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.open(t, batch.Spec{})
	b.closedBatch(t, batch.Spec{}, 1)
	if got := b.drained(t); len(got) != 0 {
		t.Errorf("reported %q; want nothing, since no batch is complete", got)
	}
	one, two := b.completeBatch(t, batch.Spec{}), b.completeBatch(t, batch.Spec{})
	if got := b.drained(t); !slices.Equal(got, []string{one, two}) {
		t.Errorf("reported %q; want %s and %s", got, one, two)
	}
	if got := b.drained(t); len(got) != 0 {
		t.Errorf("reported %q again; want each batch once", got)
	}
	if got := b.rdb.SCard(t.Context(), openKey).Val(); got != 2 {
		t.Errorf("%d batches are listed as open; want the two that are not complete", got)
	}
}

func TestDrainCompleted_RepeatsAfterError(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var ids []string
	for range 3 {
		ids = append(ids, b.completeBatch(t, batch.Spec{}))
	}
	failed := errors.New("the receiver fails")
	calls := 0
	_, err := b.store.DrainCompleted(t.Context(), func(_ context.Context, stats tasks.BatchStats) error {
		if calls++; stats.ID == ids[1] {
			return failed
		}
		return nil
	})
	if !errors.Is(err, failed) || !strings.Contains(err.Error(), ids[1]) || calls != 3 {
		t.Errorf("%v after %d calls of notify; want 3 calls, and the error", err, calls)
	}
	if got := b.drained(t); !slices.Equal(got, ids[1:2]) {
		t.Errorf("reported %q; want %s again", got, ids[1])
	}
}

func TestDrainCompleted_Pages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var want []string
	for i := range 250 {
		if i%3 == 0 {
			b.open(t, batch.Spec{})
		}
		want = append(want, b.completeBatch(t, batch.Spec{}))
	}
	if got := b.drained(t); !slices.Equal(got, want) {
		t.Errorf("reported %d batches; want %d", len(got), len(want))
	}
	if got := b.drained(t); len(got) != 0 {
		t.Errorf("reported %q again; want each batch once", got)
	}
}

// If Redis fails between two pages, the errors of notify are returned as well.
func TestDrainCompleted_JoinsErrors(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for range 150 {
		b.completeBatch(t, batch.Spec{})
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed := errors.New("the receiver fails")
	_, err := b.store.DrainCompleted(ctx, func(context.Context, tasks.BatchStats) error {
		cancel()
		return failed
	})
	if !errors.Is(err, failed) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want both errors", err)
	}
	if got := b.drained(t); len(got) != 150 {
		t.Errorf("then reported %d batches; want all 150", len(got))
	}
}

// A batch that expires before its completion was reported is taken off the list.
func TestDrainCompleted_DropsExpired(t *testing.T) {
	t.Parallel()
	b := setup(t)
	gone, open := b.completeBatch(t, batch.Spec{}), b.open(t, batch.Spec{})
	b.expire(t, gone)
	if got := b.drained(t); len(got) != 0 {
		t.Errorf("reported %q; want nothing, since the batch has expired", got)
	}
	if got := b.rdb.SMembers(t.Context(), openKey).Val(); !slices.Equal(got, []string{open}) {
		t.Errorf("%q are listed as open; want only %s", got, open)
	}
}

func TestDrainCompleted_ReportsBesideABatchThatCannotBeRead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	bad, good := b.completeBatch(t, batch.Spec{ID: "bad"}), b.completeBatch(t, batch.Spec{ID: "good"})
	if err := b.rdb.HSet(t.Context(), "kooworker:{batch:bad}:meta", "total", "many").Err(); err != nil {
		t.Fatal(err)
	}
	notified, err := b.store.DrainCompleted(t.Context(), func(context.Context, tasks.BatchStats) error { return nil })
	if len(notified) != 1 || notified[0].ID != good || err == nil || !strings.Contains(err.Error(), "read batch "+bad) {
		t.Errorf("reported %v, %v; want %s, and an error that names %s", notified, err, good, bad)
	}
	var listed []string
	for stats, err := range b.store.List(t.Context()) {
		if err != nil {
			listed = append(listed, "error")
			break
		}
		listed = append(listed, stats.ID)
	}
	if !slices.Equal(listed, []string{good, "error"}) {
		t.Errorf("listed %q; want %s, and then the error", listed, good)
	}
}

// Batches that were reported and have expired leave the list of all batches, also if
// nobody lists them.
func TestPruneList_DropsExpired(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var kept []string
	for range 250 { // more than a page
		kept = append(kept, b.open(t, batch.Spec{}))
	}
	const expired = 200
	for i := range expired {
		if err := b.rdb.ZAdd(t.Context(), "kooworker:batches", redis.Z{Member: fmt.Sprint("expired-", i)}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	var at batch.ListPosition
	removed := int64(0)
	for first := true; first || at != (batch.ListPosition{}); first = false {
		n, err := b.store.PruneList(t.Context(), &at)
		if err != nil {
			t.Fatal(err)
		}
		removed += n
	}
	left := b.rdb.ZRange(t.Context(), "kooworker:batches", 0, -1).Val()
	slices.Sort(left)
	if removed != expired || !slices.Equal(left, kept) {
		t.Errorf("%d are removed and %d left; want %d removed and %d left", removed, len(left), expired, len(kept))
	}
}
