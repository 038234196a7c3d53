// Package locks keeps the ledger of the backup locks that somebody holds.
// KooDrive cannot list locks, so without a ledger nobody could find those whose
// holder went away. No other package knows how the ledger is stored in Redis.
//
// Producers and workers both use this package:
//
//	backup services  Track when they create a lock, Renew when they renew it,
//	                 Forget when they release it themselves
//	sweeps           Counts and Stale to find stale locks, MarkSwept when the
//	                 releases are enqueued, Drop for housekeeping, and the lease
//	                 and the notes of sweep_state.go
//	release jobs     Claim or ClaimExternal just before the call to KooDrive, then
//	                 Released or Unclaim
//	off-boardings    ListByUser
//	people           List
//
// It imports the vocabulary (package tasks), internal/zset and go-redis. It must
// not import asynq, package enqueue or anything below worker.
//
// # The ledger
//
// Four sorted sets share one hash tag. A member is a user's id, a space and a
// lock's id. A score is in milliseconds by Redis' clock; no other clock counts.
//
//	{kooworker:locks}:expiry  locks that somebody holds, by their expiry
//	{kooworker:locks}:swept   locks whose release is enqueued, by the expiry that
//	                          the sweep has seen
//	{kooworker:locks}:claims  locks that a worker may be releasing right now, by
//	                          the time at which the claim ends
//	{kooworker:locks}:names   every lock in expiry or in swept, all with the score
//	                          0, so that the locks of one user are neighbours
//
// More keys with the same hash tag belong to sweeps: three are in sweep_state.go,
// and :listed:… is described at SweptStore.
//
// A lock is in expiry, or in swept, or in neither. A claim is independent of that:
//
//	            Track, Renew            MarkSwept, Claim
//	unknown ───────────────────▶ expiry ────────────────▶ swept
//	   ▲                          │  ▲                     │ │
//	   │     Forget, Released     │  │    Track, Renew     │ │
//	   ├──────────────────────────┘  └──── (if later) ─────┘ │
//	   └─────────────────────────────────────────────────────┘
//	                    Forget, Released, Drop
//
//	unclaimed ── Claim ──▶ claimed ── Unclaim, Released, time ──▶ unclaimed
//
// The script that adds or removes a lock also adds or removes its member of
// names, and every script takes effect as a whole. The name is written before the
// lock and removed after it. If a script is stopped half-way, a name without a
// lock is left, which readers skip; a lock without a name is never left.
//
// # What keeps a live lock from being released
//
// An expiry is never shortened, so a message that is late or comes twice does no
// harm. A release is bound to the expiry that its sweep has seen; Claim says when
// it refuses the release.
//
// From Claim to the end of the call nobody can renew the lock: Track and Renew
// answer Releasing, and the holder learns that it is losing its lock. So every
// Renew that was accepted came either before the claim, which then failed, or
// after the claim had ended. For the same reason Forget removes the lock from the
// ledger but keeps a live claim: without the claim the lock could be tracked again
// while the call that releases it is under way.
//
// Two runs of one release may overlap if a worker was taken for dead. The claim then
// lasts until the later of the two has ended, and neither run can end it early.
//
// # What a crash leads to
//
//	after the release was enqueued, before MarkSwept  the next sweep finds the
//	    lock again and enqueues it again; Claim moves it to swept
//	after Claim, before the call      the claim expires; the task runs again
//	after the call, before Released   the task runs again, finds that the lock is
//	    already gone, and calls Released
//	after Released                    the task runs again, and Claim answers
//	    Forgotten
//
// # Releases that do not happen
//
// If a release is dead for good, its lock stays in swept. No sweep takes it again,
// but nothing is lost: an operator can replay the dead letter, List shows the lock,
// a holder that comes back can renew it, and tracking it with a later expiry makes
// it sweepable again. In the end Drop removes it.
//
// # What Redis may lose
//
// A Redis that fails over loses what its replica has not received. The next Renew
// repairs a lost one, provided that holders renew at least twice in the life of a
// lock.
package locks
