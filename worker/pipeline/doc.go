// Package pipeline is the life of one task, from the bytes that came out of
// the queue to the word for what became of it:
//
//	decode    bytes to a task; what is none is parked with its bytes
//	admit     too late, or no longer wanted?
//	call      KooDrive, through the API interface, which may hold it back
//	classify  the answer's reason, under the retry policy, becomes a Verdict
//	settle    what is dead is stored elsewhere first, and a batch gets its
//	          receipt; then asynq is told
//
// [Pipeline.Process] is that story in one function. [Policy.Decide] is the
// only place that decides between done, once more and dead, and [ToAsynqError] the
// only one that says it in asynq's terms.
//
// # What uses up an attempt
//
// Only an answer about this very task. Throttling, an outage, a refused
// credential, an answer that is not KooDrive's, an interrupted call: each would
// have hit any other task as well, so the task is put back uncharged.
//
// # Why asynq never decides
//
// asynq archives a task by itself once it was retried MaxRetry times, keeps
// only 9,999 of them and deletes the rest. Producers therefore ask for a limit
// far above the policy's, and a task that comes with a smaller one (a plain
// asynq client's) is parked by us at that limit, or, where the attempt is not
// its fault, readmitted under our own limit.
//
// # Crashes
//
// A task leaves its queue only after its verdict took effect elsewhere:
// KooDrive has answered, or the dead-letter queue has stored it. A process
// that dies in between leaves the task active, and it runs again. The second
// run finds the device already gone, or its letter already parked. Work may be
// repeated; it is not lost.
//
// The worker composes the package; it imports the vocabulary and asynq, and
// neither the API client nor the dead-letter store.
package pipeline
