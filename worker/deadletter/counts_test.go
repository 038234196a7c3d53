package deadletter_test

import (
	"testing"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// Letters that no worker has parked yet count as arriving, and as dead in Stats. Replays that
// wait in the same list count in neither.
func TestArriving_LettersAndNoReplays(t *testing.T) { //nolint:tparallel // the worker of the subtest ends before what follows
	t.Parallel()
	b := setup(t)
	park := func(devices ...string) {
		for _, device := range devices {
			if err := b.store.Park(t.Context(), letter(t, "u", device, tasks.Intent{})); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantArriving := func(n int) {
		t.Helper()
		got, isAll, err := b.store.Arriving(t.Context())
		sum := 0
		for _, of := range got.ByReason {
			sum += of
		}
		if err != nil || got.Total != n || sum != n || !isAll {
			t.Errorf("%+v, %t, %v; want all of %d letters", got, isAll, err, n)
		}
	}
	park("d-1", "d-2", "d-3")
	wantArriving(3)
	if stats, err := b.store.Stats(t.Context(), deadletter.Filter{}); err != nil || stats.Total != 3 {
		t.Errorf("Stats: %+v, %v; want 3 letters", stats, err)
	}
	t.Run("a worker parks them", func(t *testing.T) { //nolint:paralleltest // as above
		b.work(t, func(deadletter.Letter) error { return nil })
		b.awaitParked(t, 3)
	})
	wantArriving(0)
	if _, err := b.store.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{}); err != nil {
		t.Fatal(err)
	}
	park("d-4")
	wantArriving(1)
}
