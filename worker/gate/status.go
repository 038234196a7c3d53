package gate

import (
	"cmp"
	"maps"
	"math"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate/quota"
)

// Status is the gate at one moment, for metrics and people.
type Status struct {
	Breakers map[Kind]BreakerStatus

	Quotas   map[Kind]QuotaStatus
	Shared   float64 // calls a second of all kinds together, after KooDrive has named a limit; 0 for no limit
	Live     int     // workers of the fleet
	Limit    float64 // calls a second that the fleet may make now, of the kind with the lowest limit; 0 for no limit
	InFlight int
	Waiting  int

	// These only grow.
	Calls     uint64           // calls that have ended, probes included
	Probes    uint64           // probes that have ended
	OverQuota uint64           // calls that KooDrive refused because of a quota
	Refused   map[Cause]uint64 // tasks that were refused
}

// QuotaStatus is the quota of one kind of calls, and what became of this worker's calls.
type QuotaStatus struct {
	Rate    float64     // calls a second of the fleet; 0 for no limit
	IsTold  bool        // KooDrive has named the limit; otherwise it was learnt
	Phase   quota.Phase // Closed if the quota is used up
	Granted float64     // calls a second that this worker got in the last second or so; 0 if there is no limit

	// Untested says that the quota was used up when a task came last, and that this is long
	// ago, as with a breaker.
	Untested bool

	Lately CallTimes

	// As in Status.
	Calls, OverQuota uint64
}

// BreakerStatus is the state of the breaker of one kind of calls.
type BreakerStatus struct {
	State  State
	Reason tasks.Reason // why it is not Closed; "" if it is
	Since  time.Time    // when it closed last, or stopped being closed
	// Untested says that it is not Closed only because no task has come for long that could
	// try a call. Nobody knows whether calls pass, and no task waits for that.
	Untested bool
}

// Status returns the gate's state and counters.
func (g *Gate) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.refresh(now)
	limit := math.Inf(1)
	s := Status{
		Breakers: make(map[Kind]BreakerStatus), Quotas: make(map[Kind]QuotaStatus), Shared: g.pacer.shared, Live: g.live,
		InFlight: g.inFlight, Waiting: len(g.waiters), Refused: maps.Clone(g.refused),
	}
	for kind, b := range g.breakers {
		untested := g.isUntested(now, kind)
		s.Breakers[kind] = BreakerStatus{State: b.state, Reason: b.reason, Since: b.since, Untested: b.state != Closed && untested}
		s.Probes += b.probes
		k, c := g.pacer.kinds[kind], g.calls[kind]
		s.Calls += c.ended
		s.OverQuota += c.overQuota
		q := QuotaStatus{Rate: k.granted.Quota, IsTold: k.granted.IsTold, Phase: k.granted.Phase, Lately: c.lately, Calls: c.ended, OverQuota: c.overQuota}
		q.Untested = q.Phase == quota.Closed && untested
		if now.Sub(g.pacer.heardAt) <= deaf {
			q.Granted = k.got
		}
		s.Quotas[kind] = q
		if k.isLimited() {
			limit = min(limit, k.granted.Rate)
		}
		limit = min(limit, b.ramp.limit(now, g.live))
	}
	if !math.IsInf(limit, 1) {
		s.Limit = limit
	}
	return s
}

// LowestLimit returns the lowest of some limits, of which 0 is none; 0 if there is no limit.
func LowestLimit(limits ...float64) (low float64) {
	for _, limit := range limits {
		if limit > 0 {
			low = min(limit, cmp.Or(low, limit))
		}
	}
	return low
}
