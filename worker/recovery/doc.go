// Package recovery repairs what asynq v0.26 loses: the tasks of dead workers,
// tasks without a lease, messages that nobody can read, archived tasks, and
// tasks that are in no set. It owns no task: whatever it finds it puts back into
// its queue, or hands to a [Parker] as a dead letter.
//
// Package worker calls it. It imports the vocabulary, what internal/asynqx knows
// of asynq, package deadletter for its letters, internal/httpx for texts from
// strangers, and internal/tracing for the trace of a task that it parks. It must not import another of its siblings below worker.
//
// # The repairer
//
// Every worker runs a [Repairer]. One of them holds a lock and acts, about once a
// second. One look sees in which queues something is wrong. Then it takes one of these after
// the other. What it looks for:
//
//	in the queue                            what becomes of it
//	--------------------------------------  -----------------------------------------
//	active, the lease expired               requeued at the head of pending
//	  … and its worker has died             the same, marked as a suspect
//	  … and it has killed MaxCrashes alone  Parker, then removed
//	  … message unreadable                  Parker, then removed
//	  … no message at all                   removed, and reported: only its ID is left
//	active, no lease                        a fresh lease
//	archived                                Parker, then removed
//	a task in no set, state archived        Parker, then removed
//	a task in no set, any other state       requeued
//	scheduled or retry, no message          removed, and reported
//	pending, no message, or unreadable      nothing, until a worker has taken it
//	paused                                  counted; the pause stays
//	not in asynq:queues                     registered; a lane only if it has tasks
//
// In the queue of dead letters the Parker gets only what cannot be read, since all
// else is a dead letter already. A replay that crashed, an archived letter and
// a letter in no set are put back among the parked ones, ten years ahead in the
// retry set.
//
// # What happens to an expired lease, step by step
//
//  1. The repairer reads lease and message, and leaves alone what a living server
//     works on. If it crashes here nothing has changed.
//  2. It decides whether to requeue, park, quarantine or remove the task.
//  3. One script requeues: it takes the ID out of active and lease, adds it to
//     pending, marks a suspect, and counts its crash in the task's hash. It acts only
//     if lease and message are still those that were read. If the owner or another
//     repairer was faster, nothing happens. The message changes in nothing but the
//     mark, so no retry is charged.
//  4. To park, the repairer records the receipt of a task of a batch. Then the
//     Parker stores the letter. If the repairer crashes after that, both the letter
//     and the original are there. The next repairer decides the same, and the
//     Parker finds its own letter. If the evidence of the crash is gone by then, the
//     task runs once more instead: work is repeated.
//  5. One script removes the original, and only if lease and message are still
//     those that were read. If they are not, somebody else took the task in
//     between, and both stay. If the task is done in the end, the worker deletes the
//     letter; see [deadletter.Store.Withdraw].
//
// A task that the Parker refuses is tried again after a pause, which grows to five
// minutes. So a task that is refused each time holds up no other.
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
// # Whose fault a crash is
//
// A task that kills its worker must be stopped, but it must not take its neighbours
// with it: all tasks in flight have lost their worker. Nobody can tell which of them
// did it, so nothing is counted yet. The task becomes a suspect:
//
//  1. Script requeue marks it, unless it was only fetched and cannot have begun: the tasks of
//     a process begin in the order of their leases, whatever their queues, and no more of
//     them at once than it had slots. A lease tells of which process it is, see
//     asynqx.LeaseStep; one of an older version does not, and its task is a suspect.
//     The mark is a header in asynq's message, so that a
//     worker sees it without asking Redis, and ordinary tasks cost nothing more.
//  2. Suspects run one at a time in each process; see [Suspects]. Other tasks run
//     beside them. Package fetch hands them out one by one. Of those that come otherwise,
//     as replays do, some wait in place for a second at most; the others are put back,
//     uncharged, and come back about as fast as they can run.
//  3. The worker writes into the hash that its process calls this task now, and takes
//     that back when the call has ended. A suspect that waits at the gate is not
//     being called.
//  4. If the worker lives when the task has been carried out, the hash says that the
//     task is cleared. asynq may write the old message again, with the mark.
//     Another crash makes it a suspect again.
//  5. If the process died that called it, the crash counts. The task pauses for a
//     minute, so that the other suspects have their turn. Of MaxCrashes crashes in
//     a row the last one parks the task.
//
// A crash counts in full only if it was calm: no other worker died within 20 s.
// Otherwise something else kills workers, and the task may just have been there. Then
// it takes three times as many crashes in a row, so that poison is stopped even in a
// fleet that never comes to rest. How likely is it that an innocent task is parked? If
// n workers are killed at r times a second in all, one of them dies with
// probability r·d/n during a call that lasts d seconds. Five workers, one killed every
// two seconds, and calls of half a second: 5 %, nine times in a row 2 in 10^12. The
// worst for the calm ones is a kill every 40 s: 1 in 10^9 with five workers, and
// 1 in 10^7 with one. This rests on a poisonous task killing its worker each time, on
// kills that do not look at what is called, and on calls that are short: with one
// worker and calls of 10 s it is 1 in 10^3. If calls never end while somebody kills the
// only worker again and again, the pause spreads the crashes over the suspects.
//
// If a worker dies between two of these steps: before 3 nothing counts; between the
// end of the call and the line in the hash the crash counts once, though the task had
// survived. A worker that stops in order signs off, so that its suspects count
// nothing. An older worker does not know the mark and runs a suspect beside others:
// then nothing counts, and the task stays a suspect. An older repairer counts as it
// always did.
//
// A letter that is replayed is a suspect if it died as crashed. A suspect that had to
// be requeued under another ID keeps its mark, and loses its count.
//
// # What counts as a crash
//
// An outage of Redis must not be mistaken for a crash. If Redis hangs for 40 s, the
// leases of living workers expire. These workers do not write after that, so their
// tasks have to run again without suspicion, however often that happens. Lists of what
// the workers work on (asynq:workers) do not tell: they are written every 5 s, and a
// task that kills at once is never in one. So a worker has crashed only if all of this
// holds:
//
//   - Some server sent its last heartbeat just before or after the lease was
//     written, did not sign off, and has sent none for 10 s. A server writes the time
//     of its last heartbeat into asynq:servers, extends its leases at the same moment,
//     and removes itself from that list when it stops. Both times come from the
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
// another half minute, and is no suspect either.
//
// A new repairer remembers no outage and relies on the first point. Otherwise a
// single worker that restarts after each crash would never count one. One case
// cannot be told from a crash: a worker that was itself stopped, or cut off from
// Redis, for longer than its lease. Its tasks become suspects, and the one that it was
// calling alone counts a crash.
//
// # Clocks
//
// Leases are written by the workers' clocks and judged by Redis' clock. A worker whose
// clock differs by more than 5 s takes no tasks and repairs nothing; see package
// clock and Config.Hold. What it has in flight, and what older versions and plain asynq
// servers take, is protected here:
//
//   - A task is not reaped while a living server lists it in asynq:workers, or has
//     just written its lease, whatever that lease says. A server lives if it has sent a
//     heartbeat in the last 10 s: the key of its info expires by Redis' clock, and not by
//     the server's. So a worker whose clock is behind keeps its tasks until it is dead.
//   - A lease that ends more than 40 s ahead is shortened to 30 s. If the clock of a
//     dead worker was ahead, its tasks do not wait for that time. They are no suspects,
//     since such a lease does not tell when its worker died.
//   - asynq's own recoverer goes by the worker's clock, and takes away whatever looks
//     expired. Package worker switches it off; see asynqx.RecovererHook. Older workers
//     still run it.
//
// Up to 5 s a wrong clock costs nothing but time.
//
// # Clusters
//
// Each script names all its keys, and all of them have one queue's hash tag.
//
// Masters fail one by one. The queues of one that does not answer are left out, and the
// others are repaired. If asynq's list of servers is there, nothing is reaped, since nobody
// knows who lives. If the lock is there, nothing is repaired. Afterwards a queue counts as
// one after an outage of Redis if its master was away, and so do all if the list was.
package recovery
