// Package worker composes the consumer: Redis on one side, KooDrive on the
// other, and between them the packages below it, which do not know each other.
//
//	Redis ── asynq servers ("pollers") ── router ─┬─ pipeline ─┬─ gate ── koodrive ── KooDrive
//	  │                                           │            ├─ off-boarding, in rounds
//	  │                                           │            ├─ webhook
//	  │                                           │            └─ ledger of batches: Ledger
//	  │                                           └─ deadletter
//	  ├─ fleet: how many workers live, and whether all must wait
//	  └─ recovery: what asynq loses          admin: /healthz /readyz /metrics
//
// [Worker.Run] is the one straight line in which everything starts, and stops
// in reverse.
//
// # Several asynq servers
//
// One asynq server takes its tasks one after the other, a round trip each:
// 2 ms away from Redis it reaches 430 tasks a second, however many it may work
// on at a time. So a worker runs several servers in one process, each with its
// share of the concurrency, over one Redis client, with one handler.
//
// # Stopping
//
// When the context given to Run ends, tasks that wait for their call give way
// at once, and the servers stop taking tasks and wait for what is in flight, all
// together. What is not finished after Config.ShutdownTimeout goes back to the
// head of its queue, uncharged.
//
// The package imports its subpackages and asynq, and never package enqueue:
// producers and workers share only the vocabulary. What a worker must enqueue,
// or tell the ledger of batches, goes through Producer and Ledger, which whoever
// composes the process fills in.
package worker
