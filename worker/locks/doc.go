// Package locks finds backup locks whose holder went away, and sees to it that
// only those are released. KooDrive cannot list locks: what is known of them
// comes from sources.
//
//	Scheduler   a task lock:sweep at each tick, once over the fleet
//	Sweeper     what is stale, within the guard rails, becomes releases in a
//	            batch of its own
//	Source      knows which locks there are: the ledger in Redis, which has its
//	            own package, or a Listed
//	Listed      a file or a database that somebody else keeps: read, remembered,
//	            and looked at again
//
// # Being careful
//
// A wrong sweep frees live locks, and a backup that believes to be alone is not.
// So a lock is left alone for a grace after its expiry, by Redis' clock and no
// other. When too large a share of all locks is stale, the likelier reason is
// that nobody renews them where the source looks, and none is released. Whatever
// is released was looked at again, at its source, just before the call: whoever
// has renewed, or forgotten, a lock since keeps it. In the ledger a renewal is
// refused while a release is under way, rather than believed. A file or a
// database cannot refuse one: there, what is renewed between the last look and
// the call (a second at most, and usually some milliseconds) is released.
//
// Of a lock whose expiry cannot be read nothing is concluded. It stays, and the
// report says so.
//
// # Crashes
//
// A source that is listed is read to its end before anything is enqueued: what
// breaks half-way has done nothing. Then a sweep enqueues first and notes after.
// If it dies in between, the next one enqueues the same locks again, in another
// batch: the second release finds nothing to do. If it dies in the middle, what
// it has not reached is still stale for the next one, which also ends the batch.
// Its lease keeps others out until it has run out.
//
// A listed lock goes on being listed after its release, for as long as its owner
// likes. It is remembered with its expiry, until no sweep has seen it listed for
// Options.Keep: with the same expiry it is not released again.
//
// The worker and the command line compose this package. It imports the
// vocabulary, package source below it and, for the scheduler, asynq; the ledger,
// the notes and the producer come through small interfaces.
package locks
