package batch_test

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

const week = 7 * 24 * time.Hour

// lastChanged says when something last happened to a batch.
func (b *bundle) lastChanged(tb testing.TB, id string, at time.Time) {
	tb.Helper()
	if err := b.rdb.HSet(tb.Context(), "kooworker:{batch:"+id+"}:meta", "created_at", at.UnixMilli(), "changed_at", at.UnixMilli()).Err(); err != nil {
		tb.Fatal(err)
	}
}

// dropIdle returns the batches that DropIdle returns, sorted by ID, and those that
// are still open.
func (b *bundle) dropIdle(tb testing.TB) (dropped, open []string) {
	tb.Helper()
	all, err := b.store.DropIdle(tb.Context(), week)
	if err != nil {
		tb.Fatal(err)
	}
	for _, stats := range all {
		dropped = append(dropped, stats.ID)
	}
	open = b.rdb.SMembers(tb.Context(), openKey).Val()
	slices.Sort(dropped)
	slices.Sort(open)
	return dropped, open
}

// A batch is idle only if its input is not closed and nothing has happened for long.
func TestDropIdle_NeverClosed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	old := time.Now().Add(-8 * 24 * time.Hour)
	var idle, open []string
	for range 120 { // more than a page
		id := b.open(t, batch.Spec{})
		b.queue(t, id, 3)
		b.lastChanged(t, id, old)
		idle = append(idle, id)
	}
	closed, _ := b.closedBatch(t, batch.Spec{}, 3) // its tasks may be scheduled for next month
	b.lastChanged(t, closed, old)
	recent := b.open(t, batch.Spec{})
	b.lastChanged(t, recent, time.Now().Add(-6*24*time.Hour))
	open = append(open, closed, recent)
	acts := map[string]func(id string, indexes []int64){
		"outcome": func(id string, indexes []int64) { b.recordOutcomes(t, receipt(id, indexes[0], tasks.Succeeded)) },
		"children": func(id string, indexes []int64) {
			b.nextRound(t, tasks.BatchRef{Batch: id, Index: indexes[0]}, 1, "a")
		},
		"resumed": func(id string, _ []int64) { b.open(t, batch.Spec{ID: id}) },
		"more":    func(id string, _ []int64) { b.mark(t, id, batch.Queued, 5) },
	}
	for _, act := range acts {
		id := b.open(t, batch.Spec{})
		indexes := b.queue(t, id, 3)
		b.lastChanged(t, id, old)
		act(id, indexes)
		open = append(open, id)
	}
	slices.Sort(open)
	dropped, left := b.dropIdle(t)
	if !slices.Equal(dropped, idle) || !slices.Equal(left, open) {
		t.Errorf("%d are dropped and %d left; want the %d idle ones dropped, and %d left", len(dropped), len(left), len(idle), len(open))
	}
	if again, _ := b.dropIdle(t); len(again) != 0 {
		t.Errorf("%q are dropped again; want each batch once", again)
	}
	if stats, err := b.store.Show(t.Context(), idle[0]); err != nil || stats.Queued != 3 {
		t.Errorf("a dropped batch is %+v, %v; want it as it was", stats, err)
	}
}

// A producer that comes back puts the batch back, so that its completion is reported.
func TestDropIdle_ProducerComesBack(t *testing.T) {
	t.Parallel()
	old := time.Now().Add(-8 * 24 * time.Hour)
	for name, comeBack := range map[string]func(b *bundle, id string) error{
		"opens it again": func(b *bundle, id string) error {
			b.open(t, batch.Spec{ID: id})
			if !b.rdb.SIsMember(t.Context(), openKey, id).Val() {
				t.Error("a batch that was opened again is not listed as open")
			}
			return b.store.CloseInput(t.Context(), id, 1)
		},
		"had never left":          func(b *bundle, id string) error { return b.store.CloseInput(t.Context(), id, 1) },
		"is a sweep and gives up": func(b *bundle, id string) error { return b.store.Abandon(t.Context(), id) },
	} {
		b := setup(t)
		id := b.open(t, batch.Spec{})
		indexes := b.queue(t, id, 1)
		b.lastChanged(t, id, old)
		if dropped, _ := b.dropIdle(t); len(dropped) != 1 {
			t.Fatalf("%d are dropped; want the one", len(dropped))
		}
		if err := comeBack(b, id); err != nil {
			t.Fatal(err)
		}
		b.recordOutcomes(t, receipt(id, indexes[0], tasks.Succeeded))
		if got := b.drained(t); !slices.Equal(got, []string{id}) {
			t.Errorf("the producer %s: reported %q; want %s", name, got, id)
		}
		// The same command once more finds everything done, and reports nothing.
		b.open(t, batch.Spec{ID: id})
		if err := b.store.CloseInput(t.Context(), id, 1); err != nil {
			t.Fatal(err)
		}
		if got := b.drained(t); len(got) != 0 {
			t.Errorf("the producer %s: reported %q again; want nothing", name, got)
		}
	}
}

// A producer comes back between the look at a batch and its being taken off.
func TestDropIdle_ProducerComesBackMeanwhile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	indexes := b.queue(t, id, 1)
	b.lastChanged(t, id, time.Now().Add(-8*24*time.Hour))
	store := b.hooked("srem", func() {
		if err := b.store.CloseInput(t.Context(), id, 1); err != nil {
			t.Error(err)
		}
	})
	if dropped, err := store.DropIdle(t.Context(), week); err != nil || len(dropped) != 0 {
		t.Errorf("dropped %v, %v; want nothing", dropped, err)
	}
	b.recordOutcomes(t, receipt(id, indexes[0], tasks.Succeeded))
	if got := b.drained(t); !slices.Equal(got, []string{id}) {
		t.Errorf("reported %q; want %s", got, id)
	}
}

// A batch of an older version has no time of its last change.
func TestDropIdle_OlderVersion(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var ids []string
	for _, days := range []int{3, 9} {
		id := b.open(t, batch.Spec{ID: "made-" + strconv.Itoa(days) + "-days-ago"})
		meta := "kooworker:{batch:" + id + "}:meta"
		b.lastChanged(t, id, time.Now().Add(-time.Duration(days)*24*time.Hour))
		if err := b.rdb.HDel(t.Context(), meta, "changed_at").Err(); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if dropped, left := b.dropIdle(t); !slices.Equal(dropped, ids[1:]) || !slices.Equal(left, ids[:1]) {
		t.Errorf("dropped %q, left %q; want only that of nine days dropped", dropped, left)
	}
}
