// Package fetch takes tasks from Redis for asynq's servers: many in one round trip, from
// all queues at once.
//
// asynq's server takes one task in a round trip, and asks one queue after the other. A
// [Fetcher] does that in its place. It moves tasks as asynq does, in asynq's keys and
// states, with a lease for each, and keeps them in memory for a moment. The hook of the
// Fetcher, on the Redis client of the servers, answers asynq's question for a task from
// there. The rest remains asynq's: it runs the handlers, extends the leases, retries, and
// tells Redis what became of a task.
//
// # How many
//
// A task takes a slot while it is worked on, and none while its outcome is being stored:
// [Fetcher.Begin]. asynq has room for more tasks than there are slots, and is given no more
// than there are slots for. If calls are short, some tasks more get ready for the next ones.
//
// As many are fetched as there are free slots, and as many as end in a tenth of a second. So there is
// nearly always a task for a slot that becomes free, and none of them waits for long,
// however long the calls take. A task that has waited for two seconds all the same is put
// back.
//
// The queues that have tasks take turns, each by its weight, however few tasks are fetched
// at a time. In the same round trip the other queues are asked whether they have some now;
// if none has, all are asked again after a moment. A queue that is paused, or that
// Config.Hold holds, gives none.
//
// While all are empty, Redis tells of a task in one of Config.Watch at once, and the others
// are looked into ten times a second. To watch a queue, BLMOVE moves a task from the end of
// pending to the same end: Redis waits until there is one, and changes nothing. That is a
// connection for each such queue, and a tenth of what it costs to ask all the time. Where
// Redis refuses the command, the fetcher asks all the time.
//
// Suspects of a crash run one at a time; see package recovery. They wait apart from the
// others, so that they hold nobody up, and so that the next one is there when one ends.
//
// # Clusters
//
// Each master of a cluster has round trips of its own, at the same time. A round waits a
// quarter of a second for the slowest of them. A master that is later is not asked again
// until it has answered, so that it delays only its own queues. The tasks of its answer are
// put back, since others with later leases may have begun by then. From then on its leases
// tell no order, and its answers may come when they like. It is the same when a master
// hangs; asynqx.GuardNodes ends the calls to that one.
//
// # What happens when
//
//   - The process dies: the leases of the tasks that were fetched and not begun expire after
//     30 s, and package recovery puts the tasks back, uncharged. Tasks begin in the order of
//     their leases, whatever their queues, so that it knows which of them cannot have begun,
//     and does not suspect these of the death. Those that are suspects already keep no order,
//     and have leases that do not count there.
//   - The reply of Redis is lost: the same, though the process lives on.
//   - The worker stops: [Fetcher.Close] puts back what is left. If Redis is away then, it is
//     as if the process had died.
//   - Redis goes back in time, or somebody deletes a task that is here: it runs all the same,
//     as a task would that asynq had taken.
//
// # Boundaries
//
// Package worker gives the hook to the servers' client, and tells the Fetcher when a task
// begins and ends. The package imports internal/asynqx and internal/cancelable, and must not import another of its siblings
// below worker.
package fetch
