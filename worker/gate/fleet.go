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
	// Tell tells the other workers what this one has learned. It is called under the
	// gate's lock: it must neither block nor call the gate.
	Tell(n News)
	// Snapshot returns what is known of the fleet. It is called under the gate's
	// lock, more than once for a call: it must answer from memory. If it cannot
	// learn the present state, it should return the last state that it knew: a
	// worker that wrongly believes to be the only one multiplies the rate.
	Snapshot() Snapshot
}

// Snapshot is what a worker knows of the fleet.
type Snapshot struct {
	Live      int           // live workers, this one included
	PausedFor time.Duration // how long from now every worker must pause
	// News is what the workers have told, those of this worker included. Its times
	// are by the local clock. It does not change: a newer snapshot has another one.
	// Nil if nothing is known.
	News *News
}

// solo is the fleet of a single worker.
type solo struct{}

var _ Fleet = solo{}

// Pause implements Fleet.
func (solo) Pause(context.Context, time.Duration) {}

// Tell implements Fleet.
func (solo) Tell(News) {}

// Snapshot implements Fleet.
func (solo) Snapshot() Snapshot { return Snapshot{Live: 1} }
