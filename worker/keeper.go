package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// Locks is the ledger of the backup locks that somebody holds. Package
// enqueue/locks has it, where the holders find it too.
type Locks interface {
	Holdings
	// Claim is called just before a release that a sweep has enqueued. If refused
	// is empty nobody can renew the lock in the ledger until the claim is ended, or
	// over; else it says why the lock must stay. Only a lock that was found in the
	// ledger must be there.
	Claim(ctx context.Context, t tasks.LockRelease, hold time.Duration) (ticket int64, refused string, err error)
	// End ends a claim; gone says that the lock is released, by whomever.
	End(ctx context.Context, t tasks.LockRelease, ticket int64, gone bool) error
}

// keeper is an API that keeps the ledger of locks: it looks again before a
// sweep's release, and takes what is released off the ledger.
//
// From the claim to its end a renewal is refused. So a renewal that was accepted
// is one that no release can overtake. A process that dies in between leaves the
// claim to end by itself, and the release to run again. One that is stopped for
// longer than its claim, and goes on, looks at the clock before it calls; only
// between that look and the first byte on the wire nothing can hold it back.
//
// A lock that was found elsewhere is looked for there as well.
type keeper struct {
	koodriveAPI
	ledger  Locks // nil: no ledger is kept
	sources *listed
	hold    time.Duration
}

var _ koodriveAPI = keeper{}

// claimHold is how long a claim lives at least: longer than a task waits at the
// gate, and then calls.
const claimHold = 2 * time.Minute

// claimMost is how long a claim lives at most: for so long nobody could renew.
const claimMost = time.Hour

// claimMargin is what a call that was given up may still do at KooDrive.
const claimMargin = 30 * time.Second

func newKeeper(api koodriveAPI, ledger Locks, sources *listed, cfg koodrive.Config) keeper {
	const calls = 3 // the call, another with a fresh credential, and time to spare
	return keeper{api, ledger, sources, min(max(claimHold, calls*cfg.CallTimeout), claimMost)}
}

// Do implements koodriveAPI.
func (k keeper) Do(ctx context.Context, t tasks.Task) pipeline.Answer {
	release, ok := t.(tasks.LockRelease)
	if !ok || k.ledger == nil && release.Evidence == (tasks.SweepEvidence{}) {
		return k.koodriveAPI.Do(ctx, t)
	}
	// What is called must be over before the claim is. Redis may answer late, and
	// may have taken the claim at once: the time runs from here.
	call, cancel := context.WithTimeout(ctx, k.hold-claimMargin)
	defer cancel()
	var ticket int64
	if release.Evidence != (tasks.SweepEvidence{}) {
		if k.ledger == nil || !k.sources.know(release.Evidence.Source) {
			return k.sources.wait(release.Evidence.Source)
		}
		var refused string
		var err error
		ticket, refused, err = k.ledger.Claim(call, release, k.hold)
		switch {
		case err != nil:
			return unavailable(err)
		case refused != "":
			return superseded(refused)
		case call.Err() != nil: // no time is left to call
			_ = k.end(ctx, release, ticket, false) // or else it runs out
			return unavailable(fmt.Errorf("claim the lock: %w", call.Err()))
		}
		var stays *pipeline.Answer
		if call, stays = k.sources.look(call, release); stays != nil {
			_ = k.end(ctx, release, ticket, false)
			return *stays
		}
	}
	answer := k.koodriveAPI.Do(call, t)
	gone := answer.Reason == tasks.OK || answer.Reason == tasks.Gone
	if !gone && mayHaveReleased(answer) {
		return answer // the claim runs out
	}
	if err := k.end(ctx, release, ticket, gone); err != nil && gone {
		return unavailable(err) // it runs again, and finds it already gone
	}
	return answer
}

func superseded(why string) pipeline.Answer {
	return pipeline.Answer{Reason: tasks.OK, Superseded: true, Uncalled: true, Message: "the lock is not stale any more: " + why}
}

// mayHaveReleased reports whether KooDrive may have released the lock, or may
// still do so, though it did not say so.
func mayHaveReleased(a pipeline.Answer) bool {
	if a.Uncalled {
		return false
	}
	// An answer that is held back says nothing about that: the call that closes
	// the gate was made.
	switch a.Reason {
	case tasks.Upstream, tasks.TimedOut, tasks.Network, tasks.Protocol, tasks.Panicked:
		return true
	default: // KooDrive has said no
		return false
	}
}

// end tells the ledger, for as long as that is worth waiting for.
func (k keeper) end(ctx context.Context, t tasks.LockRelease, ticket int64, gone bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	pause := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxElapsedTime(0))
	return backoff.Retry(func() error { return k.ledger.End(ctx, t, ticket, gone) }, backoff.WithContext(pause, ctx))
}
