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

func (b *bundle) nextRound(tb testing.TB, place tasks.BatchRef, round int, targets ...string) {
	tb.Helper()
	if err := b.store.NextRound(tb.Context(), place, "user:offboard:{u}:", round, unbinds(targets...)); err != nil {
		tb.Fatal(err)
	}
}

func (b *bundle) brood(tb testing.TB, place tasks.BatchRef) batch.Children {
	tb.Helper()
	brood, err := b.store.Children(tb.Context(), place, "user:offboard:{u}:")
	if err != nil {
		tb.Fatal(err)
	}
	return brood
}

// Both with a batch and without.
func TestRounds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	at := b.queue(t, id, 1)
	for name, place := range map[string]tasks.BatchRef{"in a batch": {Batch: id, Index: at[0]}, "without": {}} {
		index := func(i int64) int64 {
			if place.IsSet() {
				return batch.ChunkSize + i
			}
			return 0
		}
		wants := func(step string, want batch.Children) {
			t.Helper()
			got := b.brood(t, place)
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(batch.Children{}, "Since"), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", name, step, diff)
			}
			if (want.Round == 0) != got.Since.IsZero() || want.Round > 0 && time.Since(got.Since).Abs() > time.Minute {
				t.Errorf("%s: %s: since %s; want the time of the round", name, step, got.Since)
			}
		}
		enqueued := func(round int) {
			t.Helper()
			if err := b.store.RoundEnqueued(t.Context(), place, "user:offboard:{u}:", round); err != nil {
				t.Fatal(err)
			}
		}
		wants("at first", batch.Children{})
		enqueued(1)
		wants("enqueued what is not there", batch.Children{})
		one := batch.Children{Round: 1, Indexes: map[batch.Child]int64{unbinds("a")[0]: index(0), unbinds("b b")[0]: index(1)}}
		b.nextRound(t, place, 1, "a", "b b")
		wants("round 1", one)
		b.nextRound(t, place, 1, "c", "d", "e")
		wants("round 1 again, which stays", one)
		enqueued(1)
		one.Enqueued = true
		wants("round 1 is enqueued", one)
		b.nextRound(t, place, 1, "a")
		wants("round 1 once more", one)
		two := batch.Children{Round: 2, Indexes: map[batch.Child]int64{unbinds("a")[0]: index(2)}}
		b.nextRound(t, place, 2, "a")
		wants("round 2", two)
		enqueued(1)
		b.nextRound(t, place, 1, "z")
		wants("round 1 is over", two)
		b.nextRound(t, place, 3)
		wants("a round of nobody", batch.Children{Round: 3})
		if err := b.store.Forget(t.Context(), place, "user:offboard:{u}:"); err != nil {
			t.Fatal(err)
		}
		wants("forgotten", batch.Children{})
		b.nextRound(t, place, 1)
		wants("begun again", batch.Children{Round: 1})
	}
	if got, want := standing(b.balance(t, id)), (tasks.BatchStats{Total: 4, Queued: 4}); got != want {
		t.Errorf("%+v; want the parent and three children: %+v", got, want)
	}
}

func TestANoteDoesNotStayForEver(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	for key, place := range map[string]tasks.BatchRef{
		"kooworker:{batch:" + id + "}:brood:5": {Batch: id, Index: 5},
		"kooworker:brood:user:offboard:{u}:":   {},
	} {
		ttl := func() time.Duration { return b.rdb.PTTL(t.Context(), key).Val() }
		b.nextRound(t, place, 1, "a")
		if err := b.store.RoundEnqueued(t.Context(), place, "user:offboard:{u}:", 1); err != nil {
			t.Fatal(err)
		}
		if got, most := ttl(), 90*24*time.Hour; got > most || got < most-time.Minute {
			t.Errorf("%s lives for %s; want %s", key, got, most)
		}
		if err := b.store.Forget(t.Context(), place, "user:offboard:{u}:"); err != nil {
			t.Fatal(err)
		}
		// Whoever is late does not bring it back.
		if err := b.store.RoundEnqueued(t.Context(), place, "user:offboard:{u}:", 1); err != nil {
			t.Fatal(err)
		}
		if n := b.rdb.Exists(t.Context(), key).Val(); n != 0 {
			t.Errorf("%s is there again", key)
		}
	}
}

func TestABatchIsNotCompleteBetweenAParentAndItsChildren(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, at := b.sealed(t, batch.Spec{}, 1)
	parent := tasks.BatchRef{Batch: id, Index: at[0]}
	b.nextRound(t, parent, 1, "a", "b")
	children := slices.Collect(maps.Values(b.brood(t, parent).Indexes))
	if got := b.settleAll(t, id, children, tasks.Succeeded); len(got) != 0 || b.balance(t, id).Done {
		t.Errorf("completed %q by the children; want the parent waited for", got)
	}
	b.nextRound(t, parent, 2, "c")
	b.settleAll(t, id, at, tasks.Succeeded)
	for _, index := range b.brood(t, parent).Indexes {
		if got := b.settle(t, receipt(id, index, tasks.Dead)); !slices.Equal(got, []string{id}) {
			t.Errorf("completed %q by the last child; want %s", got, id)
		}
	}
	if got, want := standing(b.balance(t, id)), (tasks.BatchStats{Total: 4, Succeeded: 3, Dead: 1, Done: true}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
}

// KooDrive may list a device twice, and then nobody would ever settle the first.
func TestAChildThatIsNamedTwiceIsOne(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, at := b.sealed(t, batch.Spec{}, 1)
	parent := tasks.BatchRef{Batch: id, Index: at[0]}
	b.nextRound(t, parent, 1, "a", "b", "a", "b", "a")
	brood := b.brood(t, parent)
	b.settleAll(t, id, append(slices.Collect(maps.Values(brood.Indexes)), at...), tasks.Succeeded)
	if got, want := standing(b.balance(t, id)), (tasks.BatchStats{Total: 3, Succeeded: 3, Done: true}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
}

// The tasks of a batch that was deleted, or has expired, are carried out all the
// same.
func TestChildrenOfABatchThatIsGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, at := b.sealed(t, batch.Spec{}, 7)
	parent, other := tasks.BatchRef{Batch: id, Index: at[4]}, tasks.BatchRef{Batch: id, Index: at[6]}
	b.nextRound(t, other, 2, "x")
	if err := b.store.Delete(t.Context(), id, true); err != nil {
		t.Fatal(err)
	}
	b.nextRound(t, parent, 1, "a", "b")
	want := map[batch.Child]int64{unbinds("a")[0]: parent.Index, unbinds("b")[0]: parent.Index}
	if got := b.brood(t, parent); got.Round != 1 || !maps.Equal(got.Indexes, want) {
		t.Errorf("noted %+v; want round 1 of %v", got, want)
	}
	if got := b.brood(t, other); got.Round != 2 || len(got.Indexes) != 1 {
		t.Errorf("what was noted before is %+v; want round 2 as it was", got)
	}
	if got := b.settle(t, receipt(id, parent.Index, tasks.Succeeded)); len(got) != 0 {
		t.Errorf("completed %q", got)
	}
	if got := slices.Sorted(maps.Keys(b.ttls(t, id))); !slices.Equal(got, []string{"brood:4", "brood:6", "used"}) {
		t.Errorf("there are %q; want nothing but the notes, and that the name is used", got)
	}
}
