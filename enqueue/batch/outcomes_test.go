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

// counts clears the fields of a batch that a test cannot predict.
func counts(b tasks.BatchStats) tasks.BatchStats {
	b.ID, b.CreatedAt, b.CompletedAt = "", time.Time{}, time.Time{}
	return b
}

func TestRecordOutcomes_BeforeMark(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	c := b.claim(t, id, 0, digests(input("", 3)))
	// The worker is faster than the producer, which dies before it marks and then
	// resumes.
	b.recordOutcomes(t, receipt(id, c.Index(1), tasks.Succeeded))
	if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: 1, Succeeded: 1}); got != want {
		t.Errorf("after the outcome: %+v; want %+v", got, want)
	}
	for range 2 {
		b.mark(t, id, batch.Queued, c.Index(0), c.Index(1), c.Index(2))
	}
	if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: 3, Succeeded: 1, Queued: 2}); got != want {
		t.Errorf("after the marks: %+v; want %+v", got, want)
	}
	if b.closeInput(t, id, 3) {
		t.Error("the batch is complete with two tasks queued")
	}
	if got := b.recordAll(t, id, []int64{c.Index(0), c.Index(1), c.Index(2)}, tasks.AlreadyGone); !slices.Equal(got, []string{id}) {
		t.Errorf("completed %q; want this batch", got)
	}
	if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: 3, Succeeded: 1, AlreadyGone: 2, Done: true}); got != want {
		t.Errorf("after the last outcome: %+v; want %+v", got, want)
	}
}

func TestMark_OverwritesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	indexes := b.queue(t, id, 4)
	b.recordOutcomes(t, receipt(id, indexes[0], tasks.Succeeded), receipt(id, indexes[1], tasks.Dead))
	before := b.stats(t, id)
	for _, state := range []batch.State{batch.Queued, batch.Duplicate, batch.Rejected} {
		b.mark(t, id, state, indexes...)
	}
	if after := b.stats(t, id); after != before {
		t.Errorf("%+v; want it to stay at %+v", after, before)
	}
}

func TestRecordOutcomes_Twice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 2)
	for i := range 3 {
		completed := b.recordAll(t, id, append(indexes, indexes...), tasks.Succeeded)
		if want := i == 0; want != slices.Equal(completed, []string{id}) {
			t.Errorf("call %d: completed %q; want the batch from the first call only", i, completed)
		}
	}
	if got := len(b.receipts(t, id, batch.ReceiptOptions{History: true})); got != 2 {
		t.Errorf("%d receipts; want 2", got)
	}
	b.stats(t, id)
}

// For each pair of outcomes: the second one replaces only dead and discarded.
func TestRecordOutcomes_Revisions(t *testing.T) {
	t.Parallel()
	b := setup(t)
	all := []tasks.Outcome{tasks.Succeeded, tasks.AlreadyGone, tasks.Superseded, tasks.Cancelled, tasks.Dead, tasks.Discarded}
	id, indexes := b.closedBatch(t, batch.Spec{}, len(all)*len(all))
	for i, first := range all {
		for j, second := range all {
			index := indexes[i*len(all)+j]
			b.recordOutcomes(t, receipt(id, index, first))
			b.recordOutcomes(t, receipt(id, index, second))
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
	b.stats(t, id)
}

func TestCloseInput_Twice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	indexes := b.queue(t, id, 2)
	for range 2 {
		if b.closeInput(t, id, 2) {
			t.Error("the batch is complete with its tasks queued")
		}
	}
	b.recordAll(t, id, indexes, tasks.Succeeded)
	if b.closeInput(t, id, 2) {
		t.Error("closing completes the batch again; want that reported once")
	}

	empty := b.open(t, batch.Spec{})
	for i, want := range []bool{true, false} {
		if got := b.closeInput(t, empty, 0); got != want {
			t.Errorf("an empty batch, call %d: completed %t; want %t", i, got, want)
		}
	}
	if got, want := counts(b.stats(t, empty)), (tasks.BatchStats{Done: true}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
}

func TestCloseInput_AfterLastOutcome(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	indexes := b.queue(t, id, 600)
	if got := b.recordAll(t, id, indexes, tasks.Succeeded); len(got) != 0 {
		t.Errorf("completed %q before the input was closed; want nothing", got)
	}
	if b.stats(t, id).Done {
		t.Error("the batch is done before its input was closed")
	}
	if !b.closeInput(t, id, 600) {
		t.Error("closing the input does not complete the batch")
	}
}

func TestRecordOutcomes_SeveralBatches(t *testing.T) {
	t.Parallel()
	b := setup(t)
	one, indexes1 := b.closedBatch(t, batch.Spec{}, 1)
	two, indexes2 := b.closedBatch(t, batch.Spec{}, 2)
	three, indexes3 := b.closedBatch(t, batch.Spec{NoReceipts: true}, 1)
	got := b.recordOutcomes(t, receipt(three, indexes3[0], tasks.Dead), receipt(two, indexes2[0], tasks.Succeeded), receipt("gone", 0, tasks.Succeeded), receipt(one, indexes1[0], tasks.Superseded))
	if diff := cmp.Diff([]string{three, one}, got); diff != "" {
		t.Errorf("completed (-want +got):\n%s", diff)
	}
	if got := b.recordOutcomes(t); got != nil {
		t.Errorf("no receipts complete %q; want nothing", got)
	}
	b.stats(t, two)
	b.stats(t, three)
}

func TestRecordOutcomes_DeadAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 1)
	dead := receipt(id, indexes[0], tasks.Dead)
	b.recordOutcomes(t, dead)
	b.recordOutcomes(t, dead) // the same run is recorded again, after a crash
	again := dead
	again.Again, again.Reason, again.Attempts = true, tasks.Rejected, 2
	b.recordOutcomes(t, again)
	if stats := b.stats(t, id); stats.Dead != 1 || stats.Total != 1 {
		t.Errorf("%+v; want one dead task", stats)
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
		t.Errorf("the last receipts are %+v, the history has %d; want the second of two", last, len(all))
	}
}

