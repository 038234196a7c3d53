package batch_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

const openKey = "kooworker:batches:open"

// announced returns what Announce tells of, in order of the IDs.
func (b *bundle) announced(tb testing.TB) (ids []string) {
	tb.Helper()
	_, err := b.store.DrainCompleted(tb.Context(), func(_ context.Context, balance tasks.BatchStats) error {
		if !balance.Done || balance.CompletedAt.IsZero() {
			tb.Errorf("told of %+v; want it done", balance)
		}
		ids = append(ids, balance.ID)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	slices.Sort(ids)
	return ids
}

func (b *bundle) complete(tb testing.TB, spec batch.Spec) string {
	tb.Helper()
	id := b.open(tb, spec)
	if !b.seal(tb, id, 0) {
		tb.Fatal("sealed, and not complete")
	}
	return id
}

func TestAnnounceTellsOnceOfWhatIsComplete(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.open(t, batch.Spec{})
	b.sealed(t, batch.Spec{}, 1)
	if got := b.announced(t); len(got) != 0 {
		t.Errorf("told of %q, of which none is complete", got)
	}
	one, two := b.complete(t, batch.Spec{}), b.complete(t, batch.Spec{})
	if got := b.announced(t); !slices.Equal(got, []string{one, two}) {
		t.Errorf("told of %q; want %s and %s", got, one, two)
	}
	if got := b.announced(t); len(got) != 0 {
		t.Errorf("told of %q again", got)
	}
	if got := b.rdb.SCard(t.Context(), openKey).Val(); got != 2 {
		t.Errorf("%d batches wait; want the two that are open", got)
	}
}

func TestAnnounceAgainWhatCouldNotBeTold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var ids []string
	for range 3 {
		ids = append(ids, b.complete(t, batch.Spec{}))
	}
	broken := errors.New("nobody listens")
	told := 0
	_, err := b.store.DrainCompleted(t.Context(), func(_ context.Context, balance tasks.BatchStats) error {
		if told++; balance.ID == ids[1] {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), ids[1]) || told != 3 {
		t.Errorf("%v, and told of %d; want all three, and the error", err, told)
	}
	if got := b.announced(t); !slices.Equal(got, ids[1:2]) {
		t.Errorf("told of %q; want %s again", got, ids[1])
	}
}

func TestAnnouncePages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var want []string
	for i := range 250 {
		if i%3 == 0 {
			b.open(t, batch.Spec{})
		}
		want = append(want, b.complete(t, batch.Spec{}))
	}
	if got := b.announced(t); !slices.Equal(got, want) {
		t.Errorf("told of %d; want %d", len(got), len(want))
	}
	if got := b.announced(t); len(got) != 0 {
		t.Errorf("told of %q again", got)
	}
}

// When Redis fails in the middle, what tell has failed to do is said as well.
func TestAnnounceSaysAllThatFailed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for range 150 {
		b.complete(t, batch.Spec{})
	}
	ctx, cancel := context.WithCancel(t.Context())
	broken := errors.New("nobody listens")
	_, err := b.store.DrainCompleted(ctx, func(context.Context, tasks.BatchStats) error {
		cancel()
		return broken
	})
	if !errors.Is(err, broken) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want both errors", err)
	}
	if got := b.announced(t); len(got) != 150 {
		t.Errorf("told of %d; want all of them", len(got))
	}
}

// What expires before anybody was told does not wait for ever.
func TestAnnounceLetsGoOfWhatHasExpired(t *testing.T) {
	t.Parallel()
	b := setup(t)
	gone, open := b.complete(t, batch.Spec{}), b.open(t, batch.Spec{})
	b.expire(t, gone)
	if got := b.announced(t); len(got) != 0 {
		t.Errorf("told of %q, which has gone", got)
	}
	if got := b.rdb.SMembers(t.Context(), openKey).Val(); !slices.Equal(got, []string{open}) {
		t.Errorf("%q wait; want %s only", got, open)
	}
}
