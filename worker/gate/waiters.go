package gate

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// waiter is a task that waits for its turn. The gate's lock guards it until
// decided is closed. Then exactly one of permit and refusal is set.
type waiter struct {
	call     Call
	deadline time.Time
	decided  chan struct{}
	permit   *Permit
	refusal  *Refusal
}

// blocker is the reason why the next call cannot be made now.
type blocker struct {
	cause  Cause
	kind   Kind // of the calls that are blocked; "" for all
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
			g.decide(0, nil, g.refuse(now, g.waiters[0].call.Kind, g.interrupted(g.waiters[0].call)))
			continue
		}
		i, b := g.next(now)
		switch {
		case i >= 0:
			g.decide(i, g.grant(now, g.waiters[i].call), nil)
		default:
			g.admitAt(now, b.until)
			return
		}
	}
	if g.timer != nil {
		g.timer.Stop()
	}
}

// refresh reads what is known of the fleet.
func (g *Gate) refresh(now time.Time) {
	s := g.cfg.Fleet.Snapshot()
	g.live = max(s.Live, 1)
	g.exchange(now)
	if s.News == nil || s.News == g.news {
		return
	}
	g.news = s.News
	for _, b := range g.breakers {
		b.merge(now, s.News)
	}
}

// next returns the index of the waiter that may call now. It returns -1 if none may,
// and what blocks the one whose block ends first.
func (g *Gate) next(now time.Time) (int, blocker) {
	if b, blocked := g.blocked(); blocked {
		return -1, b
	}
	var first blocker
	var seen []Kind // that are blocked
	for i, w := range g.waiters {
		if slices.Contains(seen, w.call.Kind) {
			continue
		}
		b, blocked := g.breakers[w.call.Kind].blocks(now)
		if blocked {
			seen = append(seen, w.call.Kind)
			if first.cause == "" || first.until.IsZero() || !b.until.IsZero() && b.until.Before(first.until) {
				first = b
			}
			continue
		}
		if wait := g.pacer.wait(now, w.call.Kind); wait > 0 {
			seen = append(seen, w.call.Kind)
			if until := now.Add(wait); first.cause == "" || first.until.IsZero() || until.Before(first.until) {
				first = blocker{cause: ByRate, kind: w.call.Kind, reason: tasks.Throttled, until: until}
			}
			if len(seen) == len(g.breakers) {
				break
			}
			continue
		}
		return g.breakers[w.call.Kind].choose(i), blocker{}
	}
	return -1, first
}

// blocked reports what blocks every call now, the rate aside.
func (g *Gate) blocked() (b blocker, blocked bool) {
	switch {
	case g.cfg.MaxInFlight > 0 && g.inFlight >= g.cfg.MaxInFlight:
		return blocker{cause: ByInFlight, reason: tasks.Throttled}, true
	default:
		return blocker{}, false
	}
}

// blocks reports what blocks the calls of this kind now.
func (b *breaker) blocks(now time.Time) (blocker, bool) {
	switch b.state {
	case HalfOpen: // until the probe that is under way ends
		return blocker{cause: ByBreaker, kind: b.kind, reason: b.reason}, true
	case Open: // a probe does not wait for calls that have hung since before the outage
		return blocker{cause: ByBreaker, kind: b.kind, reason: b.reason, until: b.nextProbeAt}, now.Before(b.nextProbeAt)
	case Closed:
	}
	// The ramp's rate alone would let calls pile up if an API that comes back answers
	// slowly. So at most the calls of one second are in flight.
	if limit := b.ramp.limit(now, b.gate.live); float64(b.inFlight) >= math.Ceil(limit) {
		return blocker{cause: ByRamp, kind: b.kind, reason: tasks.Throttled, until: b.ramp.nextDoubling(now)}, true
	}
	if wait := b.ramp.wait(now, b.gate.live); wait > 0 {
		return blocker{cause: ByRamp, kind: b.kind, reason: tasks.Throttled, until: now.Add(wait)}, true
	}
	return blocker{}, false
}

// choose returns the waiter of this kind that goes next; i is the one that has waited
// longest. A probe should tell something new. So its user is one whose calls have
// not failed yet, or else the one whose calls have failed longest ago.
func (b *breaker) choose(i int) int {
	if b.state == Closed {
		return i
	}
	best := i
	for j := i + 1; j < len(b.gate.waiters); j++ {
		if call := b.gate.waiters[j].call; call.Kind == b.kind && b.lastFailure(call.User).Before(b.lastFailure(b.gate.waiters[best].call.User)) {
			best = j
		}
	}
	return best
}

// grant returns a permit for the call that nothing blocks.
func (g *Gate) grant(now time.Time, call Call) *Permit {
	p := &Permit{gate: g, call: call, began: now}
	b := g.breakers[call.Kind]
	b.ramp.take(now)
	p.epoch = g.pacer.take(now, call.Kind)
	b.admit(p)
	g.inFlight++
	return p
}

// decide ends the wait of a waiter with a permit or a refusal.
func (g *Gate) decide(i int, p *Permit, r *Refusal) {
	w := g.waiters[i]
	g.waiting[w.call.Kind]--
	if i == 0 {
		g.waiters[0], g.waiters = nil, g.waiters[1:]
	} else {
		g.waiters = slices.Delete(g.waiters, i, i+1)
	}
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
		g.waiting[w.call.Kind]--
		if ctx.Err() == nil {
			return nil, g.refuse(now, w.call.Kind, g.blockerOf(now, w.call))
		}
	}
	return nil, g.refuse(now, w.call.Kind, g.interrupted(w.call))
}

// blockerOf returns what blocks a call. If nothing else does, it is the rate.
func (g *Gate) blockerOf(now time.Time, call Call) blocker {
	if b, blocked := g.blocked(); blocked {
		return b
	}
	if b, blocked := g.breakers[call.Kind].blocks(now); blocked {
		if b.cause == ByBreaker && !g.breakers[call.Kind].hasFailed(call.User) {
			b.until = b.until.Add(-g.cfg.MaxWait / 2) // comes back in time for the next probe
		}
		return b
	}
	return blocker{cause: ByRate, reason: tasks.Throttled, until: now.Add(g.pacer.wait(now, call.Kind))}
}

// readNewsEvery is how often the waiters read the news of the fleet.
const readNewsEvery = time.Second

// admitAt sets the timer for the next decision. If until is zero, the end of a call
// leads to the next decision, without a timer.
func (g *Gate) admitAt(now, until time.Time) {
	if soon := now.Add(readNewsEvery); until.After(soon) {
		until = soon
	}
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
