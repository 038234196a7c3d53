// Package recovery repairs what asynq v0.26 loses: the tasks of dead workers,
// tasks without a lease, messages that nobody can read, archived tasks, and
// tasks that are in no set. It owns no task: whatever it finds it puts back into
// its queue, or hands to a [Parker] as a dead letter.
//
// Package worker calls it. It imports the vocabulary, what internal/asynqx knows
// of asynq, package deadletter for its letters, and internal/httpx for texts from
// strangers. It must not import another of its siblings below worker.
//
// # The repairer
//
// Every worker runs a [Repairer]. One of them holds a lock and acts, about once a
// second. It takes one queue after the other, and in each queue looks for:
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
// In the queue of dead letters the Parker gets only what cannot be read, since all
// else is a dead letter already. A replay that crashed, an archived letter and
// a letter in no set are put back among the parked ones, ten years ahead in the
// retry set.
//
// # What happens to an expired lease, step by step
//
//  1. The repairer reads lease and message. If it crashes here nothing has
//     changed.
//  2. It decides whether to requeue, park, quarantine or remove the task.
//  3. One script requeues: it takes the ID out of active and lease, adds it to
//     pending, and counts the crash in the task's hash. It acts only if the lease
//     is still the one that was read. If the owner, asynq's own recoverer or
//     another repairer was faster, nothing happens. The message does not change,
//     so no retry is charged.
//  4. To park, the repairer records the receipt of a task of a batch. Then the
//     Parker stores the letter. If the repairer crashes after that, both the letter
//     and the original are there. The next repairer decides the same, and the
//     Parker finds its own letter. If the evidence of the crash is gone by then, the
//     task runs once more instead: work is repeated.
//  5. One script removes the original, and only if lease and message are still
//     those that were read. If they are not, somebody else took the task in
//     between. Then both letter and task stay, and how the task ends shows which
//     of them was needless.
//
// A task that the Parker refuses is tried again after a pause, which grows to five
// minutes. So a task that is refused each time holds up no other.
//
// If no repairer runs, or if the Parker fails for half a minute, asynq's own
// recoverer takes expired leases as it always did, and the task runs again.
//
// So the last copy of a task is never removed before another is stored, and a
// crash between any two steps repeats work and loses none.
//
// # Why seeing a stranded task once is enough
//
// Every script of asynq moves an ID between sets, and changes its hash's state,
// in one atomic step. So does every script here. None of them leaves a task in no
// set in between. So a task that a script sees in no set is stranded, and there is
// no need to see it twice. Each script that acts checks again by itself. What the
// repairer reads before that (the message, a list of IDs) may be out of date; the
// script that carries out a decision checks what the decision is based on.
//
// A stranded task in state active may have been finished: asynq's Done removes it
// from active, finds no lease, and stops halfway. Or asynq's Retry did the same,
// and then it is the only copy. Both look alike, so the task runs again.
//
// # The scan
//
// A stranded task is found by reading everything: the keys of asynq on each master, and
// then the scheduled and the retry set of each queue. There is one scan for all queues.
// Each pass reads pages until it has taken 2 % of the time between two passes, and
// at least one page. The time on the wire counts as well, so Redis works less than that
// for it. A page holds Redis for a millisecond or two. With a Redis on the same machine a
// scan took 1.2 s for 12,000 keys, and 142 s for 1,000,000 (Redis worked 1.4 % of that).
//
// A pending list that is longer than 2,000 is not searched. A task whose state is
// pending counts as being in it, and is looked at again when the list is shorter.
//
// What must be scanned for, but is no task, is pruned on the way: the histories of
// schedules whose scheduler was killed. Once a minute the repairer also takes
// processes that have been dead for an hour off asynq's lists.
//
// # What counts as a crash
//
// A task that kills its worker must be stopped, but an outage of Redis must not be
// mistaken for a crash. If Redis hangs for 40 s, the leases of living workers expire.
// These workers do not write after that, so their tasks have to run again without
// being charged, however often that happens. It does not help to ask what the workers
// say they work on (asynq:workers): they write it every 5 s, and a task that kills at
// once is never in it. So a crash is counted only if all of this holds:
//
//   - Some server sent its last heartbeat just before or after the lease was
//     written, and did not sign off. A server writes the time of its last
//     heartbeat into asynq:servers, extends its leases at the same moment, and
//     removes itself from that list when it stops. Both times come from the
//     worker's own clock. A living server has a heartbeat that is younger than
//     the lease. So if the owner lives, because a reply was lost or Redis refused
//     to extend the lease, no server's last heartbeat fits the lease.
//   - That server was not shutting down when it was last seen.
//   - Redis was not away since the lease was written, as far as this repairer
//     knows. The repairer measures that by Redis' clock, with a write. So a
//     frozen Redis, a full one and a read-only one all count as away, and so does
//     a standstill of the repairer itself.
//   - Redis has been up for Config.MinUptime. Nothing is reaped before that, so
//     that each living server has sent a heartbeat first.
//
// When a worker extends a lease while Redis is frozen, Redis does it when it
// thaws, though the worker has given up by then. Such a task waits for up to
// another half minute, and no crash is counted either.
//
// A new repairer remembers no outage and relies on the first point. Otherwise a
// single worker that restarts after each crash would never count one. One case
// cannot be told from a crash: a worker that was itself stopped, or cut off from
// Redis, for longer than its lease. It counts as a crash. And since a crash is
// counted for all tasks of a dead worker, a task may be parked because of another
// one. An operator can replay it.
//
// # Clocks
//
// Leases are written by the workers' clocks and judged by Redis' clock. If a worker's
// clock is ahead by some seconds, its tasks are reaped so much later. If it is behind
// by more than 25 s, a task is reaped while its worker lives: it runs twice, and the
// run that ends first decides what becomes of it. The other finds nothing to write
// to. So a wrong clock costs repeated work, or time, and never a task.
//
// # Clusters
//
// Each script names all its keys, and all of them have one queue's hash tag.
package recovery
