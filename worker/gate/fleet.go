package gate

import (
	"context"
	"time"
)

// Fleet is what the gate needs of the workers that call the same API.
type Fleet interface {
	// Pause asks every worker to make no call for d. It is called outside the gate's
	// lock, with the context of the task that was throttled, which may have ended.
	// Pause bounds its own time.
	Pause(ctx context.Context, d time.Duration)
	// Snapshot returns the number of live workers, this one included, and for
	// how long from now every worker must pause. It is called under the gate's
	// lock, more than once for a call: it must answer from memory. If it cannot
	// learn the present state, it should return the last state that it knew: a
	// worker that wrongly believes to be the only one multiplies the rate.
	Snapshot() (live int, pausedFor time.Duration)
}

// solo is the fleet of a single worker.
type solo struct{}

var _ Fleet = solo{}

// Pause implements Fleet.
func (solo) Pause(context.Context, time.Duration) {}

// Snapshot implements Fleet.
func (solo) Snapshot() (live int, pausedFor time.Duration) { return 1, 0 }
