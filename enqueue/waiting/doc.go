// Package waiting finds the tasks that wait in the queues, and takes them out: to
// cancel a batch or single orders, or to compare a batch with the queues.
//
// It is for operators' commands, and for programs that do the same. It imports the
// vocabulary (package tasks), go-redis and helpers below internal. It knows asynq's
// keys, and nothing of the ledgers: who takes tasks out records what became of them.
//
// # Where a task waits
//
// A task waits in one of these, and moves from one to another at any time:
//
//	pending     a list; a worker takes the task next
//	scheduled   a sorted set; the task waits for its first run
//	retry       a sorted set; the task has failed and waits for another run
//	archived    a sorted set; package recovery makes it a dead letter soon
//
// A task that a worker has taken is active, and does not wait.
//
// # Taking tasks out
//
// Remove takes a page of tasks out in three steps. It first moves them to scheduled,
// to be due in ten minutes (the claim), so that no worker begins one meanwhile. Then
// its caller records what becomes of them. Then it deletes them. If the process dies
// in between, or if the caller cannot record it, the tasks come back when their claim
// ends, and run. A second Remove finds them where they are. So nothing is deleted
// that was not recorded, and nothing is recorded that runs at the same time.
//
// A list has no way to take elements out of its middle in less time than it takes to
// read the list. So Remove turns the list like a wheel: it reads a page at the end
// where workers take tasks, and moves the tasks that stay to the other end. After a
// whole turn all of them have their old order, but for tasks that were enqueued
// meanwhile. No script holds Redis for more than some milliseconds.
//
// Tasks move while they are looked for. Whoever needs all of them repeats Remove until
// nothing is left.
package waiting
