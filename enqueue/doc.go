// Package enqueue is the library for producers: programs that want devices
// unbound and locks released. It puts tasks into Redis.
//
//	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
//	client, err := enqueue.New(enqueue.Config{Redis: rdb})
//	res, err := client.Unbind(ctx, tasks.DeviceUnbind{UserID: "u-1", DeviceID: "1775406005920779393"})
//
// Users' programs and the command line call it. It may import the vocabulary
// (package tasks), what lies below enqueue, and helpers below internal. It imports
// nothing of the worker, and the worker does not import it.
//
// # One task
//
// A nil error means that Redis has the task, or had an equal one before:
// [Result.Status] says which. A task stands for its target. While a task for the
// same user and device, or for the same lock, is outstanding, a second one is a
// [Duplicate] and not an error. Once the task is done or dead, its target can be
// enqueued again.
//
// An outstanding task stands for a new order only if it does all that the new
// order demands. That is not certain if the outstanding task is running just now,
// may expire sooner, runs later, or is guarded and may give way to a binding that
// the new order is meant for. In these cases the new order is stored as well,
// under an ID of its own.
//
// If a call fails after it may have reached Redis (a time-out, a broken
// connection), the task may be stored or not. Enqueue it again: if it was stored,
// the answer is Duplicate.
//
// # Many tasks
//
// [Client.Bulk] takes an iterator, from package enqueue/records or your own code,
// and sends hundreds of tasks in one exchange. With [BulkOptions.Batch] the tasks
// become a batch: package enqueue/batch keeps the state of each, and a receipt of
// it when a worker is done with it. Such a task stands for itself and not for its
// target: another batch that names the same device owes another receipt.
//
//	store := batch.NewStore(rdb)
//	res, err := client.Bulk(ctx, records.TasksCSV(tasks.KindDeviceUnbind, file), enqueue.BulkOptions{
//		Batch: &batch.Spec{ID: "deletions-2026-11-22"},
//	})
//	stats, err := store.Wait(ctx, res.Batch, nil)
//
// # What waits for what
//
// Single tasks wait for single tasks (also those of a bulk with
// [BulkOptions.SingleOrders]), files without a batch for such files, and each batch
// for itself while there are few of them: these are the lanes of a queue (see
// [tasks.Lane]), and the workers take turns between them. [Urgent] goes before all of them. A
// task is a duplicate only of one in the same lane: a single order for a device that waits
// in a large file does not wait with it. Both run, and the second one finds nothing left to do.
//
// # What Redis promises
//
// A task is as safe as Redis is configured to make it. With appendfsync everysec a
// crash of the machine loses up to a second of tasks that were reported as enqueued.
//
// A bulk notices what Redis has lost before the bulk ends: [batch.DataLossError].
//
// Replication is asynchronous. A failover loses what the primary had stored and
// not yet passed on, even if it was reported. With [Config.MinReplicas] a task
// counts as enqueued only when so many replicas have it. That makes a loss less
// likely and does not exclude it: Sentinel may still choose another replica, and a
// primary that is cut off goes on storing until it notices (min-replicas-to-write
// on the server limits that).
package enqueue
