// Package locks keeps the ledger of the backup locks that somebody holds, so
// that those whose holder went away can be found: KooDrive cannot list locks. It
// is the only package that knows how the ledger lies in Redis. It imports the
// vocabulary and go-redis, and knows nothing of queues.
//
// Backup services call Track when they have created a lock, Renew when they have
// renewed it, and Forget when they have released it themselves. A sweep calls
// Counts and Stale, enqueues releases, and says so by Swept. A worker calls Claim
// just before it releases a lock, and then Released or GiveBack. People call
// List. An off-boarding calls OfUser. Whoever keeps house calls Drop.
//
// # The ledger
//
// Four sorted sets share one hash tag. A member is a user's id, a space and a
// lock's id; a score is in milliseconds by Redis' clock, which is the only one
// that counts.
//
//	{kooworker:locks}:expiry  locks that somebody holds, by their expiry
//	{kooworker:locks}:swept   locks whose release is enqueued, by the expiry
//	                          with which they were swept
//	{kooworker:locks}:claims  locks that a worker may be releasing right now, by
//	                          the time at which that is over
//	{kooworker:locks}:names   every lock in expiry or in swept, all with the score
//	                          0, so that those of one user lie side by side
//
// Beside them {kooworker:locks}:sweeping says who sweeps, :unfinished which batches
// of sweeps are not known to be whole, and :done when each source was swept last,
// see Keeping; and :listed:… what was swept of other sources, see Notes.
//
// A lock is in expiry, or in swept, or in neither. A claim is beside that:
//
//	            Track, Renew              Swept, Claim
//	unknown ───────────────────▶ expiry ────────────────▶ swept
//	   ▲                          │  ▲                     │ │
//	   │     Forget, Released     │  │    Track, Renew     │ │
//	   ├──────────────────────────┘  └──── (if later) ─────┘ │
//	   └─────────────────────────────────────────────────────┘
//	                    Forget, Released, Drop
//
//	unclaimed ── Claim ──▶ claimed ── GiveBack, Released, time ──▶ unclaimed
//
// A name comes and goes with the lock, in the same script, which takes effect as a
// whole. It is written before the lock and taken out after it: what stops a script
// half-way leaves a name too many, which readers leave out, and no lock without one.
//
// # What keeps a live lock from being released
//
// An expiry is never shortened, so a message that is late or comes twice does no
// harm. A release is bound to the expiry that its sweep has seen. Claim refuses it
// when the ledger knows a later one, or when the expiry that it knows is still to
// come, or when the lock was forgotten.
//
// From Claim to the end of the call nobody can renew: Track and Renew answer
// Releasing, and the holder learns that it is losing its lock. So a Renew that was
// accepted was accepted before the claim, which then failed, or after it was over.
// For the same reason Forget takes the lock out of the ledger and leaves a claim
// that is live: were it to go, the lock could be tracked again while the call that
// releases it is under way.
//
// Two runs of one release may overlap, when a worker was taken for dead. The
// claim then lasts until the later of them is over, and neither can give it back.
//
// A claim protects for as long as it was taken. Whoever claims must take a
// deadline for its call before it calls Claim, and hold for longer than that; what
// the call may still do at KooDrive after it was given up is what the difference is
// for.
//
// # What a crash leads to
//
//	after the release was enqueued, before Swept  the next sweep finds the lock
//	    again and enqueues it again; Claim moves it as Swept would have
//	after Claim, before the call      the claim runs off; the task runs again
//	after the call, before Released   the task runs again, finds the lock gone
//	    already, and says Released
//	after Released                    the task runs again, and Claim says Forgotten
//
// # Releases that do not happen
//
// A release that is dead for good leaves its lock in swept. No sweep takes it
// again, and nothing is lost: its dead letter can be replayed, List shows it, a
// holder that comes back renews it, and whoever wants it to be swept anew tracks
// it with a later expiry. Drop takes it off in the end.
//
// # What Redis may lose
//
// A Redis that fails over loses what its replica has not got. A Renew that is lost
// in that way is made good by the next, provided that holders renew at least twice
// in the life of a lock.
package locks
