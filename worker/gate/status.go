package gate

import (
	"maps"
	"math"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Status is the gate at one moment, for metrics and people.
type Status struct {
	Breakers map[Kind]BreakerStatus

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

// BreakerStatus is the state of the breaker of one kind of calls.
type BreakerStatus struct {
	State  State
	Reason tasks.Reason // why it is not Closed; "" if it is
	Since  time.Time    // when it closed last, or stopped being closed
}

// Status returns the gate's state and counters.
func (g *Gate) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.refresh(now)
	limit := g.pacer.limit()
	s := Status{
		Breakers: make(map[Kind]BreakerStatus), PausedFor: max(g.throttledUntil.Sub(now), 0), Live: g.live,
		InFlight: g.inFlight, Waiting: len(g.waiters), Calls: g.calls, Refused: maps.Clone(g.refused),
	}
	for kind, b := range g.breakers {
		s.Breakers[kind] = BreakerStatus{State: b.state, Reason: b.reason, Since: b.since}
		s.Probes += b.probes
		limit = min(limit, b.ramp.limit(now, g.live))
	}
	if !math.IsInf(limit, 1) {
		s.Limit = limit
	}
	return s
}
