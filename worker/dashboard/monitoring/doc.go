// Package monitoring serves asynqmon, the web UI of asynq, so that nothing is lost or
// leaked through it. Package dashboard mounts it behind authentication and cross-site
// protection, which are not its business.
//
// # Who changes something
//
// asynqmon only reads: it always runs in its read-only mode, and gets GET requests
// only. Whatever changes something is carried out here, by one table of what is
// allowed. What the table does not name is refused with 403, also an endpoint that a
// later asynqmon may have. A viewer is refused everything that is not GET or HEAD.
//
//   - Run, of one task or of those selected on a page, is allowed: of a dead letter
//     it is a replay (see package deadletter), of a scheduled or failed task it is an
//     earlier try.
//   - Delete is allowed for dead letters, and goes through [Config.Discard], which
//     tells the ledger of batches. Elsewhere it would take a task away without a
//     receipt: `kooworker cancel` and `kooworker batch cancel` write one.
//   - Pause and resume are for the whole queue with all its lanes, not for the one
//     lane that asynqmon shows as a queue. "Pause unbind" means that no unbind is
//     sent; an operator who pauses one of eleven lanes during an incident has stopped
//     a part and believes to have stopped all. To stop one batch there is `kooworker
//     batch hold`. The pause has its maker and a reason, as one of `kooworker pause`
//     has.
//   - Archive is refused: asynq keeps 9,999 archived tasks of a queue, and deletes the others.
//   - Everything that ends in _all is refused: it is one script, and Redis answers nobody else
//     while it runs.
//   - Cancel of an active task is refused: it only cuts off the wait for KooDrive's
//     answer. The task is charged nothing and runs again two seconds later.
//   - Deletion of a queue is refused: tasks and receipts would be lost.
//
// asynqmon's UI shows no error of an action. A small script shows the text of each refusal.
//
// # What the browser gets
//
// The page loads nothing from another host, and its Content-Security-Policy allows
// scripts and styles by a nonce that is new in each answer. Fonts are those of the
// system.
//
// Texts from strangers (payloads, errors, names) are shown with their control,
// bidirectional and zero-width characters spelled out, and are cut if they are very
// long. The IDs of tasks, which the UI sends back, are rewritten so that they can be
// read back: see encodeID.
//
// asynqmon's page of Prometheus metrics is off: it shows metrics of asynq's exporter,
// which kooworker does not have.
//
// The package imports asynqmon, asynq, go-redis, tasks, worker/audit,
// worker/deadletter, worker/dashboard/access (for who asks), internal/asynqx and
// internal/pauses. It must not import any other part of the worker or of the
// dashboard.
package monitoring
