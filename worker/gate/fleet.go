package gate

import (
	"context"
	"time"
)

// Fleet is the workers that call the same API, as the gate needs them.
type Fleet interface {
	// Close asks every worker to make no call for that long. It is called
	// outside the gate's lock by the task that was throttled, whose context may
	// have ended; it bounds its own time.
	Close(ctx context.Context, d time.Duration)
	// Snapshot returns the number of live workers, this one included, and for
	// how long from now all must wait. It is called under the gate's lock,
	// more than once for a call: it must answer from memory. What has become
	// unknown should stay as it was: to believe oneself alone multiplies the
	// rate.
	Snapshot() (live int, closedFor time.Duration)
}

// alone is the fleet of one.
type alone struct{}

var _ Fleet = alone{}

// Close implements Fleet.
func (alone) Close(context.Context, time.Duration) {}

// Snapshot implements Fleet.
func (alone) Snapshot() (live int, closedFor time.Duration) { return 1, 0 }
