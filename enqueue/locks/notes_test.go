package locks_test

import (
	"slices"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
)

func TestNotesOfWhatWasSwept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	n, other := locks.NewSweptStore(b.rdb, tasks.SourceSQL), locks.NewSweptStore(b.rdb, tasks.SourceFile)
	listed := make([]tasks.Lock, 1200)
	for i := range listed {
		listed[i] = b.lock(id(i), -h)
	}
	want := func(what string, n *locks.SweptStore, of []tasks.Lock, count int) {
		t.Helper()
		swept, err := n.Swept(ctx, of)
		if err != nil || len(swept) != len(of) {
			t.Fatalf("%s: %d answers, %v", what, len(swept), err)
		}
		for i, is := range swept {
			if is != (i < count) {
				t.Fatalf("%s: number %d was swept: %t", what, i, is)
			}
		}
	}
	want("at first", n, listed, 0)
	if err := n.Note(ctx, listed[:700]); err != nil {
		t.Fatal(err)
	}
	want("noted", n, listed, 700)
	want("of another source", other, listed, 0)
	later := slices.Clone(listed)
	for i := range later {
		later[i].ExpiresAt = later[i].ExpiresAt.Add(time.Millisecond)
	}
	want("with another expiry", n, later, 0)
	if err := n.Remove(ctx, listed[699]); err != nil {
		t.Fatal(err)
	}
	want("removed", n, listed, 699)

	// What is seen is kept.
	const key = "{kooworker:locks}:listed:sql"
	for _, member := range b.rdb.ZRange(ctx, key, 0, -1).Val() {
		b.rdb.ZIncrBy(ctx, key, -float64(h.Milliseconds()), member)
	}
	want("seen again", n, listed[:100], 100)
	if dropped, err := n.Drop(ctx, 2*h); dropped != 0 || err != nil {
		t.Errorf("%d dropped, %v", dropped, err)
	}
	if dropped, err := n.Drop(ctx, h/2); dropped != 599 || err != nil {
		t.Errorf("%d dropped, %v; want what was not seen for long", dropped, err)
	}
	want("after the drop", n, listed, 100)
	if counts := b.counts(t, 0); counts.Total != 0 {
		t.Errorf("the ledger has %+v", counts)
	}
}

func TestNotesSayWhetherAWorkerCanLook(t *testing.T) {
	t.Parallel()
	b := setup(t)
	n := locks.NewSweptStore(b.rdb, tasks.SourceSQL)
	for _, want := range []bool{false, true, false} {
		if is, err := n.Attended(t.Context()); is != want || err != nil {
			t.Errorf("attended: %t, %v; want %t", is, err, want)
		}
		if want {
			<-time.After(60 * time.Millisecond)
		} else if err := n.Attend(t.Context(), 50*time.Millisecond); err != nil {
			t.Error(err)
		}
	}
	now, err := n.Now(t.Context())
	if d := time.Since(now); err != nil || d < -time.Second || d > time.Minute {
		t.Errorf("%s, %v", now, err)
	}
}

// The ledger need not know a lock that was found elsewhere; but where it does its
// word counts.
func TestClaimsOfListedLocks(t *testing.T) {
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
		claim, err := b.store.ClaimListed(t.Context(), id(1), b.start.Add(c.seen), h)
		if err != nil || claim.Status != c.want {
			t.Errorf("%s: %+v, %v; want %s", name, claim, err, c.want)
			continue
		}
		answers, err := b.store.Track(t.Context(), []locks.TrackRequest{b.at(id(1), 2*h)})
		if err != nil || (answers[0] == locks.Releasing) != (c.want == locks.Claimed) {
			t.Errorf("%s: tracked meanwhile it is %v, %v", name, answers, err)
		}
		if c.want != locks.Claimed {
			continue
		}
		if err := b.store.Released(t.Context(), []locks.Claim{claim}); err != nil {
			t.Fatal(err)
		}
		if counts := b.counts(t, 0); counts.Total != 0 {
			t.Errorf("%s: the ledger keeps %+v", name, counts)
		}
		if answers, err := b.store.Track(t.Context(), []locks.TrackRequest{b.at(id(1), 2*h)}); err != nil || answers[0] != locks.Tracked {
			t.Errorf("%s: tracked after it: %v, %v", name, answers, err)
		}
	}
}
