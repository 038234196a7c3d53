package locks_test

import (
	"slices"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
)

func TestWhatSweepsLeaveForTheNext(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k, ctx := locks.Keeping{Store: b.store}, t.Context()
	for range 2 { // again is no harm
		for _, batch := range []string{"a", "b"} {
			if err := k.Begin(ctx, batch); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		if err := k.Finish(ctx, "a"); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := k.Unfinished(ctx); err != nil || !slices.Equal(left, []string{"b"}) {
		t.Errorf("%v, %v; want b", left, err)
	}
	now, err := k.Now(ctx)
	if err != nil || now.Sub(b.start) < -time.Second || now.Sub(b.start) > time.Minute {
		t.Errorf("%s, %v", now, err)
	}
	if err := k.Done(ctx, tasks.SourceSQL, now); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[tasks.Source]time.Time{tasks.SourceSQL: now.Truncate(time.Millisecond), tasks.SourceLedger: {}} {
		if began, err := k.LastDone(ctx, source); err != nil || !began.Equal(want) {
			t.Errorf("%s: %s, %v; want %s", source, began, err, want)
		}
	}
}

func TestTheLeaseOfASweep(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k, ctx := locks.Keeping{Store: b.store}, t.Context()
	hold := func(owner string, d time.Duration, want bool) {
		t.Helper()
		if held, err := k.Hold(ctx, owner, d); err != nil || held != want {
			t.Errorf("%s holds it: %t, %v; want %t", owner, held, err, want)
		}
	}
	hold("a", time.Minute, true)
	hold("b", time.Minute, false)
	hold("a", time.Minute, true) // keeps it
	if err := k.Leave(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	hold("b", time.Minute, false)
	if err := k.Leave(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	hold("b", time.Millisecond, true)
	<-time.After(10 * time.Millisecond)
	hold("a", time.Minute, true)
}

// A total that counted what is gone would make a share of the rest look small.
func TestASurveyDoesNotCountWhatWasSwept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k := locks.Keeping{Store: b.store}
	b.track(t, b.at(id(1), -h), b.at(id(2), -h), b.at(id(3), h))
	if err := b.store.Swept(t.Context(), []tasks.Lock{b.lock(id(1), -h)}); err != nil {
		t.Fatal(err)
	}
	if is, err := k.Survey(t.Context(), 0, 0); err != nil || is.Total != 2 || is.Stale != 1 || len(collect(t, is.Oldest)) != 1 {
		t.Errorf("%+v, %v", is, err)
	}
}
