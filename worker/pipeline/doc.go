// Package pipeline takes one task from the bytes in the queue to the decision that
// asynq gets:
//
//	decode   turn the bytes into a task; bytes that are no task are parked as they are
//	attempt  let the job do the work (package jobs), which returns a [Result]
//	decide   turn the result into a [Decision], by the retry policy
//	settle   store the receipt of a task of a batch, and the dead letter of a dead
//	         task; then tell asynq
//
// [Pipeline.Process] is these steps in one function. Only [Policy.Decide] decides
// between done, retry and dead. Only [ToAsynqError] translates a decision to asynq.
//
// # What counts as an attempt
//
// Only an answer about this very task counts. Throttling, an outage, a refused
// credential, an answer that is not KooDrive's and an interrupted call would have
// affected any other task as well. So they put the task back uncharged.
//
// # Waiting
//
// A task may wait for KooDrive, for Redis or for its own children for as long as that
// takes. Any other wait has an end, since what it waits for may never come: a source
// of locks that no worker has any more, or a secret that nobody repairs. A task that has
// waited for Policy.MaxWait is dead, with the reason waiting.
//
// What counts is the wait, and not the age of the task, which may have been scheduled
// or replayed. The beginning is noted in the task's hash in Redis, by Redis' clock,
// when the task waits. So only tasks that wait cost another exchange with Redis.
// A restart, or a run on another worker, changes nothing. If the task has not waited
// for an hour, because it had to wait for KooDrive meanwhile or no worker ran, a new
// wait begins; so it does for a copy that was requeued, and for a replay.
//
// # Why asynq never decides
//
// asynq archives a task by itself once it was retried MaxRetry times. It keeps only
// 9,999 archived tasks, and deletes the others. So our producers set a limit far
// above the policy's. A plain asynq client may set a smaller limit. At that limit
// the pipeline parks the task, or requeues it under our own limit if the last
// attempt does not count.
//
// # Traces
//
// [Pipeline.Process] makes a span of each attempt, and one of the wait before it. The span of
// an attempt travels in the context to the calls of KooDrive; see package internal/tracing.
// Without a TracerProvider nothing of that happens.
//
// # Crashes
//
// A task leaves its queue only after KooDrive has answered, or after the
// dead-letter queue has stored the task. If the process dies in between, the task
// is still active and runs again. The second run finds the device already gone, or
// the letter already parked. So work may be repeated, but it is not lost.
//
// # Boundaries
//
// Package worker builds the pipeline and calls [Pipeline.Process]. The package
// imports tasks, asynq, go-redis, the dead letters, internal/httpx and internal/tracing. It must not import the
// API client, the gate or the jobs: it knows nothing of devices and locks.
package pipeline
