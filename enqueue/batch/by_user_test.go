package batch_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

func (b *bundle) ofUser(tb testing.TB, user string) (all []tasks.Receipt) {
	tb.Helper()
	for r, err := range b.store.OfUser(tb.Context(), user) {
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// receiptOf is a receipt of another user than receipt's.
func receiptOf(user, id string, index int64, outcome tasks.Outcome) tasks.Receipt {
	r := receipt(id, index, outcome)
	r.UserID = user
	return r
}

func TestOfUser(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first, indexes := b.closedBatch(t, batch.Spec{ID: "first"}, 300)
	b.recordAll(t, first, indexes[1:], tasks.Succeeded)
	b.recordOutcomes(t, receiptOf("me", first, 0, tasks.Dead))
	b.recordOutcomes(t, receiptOf("me", first, 0, tasks.Succeeded))
	second, _ := b.closedBatch(t, batch.Spec{ID: "second"}, 2)
	offboard := receiptOf("me", second, 1, tasks.Succeeded)
	offboard.Kind = tasks.KindUserOffboard
	b.nextRound(t, tasks.BatchRef{Batch: second, Index: 1}, 1, "child")
	b.recordOutcomes(t, receiptOf("me", second, 0, tasks.AlreadyGone), receiptOf("me", second, batch.ChunkSize, tasks.Cancelled), offboard)
	b.completeBatch(t, batch.Spec{})
	b.open(t, batch.Spec{ID: "none", NoReceipts: true})

	type row struct {
		Batch   string
		Index   int64
		Outcome tasks.Outcome
		Source  tasks.ReceiptSource
	}
	var got []row
	for _, r := range b.ofUser(t, "me") {
		got = append(got, row{r.Batch, r.Index, r.Outcome, r.Source})
	}
	want := []row{
		{"first", 0, tasks.Dead, tasks.FromBatch},
		{"first", 0, tasks.Succeeded, tasks.FromDeadLetter},
		{"second", 0, tasks.AlreadyGone, tasks.FromBatch},
		{"second", batch.ChunkSize, tasks.Cancelled, tasks.FromOffboarding},
		{"second", 1, tasks.Succeeded, tasks.FromOffboarding},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := len(b.ofUser(t, "u")); got != 299 {
		t.Errorf("the other user has %d receipts; want 299", got)
	}
}

func TestForgetUser(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]func(*testing.T) *bundle{"one server": func(t *testing.T) *bundle { t.Helper(); return setup(t) }, "cluster": setupCluster} {
		b := setup(t)
		for i := range 3 {
			id, indexes := b.closedBatch(t, batch.Spec{ID: fmt.Sprint("b", i), Keep: time.Hour}, 600)
			for _, index := range indexes {
				b.recordOutcomes(t, receiptOf(fmt.Sprint("u", index%100), id, index, tasks.Dead))
			}
			b.recordOutcomes(t, receiptOf("u3", id, 3, tasks.Succeeded))
		}
		before := b.stats(t, "b1")
		for _, want := range []int64{3 * 7, 0} {
			if got, err := b.store.ForgetUser(t.Context(), "u3"); got != want || err != nil {
				t.Errorf("%s: forgot %d, %v; want %d", name, got, err, want)
			}
		}
		if got := b.ofUser(t, "u3"); got != nil {
			t.Errorf("%s: %v; want none", name, got)
		}
		if got := b.stats(t, "b1"); got != before { // the audit is clean as well
			t.Errorf("%s: %+v; want %+v", name, got, before)
		}
		if got := len(b.receipts(t, "b1", batch.ReceiptOptions{History: true})); got != 594 {
			t.Errorf("%s: %d receipts; want 594", name, got)
		}
		for i := range 100 {
			if got := len(b.ofUser(t, fmt.Sprint("u", i))); i != 3 && got != 18 {
				t.Fatalf("%s: user %d has %d receipts; want 18", name, i, got)
			}
		}
		b.wantTTLs(t, "b1", time.Hour, "meta", "receipts", "revised", "slots", "states", "users")
	}
}

// The index goes with its batch, also if a version completed the batch that does not
// know the index.
func TestUserIndex_GoesWithTheBatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	deleted, expired := b.completeBatch(t, batch.Spec{}), b.completeBatch(t, batch.Spec{})
	for _, id := range []string{deleted, expired} {
		b.nextRound(t, tasks.BatchRef{Batch: id}, 1, "a")
		b.recordOutcomes(t, receipt(id, 0, tasks.Succeeded))
	}
	if err := b.store.Delete(t.Context(), deleted, false); err != nil {
		t.Fatal(err)
	}
	for _, key := range b.rdb.Keys(t.Context(), "kooworker:{batch:"+expired+"}:*").Val() {
		b.rdb.Persist(t.Context(), key)
	}
	b.rdb.Del(t.Context(), "kooworker:{batch:"+expired+"}:meta")
	var at batch.ListPosition
	if _, err := b.store.PruneList(t.Context(), &at); err != nil {
		t.Fatal(err)
	}
	if keys := b.rdb.Keys(t.Context(), "*:users").Val(); len(keys) != 0 {
		t.Errorf("%q are left; want none", keys)
	}
}

// 100,000 receipts in 20 batches: what the index costs, and how long a user is
// looked for.
func TestOfUser_Memory(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const batches, each, together = 20, 5_000, 500
	var receipts []tasks.Receipt
	for n := range batches {
		id, indexes := b.closedBatch(t, batch.Spec{ID: fmt.Sprint("b", n)}, each)
		for some := range slices.Chunk(indexes, together) {
			receipts = receipts[:0]
			for _, index := range some {
				receipts = append(receipts, receiptOf(fmt.Sprint("user-", n*each+int(index)/3), id, index, tasks.Succeeded))
			}
			b.recordOutcomes(t, receipts...)
		}
	}
	var bytes int64
	for n := range batches {
		bytes += b.rdb.MemoryUsage(t.Context(), fmt.Sprintf("kooworker:{batch:b%d}:users", n)).Val()
	}
	began := time.Now()
	found := len(b.ofUser(t, "user-56000"))
	took := time.Since(began)
	t.Logf("%.2f bytes a task; a user was found in %s", float64(bytes)/batches/each, took)
	if found != 3 || bytes > 8*batches*each {
		t.Errorf("found %d in %s, and %d bytes; want 3, and at most 8 bytes for each task", found, took, bytes)
	}
}
