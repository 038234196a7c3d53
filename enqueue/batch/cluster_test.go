package batch_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// setupCluster starts a cluster of one node. Like a node of a larger cluster it
// refuses commands that touch keys of two slots.
func setupCluster(t *testing.T) *bundle {
	t.Helper()
	c := redistest.StartCluster(t, 1, false)
	rdb := c.Client()
	return &bundle{store: batch.NewStore(rdb), rdb: rdb, redis: c.Masters[0]}
}

func TestStore_InACluster(t *testing.T) {
	t.Parallel()
	b := setupCluster(t)
	ids := make([]string, 12)
	for i := range ids { // each batch has a slot of its own
		id, indexes := b.closedBatch(t, batch.Spec{}, 600)
		parent := tasks.BatchRef{Batch: id, Index: indexes[599]}
		b.nextRound(t, parent, 1, "a", "b")
		b.recordAll(t, id, indexes, tasks.Dead)
		completed := b.recordAll(t, id, append(slices.Collect(maps.Values(b.children(t, parent).Indexes)), indexes[0]), tasks.Succeeded)
		if !slices.Equal(completed, []string{id}) {
			t.Errorf("completed %q; want %s", completed, id)
		}
		if err := b.store.RoundEnqueued(t.Context(), parent, "p", 1); err != nil {
			t.Error(err)
		}
		if err := b.store.Forget(t.Context(), parent, "p"); err != nil {
			t.Error(err)
		}
		if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: 602, Succeeded: 3, Dead: 599, Done: true}); got != want {
			t.Errorf("%+v; want %+v", got, want)
		}
		if got := len(b.receipts(t, id, batch.ReceiptOptions{})); got != 602 {
			t.Errorf("%d receipts; want 602", got)
		}
		if got, err := b.store.Wait(t.Context(), id, nil); err != nil || !got.Done {
			t.Errorf("%+v, %v; want it done", got, err)
		}
		ids[i] = id
	}
	var dead []tasks.Receipt
	for _, id := range ids {
		dead = append(dead, receipt(id, 1, tasks.Discarded))
	}
	b.recordOutcomes(t, dead...)
	b.nextRound(t, tasks.BatchRef{}, 1, "a")
	if got := b.children(t, tasks.BatchRef{}); got.Round != 1 {
		t.Errorf("%+v; want round 1 of a task without a batch", got)
	}
	if got := b.drained(t); !slices.Equal(got, ids) {
		t.Errorf("completions of %q were reported; want %q", got, ids)
	}
	b.expire(t, ids[0])
	if err := b.store.Delete(t.Context(), ids[1], false); err != nil {
		t.Error(err)
	}
	want := slices.Clone(ids[2:])
	slices.Reverse(want)
	if got := b.list(t); !slices.Equal(got, want) {
		t.Errorf("%q are listed; want %q", got, want)
	}
}

// All keys of a batch have the same slot, whatever its ID is.
func TestKeys_ShareASlot(t *testing.T) {
	t.Parallel()
	b := setupCluster(t)
	for _, id := range []string{"a", "2026-01-31", "a.b_c-d", strings.Repeat("x", 64), "0"} {
		b.closedBatch(t, batch.Spec{ID: id}, 1)
		b.nextRound(t, tasks.BatchRef{Batch: id}, 1, "a")
		b.recordAll(t, id, []int64{0, batch.ChunkSize}, tasks.Dead)
		b.recordOutcomes(t, receipt(id, 0, tasks.Succeeded))
		names := slices.Sorted(maps.Keys(b.ttls(t, id)))
		if want := []string{"brood:0", "meta", "receipts", "revised", "slots", "states", "used", "users"}; !slices.Equal(names, want) {
			t.Errorf("the keys are %q; want %q", names, want)
		}
		slots := map[int64]bool{}
		for _, name := range names {
			slots[b.rdb.ClusterKeySlot(t.Context(), "kooworker:{batch:"+id+"}:"+name).Val()] = true
		}
		if len(slots) != 1 {
			t.Errorf("the keys of batch %q have %d slots; want 1", id, len(slots))
		}
	}
}
