package batch_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// wantTTLs requires that a batch has these keys, and that all of them expire when
// its time to be kept has passed.
func (b *bundle) wantTTLs(tb testing.TB, id string, keep time.Duration, want ...string) {
	tb.Helper()
	ttls := b.ttls(tb, id)
	if used, there := ttls["used"]; !there || used <= 90*24*time.Hour {
		tb.Errorf("the name is reserved for %s; want 90 days more than the other keys", used)
	}
	delete(ttls, "used")
	if got := slices.Sorted(maps.Keys(ttls)); !slices.Equal(got, want) {
		tb.Errorf("the keys are %q; want %q", got, want)
	}
	for name, ttl := range ttls {
		if ttl <= keep-time.Minute || ttl > keep {
			tb.Errorf("%s expires in %s; want %s", name, ttl, keep)
		}
	}
}

func TestRetention_IncompleteBatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{Keep: time.Hour}, 3)
	b.recordOutcomes(t, receipt(id, indexes[0], tasks.Dead))
	b.recordOutcomes(t, receipt(id, indexes[0], tasks.Succeeded), receipt(id, indexes[1], tasks.Succeeded))
	for name, ttl := range b.ttls(t, id) {
		if ttl >= 0 {
			t.Errorf("%s expires in %s; want it to stay until the batch is complete", name, ttl)
		}
	}
	b.recordOutcomes(t, receipt(id, indexes[2], tasks.Succeeded))
	b.wantTTLs(t, id, time.Hour, "meta", "receipts", "revised", "slots", "states", "users")
}

func TestRetention_CompleteBatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const keep = 2 * time.Hour
	id, indexes := b.closedBatch(t, batch.Spec{Keep: keep}, 2)
	b.recordAll(t, id, indexes, tasks.Dead)
	b.wantTTLs(t, id, keep, "meta", "receipts", "slots", "states", "users")
	// A replay has another outcome, which creates the key revised.
	b.recordOutcomes(t, receipt(id, indexes[1], tasks.Succeeded))
	b.wantTTLs(t, id, keep, "meta", "receipts", "revised", "slots", "states", "users")
	// A replay of an off-boarding finds children.
	b.nextRound(t, tasks.BatchRef{Batch: id, Index: indexes[0]}, 1, "a")
	if ttl := b.ttls(t, id)["brood:0"]; ttl <= 0 {
		t.Errorf("the record of its children expires in %s; want it to expire", ttl)
	}
	if err := b.store.Forget(t.Context(), tasks.BatchRef{Batch: id, Index: indexes[0]}, "p"); err != nil {
		t.Fatal(err)
	}
	if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: 3, Succeeded: 1, Dead: 1, Queued: 1}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
	if got := b.recordOutcomes(t, receipt(id, batch.ChunkSize, tasks.Succeeded)); len(got) != 0 {
		t.Errorf("completed %q; want nothing, since the batch was complete before", got)
	}
	b.wantTTLs(t, id, keep, "meta", "receipts", "revised", "slots", "states", "users")
	b.closeInput(t, id, 2)
	b.open(t, batch.Spec{ID: id, Keep: time.Minute})
	b.wantTTLs(t, id, keep, "meta", "receipts", "revised", "slots", "states", "users")
}

// Keys that are created after the completion expire with the others.
func TestRetention_KeysAddedLater(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.completeBatch(t, batch.Spec{Keep: time.Hour})
	b.wantTTLs(t, id, time.Hour, "meta")
	b.nextRound(t, tasks.BatchRef{Batch: id}, 1, "a")
	if err := b.store.Forget(t.Context(), tasks.BatchRef{Batch: id}, "p"); err != nil {
		t.Fatal(err)
	}
	b.wantTTLs(t, id, time.Hour, "meta", "states")
	b.recordOutcomes(t, receipt(id, 0, tasks.Dead))
	b.recordOutcomes(t, receipt(id, 0, tasks.Succeeded))
	b.wantTTLs(t, id, time.Hour, "meta", "receipts", "revised", "states", "users")
}

func TestRetention_Default(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.wantTTLs(t, b.completeBatch(t, batch.Spec{}), 30*24*time.Hour, "meta")
	b.wantTTLs(t, b.completeBatch(t, batch.Spec{Keep: time.Minute}), time.Minute, "meta")
}

func TestList_DropsExpired(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var want []string
	for i := range 230 {
		id := b.completeBatch(t, batch.Spec{})
		if i%2 == 0 {
			b.expire(t, id)
		} else {
			want = append(want, id)
		}
	}
	slices.Reverse(want)
	if got := b.list(t); !slices.Equal(got, want) {
		t.Errorf("%d batches are listed; want %d", len(got), len(want))
	}
	for key, n := range map[string]int64{"kooworker:batches": b.rdb.ZCard(t.Context(), "kooworker:batches").Val(), openKey: b.rdb.SCard(t.Context(), openKey).Val()} {
		if n != int64(len(want)) {
			t.Errorf("%s has %d; want %d", key, n, len(want))
		}
	}
}

func TestRecordOutcomes_BatchGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 2)
	b.recordAll(t, id, indexes, tasks.Dead)
	b.expire(t, id)
	if got, _, err := b.store.RecordOutcomes(t.Context(), []tasks.Receipt{receipt(id, indexes[0], tasks.Succeeded), receipt("never", 7, tasks.Dead)}); err != nil || len(got) != 0 {
		t.Errorf("completed %q, %v; want nothing", got, err)
	}
	if got := append(slices.Collect(maps.Keys(b.ttls(t, id))), slices.Collect(maps.Keys(b.ttls(t, "never")))...); len(got) != 0 {
		t.Errorf("the keys are %q; want none", got)
	}
}
