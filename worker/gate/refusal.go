package gate

import (
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Cause is what held a task back. The set is closed: a cause serves as metric
// label and log field.
type Cause string

// The causes.
const (
	ByThrottle  Cause = "throttle"  // KooDrive answered 429
	ByBreaker   Cause = "breaker"   // KooDrive is in trouble
	ByDoubt     Cause = "doubt"     // the call failed, and it is not clear whether the task is at fault
	ByInFlight  Cause = "in_flight" // Config.MaxInFlight calls are under way
	ByRate      Cause = "rate"      // the quota, or Config.Rate, allows no more
	ByRamp      Cause = "ramp"      // the ramp after an outage limits the calls
	ByInterrupt Cause = "interrupt" // the task's context ended, or the gate was stopped
)

// Causes lists every cause.
func Causes() []Cause {
	return []Cause{ByThrottle, ByBreaker, ByDoubt, ByInFlight, ByRate, ByRamp, ByInterrupt}
}

// Refusal says that a task must be put back uncharged, and why.
type Refusal struct {
	Cause Cause
	// Reason is the reason to show: the outage's reason, or throttled if there are
	// too many requests for KooDrive or for our own limits.
	Reason tasks.Reason
	// Delay is how long the task must wait: until the block ends, plus a random part,
	// so that the tasks do not all run again at once.
	Delay   time.Duration
	Message string // one line without the reason
	Hint    string // what an operator can do about it; may be empty
}

// interruptedDelay is long enough for a worker that stops to be gone, so that it
// does not take the task again.
const interruptedDelay = time.Second

// doubtDelay gives other calls the time to show what a failure was about.
const doubtDelay = 10 * time.Second

// refuse makes a refusal of what blocks the next call of a kind.
func (g *Gate) refuse(now time.Time, kind Kind, b blocker) *Refusal {
	r := &Refusal{Cause: b.cause, Reason: b.reason, Delay: interruptedDelay}
	switch b.cause {
	case ByInterrupt:
	case ByDoubt:
		r.Delay = doubtDelay + randDuration(time.Second, g.cfg.Jitter)
	default:
		r.Delay = max(b.until.Sub(now), 0) + randDuration(time.Second, g.cfg.Jitter)
	}
	r.Message, r.Hint = g.explain(b)
	g.refused[b.cause]++
	g.expect(kind, now.Add(r.Delay))
	return r
}

// interrupted is the blocker of a task whose wait was interrupted. It has the reason
// for which the task has waited.
func (g *Gate) interrupted(call Call) blocker {
	reason := tasks.Throttled
	if b := g.breakers[call.Kind]; b.state != Closed {
		reason = b.reason
	}
	return blocker{cause: ByInterrupt, kind: call.Kind, reason: reason}
}

func (g *Gate) explain(b blocker) (message, hint string) {
	switch b.cause {
	case ByThrottle:
		return "KooDrive received too many requests; this task is called again after " + b.until.UTC().Format(time.RFC3339),
			"the workers call at the rate that KooDrive allows; no task is charged"
	case ByBreaker:
		if g.breakers[b.kind].state == Closed {
			return "the call began in an outage that is over now", ""
		}
		return "KooDrive has been unusable for calls of kind " + string(b.kind) + " since " +
			g.breakers[b.kind].since.UTC().Format(time.RFC3339) + "; only probes call it", BreakerHint(b.reason)
	case ByDoubt:
		return "no other call shows yet whether the task or KooDrive is at fault", BreakerHint(b.reason)
	case ByInFlight:
		return "the allowed number of calls is in flight, and none ended in time", "raise --max-in-flight if KooDrive can take more"
	case ByRate:
		return "more tasks wait than the rate allows", "raise --rate if it is set and KooDrive can take more"
	case ByRamp:
		return "KooDrive has just come back, and the number of calls grows step by step", ""
	default: // ByInterrupt
		return "interrupted before its call was made", ""
	}
}

// BreakerHint says what to do about calls that are not made for a reason.
func BreakerHint(r tasks.Reason) string {
	switch r {
	case tasks.Unauthorized:
		return "give the worker a credential that KooDrive accepts; kooworker doctor tells more"
	case tasks.Misrouted:
		return "check --koodrive-url, and who answers on the way to KooDrive: a proxy, a firewall, the gateway; kooworker doctor tells more"
	case tasks.Rejected, tasks.Forbidden, tasks.Invalid:
		return "KooDrive refuses the calls of all users alike: check the credential's permissions, and the code of the answer"
	default:
		return "calls resume by themselves when KooDrive answers again; kooworker doctor tells more"
	}
}
