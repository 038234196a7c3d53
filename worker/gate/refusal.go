package gate

import (
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Cause is what held a task back. The set is closed: it serves as metric label
// and log field.
type Cause string

// The causes.
const (
	ByThrottle  Cause = "throttle"  // KooDrive asked for a rest
	ByBreaker   Cause = "breaker"   // KooDrive is in trouble
	ByInFlight  Cause = "in_flight" // Config.MaxInFlight calls are under way
	ByRate      Cause = "rate"      // Config.Rate is used up
	ByRamp      Cause = "ramp"      // traffic is being ramped up
	ByInterrupt Cause = "interrupt" // the task's context ended, or the gate was stopped
)

// Causes lists every cause.
func Causes() []Cause {
	return []Cause{ByThrottle, ByBreaker, ByInFlight, ByRate, ByRamp, ByInterrupt}
}

// Refusal tells that a task is to be put back uncharged.
type Refusal struct {
	Cause Cause
	// Reason is what to show: the outage's, or throttled where too many
	// requests are, by KooDrive's word or by our own limits.
	Reason tasks.Reason
	// Delay is when to come back: after the earliest time at which it makes
	// sense, plus a random part, so that they do not all come at once.
	Delay time.Duration
	// Called: the call was made, and its answer, though bad, is not held
	// against the task.
	Called  bool
	Message string // one line without the reason
	Hint    string // what an operator can do about it; may be empty
}

// interruptedDelay lets the worker that was stopped get out of the way.
const interruptedDelay = time.Second

// refuse makes a refusal of what holds the line.
func (g *Gate) refuse(now time.Time, h hold, called bool) *Refusal {
	r := &Refusal{Cause: h.cause, Reason: h.reason, Called: called, Delay: interruptedDelay}
	if h.cause != ByInterrupt {
		r.Delay = max(h.until.Sub(now), 0) + between(time.Second, g.spread)
	}
	r.Message, r.Hint = g.explain(h)
	g.tally.refused[h.cause]++
	return r
}

// interrupted is the hold of those who wait no more: for the reason for which
// they had waited.
func (g *Gate) interrupted() hold {
	reason := tasks.Throttled
	if g.breaker.state != Closed {
		reason = g.breaker.reason
	}
	return hold{cause: ByInterrupt, reason: reason}
}

func (g *Gate) explain(h hold) (message, hint string) {
	switch h.cause {
	case ByThrottle:
		return "KooDrive has asked for a rest until " + h.until.UTC().Format(time.RFC3339),
			"it goes on by itself; if this happens often, set or lower --rate"
	case ByBreaker:
		if g.breaker.state == Closed {
			return "the call was begun in an outage that is over by now", ""
		}
		return "KooDrive has been unusable since " + g.breaker.since.UTC().Format(time.RFC3339) + ", and gets probes only", breakerHint(h.reason)
	case ByInFlight:
		return "as many calls as allowed are in flight, and none ended in time", "raise --max-in-flight if KooDrive can take more"
	case ByRate:
		return "more tasks wait than the rate allows", "raise --rate if KooDrive can take more"
	case ByRamp:
		return "KooDrive has just come back, and traffic is being ramped up", ""
	case ByInterrupt:
		return "interrupted before its call was made", ""
	default:
		return string(h.cause), ""
	}
}

func breakerHint(r tasks.Reason) string {
	switch r {
	case tasks.Unauthorized:
		return "give the worker a credential that KooDrive accepts; kooworker doctor tells more"
	case tasks.Misrouted:
		return "check --koodrive-url: what answers there is not KooDrive; kooworker doctor tells more"
	default:
		return "it goes on by itself when KooDrive answers again; kooworker doctor tells more"
	}
}
