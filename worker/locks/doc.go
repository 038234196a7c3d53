// Package locks finds the backup locks whose holder went away, and enqueues their
// releases. KooDrive cannot list locks, so the locks come from sources.
//
//	Scheduler   enqueues a task lock:sweep at each tick, once over the fleet
//	Sweeper     does what such a task asks for: it finds the stale locks of a
//	            source, and enqueues their releases in a batch of their own,
//	            within the guard rails
//	Source      counts the locks and lists the stale ones: a Ledger or an External
//	Ledger      the lock ledger in Redis; package enqueue/locks keeps it
//	External    a file or a database that somebody else keeps
//
// The command line calls the Scheduler and the Sweeper. In a worker the job of a
// sweep calls the Sweeper, and the job of a release calls External.Lookup just
// before the call to KooDrive.
//
// The package imports tasks, the two ledgers (enqueue/locks and enqueue/batch),
// package source below it and, for the scheduler, asynq. It must not import package
// enqueue or another package of the worker: releases are enqueued through
// ReleaseEnqueuer.
//
// # Being careful
//
// A wrong sweep releases live locks, and then two backups of a user run at the same
// time. So a lock stays for a grace after its expiry, always by Redis' clock. If too
// large a share of all locks is stale, the likely reason is that nobody renews them
// in this source, and none is released. The share does not count while at most
// FewStale locks are stale. Every lock is checked again in its source just before
// its release: a lock that was renewed or forgotten since the sweep stays. The lock
// ledger refuses to renew a lock while its release is under way. A file or a database
// cannot refuse that: a lock that is renewed there between the last check and the
// call (a second at most, and usually some milliseconds) is released.
//
// If the expiry of a lock cannot be read, the lock stays, and the report says so.
//
// # Crashes
//
// A sweep reads an External to its end before it enqueues anything. If the reading
// fails, nothing has happened. Then the sweep enqueues the releases, and after that
// it marks the locks as swept. If the process dies in between, the next sweep
// enqueues the same releases again, in another batch, and the second release finds
// nothing to do. If the process dies while it enqueues, the locks that it has not
// reached are still stale for the next sweep, which also closes the batch. Other
// sweeps wait until the lease of the dead sweep has expired.
//
// An external source may list a lock long after its release. A lock that was swept
// is remembered with its expiry until no sweep has seen it listed for
// Options.Keep. With the same expiry it is not released again.
package locks
