package gate

import (
	"context"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// waiter is a task in line. The gate's lock guards it until called is closed.
type waiter struct {
	deadline time.Time
	gone     bool          // it has given up; its place is skipped
	called   chan struct{} // closed when it has its pass or refusal
	pass     pass          // valid if refusal is nil
	refusal  *Refusal
}

// hold is why the next call cannot be made now.
type hold struct {
	cause  Cause
	reason tasks.Reason
	until  time.Time // zero: until a call in flight ends
}

// enter waits in line for a pass, which is to be given back to leave.
func (g *Gate) enter(ctx context.Context) (pass, *Refusal) {
	start := time.Now()
	w := &waiter{deadline: start.Add(g.maxWait), called: make(chan struct{})}
	g.mu.Lock()
	if ctx.Err() != nil {
		defer g.mu.Unlock()
		return pass{}, g.refuse(start, g.interrupted(), false)
	}
	g.line = append(g.line, w)
	g.waiting++
	g.admit()
	g.mu.Unlock()

	select {
	case <-w.called:
		return w.pass, w.refusal
	default:
	}
	patience := time.NewTimer(g.maxWait)
	defer patience.Stop()
	select {
	case <-w.called:
	case <-ctx.Done():
	case <-patience.C:
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.tally.waits++
	g.tally.waited += now.Sub(start)
	return g.callOff(ctx, w, now)
}

// callOff ends the wait of w. It may have been called at the very moment in
// which it gave up.
func (g *Gate) callOff(ctx context.Context, w *waiter, now time.Time) (pass, *Refusal) {
	select {
	case <-w.called:
		if w.refusal == nil && ctx.Err() != nil {
			g.inFlight--
			g.tally.calls--
			g.breaker.cancel(w.pass)
			g.admit()
			return pass{}, g.refuse(now, g.interrupted(), false)
		}
		return w.pass, w.refusal
	default:
	}
	w.gone = true
	g.waiting--
	if ctx.Err() != nil {
		return pass{}, g.refuse(now, g.interrupted(), false)
	}
	return pass{}, g.refuse(now, g.held, false)
}

// admit calls up as many of the line as may go now, and sets the timer for the
// next. It is called whenever something has changed: someone came, a call
// ended, time has passed.
func (g *Gate) admit() {
	now := time.Now()
	g.look(now)
	for w := g.front(); w != nil; w = g.front() {
		if g.stopped {
			w.refusal = g.refuse(now, g.interrupted(), false)
			g.callUp(w)
			continue
		}
		h, held := g.next(now)
		switch {
		case !held:
			w.pass = g.breaker.enter()
			g.inFlight++
			g.tally.calls++
			g.callUp(w)
		case h.cause == ByThrottle && h.until.After(w.deadline):
			w.refusal = g.refuse(now, h, false)
			g.callUp(w)
		default:
			g.held = h
			g.wakeAt(now, h.until)
			return
		}
	}
	if g.timer != nil {
		g.timer.Stop()
	}
}

// look takes notice of the fleet, and of the end of a closure.
func (g *Gate) look(now time.Time) {
	live, closedFor := g.fleet.Snapshot()
	live = max(live, 1)
	if until := now.Add(closedFor); closedFor > 0 && until.After(g.shut) {
		g.shut = until
	}
	if !g.shut.IsZero() && !now.Before(g.shut) {
		g.shut = time.Time{}
	}
	g.breaker.live = live
	_, lonely := g.fleet.(alone)
	g.pacer.setLive(now, live, lonely)
}

// next decides about one call; if nothing holds it, the rate has been charged.
func (g *Gate) next(now time.Time) (h hold, held bool) {
	if now.Before(g.shut) {
		return hold{ByThrottle, tasks.Throttled, g.shut}, true
	}
	if until, held := g.breaker.wait(now); held {
		return hold{ByBreaker, g.breaker.reason, until}, true
	}
	if g.maxInFlight > 0 && g.inFlight >= g.maxInFlight {
		return hold{cause: ByInFlight, reason: tasks.Throttled}, true
	}
	// A probe does not wait for calls that hang since before the outage.
	if g.breaker.state == Closed && float64(g.inFlight) >= g.pacer.window(now) {
		return hold{ByRamp, tasks.Throttled, g.pacer.nextStep(now)}, true
	}
	if wait := g.pacer.take(now); wait > 0 {
		cause := ByRate
		if g.pacer.ramped(now) == g.pacer.limit(now) {
			cause = ByRamp
		}
		return hold{cause, tasks.Throttled, now.Add(wait)}, true
	}
	return hold{}, false
}

// front returns the first in line, nil if there is none.
func (g *Gate) front() *waiter {
	for len(g.line) > 0 && g.line[0].gone {
		g.drop()
	}
	if len(g.line) == 0 {
		return nil
	}
	return g.line[0]
}

// callUp lets the first in line go.
func (g *Gate) callUp(w *waiter) {
	g.drop()
	g.waiting--
	close(w.called)
}

func (g *Gate) drop() { g.line[0], g.line = nil, g.line[1:] }

func (g *Gate) wakeAt(now, until time.Time) {
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
