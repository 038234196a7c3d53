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

	ClosedFor time.Duration // by throttling, from now; 0 when it is not
	Live      int           // workers that share the rate
	Limit     float64       // calls a second that this worker may make now; 0 for no limit
	InFlight  int
	Waiting   int

	// What follows only grows.

	Calls     uint64 // calls made, probes included
	Probes    uint64 // probes answered
	Throttled uint64 // answers that were "too many requests"
	Waits     uint64 // tasks that stood in line
	Waited    time.Duration
	Refused   map[Cause]uint64
}

// tally is what only grows.
type tally struct {
	calls, throttled, waits uint64
	waited                  time.Duration
	refused                 map[Cause]uint64
}

// Status returns the gate's state and counts.
func (g *Gate) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.look(now)
	s := Status{
		State: g.breaker.state, Reason: g.breaker.reason, Since: g.breaker.since,
		ClosedFor: max(g.shut.Sub(now), 0), Live: g.breaker.live, Limit: g.pacer.limit(now),
		InFlight: g.inFlight, Waiting: g.waiting,
		Calls: g.tally.calls, Probes: g.breaker.probes, Throttled: g.tally.throttled,
		Waits: g.tally.waits, Waited: g.tally.waited, Refused: maps.Clone(g.tally.refused),
	}
	if math.IsInf(s.Limit, 1) {
		s.Limit = 0
	}
	return s
}
