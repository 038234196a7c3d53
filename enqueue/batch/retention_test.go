package batch_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// expiring wants these keys of a batch, all of which expire together, and none
// later than it was to be kept.
func (b *bundle) expiring(tb testing.TB, id string, keep time.Duration, want ...string) {
	tb.Helper()
	ttls := b.ttls(tb, id)
	if used, there := ttls["used"]; !there || used <= 90*24*time.Hour {
		tb.Errorf("the name is kept for %s; want it to outlive the others by 90 days", used)
	}
	delete(ttls, "used")
	if got := slices.Sorted(maps.Keys(ttls)); !slices.Equal(got, want) {
		tb.Errorf("there are %q; want %q", got, want)
	}
	for name, ttl := range ttls {
		if ttl <= keep-time.Minute || ttl > keep {
			tb.Errorf("%s lives for %s; want %s", name, ttl, keep)
		}
	}
}

func TestNothingExpiresBeforeItIsComplete(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, at := b.sealed(t, batch.Spec{Keep: time.Hour}, 3)
	b.settle(t, receipt(id, at[0], tasks.Dead))
	b.settle(t, receipt(id, at[0], tasks.Succeeded), receipt(id, at[1], tasks.Succeeded))
	for name, ttl := range b.ttls(t, id) {
		if ttl >= 0 {
			t.Errorf("%s expires in %s", name, ttl)
		}
	}
	b.settle(t, receipt(id, at[2], tasks.Succeeded))
	b.expiring(t, id, time.Hour, "meta", "receipts", "revised", "slots", "states")
}

func TestAllOfACompleteBatchExpires(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const keep = 2 * time.Hour
	id, at := b.sealed(t, batch.Spec{Keep: keep}, 2)
	b.settleAll(t, id, at, tasks.Dead)
	b.expiring(t, id, keep, "meta", "receipts", "slots", "states")
	// A replay comes to another end, and so there is a key that was not.
	b.settle(t, receipt(id, at[1], tasks.Succeeded))
	b.expiring(t, id, keep, "meta", "receipts", "revised", "slots", "states")
	// So does one that finds children first.
	b.nextRound(t, tasks.BatchRef{Batch: id, Index: at[0]}, 1, "a")
	if ttl := b.ttls(t, id)["brood:0"]; ttl <= 0 {
		t.Errorf("the note of its children lives for %s", ttl)
	}
	if err := b.store.Forget(t.Context(), tasks.BatchRef{Batch: id, Index: at[0]}, "p"); err != nil {
		t.Fatal(err)
	}
	if got, want := standing(b.balance(t, id)), (tasks.BatchStats{Total: 3, Succeeded: 1, Dead: 1, Queued: 1}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
	if got := b.settle(t, receipt(id, batch.ChunkSize, tasks.Succeeded)); len(got) != 0 {
		t.Errorf("completed %q; it was complete before", got)
	}
	b.expiring(t, id, keep, "meta", "receipts", "revised", "slots", "states")
	b.seal(t, id, 2)
	b.open(t, batch.Spec{ID: id, Keep: time.Minute})
	b.expiring(t, id, keep, "meta", "receipts", "revised", "slots", "states")
}

// Nor does a key outlive the batch that it did not have when it was complete.
func TestWhatComesToAnEmptyBatchExpiresToo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.complete(t, batch.Spec{Keep: time.Hour})
	b.expiring(t, id, time.Hour, "meta")
	b.nextRound(t, tasks.BatchRef{Batch: id}, 1, "a")
	if err := b.store.Forget(t.Context(), tasks.BatchRef{Batch: id}, "p"); err != nil {
		t.Fatal(err)
	}
	b.expiring(t, id, time.Hour, "meta", "states")
	b.settle(t, receipt(id, 0, tasks.Dead))
	b.settle(t, receipt(id, 0, tasks.Succeeded))
	b.expiring(t, id, time.Hour, "meta", "receipts", "revised", "states")
}

func TestTheDefaultIsThirtyDays(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.expiring(t, b.complete(t, batch.Spec{}), 30*24*time.Hour, "meta")
	b.expiring(t, b.complete(t, batch.Spec{Keep: time.Minute}), time.Minute, "meta")
}

func TestListDropsWhatHasExpired(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var want []string
	for i := range 230 {
		id := b.complete(t, batch.Spec{})
		if i%2 == 0 {
			b.expire(t, id)
		} else {
			want = append(want, id)
		}
	}
	slices.Reverse(want)
	if got := b.list(t); !slices.Equal(got, want) {
		t.Errorf("%d are listed; want %d", len(got), len(want))
	}
	for key, n := range map[string]int64{"kooworker:batches": b.rdb.ZCard(t.Context(), "kooworker:batches").Val(), openKey: b.rdb.SCard(t.Context(), openKey).Val()} {
		if n != int64(len(want)) {
			t.Errorf("%s has %d; want %d", key, n, len(want))
		}
	}
}

func TestSettleIntoABatchThatIsGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, at := b.sealed(t, batch.Spec{}, 2)
	b.settleAll(t, id, at, tasks.Dead)
	b.expire(t, id)
	if got, err := b.store.RecordOutcomes(t.Context(), []tasks.Receipt{receipt(id, at[0], tasks.Succeeded), receipt("never", 7, tasks.Dead)}); err != nil || len(got) != 0 {
		t.Errorf("completed %q, %v; want nothing", got, err)
	}
	if got := append(slices.Collect(maps.Keys(b.ttls(t, id))), slices.Collect(maps.Keys(b.ttls(t, "never")))...); len(got) != 0 {
		t.Errorf("there are %q; want no key of theirs", got)
	}
}
