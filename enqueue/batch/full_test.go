package batch_test

import (
	"slices"
	"testing"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// A Redis whose memory is full refuses each step as a whole. It never stores a
// state without its counter.
func TestStore_RedisIsFull(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	indexes := b.queue(t, id, 3)
	b.recordOutcomes(t, receipt(id, indexes[0], tasks.Dead))
	before, other := b.stats(t, id), b.open(t, batch.Spec{})
	limit := func(bytes string) {
		if err := b.rdb.ConfigSet(t.Context(), "maxmemory", bytes).Err(); err != nil {
			t.Fatal(err)
		}
	}
	limit("1")
	all := digests(input("", 3+batch.ChunkSize))
	_, _, opened := b.store.Open(t.Context(), batch.Spec{})
	_, claimed := b.store.ClaimChunk(t.Context(), id, 0, all[:4])
	_, _, recorded := b.store.RecordOutcomes(t.Context(), []tasks.Receipt{receipt(id, indexes[0], tasks.Discarded), receipt(id, indexes[1], tasks.Succeeded)})
	closed := b.store.CloseInput(t.Context(), id, 3)
	for step, err := range map[string]error{
		"open": opened, "claim": claimed, "record": recorded, "close": closed,
		"mark": b.store.Mark(t.Context(), id, []batch.Mark{{Index: indexes[2] + 1, State: batch.Queued}}, nil),
	} {
		if err == nil {
			t.Errorf("%s: no error; want Redis to refuse it", step)
		}
	}
	// The batch can still be read, and others can be deleted to make room.
	if after := b.stats(t, id); after != before {
		t.Errorf("%+v; want it to stay at %+v", after, before)
	}
	if got := b.receipts(t, id, batch.ReceiptOptions{}); len(got) != 1 {
		t.Errorf("%d receipts; want 1", len(got))
	}
	if err := b.store.Delete(t.Context(), other, true); err != nil {
		t.Error(err)
	}
	if got := b.list(t); !slices.Equal(got, []string{id}) {
		t.Errorf("%q are listed; want %s", got, id)
	}
	// NextRound deletes the former record first, so Redis may accept it. It must be
	// carried out as a whole or not at all.
	err := b.store.NextRound(t.Context(), tasks.BatchRef{Batch: id, Index: indexes[1]}, "p", 1, tasks.LaneSingle, unbinds("a"))
	if got := b.stats(t, id); err != nil && got != before || err == nil && got.Queued != before.Queued+1 {
		t.Errorf("the batch is %+v after NextRound (%v); before it was %+v", got, err, before)
	}
	limit("0")
	b.claim(t, id, 0, all[:4])
	b.recordAll(t, id, indexes, tasks.Succeeded)
	b.stats(t, id)
}
