package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

const (
	// claimMinTTL is how long a claim lives at least: longer than a task waits at
	// the gate, and then calls.
	claimMinTTL = 2 * time.Minute
	// claimMaxTTL is how long a claim lives at most: nobody can renew the lock for
	// as long.
	claimMaxTTL = time.Hour
	// claimSafetyMargin is what a call that was given up may still do at KooDrive.
	claimSafetyMargin = 30 * time.Second
	// claimEndTimeout bounds telling the ledger that a claim has ended.
	claimEndTimeout = 5 * time.Second
	// recheckAfter is the age from which a recheck is repeated.
	recheckAfter = time.Second
)

// claimTTL is how long a claim lives where a call has that timeout.
func claimTTL(callTimeout time.Duration) time.Duration {
	const calls = 3 // the call, another with a fresh credential, and time to spare
	return min(max(claimMinTTL, calls*callTimeout), claimMaxTTL)
}

// release releases a backup lock, and takes it out of the ledger.
//
// A release that a sweep has enqueued must not free a lock that was renewed since.
// So the ledger is asked for a claim first. From the claim to its end a renewal is
// refused; a renewal that was accepted is one that no release can overtake. A lock
// that was found elsewhere is rechecked there as well, and once more if the task
// has waited at the gate.
//
// If the process dies after the claim, the claim runs out by itself and the
// release runs again. If the process is stopped for longer than its claim and goes
// on, acquire looks at the clock before the call is made. Only between that look
// and the first byte on the wire nothing can hold the call back.
func (j *Jobs) release(ctx context.Context, t tasks.LockRelease) pipeline.Result {
	// The call must be over before the claim is. Redis may answer late, and have
	// made the claim at once: the time runs from here.
	ctx, cancel := context.WithTimeout(ctx, j.claimTTL-claimSafetyMargin)
	defer cancel()

	claim, stop := j.claim(ctx, t)
	if stop != nil {
		return *stop
	}
	checked := j.now()
	if stop := j.recheck(ctx, t); stop != nil {
		j.unclaim(ctx, claim)
		return *stop
	}
	permit, stop := j.acquire(ctx)
	if stop != nil {
		j.unclaim(ctx, claim)
		return *stop
	}
	defer permit.Close()
	if j.now().Sub(checked) > recheckAfter {
		if stop := j.recheck(ctx, t); stop != nil {
			permit.Cancel()
			j.unclaim(ctx, claim)
			return *stop
		}
	}
	answer := j.koodrive.Release(ctx, t.UserID, t.LockID)
	result := report(ctx, permit, answer)
	switch {
	case answer.Reason == tasks.OK || answer.Reason == tasks.Gone:
		if err := j.endClaim(ctx, func(ctx context.Context) error { return j.locks.Released(ctx, claim) }); err != nil {
			return *unavailable(err) // it runs again, and finds the lock already gone
		}
	case outcomeUnknown(answer.Reason): // KooDrive may still release it: the claim runs out
	default:
		j.unclaim(ctx, claim)
	}
	return result
}

// claim claims the lock of a sweep's release in the ledger. An order of somebody
// who has named the lock needs no claim.
func (j *Jobs) claim(ctx context.Context, t tasks.LockRelease) (enqueuelocks.Claim, *pipeline.Result) {
	id := tasks.LockID{UserID: t.UserID, LockID: t.LockID}
	source, expiredAt := t.Evidence.Source, t.Evidence.ExpiredAt
	if t.Evidence == (tasks.SweepEvidence{}) {
		return enqueuelocks.Claim{ID: id}, nil
	}
	if !j.sources.has(source) {
		return enqueuelocks.Claim{}, j.sources.missing(source)
	}
	ask := j.locks.Claim
	if source != tasks.SourceLedger {
		ask = j.locks.ClaimExternal
	}
	claim, err := ask(ctx, id, expiredAt, j.claimTTL)
	switch {
	case err != nil:
		return enqueuelocks.Claim{}, unavailable(err)
	case claim.Status != enqueuelocks.Claimed:
		return enqueuelocks.Claim{}, notStale(string(claim.Status))
	case ctx.Err() != nil: // no time is left to call
		j.unclaim(ctx, claim)
		return enqueuelocks.Claim{}, unavailable(fmt.Errorf("claim the lock: %w", ctx.Err()))
	default:
		return claim, nil
	}
}

// recheck looks at a lock where the sweep has found it, unless that was the
// ledger, which the claim has asked. It returns nil if the lock may be released.
func (j *Jobs) recheck(ctx context.Context, t tasks.LockRelease) *pipeline.Result {
	refused, err := j.sources.recheck(ctx, t)
	switch {
	case err != nil:
		return waitFor(err.Error(), "", j.sources.pause(t.Evidence.Source)) // not the task's fault
	case refused != "":
		return notStale(refused)
	default:
		return nil
	}
}

func notStale(why string) *pipeline.Result {
	superseded := pipeline.Superseded("the lock is not stale any more: " + why)
	return &superseded
}

// outcomeUnknown reports whether KooDrive may have released the lock, or may still
// do so, though it did not say so.
func outcomeUnknown(reason tasks.Reason) bool {
	switch reason {
	case tasks.Upstream, tasks.TimedOut, tasks.Network, tasks.Protocol, tasks.Panicked:
		return true
	default: // KooDrive has said no
		return false
	}
}

// unclaim gives a claim back, so that the holder can renew at once. A claim that
// cannot be given back runs out.
func (j *Jobs) unclaim(ctx context.Context, claim enqueuelocks.Claim) {
	if claim.FencingToken != 0 {
		_ = j.endClaim(ctx, func(ctx context.Context) error { return j.locks.Unclaim(ctx, claim) })
	}
}

// endClaim tells the ledger, for as long as that is worth waiting for.
func (j *Jobs) endClaim(ctx context.Context, end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimEndTimeout)
	defer cancel()
	pause := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxElapsedTime(0))
	return backoff.Retry(func() error { return end(ctx) }, backoff.WithContext(pause, ctx))
}
