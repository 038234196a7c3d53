package batch_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

func unbinds(targets ...string) []batch.Child {
	var children []batch.Child
	for _, target := range targets {
		children = append(children, batch.Child{Kind: tasks.KindDeviceUnbind, Target: target})
	}
	return children
}

func (b *bundle) nextRound(tb testing.TB, ref tasks.BatchRef, round int, targets ...string) {
	tb.Helper()
	if err := b.store.NextRound(tb.Context(), ref, "user:offboard:{u}:", round, tasks.LaneBulk, unbinds(targets...)); err != nil {
		tb.Fatal(err)
	}
}

func (b *bundle) children(tb testing.TB, ref tasks.BatchRef) batch.Children {
	tb.Helper()
	recorded, err := b.store.Children(tb.Context(), ref, "user:offboard:{u}:")
	if err != nil {
		tb.Fatal(err)
	}
	return recorded
}

// In a batch and outside any batch.
func TestNextRound_Sequence(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	indexes := b.queue(t, id, 1)
	for name, ref := range map[string]tasks.BatchRef{"in a batch": {Batch: id, Index: indexes[0]}, "without": {}} {
		index := func(i int64) int64 {
			if ref.IsSet() {
				return batch.ChunkSize + i
			}
			return 0
		}
		wants := func(step string, want batch.Children) {
			t.Helper()
			got := b.children(t, ref)
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(batch.Children{}, "Since"), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", name, step, diff)
			}
			if (want.Round == 0) != got.Since.IsZero() || want.Round > 0 && time.Since(got.Since).Abs() > time.Minute {
				t.Errorf("%s: %s: since %s; want the time of the round", name, step, got.Since)
			}
		}
		enqueued := func(round int) {
			t.Helper()
			if err := b.store.RoundEnqueued(t.Context(), ref, "user:offboard:{u}:", round); err != nil {
				t.Fatal(err)
			}
		}
		wants("at first", batch.Children{})
		enqueued(1)
		wants("round 1 is enqueued before it is recorded", batch.Children{})
		one := batch.Children{Round: 1, Lane: tasks.LaneBulk, Indexes: map[batch.Child]int64{unbinds("a")[0]: index(0), unbinds("b b")[0]: index(1)}}
		b.nextRound(t, ref, 1, "a", "b b")
		wants("round 1", one)
		b.nextRound(t, ref, 1, "c", "d", "e")
		wants("round 1 again, with other children", one)
		enqueued(1)
		one.Enqueued = true
		wants("round 1 is enqueued", one)
		b.nextRound(t, ref, 1, "a")
		wants("round 1 for the third time", one)
		two := batch.Children{Round: 2, Lane: tasks.LaneBulk, Indexes: map[batch.Child]int64{unbinds("a")[0]: index(2)}}
		b.nextRound(t, ref, 2, "a")
		wants("round 2", two)
		enqueued(1)
		b.nextRound(t, ref, 1, "z")
		wants("round 1 after round 2", two)
		b.nextRound(t, ref, 3)
		wants("round 3 without children", batch.Children{Round: 3, Lane: tasks.LaneBulk})
		if err := b.store.Forget(t.Context(), ref, "user:offboard:{u}:"); err != nil {
			t.Fatal(err)
		}
		wants("forgotten", batch.Children{})
		b.nextRound(t, ref, 1)
		wants("round 1 after it was forgotten", batch.Children{Round: 1, Lane: tasks.LaneBulk})
	}
	if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: 4, Queued: 4}); got != want {
		t.Errorf("%+v; want the parent and three children: %+v", got, want)
	}
}

func TestNextRound_RecordExpires(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	for key, ref := range map[string]tasks.BatchRef{
		"kooworker:{batch:" + id + "}:brood:5": {Batch: id, Index: 5},
		"kooworker:brood:user:offboard:{u}:":   {},
	} {
		ttl := func() time.Duration { return b.rdb.PTTL(t.Context(), key).Val() }
		b.nextRound(t, ref, 1, "a")
		if err := b.store.RoundEnqueued(t.Context(), ref, "user:offboard:{u}:", 1); err != nil {
			t.Fatal(err)
		}
		if got, most := ttl(), 90*24*time.Hour; got > most || got < most-time.Minute {
			t.Errorf("%s expires in %s; want %s", key, got, most)
		}
		if err := b.store.Forget(t.Context(), ref, "user:offboard:{u}:"); err != nil {
			t.Fatal(err)
		}
		// A late RoundEnqueued must not create it again.
		if err := b.store.RoundEnqueued(t.Context(), ref, "user:offboard:{u}:", 1); err != nil {
			t.Fatal(err)
		}
		if n := b.rdb.Exists(t.Context(), key).Val(); n != 0 {
			t.Errorf("%s exists again; want it forgotten", key)
		}
	}
}

func TestNextRound_KeepsBatchIncomplete(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 1)
	parent := tasks.BatchRef{Batch: id, Index: indexes[0]}
	b.nextRound(t, parent, 1, "a", "b")
	children := slices.Collect(maps.Values(b.children(t, parent).Indexes))
	if got := b.recordAll(t, id, children, tasks.Succeeded); len(got) != 0 || b.stats(t, id).Done {
		t.Errorf("the children completed %q; want the batch to wait for their parent", got)
	}
	b.nextRound(t, parent, 2, "c")
	b.recordAll(t, id, indexes, tasks.Succeeded)
	for _, index := range b.children(t, parent).Indexes {
		if got := b.recordOutcomes(t, receipt(id, index, tasks.Dead)); !slices.Equal(got, []string{id}) {
			t.Errorf("the last child completed %q; want %s", got, id)
		}
	}
	if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: 4, Succeeded: 3, Dead: 1, Done: true}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
}

// KooDrive may list a device twice. If these were two children, the first would
// never get an outcome.
func TestNextRound_DuplicateChild(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 1)
	parent := tasks.BatchRef{Batch: id, Index: indexes[0]}
	b.nextRound(t, parent, 1, "a", "b", "a", "b", "a")
	recorded := b.children(t, parent)
	b.recordAll(t, id, append(slices.Collect(maps.Values(recorded.Indexes)), indexes...), tasks.Succeeded)
	if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: 3, Succeeded: 3, Done: true}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
}

// The tasks of a batch that was deleted or has expired are still carried out.
func TestNextRound_BatchGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 7)
	parent, other := tasks.BatchRef{Batch: id, Index: indexes[4]}, tasks.BatchRef{Batch: id, Index: indexes[6]}
	b.nextRound(t, other, 2, "x")
	if err := b.store.Delete(t.Context(), id, true); err != nil {
		t.Fatal(err)
	}
	b.nextRound(t, parent, 1, "a", "b")
	want := map[batch.Child]int64{unbinds("a")[0]: parent.Index, unbinds("b")[0]: parent.Index}
	if got := b.children(t, parent); got.Round != 1 || !maps.Equal(got.Indexes, want) {
		t.Errorf("recorded %+v; want round 1 of %v", got, want)
	}
	if got := b.children(t, other); got.Round != 2 || len(got.Indexes) != 1 {
		t.Errorf("the record of the other parent is %+v; want round 2 with its child", got)
	}
	if got := b.recordOutcomes(t, receipt(id, parent.Index, tasks.Succeeded)); len(got) != 0 {
		t.Errorf("completed %q; want nothing", got)
	}
	if got := slices.Sorted(maps.Keys(b.ttls(t, id))); !slices.Equal(got, []string{"brood:4", "brood:6", "used"}) {
		t.Errorf("the keys %q exist; want the two records and the name's reservation", got)
	}
}
