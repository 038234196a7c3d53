package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

const (
	// claimMinTTL is the shortest life of a claim. A task that waits at the gate and
	// then calls takes less time.
	claimMinTTL = 2 * time.Minute
	// claimMaxTTL is the longest life of a claim. Meanwhile nobody can renew the lock.
	claimMaxTTL = time.Hour
	// claimSafetyMargin is for how long KooDrive may still act on a call after the
	// caller has given the call up.
	claimSafetyMargin = 30 * time.Second
	// claimEndTimeout bounds the attempts to tell the lock ledger that a claim has
	// ended.
	claimEndTimeout = 5 * time.Second
	// recheckAfter is the age at which a recheck is out of date.
	recheckAfter = time.Second
)

// claimTTL is how long a claim lives if a call has this timeout.
func claimTTL(callTimeout time.Duration) time.Duration {
	const calls = 3 // the call, a second call with a fresh credential, and a reserve
	return min(max(claimMinTTL, calls*callTimeout), claimMaxTTL)
}

// release releases a backup lock, and removes it from the lock ledger.
//
// If a sweep enqueued the release, the holder may have renewed the lock since. Such
// a lock must stay. So the job first claims the lock in the lock ledger. The claim
// fails if the lock was renewed, and while the claim lives the ledger refuses to
// renew the lock. If the sweep found the lock in another source, the job checks
// that source again, and once more if it had to wait at the gate.
//
// If the process dies after the claim, the claim expires by itself, and the task
// runs again. If the process is suspended for longer than its claim lives, acquire
// finds the deadline passed, and no call is made. Nothing can stop the call if the
// process is suspended after that check and before the first byte is sent.
func (j *Jobs) release(ctx context.Context, t tasks.LockRelease) pipeline.Result {
	// The call must end before the claim expires. The time runs from here, and not
	// from the answer of Redis, which may come long after Redis made the claim.
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
	permit, stop := j.acquire(ctx, gate.Call{Kind: gate.Release, User: t.UserID, Target: t.LockID})
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
			return unavailable(err) // the task runs again, and finds the lock already gone
		}
	case outcomeUnknown(answer.Reason): // KooDrive may still release the lock: let the claim expire
	default:
		j.unclaim(ctx, claim)
	}
	return result
}

// claim claims the lock in the lock ledger, if a sweep enqueued the release. A
// release that somebody ordered by the lock's name needs no claim.
func (j *Jobs) claim(ctx context.Context, t tasks.LockRelease) (enqueuelocks.Claim, *pipeline.Result) {
	id := tasks.LockID{UserID: t.UserID, LockID: t.LockID}
	source, expiredAt := t.Evidence.Source, t.Evidence.ExpiredAt
	if t.Evidence == (tasks.SweepEvidence{}) {
		return enqueuelocks.Claim{ID: id}, nil
	}
	if !j.sources.has(source) {
		return enqueuelocks.Claim{}, new(j.sources.missing(source))
	}
	claimLock := j.locks.Claim
	if source != tasks.SourceLedger {
		claimLock = j.locks.ClaimExternal
	}
	claim, err := claimLock(ctx, id, expiredAt, j.claimTTL)
	switch {
	case err != nil:
		return enqueuelocks.Claim{}, new(unavailable(err))
	case claim.Status != enqueuelocks.Claimed:
		return enqueuelocks.Claim{}, notStale(string(claim.Status))
	case ctx.Err() != nil: // no time is left to call
		j.unclaim(ctx, claim)
		return enqueuelocks.Claim{}, new(unavailable(fmt.Errorf("claim the lock: %w", ctx.Err())))
	default:
		return claim, nil
	}
}

// recheck checks a lock again in the source in which the sweep found it. It returns
// nil if the lock may be released. For the lock ledger it does nothing, since the
// claim has checked that.
func (j *Jobs) recheck(ctx context.Context, t tasks.LockRelease) *pipeline.Result {
	refused, err := j.sources.recheck(ctx, t)
	failed, isList := errors.AsType[*locks.ListError](err)
	switch {
	case isList: // the source, and not the task
		return new(waitFor(failed.Error(), failed.Hint(), j.sources.pause(t.Evidence.Source)))
	case err != nil:
		return new(unavailable(err))
	case refused != "":
		return notStale(refused)
	default:
		return nil
	}
}

func notStale(why string) *pipeline.Result {
	return new(pipeline.Superseded("the lock is not stale any more: " + why))
}

// outcomeUnknown reports whether KooDrive may have released the lock, or may still
// release it, although its answer does not say so.
func outcomeUnknown(reason tasks.Reason) bool {
	switch reason {
	case tasks.Upstream, tasks.TimedOut, tasks.Network, tasks.Protocol, tasks.Panicked:
		return true
	default: // KooDrive refused
		return false
	}
}

// unclaim ends a claim before its time, so that the holder can renew the lock at
// once. If that fails, the claim expires by itself.
func (j *Jobs) unclaim(ctx context.Context, claim enqueuelocks.Claim) {
	if claim.FencingToken != 0 {
		_ = j.endClaim(ctx, func(ctx context.Context) error { return j.locks.Unclaim(ctx, claim) })
	}
}

// endClaim calls end until it succeeds, for at most claimEndTimeout.
func (j *Jobs) endClaim(ctx context.Context, end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimEndTimeout)
	defer cancel()
	pause := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxElapsedTime(0))
	return backoff.Retry(func() error { return end(ctx) }, backoff.WithContext(pause, ctx))
}
