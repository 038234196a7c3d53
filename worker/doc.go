// Package worker builds the consumer out of the packages below it, starts it and
// stops it.
//
//	Redis ── fetch ── asynq server ── dispatcher ── pipeline ── jobs ── gate ── koodrive ── KooDrive
//	  │                                                    │          ├─ enqueue/locks, worker/locks
//	  │                                                    │          └─ webhook
//	  │                                                    ├─ enqueue/batch: receipts
//	  │                                                    └─ deadletter
//	  ├─ fleet: how many workers are live, and whether all must pause
//	  ├─ housekeeping: removes entries of lists whose subject is gone
//	  ├─ pauses: which queues are paused; their replays wait
//	  ├─ clock: whether this machine's clock is Redis' clock; if not, no tasks are taken
//	  └─ recovery: repairs what asynq loses      admin: /healthz /readyz /metrics
//
// A release goes from asynq through the dispatcher (dispatcher.go), [pipeline.Pipeline.Process]
// and the function release of package jobs to [koodrive.Client.Release].
//
// Worker.build makes the parts. [Worker.Run] starts them in order, and stops them
// in the reverse order.
//
// # Round trips
//
// An asynq server takes its tasks one after the other, and needs a round trip for each, and
// another one to tell what became of it. If the round trip to Redis takes 2 ms, it reaches
// 430 tasks a second, whatever its concurrency. So package fetch takes many tasks at a time
// and hands them to the server, and what the server tells Redis of many tasks goes there
// together (asynqx.CoalesceHook).
//
// # Stopping
//
// When the context of Run ends, the gate refuses the tasks that wait for a permit. Tasks
// that were fetched and not begun go back to the head of their queue. The server waits for
// the tasks in flight. A task that is not finished after Config.ShutdownTimeout goes back
// to the head of its queue, uncharged. Config.Hurry leaves 2 s, after which the task is
// retried, uncharged.
//
// # Boundaries
//
// The command line calls this package. It may import its subpackages, the two ledgers and
// the history (enqueue/batch, enqueue/locks and enqueue/history), asynq, internal/asynqx and
// internal/pauses. It must not import package enqueue: the releases of a sweep are enqueued
// through Config.Releases.
package worker
