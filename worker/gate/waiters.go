package gate

import (
	"context"
	"slices"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// waiter is a task that waits for its turn. The gate's lock guards it until
// decided is closed. Then exactly one of permit and refusal is set.
type waiter struct {
	deadline time.Time
	decided  chan struct{}
	permit   *Permit
	refusal  *Refusal
}

// blocker is the reason why the next call cannot be made now.
type blocker struct {
	cause  Cause
	reason tasks.Reason
	until  time.Time // zero: until a call in flight ends
}

// admit decides about as many waiters as possible, and sets the timer for the
// next. It is called whenever something changes: a task comes, a call ends, or the
// timer fires.
func (g *Gate) admit() {
	now := time.Now()
	g.refresh(now)
	for len(g.waiters) > 0 {
		if g.stopped {
			g.decide(nil, g.refuse(now, g.interrupted()))
			continue
		}
		b, blocked := g.tryNext(now)
		switch {
		case !blocked:
			g.decide(g.grant(), nil)
		case b.cause == ByThrottle && b.until.After(g.waiters[0].deadline):
			g.decide(nil, g.refuse(now, b))
		default:
			g.blockedBy = b
			g.admitAt(now, b.until)
			return
		}
	}
	if g.timer != nil {
		g.timer.Stop()
	}
}

// refresh reads the number of live workers and the pause from the fleet.
func (g *Gate) refresh(now time.Time) {
	live, pausedFor := g.cfg.Fleet.Snapshot()
	live = max(live, 1)
	if until := now.Add(pausedFor); pausedFor > 0 && until.After(g.throttledUntil) {
		g.throttledUntil = until
	}
	g.breaker.live = live
	_, isSolo := g.cfg.Fleet.(solo)
	g.pacer.setLive(now, live, isSolo)
}

// tryNext decides whether one more call may be made now. If nothing blocks the call,
// tryNext has taken a token for it.
func (g *Gate) tryNext(now time.Time) (b blocker, blocked bool) {
	if now.Before(g.throttledUntil) {
		return blocker{ByThrottle, tasks.Throttled, g.throttledUntil}, true
	}
	if until, blocked := g.breaker.blocked(now); blocked {
		return blocker{ByBreaker, g.breaker.reason, until}, true
	}
	if g.cfg.MaxInFlight > 0 && g.inFlight >= g.cfg.MaxInFlight {
		return blocker{cause: ByInFlight, reason: tasks.Throttled}, true
	}
	// A probe does not wait for calls that have hung since before the outage.
	if g.breaker.state == Closed && float64(g.inFlight) >= g.pacer.maxInFlight(now) {
		return blocker{ByRamp, tasks.Throttled, g.pacer.nextDoubling(now)}, true
	}
	if wait := g.pacer.take(now); wait > 0 {
		cause := ByRate
		if g.pacer.rampLimit(now) == g.pacer.limit(now) {
			cause = ByRamp
		}
		return blocker{cause, tasks.Throttled, now.Add(wait)}, true
	}
	return blocker{}, false
}

// grant returns a permit for the call that nothing blocks.
func (g *Gate) grant() *Permit {
	p := &Permit{gate: g}
	g.breaker.admit(p)
	g.inFlight++
	return p
}

// decide ends the wait of the first waiter with a permit or a refusal.
func (g *Gate) decide(p *Permit, r *Refusal) {
	w := g.waiters[0]
	g.waiters[0], g.waiters = nil, g.waiters[1:]
	w.permit, w.refusal = p, r
	close(w.decided)
}

// endWait returns what was decided about w. If nothing was, w gives up. The context
// may have ended just when w was granted its permit: then the permit is canceled.
func (g *Gate) endWait(ctx context.Context, w *waiter, now time.Time) (*Permit, *Refusal) {
	select {
	case <-w.decided:
		if w.permit == nil || ctx.Err() == nil {
			return w.permit, w.refusal
		}
		w.permit.cancel()
	default:
		g.waiters = slices.DeleteFunc(g.waiters, func(other *waiter) bool { return other == w })
		if ctx.Err() == nil {
			return nil, g.refuse(now, g.blockedBy)
		}
	}
	return nil, g.refuse(now, g.interrupted())
}

// admitAt sets the timer for the next decision. If until is zero, the end of a call
// leads to the next decision, without a timer.
func (g *Gate) admitAt(now, until time.Time) {
	switch {
	case until.IsZero():
	case g.timer == nil:
		g.timer = time.AfterFunc(until.Sub(now), func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.admit()
		})
	default:
		g.timer.Reset(until.Sub(now))
	}
}
