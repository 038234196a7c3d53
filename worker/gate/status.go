package gate

import (
	"maps"
	"math"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Status is the gate at one moment, for metrics and people.
type Status struct {
	State  State
	Reason tasks.Reason // why it is not Closed; "" if it is
	Since  time.Time    // when it closed last, or stopped being closed

	PausedFor time.Duration // by throttling, from now; 0 if it is not
	Live      int           // workers that share the rate
	Limit     float64       // calls a second that this worker may make now; 0 for no limit
	InFlight  int
	Waiting   int

	// These only grow.
	Calls   uint64           // calls that have ended, probes included
	Probes  uint64           // probes that have ended
	Refused map[Cause]uint64 // tasks that were refused
}

// Status returns the gate's state and counters.
func (g *Gate) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.refresh(now)
	s := Status{
		State: g.breaker.state, Reason: g.breaker.reason, Since: g.breaker.since,
		PausedFor: max(g.throttledUntil.Sub(now), 0), Live: g.breaker.live, Limit: g.pacer.limit(now),
		InFlight: g.inFlight, Waiting: len(g.waiters), Calls: g.calls, Probes: g.breaker.probes, Refused: maps.Clone(g.refused),
	}
	if math.IsInf(s.Limit, 1) {
		s.Limit = 0
	}
	return s
}
