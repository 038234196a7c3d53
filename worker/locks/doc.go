// Package locks finds backup locks whose holder went away, and has only those
// released. KooDrive cannot list locks, so what is known of them comes from
// sources.
//
//	Scheduler   enqueues a task lock:sweep at each tick, once over the fleet
//	Sweeper     carries such a task out: finds the stale locks, and enqueues their
//	            releases in a batch of their own, within the guard rails
//	Source      knows which locks there are: a Ledger or an External
//	Ledger      the ledger in Redis; package enqueue/locks keeps it
//	External    a file or a database that somebody else keeps
//
// The command line calls the Scheduler and the Sweeper. In a worker the job of a
// sweep calls the Sweeper, and the job of a release calls External.Lookup just
// before the call to KooDrive.
//
// The package imports the vocabulary, the ledger (enqueue/locks), package source
// below it and, for the scheduler, asynq. It must not import the rest of enqueue
// or of the worker: releases are enqueued through ReleaseEnqueuer.
//
// # Being careful
//
// A wrong sweep releases live locks, and then two backups run at the same time
// while each believes to be alone. So a lock is left alone for a grace after its
// expiry, by Redis' clock and no other. If too large a share of all locks is
// stale, the likely reason is that nobody renews them where the source looks, and
// none is released. While at most FewStale locks are stale their share does not
// count. Every lock is checked again just before its release, at its source: a
// lock that was renewed or forgotten since the sweep stays. The ledger refuses to
// renew a lock while its release is under way. A file or a database cannot refuse
// that: a lock that is renewed there between the last check and the
// call (a second at most, and usually some milliseconds) is released.
//
// If the expiry of a lock cannot be read nothing is concluded from that. The lock
// stays, and the report says so.
//
// # Crashes
//
// An External is read to its end before anything is enqueued: if the reading
// breaks half-way, nothing has happened. After that a sweep enqueues first and
// marks the locks as swept second. If it dies in between, the next sweep enqueues
// the same locks again, in another batch, and the second release finds nothing to
// do. If it dies while it enqueues, the locks that it has not reached are still
// stale for the next sweep, which also closes the batch. Other sweeps wait until
// the lease of the dead one has expired.
//
// An external source may list a lock long after its release. A lock that was swept
// is remembered with its expiry until no sweep has seen it listed for
// Options.Keep. With the same expiry it is not released again.
package locks
