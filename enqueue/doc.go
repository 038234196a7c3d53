// Package enqueue puts tasks into Redis: the library of those who produce
// unbinds and releases.
//
//	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
//	client, err := enqueue.New(enqueue.Config{Redis: rdb})
//	res, err := client.Unbind(ctx, tasks.DeviceUnbind{UserID: "u-1", DeviceID: "1775406005920779393"})
//
// A nil error means that Redis has the task, or had it already: [Result.Status]
// tells which. A task stands for its target: while one for the same user and
// device, or lock, is outstanding, a second is a [Duplicate] and not an error;
// once it is done, or dead, it can be enqueued again.
//
// An outstanding task stands for a new order only if it will do all that the
// new one demands. Not so a task that is being carried out just now, that may
// expire sooner, that runs later, or that the guard may let give way to a
// binding which the new order is meant for: then the new one is stored beside
// it, under an ID of its own.
//
// An error after the call may have reached Redis (a time-out, a broken
// connection) leaves open whether the task was stored. Enqueue it again: if it
// was, the answer is Duplicate.
//
// # Many tasks
//
// [Client.Bulk] takes an iterator, of package enqueue/records or your own, and
// sends hundreds of tasks in one exchange. With [BulkOptions.Batch] the tasks
// become a batch: package enqueue/batch keeps account of each, and gives it a
// receipt when a worker is done with it. Such a task stands for itself and not
// for its target: another batch that names the same device owes another receipt.
//
//	store := batch.NewStore(rdb)
//	res, err := client.Bulk(ctx, records.TasksCSV(tasks.KindDeviceUnbind, file), enqueue.BulkOptions{
//		Batch: &batch.Spec{ID: "deletions-2026-11-22"},
//	})
//	balance, err := store.Wait(ctx, res.Batch, nil)
//
// # What Redis promises
//
// As much as it is configured to. With appendfsync everysec a crash of the
// machine forgets up to a second of tasks that were reported as enqueued.
//
// Replication is asynchronous: a failover forgets what the primary had stored
// and not yet passed on, be it reported or not. [Config.MinReplicas] makes a
// task count as enqueued only when so many replicas have it. That narrows the
// gap and does not close it: Sentinel may still choose a replica that is not
// among them, and a primary that is cut off goes on storing until it notices
// (min-replicas-to-write on the server bounds that).
//
// The package imports the vocabulary, the ledger of batches, the reader of files,
// asynq and go-redis, and nothing of the worker.
package enqueue
