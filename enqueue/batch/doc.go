// Package batch keeps account of batches: many tasks that were enqueued
// together, each of which is owed a receipt. Producers, workers and operators
// all meet in one Redis; this package is the only one that knows how a batch
// lies there. It imports the vocabulary and go-redis.
//
// # The ledger
//
// A batch is a handful of keys with one hash tag, kooworker:{batch:<id>}:
//
//	meta      hash: when it was made, whether the whole input is in it, and the
//	          counters
//	states    string of 4-bit numbers: the state of each index (see State)
//	slots     string of 16-byte records, one for every ChunkSize items of the
//	          input: where its states begin, how many items are known, and the
//	          rolling digest of the input up to there
//	receipts  stream: one entry for each outcome
//	revised   hash: of what has more than one receipt, the latest
//	used      that there is, or was, a batch of this name; it outlives the others
//
// Ten million tasks take 5 MB of states and 0.5 MB of slots. Receipts take what
// they say, some 75 bytes each, and 280 with a device.
//
// A counter changes only in the script that changes a state, so that the total
// is the sum of the states at any time and after any crash. Audit proves it by
// counting again.
//
//	absent ──▶ queued ──▶ succeeded, already_gone, superseded
//	   │         └──────▶ dead ◀──▶ discarded
//	   │                    └─────────┴──▶ succeeded, already_gone, superseded
//	   └──▶ duplicate, rejected, or any outcome at once
//
// A dead letter that is replayed and dies again gets another receipt, since its
// reason and attempts are new. What has succeeded stays so: the second run of a
// task that was carried out, but not settled, finds it already gone, and changes
// nothing.
//
// # The input
//
// The input is read in chunks of ChunkSize items. A chunk is claimed before
// anything in it is enqueued: that notes the rolling digest of the input so far.
// Whoever reads the input again (a producer that was killed, a second one by
// mistake) must come to the same digest, or is refused before it has enqueued
// anything of another input. What has a state is skipped.
//
// A task is marked as queued after asynq has it. A producer that dies in between
// leaves a task that the ledger does not know yet; who resumes finds the task in
// its place, or the worker has settled it already: a state may go from absent to
// an outcome at once. Were the mark made first, the task would be lost.
//
// Where nobody can read the input again, as after a sweep of locks that died, the
// batch is abandoned: that seals it as it is.
//
// Children, which an off-boarding finds, are the exception: they are marked
// first, together with a note of them, and enqueued after. The parent runs again
// until it has seen to it, and the batch cannot be complete in between.
//
// # Completion
//
// A batch is done when its input is sealed and nothing is queued. The script in
// which that happens notes it, once, and lets the keys expire after the time
// that they are to be kept. Whoever is told (Settle, Seal) or looks (Announce)
// spreads the news; only when that is done the batch leaves the set of those
// that wait for it. So the news may be told twice, and is not lost.
package batch
