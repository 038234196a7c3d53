// Package batches does what concerns a batch in all places at once: it joins the ledger of
// batches, the queues and the dead letters, none of which knows the others. It owns no key in
// Redis. Commands and the dashboard call it. It must not import package worker, nor what calls
// KooDrive.
//
// # Cancel
//
// The cancellation is recorded first (batch.Store.Cancel). From then on no worker
// begins a task of the batch: a worker that comes to one records it as cancelled. So
// all that follows only makes it faster, and Cancel may die between any two of its
// steps, or lose its connection. Running it again finishes it.
//
// A task that is taken out of its queue is recorded before it is deleted; see package
// waiting. A task that a worker has in hand at that time goes on, and its own outcome
// is recorded.
//
// When nothing of the batch is in any queue, what the ledger still counts as queued or
// dead is lost: somebody has deleted it, or an off-boarding was cancelled before
// it had enqueued its children. These are recorded as cancelled last.
//
// # Missing
//
// The ledger and the queues cannot be read at the same moment, and tasks move while
// they are looked for. So what one look does not find is looked for once more, and what
// has an outcome by then is not missing. Before a task leaves its queue its outcome is
// in the ledger, and before a task is in the ledger it is in its queue. An
// off-boarding's children are the exception: they are in the ledger first. They are
// missing for a moment, or until the off-boarding runs again if its worker has died.
package batches
