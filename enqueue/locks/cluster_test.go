package locks_test

import (
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// A cluster of one node refuses commands with keys of two slots, as a larger one
// does.
func TestStore_InACluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 1, false)
	rdb := c.Client()
	b := &bundle{store: locks.NewStore(rdb), rdb: rdb, redis: c.Masters[0], start: time.Now().Truncate(time.Millisecond).UTC()}

	b.track(t, b.at(id(1), -h), b.at(id(2), -h), b.at(id(3), -h), b.at(id(4), h))
	stale := collect(t, b.store.Stale(t.Context(), 0))
	if len(stale) != 3 {
		t.Fatalf("%v; want 3", stale)
	}
	if err := b.store.MarkSwept(t.Context(), stale); err != nil {
		t.Fatal(err)
	}
	for i, s := range []step{claim(-h), unclaim, claim(-h), released} {
		if _, err := s(t.Context(), b); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	if _, err := b.store.Forget(t.Context(), []tasks.LockID{id(2)}); err != nil {
		t.Fatal(err)
	}
	if got := b.counts(t, 0); got != (locks.Counts{Total: 2, Swept: 1}) {
		t.Errorf("%+v; want 2, of which 1 swept", got)
	}
	if got, err := b.store.ListByUser(t.Context(), id(4).UserID); len(got) != 1 || err != nil {
		t.Errorf("%v, %v; want the live one", got, err)
	}
	if n, err := b.store.Drop(t.Context(), 0); n != 1 || err != nil {
		t.Errorf("dropped %d, %v; want 1", n, err)
	}
	if got := collect(t, b.store.List(t.Context(), locks.Filter{})); len(got) != 1 || got[0].Lock.ID() != id(4) {
		t.Errorf("%v; want the live one", got)
	}
}
