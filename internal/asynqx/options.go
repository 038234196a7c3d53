package asynqx

import (
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/tasks"
)

// ParkDelay is how far ahead a dead letter lies in its queue's retry set: it
// waits for an operator, not for its time.
const ParkDelay = 10 * 365 * 24 * time.Hour

// QueueOptions are asynq's options of every task of a queue. asynq's own limit
// of retries is far above ours, so that we decide when a task is dead.
func QueueOptions(queue string) []asynq.Option {
	return []asynq.Option{asynq.Queue(queue), asynq.MaxRetry(tasks.MaxRetry), asynq.Timeout(tasks.Timeout)}
}

// TaskOptions are the options of one task: those of its queue, its ID, and the
// time from which it may run. A time that is zero or has passed means now.
func TaskOptions(queue, id string, runAt time.Time) []asynq.Option {
	return append(QueueOptions(queue), asynq.TaskID(id), asynq.ProcessAt(runAt))
}

// WholeSecond rounds a time up to a whole second. asynq keeps whole seconds and cuts off the
// fraction, so that a task would run too early.
func WholeSecond(t time.Time) time.Time {
	if full := t.Truncate(time.Second); full.Before(t) {
		return full.Add(time.Second)
	}
	return t
}
