package batch_test

import (
	"slices"
	"testing"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// A Redis that takes nothing more refuses a step as a whole: never the state
// without its counter.
func TestAFullRedis(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	at := b.queue(t, id, 3)
	b.settle(t, receipt(id, at[0], tasks.Dead))
	before, other := b.balance(t, id), b.open(t, batch.Spec{})
	limit := func(bytes string) {
		if err := b.rdb.ConfigSet(t.Context(), "maxmemory", bytes).Err(); err != nil {
			t.Fatal(err)
		}
	}
	limit("1")
	all := digests(input("", 3+batch.ChunkSize))
	_, _, opened := b.store.Open(t.Context(), batch.Spec{})
	_, _, claimed := b.store.Claim(t.Context(), id, 0, all[:4])
	_, settled := b.store.RecordOutcomes(t.Context(), []tasks.Receipt{receipt(id, at[0], tasks.Discarded), receipt(id, at[1], tasks.Succeeded)})
	_, sealed := b.store.CloseInput(t.Context(), id, 3)
	for step, err := range map[string]error{
		"open": opened, "claim": claimed, "settle": settled, "seal": sealed,
		"mark": b.store.Mark(t.Context(), id, []batch.Mark{{Index: at[2] + 1, State: batch.Queued}}, nil),
	} {
		if err == nil {
			t.Errorf("%s: no error", step)
		}
	}
	// What it has can be read, and then be deleted to make room.
	if after := b.balance(t, id); after != before {
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
	// What deletes its last note first may go on, or not: but as a whole.
	err := b.store.NextRound(t.Context(), tasks.BatchRef{Batch: id, Index: at[1]}, "p", 1, unbinds("a"))
	if got := b.balance(t, id); err != nil && got != before || err == nil && got.Queued != before.Queued+1 {
		t.Errorf("%+v after %v; before it was %+v", got, err, before)
	}
	limit("0")
	b.claim(t, id, 0, all[:4])
	b.settleAll(t, id, at, tasks.Succeeded)
	b.balance(t, id)
}
