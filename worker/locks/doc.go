// Package locks finds backup locks whose holder went away, and sees to it that
// only those are released. KooDrive cannot list locks: what is known of them
// comes from sources, of which the ledger in Redis is one.
//
//	Scheduler   a task lock:sweep at each tick, once over the fleet
//	Sweeper     what has expired, within the guard rails, becomes releases in a
//	            batch of its own
//	Guard       just before each release: is the lock still as the sweep saw it?
//
// # Being careful
//
// A wrong sweep frees live locks, and a backup that believes to be alone is not.
// So a lock is left alone for a grace after its expiry, by Redis' clock and no
// other. When too large a share of all locks is stale, the likelier reason is
// that nobody renews them in the ledger any more, and none is released. Whatever
// is released was looked at again: whoever has renewed, or forgotten, a lock since
// keeps it, and while a release is under way a renewal is refused rather than
// believed.
//
// # Crashes
//
// A sweep enqueues first and notes after. If it dies in between, the next one
// enqueues the same locks again, in another batch: the second release finds
// nothing to do. If it dies in the middle, what it has not reached is still stale
// for the next one. Its lease keeps others out until it has run out.
//
// The worker and the command line compose this package. It imports the
// vocabulary and, for the scheduler, asynq; the ledger and the producer come
// through small interfaces.
package locks