// Such an index belongs to an earlier batch of this name, or somebody has made it
// up. It must not take the index of an item that is still to come, nor make Redis
// store absent states up to its own.
func TestRecordOutcomes_UnknownIndex(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	if got := b.recordOutcomes(t, receipt(id, 0, tasks.Succeeded), receipt(id, 1, tasks.Succeeded), receipt(id, tasks.MaxIndex, tasks.Dead)); len(got) != 0 {
		t.Errorf("completed %q; want nothing", got)
	}
	if got := counts(b.stats(t, id)); got != (tasks.BatchStats{}) || len(b.ttls(t, id)) != 2 {
		t.Errorf("%+v, with the keys %v; want an empty batch", got, b.ttls(t, id))
	}
	if c := b.claim(t, id, 0, digests(input("", 2))); c.State(0) != batch.Absent || c.State(1) != batch.Absent {
		t.Errorf("the items that were claimed later are %s and %s; want absent", c.State(0), c.State(1))
	}
	b.recordOutcomes(t, receipt(id, 1, tasks.Succeeded))
	if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: 1, Succeeded: 1}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
}

// An invalid receipt does not keep the others from being recorded.
func TestRecordOutcomes_InvalidReceipt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 1)
	good := receipt(id, indexes[0], tasks.Succeeded)
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
		if _, _, err := b.store.RecordOutcomes(t.Context(), []tasks.Receipt{bad, good}); err == nil {
			t.Errorf("%s: recorded; want an error", name)
		}
	}
	if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: 1, Succeeded: 1, Done: true}); got != want {
		t.Errorf("%+v; want the valid receipts recorded: %+v", got, want)
	}
	if diff := cmp.Diff([]tasks.Receipt{good}, b.receipts(t, id, batch.ReceiptOptions{}), cmpopts.IgnoreFields(tasks.Receipt{}, "At")); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
}

func TestMark_Invalid(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	indexes := b.queue(t, id, 1)
	before := b.stats(t, id)
	for name, bad := range map[string]batch.Mark{
		"absent":          {Index: indexes[0] + 2, State: batch.Absent},
		"an outcome":      {Index: indexes[0] + 2, State: batch.Succeeded},
		"no state":        {Index: indexes[0] + 2, State: 15},
		"negative index":  {Index: -1, State: batch.Queued},
		"index too large": {Index: tasks.MaxIndex + 1, State: batch.Queued},
	} {
		if err := b.store.Mark(t.Context(), id, []batch.Mark{{Index: indexes[0] + 1, State: batch.Queued}, bad}, nil); err == nil {
			t.Errorf("%s: marked; want an error", name)
		}
	}
	if after := b.stats(t, id); after != before {
		t.Errorf("%+v; want it to stay at %+v", after, before)
	}
}
