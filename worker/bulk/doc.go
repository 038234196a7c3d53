// Package bulk replays or discards all dead letters that match a filter, as a job that
// outlives the process that runs it. It owns the jobs: what was ordered, by whom and why, how
// far it has come, and what became of it.
//
// The dashboard and the command line call it. It imports package deadletter, which changes the letters,
// the ledger of batches and the history, which learn of what is discarded, and
// internal/asynqx and internal/httpx. It must not import any other package of the worker.
//
// # A job
//
// Order writes a job down, and returns. A Runner takes it: every dashboard has one. The Runner
// holds a lease while it works, so that one process at a time runs a job. If the
// process dies, the lease ends within LeaseTTL, and another Runner goes on.
//
// # What is exact
//
// A job is about the letters that were dead when it was ordered. Every death has a score in
// the index of dead letters, which is higher than all before it, by one clock in Redis,
// whatever the clocks of workers say. The job notes the highest score there is when it
// is ordered, as its first position, and goes down from there. A letter that it has replayed, and that
// dies again, gets a score above that position. So the job never comes to it again.
//
// The letters are changed chunk by chunk. A script changes the letters of a chunk, moves the job's position behind
// them, and counts them, in one atomic step, and only if the job's lease is this process's
// and the position is where this process has left it. So whenever the process dies, each chunk
// is either done and counted and passed, or none of it. A process that was frozen, and does
// not know that its lease has ended, changes nothing.
//
// What a dying process leaves behind, in the order of its steps:
//
//   - After Order has read the position: nothing.
//   - After Order has written the job: a job that waits. A Runner takes it.
//   - After the lease was taken: the same, a few seconds later.
//   - After a page was read: the page is read again.
//   - After discarded letters were recorded, and before they are deleted: letters that count as
//     discarded and are still there. The next process records them again and deletes them. The
//     ledger of a batch counts a task once; a single order has two receipts that say discarded.
//   - After a chunk was changed: its position. The next process goes on behind it.
//   - While the canary is sent: the letters of the canary are written down in the step that replays
//     them. The next process sends what is missing.
//   - While the canary is waited for: the next process waits for the same letters, until the
//     same time. None is replayed again.
//   - After the canary was judged, and before that is written down: it is judged again.
//   - After the last chunk: the next process finds no further letters, and ends the job.
//
// Letters that arrive in the queue when the job comes to them are waited for, for two seconds.
// Letters that somebody else has replayed, discarded or changed meanwhile are skipped, and counted as such.
//
// # Stop
//
// Stop marks the job. The script that changes letters looks at the mark, so no letter
// is changed after Stop has returned. The Runner then ends the job.
package bulk
