// Package worker composes the consumer: Redis on one side, KooDrive on the other,
// and between them the packages below it, which meet here.
//
//	Redis ── asynq servers ("pollers") ── dispatcher ── pipeline ── jobs ── gate ── koodrive ── KooDrive
//	  │                                                    │          ├─ enqueue/locks, worker/locks
//	  │                                                    │          └─ webhook
//	  │                                                    ├─ enqueue/batch: receipts
//	  │                                                    └─ deadletter
//	  ├─ fleet: how many workers live, and whether all must wait
//	  └─ recovery: what asynq loses          admin: /healthz /readyz /metrics
//
// A release goes from asynq through the dispatcher (worker.go), [pipeline.Pipeline.Process]
// and the function release of package jobs to [koodrive.Client.Release].
//
// Worker.build makes the parts, and [Worker.Run] is the one straight line in which
// they start, and stop in reverse.
//
// # Several asynq servers
//
// One asynq server takes its tasks one after the other, a round trip each: 2 ms
// away from Redis it reaches 430 tasks a second, whatever its concurrency. So a
// worker runs several servers in one process, each with its share of the
// concurrency, over one Redis client, with one handler.
//
// # Stopping
//
// When the context given to Run ends, tasks that wait for their call give way at
// once. The servers stop taking tasks and wait for what is in flight, all together.
// What is not finished after Config.ShutdownTimeout goes back to the head of its
// queue, uncharged. Config.Hurry leaves 2 s, after which it is retried, uncharged.
//
// # Who may see whom
//
// The command line calls this package. It imports its subpackages, the ledgers
// enqueue/batch and enqueue/locks, and asynq, and never package enqueue: what a
// worker must enqueue as a producer would (the releases of a sweep) goes through
// Config.Releases.
package worker
