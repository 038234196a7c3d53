// Package recovery repairs what asynq v0.26 loses: the tasks of dead workers,
// tasks without a lease, messages that nobody can read, archived tasks, and
// tasks that belong to no set. It owns no task: whatever it finds it puts back
// into its queue, or hands to a [Parker] that keeps it as a dead letter.
//
// # The hook
//
// [Hook] belongs on the Redis client of the asynq servers, and on no other. It
// repairs asynq's syncer, which otherwise repeats every task whose Done failed.
//
// # The repairer
//
// Every worker runs a [Repairer]; one of them holds a lock and acts, about once
// a second. It takes one queue after the other, and in each queue looks for:
//
//	in the queue                            what becomes of it
//	--------------------------------------  -----------------------------------------
//	active, the lease expired               requeued at the head of pending
//	  … for the MaxCrashes'th crash         Parker, then removed
//	  … message unreadable                  Parker, then removed
//	  … no message at all                   removed, and reported: only its ID is left
//	active, no lease                        a fresh lease
//	archived                                Parker, then removed
//	a task in no set, state archived        Parker, then removed
//	a task in no set, any other state       requeued
//	scheduled or retry, no message          removed, and reported
//	paused                                  reported; the pause stays
//	not in asynq:queues                     registered
//
// In the dead-letter queue nothing is handed to the Parker but what cannot be
// read: the letter is there already. A crashed replay, an archived or a
// stranded letter is put back among the parked ones, ten years ahead in the
// retry set.
//
// # The life of an expired lease, step by step
//
//  1. The repairer reads lease and message. A crash here changes nothing.
//  2. It decides: requeue, park, quarantine or drop.
//  3. To requeue is one script: out of active and lease, into pending, with the
//     crash counted in the task's hash. It acts only if the lease is the one
//     that was read: when the owner, asynq's own recoverer or another repairer
//     was faster, nothing happens. The message is untouched, so no retry is
//     charged.
//  4. To park, the Parker stores the letter first. A crash after that leaves
//     the letter and the original; the next repairer comes to the same
//     decision, and the Parker finds its own letter. If the evidence of the
//     crash is gone by then the task runs once more instead: work is repeated.
//  5. The original is removed by one script, and only if lease and message are
//     still those that were read. When they are not, somebody else took the
//     task up in between: letter and task both stay, and the task's end settles
//     which of them was needless.
//
// Should no repairer run, or the Parker fail for half a minute, asynq's own
// recoverer takes expired leases up as it always did: the task runs again.
//
// So the last copy of a task is never removed before another is stored, and a
// crash between any two steps repeats work and loses none.
//
// # Why one look is enough
//
// Every script of asynq moves an ID between sets and its hash's state in one
// atomic step, and so does every script here; none of them leaves a task in no
// set in between. So a script that sees a task in no set, sees a stranded task,
// and there is no need to see it twice. Each script that acts looks again by
// itself. What asynq reads before (the message, a list of IDs) may be out of
// date; a decision based on it is checked by the script that carries it out.
//
// A stranded task in state active may have been finished: asynq's Done removes
// it from active, finds no lease, and stops half-way. Or its Retry did, and
// then it is the only copy. Both look alike, so it runs again.
//
// # What counts as a crash
//
// A task that kills its worker must be stopped, but an outage of Redis must not
// be mistaken for that: a Redis that hangs for 40 s lets the leases of living
// workers expire. They will not write after that, so their tasks have to run
// again, uncharged, however often it happens. The workers' own word on what
// they work on (asynq:workers) does not help: it is written every 5 s, and a
// task that kills at once is never in it. So a crash is counted only if all of
// this holds:
//
//   - Some server fell silent without a good-bye just after the lease was
//     written. A server writes the time of its last heartbeat into
//     asynq:servers, extends its leases in the same breath, and takes itself
//     off that list when it stops. Both times come from the worker's own clock.
//     A server that lives has a heartbeat younger than the lease; a lease whose
//     owner lives, because a reply was lost or Redis refused the extension, fits
//     none.
//   - That server was not shutting down when it was last seen.
//   - Redis was not away since the lease was written, as far as this repairer
//     has seen. It measures that by Redis' clock, with a write, so that a frozen
//     Redis, a full one and a read-only one all count as away, and so does a
//     standstill of the repairer itself.
//   - Redis has been there for Config.Settle. Nothing is reaped before that, so
//     that each living server has sent a heartbeat first.
//
// The extension of a lease that was on its way into a frozen Redis is carried
// out when it thaws, though its owner has given up by then. Such a task waits
// for up to another half minute, and is not counted either.
//
// A new repairer remembers no outage and trusts the first point: else a lone
// worker that restarts after each crash would never count one. What cannot be
// told apart is a worker that was itself stopped or cut off from Redis for
// longer than its lease: that counts as a crash. And since all tasks of a dead
// worker are charged, a task may be parked for the company it kept; it is a
// replay away.
//
// # Clocks
//
// Leases are written by the workers' clocks and judged by Redis'. A worker
// whose clock is ahead by some seconds is reaped so much later. One whose clock
// is behind by more than 25 s is reaped while it lives: its task runs twice, and
// whichever run ends first settles it. The other finds nothing to write to. So
// a wrong clock costs repeated work, or time, and never a task.
//
// # Clusters
//
// Each script names all its keys, and all of them carry one queue's hash tag.
//
// The worker runs this package, which imports the vocabulary, asynq's wire as
// far as it has to, and none of its siblings.
package recovery
