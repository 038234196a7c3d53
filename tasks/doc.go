// Package tasks is the vocabulary of kooworker: what a task is, how it is
// written on the wire, which queue it waits in, what makes two tasks the same,
// and the words for what became of it.
//
// Producers (package enqueue, or any asynq client in any language) and workers
// agree on nothing but this package. It imports the standard library only.
//
// # The wire
//
// A task is an asynq task whose type is the kind and whose payload is one flat
// JSON object:
//
//	kind            queue      payload
//	device:unbind   unbind     {"v":1,"user_id":"u-1","device_id":"1775406005920779393"}
//	lock:release    release    {"v":1,"user_id":"u-1","lock_id":"78e41c7e-db02-4d55-85b3-8153e4fefd2e@102"}
//	user:offboard   offboard   {"v":1,"user_id":"u-1"}
//	lock:sweep      sweep      {"v":1,"grace":"2m0s","max":10000,"max_share":0.25}
//	batch:webhook   webhook    {"v":1,"batch_id":"2026-01-31"}
//
// More members may be present:
//
//	enqueued_at   RFC 3339 time at which the producer decided; feeds the guard
//	              against acting on a stale intent
//	not_after     RFC 3339 time after which the task must not be carried out
//	source, expired_at
//	              of a release that a sweep has enqueued: where the lock was seen,
//	              and when it expired; both or none
//	batch, index  its place in a batch, which is owed a receipt; both or none
//	no_guard      true switches the guard off: the binding must go, however
//	              often it was renewed since
//
// Decoding is strict: a version other than 1, a member that is not listed
// here, a member given twice, a wrong type or a value outside its format is
// refused with a [FieldError] that names the member. What decodes encodes
// again to the same value.
//
// No credential is part of a task: the worker adds it when it calls.
package tasks
