package locks_test

import (
	"slices"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
)

func TestSweepState_BatchesAndLastSweep(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s, ctx := b.store, t.Context()
	for range 2 { // a repeated call does no harm
		for _, batch := range []string{"a", "b"} {
			if err := s.OpenBatch(ctx, batch); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		if err := s.CloseBatch(ctx, "a"); err != nil {
			t.Fatal(err)
		}
	}
	if open, err := s.OpenBatches(ctx); err != nil || !slices.Equal(open, []string{"b"}) {
		t.Errorf("open batches %v, %v; want b", open, err)
	}
	now, err := s.Now(ctx)
	if err != nil || now.Sub(b.start) < -time.Second || now.Sub(b.start) > time.Minute {
		t.Errorf("it is %s, %v; want about %s", now, err, b.start)
	}
	sweep := locks.Sweep{Source: tasks.SourceSQL, Began: now.Truncate(time.Millisecond), Total: 9, Stale: 5, Enqueued: 2, HeldBack: 3, Why: "too many"}
	if err := s.SetLastSweep(ctx, sweep); err != nil {
		t.Fatal(err)
	}
	if got, err := s.LastSweeps(ctx); err != nil || !slices.Equal(got, []locks.Sweep{sweep}) {
		t.Errorf("last sweeps %+v, %v; want %+v", got, err, sweep)
	}
	for source, want := range map[tasks.SourceKind]time.Time{tasks.SourceSQL: now.Truncate(time.Millisecond), tasks.SourceLedger: {}} {
		if began, err := s.LastSweep(ctx, source); err != nil || !began.Equal(want) {
			t.Errorf("%s: the last sweep began at %s, %v; want %s", source, began, err, want)
		}
	}
}

func TestAcquireLease_OneOwnerAtATime(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s, ctx := b.store, t.Context()
	acquire := func(owner string, ttl time.Duration, want bool) {
		t.Helper()
		if acquired, err := s.AcquireLease(ctx, owner, ttl); err != nil || acquired != want {
			t.Errorf("%s acquires it: %t, %v; want %t", owner, acquired, err, want)
		}
	}
	acquire("a", time.Minute, true)
	acquire("b", time.Minute, false)
	acquire("a", time.Minute, true) // extends it
	if err := s.ReleaseLease(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	acquire("b", time.Minute, false)
	if err := s.ReleaseLease(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	acquire("b", time.Millisecond, true)
	<-time.After(10 * time.Millisecond)
	acquire("a", time.Minute, true)
}
