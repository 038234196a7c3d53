// Package jobs does what a task asks for: one file and one straight function for
// each kind.
//
//	unbind.go    device:unbind    guard, permit, call, report
//	release.go   lock:release     claim, recheck, permit, recheck if it waited, call, report, end the claim
//	offboard.go  user:offboard    list what is bound and held, enqueue an unbind or a release for each, wait
//	sweep.go     lock:sweep       find the stale locks of a source, enqueue their releases
//	webhook.go   batch:webhook    post the news of a complete batch
//
// [Jobs.Do] picks the function. Beside them lie what a job needs and nobody else
// does: children.go (the tasks that an off-boarding has enqueued), sources.go
// (where locks are known besides the ledger), notifier.go (who enqueues
// batch:webhook).
//
// # A call to KooDrive
//
// A job acquires a permit from the gate, makes one call, and reports the answer
// to the gate. What the call met is the job's result, with one exception: what
// would have met any other task as well is an Outage, which is charged to nobody.
//
// # Crashes
//
// A job may die between any two of its lines; then the task is still active, and
// runs again. So each step must be safe to repeat: a device that is unbound, or a
// lock that is released, is found gone by the second run. Where a line needs more
// than that, it says so.
//
// # Who may see whom
//
// Package worker composes this package, and package pipeline calls it. A job sees
// pipeline's types, the gate, the API client, the two ledgers (enqueue/batch and
// enqueue/locks), the sweeper (worker/locks, since a sweep is one call of it) and
// the webhook's sender. It must not import package enqueue, and not asynq: what it
// enqueues goes through internal/asynqx.
package jobs
