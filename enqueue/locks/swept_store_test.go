package locks_test

import (
	"slices"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
)

func TestSweptStore_RemembersWhatWasSwept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	store, other := locks.NewSweptStore(b.rdb, tasks.SourceSQL), locks.NewSweptStore(b.rdb, tasks.SourceFile)
	listed := make([]tasks.Lock, 1200)
	for i := range listed {
		listed[i] = b.lock(id(i), -h)
	}
	want := func(what string, store *locks.SweptStore, listed []tasks.Lock, count int) {
		t.Helper()
		swept, err := store.AlreadySwept(ctx, listed)
		if err != nil || len(swept) != len(listed) {
			t.Fatalf("%s: %d answers, %v; want %d", what, len(swept), err, len(listed))
		}
		for i, is := range swept {
			if is != (i < count) {
				t.Fatalf("%s: number %d was swept: %t; want that of the first %d", what, i, is, count)
			}
		}
	}
	want("at first", store, listed, 0)
	if err := store.MarkSwept(ctx, listed[:700]); err != nil {
		t.Fatal(err)
	}
	want("marked", store, listed, 700)
	want("of another source", other, listed, 0)
	later := slices.Clone(listed)
	for i := range later {
		later[i].ExpiresAt = later[i].ExpiresAt.Add(time.Millisecond)
	}
	want("with another expiry", store, later, 0)
	if err := store.Remove(ctx, listed[699]); err != nil {
		t.Fatal(err)
	}
	want("removed", store, listed, 699)

	// Drop keeps what a sweep has seen.
	const key = "{kooworker:locks}:listed:sql"
	for _, member := range b.rdb.ZRange(ctx, key, 0, -1).Val() {
		b.rdb.ZIncrBy(ctx, key, -float64(h.Milliseconds()), member)
	}
	want("seen again", store, listed[:100], 100)
	if dropped, err := store.Drop(ctx, 2*h); dropped != 0 || err != nil {
		t.Errorf("%d dropped, %v; want none", dropped, err)
	}
	if dropped, err := store.Drop(ctx, h/2); dropped != 599 || err != nil {
		t.Errorf("%d dropped, %v; want the 599 that were not seen for long", dropped, err)
	}
	want("after the drop", store, listed, 100)
	if counts := b.counts(t, 0); counts.Total != 0 {
		t.Errorf("the ledger has %+v; want nothing", counts)
	}
}

func TestSweptStore_HasWorker(t *testing.T) {
	t.Parallel()
	b := setup(t)
	store := locks.NewSweptStore(b.rdb, tasks.SourceSQL)
	for _, want := range []bool{false, true, false} {
		if has, err := store.HasWorker(t.Context()); has != want || err != nil {
			t.Errorf("it has a worker: %t, %v; want %t", has, err, want)
		}
		if want {
			<-time.After(60 * time.Millisecond)
		} else if err := store.Heartbeat(t.Context(), 50*time.Millisecond); err != nil {
			t.Error(err)
		}
	}
	now, err := store.Now(t.Context())
	if d := time.Since(now); err != nil || d < -time.Second || d > time.Minute {
		t.Errorf("it is %s, %v; want about now", now, err)
	}
}

// The ledger need not know a lock of an external source. If it does, its expiry
// counts as well.
func TestClaimExternal(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tracked time.Duration // 0: not at all
		seen    time.Duration
		want    locks.Status
	}{
		"unknown":                {0, -h, locks.Claimed},
		"unknown, still to come": {0, h, locks.Renewed},
		"known, the same":        {-h, -h, locks.Claimed},
		"known, older":           {-2 * h, -h, locks.Claimed},
		"known, later":           {-h / 2, -h, locks.Renewed},
		"known and live":         {h, -h, locks.Renewed},
	} {
		b := setup(t)
		if c.tracked != 0 {
			b.track(t, b.at(id(1), c.tracked))
		}
		claim, err := b.store.ClaimExternal(t.Context(), id(1), b.start.Add(c.seen), h)
		if err != nil || claim.Status != c.want {
			t.Errorf("%s: %+v, %v; want %s", name, claim, err, c.want)
			continue
		}
		answers, err := b.store.Track(t.Context(), []locks.TrackRequest{b.at(id(1), 2*h)})
		if err != nil || (answers[0] == locks.Releasing) != (c.want == locks.Claimed) {
			t.Errorf("%s: tracked meanwhile: %v, %v; want it releasing only if it is claimed", name, answers, err)
		}
		if c.want != locks.Claimed {
			continue
		}
		if err := b.store.Released(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
		if counts := b.counts(t, 0); counts.Total != 0 {
			t.Errorf("%s: the ledger has %+v; want nothing", name, counts)
		}
		if answers, err := b.store.Track(t.Context(), []locks.TrackRequest{b.at(id(1), 2*h)}); err != nil || answers[0] != locks.Tracked {
			t.Errorf("%s: tracked after the release: %v, %v; want it tracked", name, answers, err)
		}
	}
}
