// Package tasks is the vocabulary of kooworker. It says what a task is, how a
// task is written on the wire, in which queue it waits, when two tasks are the
// same, and which words describe what became of a task.
//
// Every other package may import it. Producers (package enqueue, or any asynq
// client in any language) and workers agree on what a task is here and nowhere
// else. The package imports the standard library only, so that a producer that
// just names a task does not get a Redis client with it.
//
// # The wire
//
// A task is an asynq task. Its type is the kind, and its payload is one flat
// JSON object:
//
//	kind            queue      payload
//	device:unbind   unbind     {"v":1,"user_id":"u-1","device_id":"1775406005920779393"}
//	lock:release    release    {"v":1,"user_id":"u-1","lock_id":"78e41c7e-db02-4d55-85b3-8153e4fefd2e@102"}
//	user:offboard   offboard   {"v":1,"user_id":"u-1"}
//	lock:sweep      sweep      {"v":1,"grace":"2m0s","max":10000,"max_share":0.25}
//	batch:webhook   webhook    {"v":1,"batch_id":"2026-01-31"}
//
// These members are optional:
//
//	enqueued_at   RFC 3339 time at which the producer decided; the guard against
//	              stale intents uses it
//	not_after     RFC 3339 time after which the task must not be carried out
//	source, expired_at
//	              only in a release that a sweep has enqueued: where the sweep
//	              saw the lock, and when the lock expired; both or neither
//	batch, index  the batch that the task belongs to, which is owed a receipt, and
//	              the task's index in it; both or neither
//	no_guard      true switches the guard off: the binding must go, even if it
//	              was renewed since
//
// A sweep may also have source, grace, max, max_share and force; see [LockSweep].
//
// Decoding is strict. It refuses a version other than 1, a member that is not
// listed here, a member that is given twice, a wrong type, and a value outside
// its format. The error is a [FieldError] that names the member. Whatever
// decodes also encodes, and the result decodes to the same value.
//
// No task contains a credential. The worker adds it when it calls KooDrive.
package tasks
