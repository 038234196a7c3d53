package gate

import (
	"context"
	"sync"
	"time"
)

// fakeFleet is a fleet in memory. What a worker sees of it is up to lag old, as
// it is with a loop that asks Redis.
type fakeFleet struct {
	mu          sync.Mutex
	live        int
	was         int // live, until changed + lag
	changed     time.Time
	lag         time.Duration
	pausedUntil time.Time
	pauses      []time.Duration
}

var _ Fleet = (*fakeFleet)(nil)

func newFakeFleet() *fakeFleet { return &fakeFleet{live: 1, was: 1} }

func (f *fakeFleet) set(live int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.was, f.live, f.changed = f.live, live, time.Now()
}

// Pause implements Fleet.
func (f *fakeFleet) Pause(_ context.Context, d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pauses = append(f.pauses, d)
	if until := time.Now().Add(d); until.After(f.pausedUntil) {
		f.pausedUntil = until
	}
}

// Snapshot implements Fleet.
func (f *fakeFleet) Snapshot() (live int, pausedFor time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if live = f.live; time.Since(f.changed) < f.lag {
		live = f.was
	}
	return live, max(time.Until(f.pausedUntil), 0)
}
