// Package batch is the ledger of batches. A batch is many tasks that were
// enqueued together, each of which is owed a receipt.
//
// The ledger is shared: producers (package enqueue), workers (package worker and
// its parts) and operators (the batch commands) import this package directly, and
// it imports none of them. It may import the vocabulary (package tasks), go-redis
// and helpers below internal, but neither asynq nor package enqueue nor the other
// ledger, enqueue/locks. No other package knows how a batch is stored in Redis.
//
// # The ledger
//
// A batch is a few keys with one hash tag. Their names begin with
// kooworker:{batch:<id>}:
//
//	meta      hash: when the batch was made, when something last happened to it,
//	          whether its input is closed, and the counters
//	states    string of 4-bit numbers: the state of each index (see State)
//	slots     string of 16-byte records, one for each chunk of ChunkSize items of
//	          the input: the index of its first item, how many of its items are
//	          known, and the rolling digest of the input up to there
//	receipts  stream: one entry for each outcome
//	revised   hash: the latest receipt of each index that has more than one
//	users     string: the index of the receipts by user; see package userindex
//	used      exists if a batch of this name exists or has existed; it outlives
//	          the other keys by 90 days
//	brood:<index>
//	          hash: the children of the task with this index (see Children); of a
//	          task outside any batch it is kooworker:brood:<identity>
//	token:…   exists for an hour at most (see Fence)
//
// Two keys list the batches: kooworker:batches, a sorted set of all batch IDs by
// the time of their creation, and kooworker:batches:open, the set of those whose
// completion is waited for, or was not reported yet. PruneList takes batches that have
// expired off both. A third one, kooworker:batches:webhook, exists while a worker runs
// that posts webhooks; it expires after minutes. A fourth one, kooworker:batches:stops,
// says which batches are cancelled or held. Workers read it every second.
//
// Ten million tasks take 5 MB of states and 0.5 MB of slots. A receipt takes 75
// to 90 bytes, or about 245 with a device, and 3.1 in the index of users.
//
// # States
//
//	absent ──▶ queued ──▶ succeeded, already_gone, superseded, cancelled
//	   │         └──────▶ dead ◀──▶ discarded
//	   │                    └─────────┴──▶ succeeded, already_gone, superseded, cancelled
//	   └──▶ duplicate, rejected, or any outcome at once
//
// A counter changes only in the script that changes a state. So the total is the
// sum of all states at any time and after any crash. Audit proves it by counting
// the states.
//
// A dead letter that is replayed and dies again gets another receipt, since its
// reason and its attempts are new. A task that has succeeded stays succeeded. If
// it runs again, because its outcome was not recorded the first time, it finds its
// target already gone, and this second outcome changes nothing.
//
// # The input
//
// The input is read in chunks of ChunkSize items. A producer claims a chunk before
// it enqueues any item of it. The claim records the rolling digest of the input so
// far. A producer that reads the input again (after a crash, or a second one by
// mistake) must arrive at the same digest. Otherwise the ledger refuses its claim
// before it has enqueued anything of another input. An item that has a state is skipped.
//
// A task is marked as queued after asynq has stored it. If the producer dies in
// between, asynq has a task that the ledger does not know yet. The producer that
// resumes the batch finds the task under its ID, or a worker has recorded its outcome
// already: that is why a state may change from absent to an outcome at once. If the
// mark were made first, such a crash would lose the task.
//
// A producer that has read the whole input closes it (CloseInput; the field is
// called sealed). If nobody can read the input again, as after the death of a
// sweep, the batch is abandoned: Abandon closes the input as it is.
//
// The children of an off-boarding are the exception. They are recorded and marked
// first, and enqueued afterwards. The parent runs again until all of them are
// enqueued, and the batch cannot be complete in between.
//
// # Completion
//
// A batch is done when its input is closed and nothing is queued. The script that
// changes the last state records the completion, once, and lets the keys expire
// when the batch's time to be kept has passed. RecordOutcomes reports the completion
// to its caller, and DrainCompleted finds completions that nobody has reported. A
// batch whose input is closed leaves kooworker:batches:open only after its completion
// was reported. So a completion may be reported twice, but it is never lost.
//
// A batch whose input is never closed cannot be complete. DropIdle takes it off that
// list when nothing has happened to it for long. The batch itself stays, with what it
// knows, until somebody deletes it. A producer that resumes it puts it back on the
// list.
package batch
