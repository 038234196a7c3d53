// Package deadletter keeps the tasks that failed for good, where an operator can
// see them, replay them, or discard them. It owns the asynq queue "dead-letter",
// and the envelope that a dead task's payload has in that queue.
//
// Packages worker, pipeline, recovery and bulk call it, and so does the command line. It
// imports tasks, asynq, go-redis, internal/asynqx, internal/httpx and internal/zset.
// It must not import any other package of the worker.
//
// # Where a letter is
//
// A letter is an asynq task of the kind that it always had. A parked letter is in
// the queue's retry set, some ten years ahead, with the error that killed it:
//
//   - asynqmon lists it on the queue's Retry page with the error. The Run button
//     replays it and the Delete button discards it.
//   - asynq's limit of 9,999 archived tasks, and their deletion after 90 days, do
//     not apply.
//
// It gets there in two steps, and each of them is atomic. First Park enqueues it;
// then it is "arriving". The worker that takes it from the queue for the first
// time only returns the error that killed it. That makes asynq move it to the
// retry set and count one retry. From then on this count tells a letter that
// arrives (zero) from a parked letter that somebody wants replayed (any other).
//
// A replay runs the task where it is, in this queue. If the task were moved back to
// its work queue, another copy of it could die between the two steps, find its ID
// taken there, and be dropped, although it is the last copy. After a replay that
// succeeds the letter is gone. After one that fails it is parked again with the new
// error. While the queue in which the task died is paused, the replay waits.
//
// # Crashes
//
// Park is called while the dead task is still active in its own queue. That task
// is removed only after Park has returned nil. If the worker crashes before that,
// the task runs again and Park is called again, which finds its own letter and
// says so. Replay and Discard handle some letters in one atomic step. So if they
// are interrupted, each letter is either parked or replayed, parked or gone. With a
// Fence they go on where they were, in another process.
//
// Replay, Discard, List and Page read the letters page by page, in bounded memory. Where an
// index has what the filter names, they read only this: see indexPrefix.
//
// A repairer that parks a task which has crashed its workers may be stopped in
// between. If the task is done after all, the worker calls Withdraw.
//
// The envelope repeats the reason, the error, the attempts and the times, since a
// crash during a replay overwrites the error that asynq keeps.
package deadletter
