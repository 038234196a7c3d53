package gate

import (
	"context"
	"errors"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Permit allows one call. The caller of Acquire must end it: with Report after the
// call, or with Cancel if no call was made. After that, its methods do nothing.
// Until the permit ends, it counts as a call in flight, and as the probe if it is
// for one. So the caller defers Close, in case the call panics.
type Permit struct {
	gate       *Gate
	call       Call
	began      time.Time // when it was granted
	waited     time.Duration
	generation uint64 // the breaker's when the permit was granted
	epoch      uint64 // the quota's, likewise
	probe      bool
	newUser    bool // the probe's user had not failed before
	ended      bool // guarded by the gate's lock
}

// Waited returns how long the task waited for this permit, 0 if it did not. After a
// wait, what was checked before Acquire may be out of date.
func (p *Permit) Waited() time.Duration { return p.waited }

// Report tells the gate the answer of the call. It returns nil if the answer is
// about this task. Otherwise the answer is a 429 or belongs to an outage, and the
// task must be put back uncharged.
//
// If it is not clear whether a failure is about the task, Report waits for the
// answers of other calls, for at most a second, and then for a check.
func (p *Permit) Report(ctx context.Context, a Answer) *Refusal {
	refusal, doubt := p.report(ctx, a)
	if doubt == nil || p.gate.settle(ctx, doubt) == theTask {
		return refusal
	}
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	return p.gate.refuse(time.Now(), p.call.Kind, p.blocker(a.Reason))
}

// Cancel ends a permit without a call. Another task may call instead. The breaker
// does not count it.
func (p *Permit) Cancel() {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	p.cancel()
}

// Close is for defer. A permit that has not ended by then belongs to a call that
// panicked; Close reports that.
func (p *Permit) Close() { p.Report(context.Background(), Answer{Reason: tasks.Panicked}) }

// report returns the refusal, if any. If it is not clear yet whether there is a
// refusal, it returns a doubt.
func (p *Permit) report(ctx context.Context, a Answer) (refusal *Refusal, d *doubt) {
	reason := a.Reason
	if isFailure(reason) && errors.Is(ctx.Err(), context.Canceled) {
		// A shutdown or an operator ended the call. That says nothing about KooDrive.
		reason = canceled
	}
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.ended {
		return nil, nil
	}
	p.ended = true
	now := time.Now()
	g.inFlight--
	g.calls[p.call.Kind].ended++
	b := g.breakers[p.call.Kind]
	about, d := b.report(now, p, reason, a.NotSent)
	switch {
	case reason == tasks.Throttled:
		refusal = g.refuse(now, p.call.Kind, blocker{cause: ByThrottle, kind: p.call.Kind, reason: reason, until: now.Add(g.throttled(now, p, a))})
	case about == anOutage:
		refusal = g.refuse(now, p.call.Kind, p.blocker(reason))
	}
	if passes(a) {
		g.users.pass(p.call)
		g.pacer.kinds[p.call.Kind].pass(p.epoch)
		g.took(p.call.Kind, now.Sub(p.began))
	}
	g.pacer.tell(p.call.Kind, a.Limit)
	g.admit()
	return refusal, d
}

// passes reports whether an answer shows that no quota held the call back.
func passes(a Answer) bool {
	return a.Reason != tasks.Throttled && a.Reason != tasks.Panicked && a.Reason != canceled && !a.NotSent
}

// blocker is what holds back the task, whose call failed in an outage.
func (p *Permit) blocker(reason tasks.Reason) blocker {
	b := p.gate.breakers[p.call.Kind]
	if b.generation == p.generation && b.state == Closed {
		return blocker{cause: ByDoubt, kind: b.kind, reason: reason}
	}
	return blocker{cause: ByBreaker, kind: b.kind, reason: reason, until: b.nextProbeAt}
}

// cancel is Cancel under the gate's lock.
func (p *Permit) cancel() {
	if p.ended {
		return
	}
	p.ended = true
	p.gate.inFlight--
	p.gate.breakers[p.call.Kind].cancel(p)
	p.gate.admit()
}

// throttleCap bounds the wait of a task, whatever the answer asks for.
const throttleCap = 15 * time.Minute

// throttled counts a call that was answered with a 429, and returns how long its task
// must wait.
func (g *Gate) throttled(now time.Time, p *Permit, a Answer) time.Duration {
	g.calls[p.call.Kind].overQuota++
	wait := min(a.RetryAfter, throttleCap)
	isUsers := g.users.refuse(now, p.call, wait)
	g.pacer.kinds[p.call.Kind].refuse(now, !isUsers, p.epoch)
	if !isUsers {
		g.pacer.tell(p.call.Kind, a.Limit)
	}
	if wait <= 0 {
		wait = randDuration(g.cfg.ThrottleMin, g.cfg.ThrottleMax)
	}
	return wait
}
