package locks

import (
	"testing"
	"time"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// If the total counted swept locks, the share of stale ones would look too small.
func TestLedger_StatsDoNotCountWhatWasSwept(t *testing.T) {
	t.Parallel()
	ledger := Ledger{enqueuelocks.NewStore(redistest.Start(t).Client())}
	now := time.Now().Truncate(time.Millisecond)
	swept := tasks.Lock{UserID: "u", LockID: lockName(1), ExpiresAt: now.Add(-time.Hour)}
	if _, err := ledger.Track(t.Context(), []enqueuelocks.TrackRequest{
		{UserID: "u", LockID: lockName(1), ExpiresAt: swept.ExpiresAt}, {UserID: "u", LockID: lockName(2), ExpiresAt: swept.ExpiresAt}, {UserID: "u", LockID: lockName(3), ExpiresAt: now.Add(time.Hour)},
	}); err != nil {
		t.Fatal(err)
	}
	if err := ledger.MarkSwept(t.Context(), []tasks.Lock{swept}); err != nil {
		t.Fatal(err)
	}
	is, err := ledger.Stats(t.Context(), 0, 0)
	if err != nil || is.Total != 2 || is.Stale != 1 || ledger.Kind() != tasks.SourceLedger {
		t.Fatalf("%+v of %s, %v; want 2 locks of the ledger, of which 1 is stale", is, ledger.Kind(), err)
	}
	n := 0
	for l, err := range is.Oldest {
		if n++; err != nil || l.LockID != lockName(2) {
			t.Errorf("%v, %v; want lock 2", l, err)
		}
	}
	if n != 1 {
		t.Errorf("%d are yielded; want one", n)
	}
}
