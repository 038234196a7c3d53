package batch_test

import (
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
)

func TestOngoing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	late, soon := time.Now().Add(-time.Minute).Truncate(time.Millisecond), time.Now().Add(time.Hour)
	for _, spec := range []batch.Spec{{ID: "late", DueBy: late}, {ID: "soon", DueBy: soon}, {ID: "any"}, {ID: "late"}, {ID: "complete", DueBy: late}} {
		if _, _, err := b.store.Open(ctx, spec); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.store.CloseInput(ctx, "complete", 0); err != nil {
		t.Fatal(err)
	}
	ongoing, err := b.store.Ongoing(ctx)
	if err != nil || len(ongoing) != 3 {
		t.Fatalf("ongoing: %+v, %v; want the three that are not complete", ongoing, err)
	}
	for _, stats := range ongoing {
		if got, want := stats.IsLate(time.Now()), stats.ID == "late"; got != want {
			t.Errorf("batch %s is late: %t; want %t", stats.ID, got, want)
		}
		if stats.ID == "late" && !stats.DueBy.Equal(late) {
			t.Errorf("due by %s after it was resumed; want %s", stats.DueBy, late)
		}
	}
}
