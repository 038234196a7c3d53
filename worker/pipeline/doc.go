// Package pipeline is the life of one task, from the bytes that came out of the
// queue to the decision that asynq is told:
//
//	decode   bytes to a task; what is no task is parked with its bytes
//	attempt  the job does the work (package jobs) and returns a [Result]
//	decide   the result, under the retry policy, becomes a [Decision]
//	settle   a dead task is stored as a dead letter, a task of a batch gets its
//	         receipt; then asynq is told
//
// [Pipeline.Process] is that story in one function. [Policy.Decide] is the only
// place that decides between done, retry and dead, and [ToAsynqError] the only
// one that says it in asynq's terms.
//
// # What counts as an attempt
//
// Only an answer about this very task. Throttling, an outage, a refused
// credential, an answer that is not KooDrive's, an interrupted call: each would
// have hit any other task as well, so the task is put back uncharged.
//
// # Why asynq never decides
//
// asynq archives a task by itself once it was retried MaxRetry times, keeps only
// 9,999 of them and deletes the rest. Producers therefore ask for a limit far
// above the policy's. A task that comes with a smaller one (a plain asynq
// client's) is parked by us at that limit. Where the attempt is not its fault,
// it is requeued under our own limit.
//
// # Crashes
//
// A task leaves its queue only after its decision took effect elsewhere: KooDrive
// has answered, or the dead-letter queue has stored it. If the process dies in
// between, the task is still active and runs again. The second run finds the
// device already gone, or its letter already parked. Work may be repeated; it is
// not lost.
//
// Package worker composes this package and hands it deliveries. It imports the
// vocabulary, asynq, the ledger of batches and the dead letters, which settling
// writes to, and internal/httpx, which makes the texts of strangers safe. It must not import the API client, the gate or the jobs: it knows
// nothing of devices and locks.
package pipeline
