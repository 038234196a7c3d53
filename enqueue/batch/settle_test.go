package batch_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// standing is a balance without what the test does not choose.
func standing(b tasks.BatchStats) tasks.BatchStats {
	b.ID, b.CreatedAt, b.CompletedAt = "", time.Time{}, time.Time{}
	return b
}

func TestASettlementBeforeItsMark(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	c := b.claim(t, id, 0, digests(input("", 3)))
	// The worker was faster than the producer, who then dies, and comes again.
	b.settle(t, receipt(id, c.Index(1), tasks.Succeeded))
	if got, want := standing(b.balance(t, id)), (tasks.BatchStats{Total: 1, Succeeded: 1}); got != want {
		t.Errorf("settled: %+v; want %+v", got, want)
	}
	for range 2 {
		b.mark(t, id, batch.Queued, c.Index(0), c.Index(1), c.Index(2))
	}
	if got, want := standing(b.balance(t, id)), (tasks.BatchStats{Total: 3, Succeeded: 1, Queued: 2}); got != want {
		t.Errorf("marked: %+v; want %+v", got, want)
	}
	if b.seal(t, id, 3) {
		t.Error("complete with two tasks queued")
	}
	if got := b.settleAll(t, id, []int64{c.Index(0), c.Index(1), c.Index(2)}, tasks.AlreadyGone); !slices.Equal(got, []string{id}) {
		t.Errorf("completed %q; want this batch", got)
	}
	if got, want := standing(b.balance(t, id)), (tasks.BatchStats{Total: 3, Succeeded: 1, AlreadyGone: 2, Done: true}); got != want {
		t.Errorf("at last: %+v; want %+v", got, want)
	}
}

func TestAMarkOverwritesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	at := b.queue(t, id, 4)
	b.settle(t, receipt(id, at[0], tasks.Succeeded), receipt(id, at[1], tasks.Dead))
	before := b.balance(t, id)
	for _, state := range []batch.State{batch.Queued, batch.Duplicate, batch.Rejected} {
		b.mark(t, id, state, at...)
	}
	if after := b.balance(t, id); after != before {
		t.Errorf("%+v; want it to stay at %+v", after, before)
	}
}

func TestSettleTwiceIsSettleOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, at := b.sealed(t, batch.Spec{}, 2)
	for i := range 3 {
		completed := b.settleAll(t, id, append(at, at...), tasks.Succeeded)
		if want := i == 0; want != slices.Equal(completed, []string{id}) {
			t.Errorf("time %d: completed %q; want it the first time only", i, completed)
		}
	}
	if got := len(b.receipts(t, id, batch.ReceiptOptions{History: true})); got != 2 {
		t.Errorf("%d receipts; want 2", got)
	}
	b.balance(t, id)
}

// What may follow what, for each pair of outcomes.
func TestRevisions(t *testing.T) {
	t.Parallel()
	b := setup(t)
	all := []tasks.Outcome{tasks.Succeeded, tasks.AlreadyGone, tasks.Superseded, tasks.Dead, tasks.Discarded}
	id, at := b.sealed(t, batch.Spec{}, len(all)*len(all))
	for i, first := range all {
		for j, second := range all {
			index := at[i*len(all)+j]
			b.settle(t, receipt(id, index, first))
			b.settle(t, receipt(id, index, second))
			want := []tasks.Outcome{first}
			if final := first != tasks.Dead && first != tasks.Discarded; !final && first != second {
				want = append(want, second)
			}
			var history, last []tasks.Outcome
			for _, r := range b.receipts(t, id, batch.ReceiptOptions{History: true}) {
				if r.Index == index {
					history = append(history, r.Outcome)
				}
			}
			for _, r := range b.receipts(t, id, batch.ReceiptOptions{}) {
				if r.Index == index {
					last = append(last, r.Outcome)
				}
			}
			if diff := cmp.Diff(want, history); diff != "" {
				t.Errorf("%s, then %s: history (-want +got):\n%s", first, second, diff)
			}
			if diff := cmp.Diff(want[len(want)-1:], last); diff != "" {
				t.Errorf("%s, then %s: last (-want +got):\n%s", first, second, diff)
			}
		}
	}
	b.balance(t, id)
}

func TestSealTwice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	at := b.queue(t, id, 2)
	for range 2 {
		if b.seal(t, id, 2) {
			t.Error("complete with its tasks queued")
		}
	}
	b.settleAll(t, id, at, tasks.Succeeded)
	if b.seal(t, id, 2) {
		t.Error("it was complete before")
	}

	empty := b.open(t, batch.Spec{})
	for i, want := range []bool{true, false} {
		if got := b.seal(t, empty, 0); got != want {
			t.Errorf("an empty batch, time %d: completed %t; want %t", i, got, want)
		}
	}
	if got, want := standing(b.balance(t, empty)), (tasks.BatchStats{Done: true}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
}

func TestSealAfterTheLastOutcome(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	at := b.queue(t, id, 600)
	if got := b.settleAll(t, id, at, tasks.Succeeded); len(got) != 0 {
		t.Errorf("completed %q before its input ended", got)
	}
	if b.balance(t, id).Done {
		t.Error("done before its input ended")
	}
	if !b.seal(t, id, 600) {
		t.Error("sealed, and not complete")
	}
}

