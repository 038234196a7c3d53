// Package jobs does what a task asks for: one file and one straight function for
// each kind.
//
//	unbind.go    device:unbind    guard, permit, call, report
//	release.go   lock:release     claim, recheck, permit, recheck if it waited, call, report, end the claim
//	offboard.go  user:offboard    list what is bound and held, enqueue an unbind or a release for each, wait
//	sweep.go     lock:sweep       find the stale locks of a source, enqueue their releases
//	webhook.go   batch:webhook    post the news of a complete batch
//
// [Jobs.Do] picks the function. The other files hold what only jobs use:
// suspect.go (tasks that may have killed a worker),
// children.go (the tasks that an off-boarding enqueues), sources.go (sources of
// locks other than the lock ledger), notifier.go (enqueues batch:webhook), span.go (how long
// the gate has held a task).
//
// A helper that returns a *pipeline.Result returns nil if the job may continue.
// Otherwise the job stops and returns that result.
//
// # A call to KooDrive
//
// A job acquires a permit from the gate, makes one call, and reports the answer
// to the gate. The answer becomes the job's result. If the gate finds that other calls
// get the same answer, or if nobody can tell yet, the result is an Outage, and the
// task is not charged.
//
// # Waits
//
// A task that must wait for KooDrive, for Redis or for its own children is a Snooze,
// and waits for as long as that takes. A task that must wait for anything else is a
// Wait, which has an end; see package pipeline. An error is about Redis only if
// asynqx.IsUnavailable says so.
//
// # Crashes
//
// The process may die between any two lines of a job. Then the task is still
// active, and runs again. So each step must be safe to repeat: if the first run
// has unbound the device or released the lock, the second run finds it gone. A
// comment marks each line that needs more than that.
//
// # Boundaries
//
// Package worker builds the jobs, and package pipeline calls [Jobs.Do]. The jobs
// import pipeline's types, the gate, the API client, the two ledgers (enqueue/batch
// and enqueue/locks), the sweeper (worker/locks) and the webhook's sender. They must
// not import package enqueue or asynq. To enqueue a task they use internal/asynqx.
package jobs