func TestSettleSeveralBatches(t *testing.T) {
	t.Parallel()
	b := setup(t)
	one, at1 := b.sealed(t, batch.Spec{}, 1)
	two, at2 := b.sealed(t, batch.Spec{}, 2)
	three, at3 := b.sealed(t, batch.Spec{NoReceipts: true}, 1)
	got := b.settle(t, receipt(three, at3[0], tasks.Dead), receipt(two, at2[0], tasks.Succeeded), receipt("gone", 0, tasks.Succeeded), receipt(one, at1[0], tasks.Superseded))
	if diff := cmp.Diff([]string{three, one}, got); diff != "" {
		t.Errorf("completed (-want +got):\n%s", diff)
	}
	if got := b.settle(t); got != nil {
		t.Errorf("nothing completes %q", got)
	}
	b.balance(t, two)
	b.balance(t, three)
}

func TestWhatWasReplayedMayBeDeadAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, at := b.sealed(t, batch.Spec{}, 1)
	dead := receipt(id, at[0], tasks.Dead)
	b.settle(t, dead)
	b.settle(t, dead) // the same run once more, after a crash
	again := dead
	again.Again, again.Reason, again.Attempts = true, tasks.Rejected, 2
	b.settle(t, again)
	if balance := b.balance(t, id); balance.Dead != 1 || balance.Total != 1 {
		t.Errorf("%+v; want one that is dead", balance)
	}
	var last, all []tasks.Receipt
	for r, err := range b.store.Receipts(t.Context(), id, batch.ReceiptOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		last = append(last, r)
	}
	for r, err := range b.store.Receipts(t.Context(), id, batch.ReceiptOptions{History: true}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	if len(last) != 1 || len(all) != 2 || last[0].Reason != tasks.Rejected || last[0].Attempts != 2 {
		t.Errorf("the last is %+v, of %d", last, len(all))
	}
}

// It is of another batch of that name, or of a producer that made it up. It must
// not take the place of an item that is still to come, nor fill Redis with
// absent ones up to its own.
func TestSettleOfAnIndexThatWasNotGivenOut(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	if got := b.settle(t, receipt(id, 0, tasks.Succeeded), receipt(id, 1, tasks.Succeeded), receipt(id, tasks.MaxIndex, tasks.Dead)); len(got) != 0 {
		t.Errorf("completed %q", got)
	}
	if got := standing(b.balance(t, id)); got != (tasks.BatchStats{}) || len(b.ttls(t, id)) != 2 {
		t.Errorf("%+v, with %v; want an empty batch", got, b.ttls(t, id))
	}
	if c := b.claim(t, id, 0, digests(input("", 2))); c.State(0) != batch.Absent || c.State(1) != batch.Absent {
		t.Errorf("the items that came later are %s and %s, and would be skipped", c.State(0), c.State(1))
	}
	b.settle(t, receipt(id, 1, tasks.Succeeded))
	if got, want := standing(b.balance(t, id)), (tasks.BatchStats{Total: 1, Succeeded: 1}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
}

// A row that cannot be written holds up no other.
func TestSettleRefusesWhatIsNoReceipt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, at := b.sealed(t, batch.Spec{}, 1)
	good := receipt(id, at[0], tasks.Succeeded)
	for name, spoil := range map[string]func(*tasks.Receipt){
		"no outcome":      func(r *tasks.Receipt) { r.Outcome = "queued" },
		"no batch":        func(r *tasks.Receipt) { r.Batch = "" },
		"no such id":      func(r *tasks.Receipt) { r.Batch = "a}b" },
		"negative index":  func(r *tasks.Receipt) { r.Index = -1 },
		"index too large": func(r *tasks.Receipt) { r.Index = tasks.MaxIndex + 1 },
		"year 10000": func(r *tasks.Receipt) {
			r.Device = &tasks.Device{CreateTime: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}
		},
	} {
		bad := good
		spoil(&bad)
		if _, err := b.store.RecordOutcomes(t.Context(), []tasks.Receipt{bad, good}); err == nil {
			t.Errorf("%s: settled", name)
		}
	}
	if got, want := standing(b.balance(t, id)), (tasks.BatchStats{Total: 1, Succeeded: 1, Done: true}); got != want {
		t.Errorf("%+v; want the good ones settled: %+v", got, want)
	}
	if diff := cmp.Diff([]tasks.Receipt{good}, b.receipts(t, id, batch.ReceiptOptions{}), cmpopts.IgnoreFields(tasks.Receipt{}, "At")); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
}

func TestMarkRefusesWhatIsNoMark(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	at := b.queue(t, id, 1)
	before := b.balance(t, id)
	for name, bad := range map[string]batch.Mark{
		"absent":          {Index: at[0] + 2, State: batch.Absent},
		"an outcome":      {Index: at[0] + 2, State: batch.Succeeded},
		"no state":        {Index: at[0] + 2, State: 15},
		"negative index":  {Index: -1, State: batch.Queued},
		"index too large": {Index: tasks.MaxIndex + 1, State: batch.Queued},
	} {
		if err := b.store.Mark(t.Context(), id, []batch.Mark{{Index: at[0] + 1, State: batch.Queued}, bad}, nil); err == nil {
			t.Errorf("%s: marked", name)
		}
	}
	if after := b.balance(t, id); after != before {
		t.Errorf("%+v; want it to stay at %+v", after, before)
	}
}
