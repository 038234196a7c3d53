// Package enqueuetest helps your tests to check what your code has enqueued. Only
// tests import it.
//
// It reads the Redis that the code under test uses, a real one or miniredis, and
// changes nothing there. No worker may run on that Redis, since finished tasks
// cannot be found any more.
//
// It imports the vocabulary (package tasks), asynq and go-redis, and nothing of
// the worker.
package enqueuetest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Enqueued is an outstanding task.
type Enqueued struct {
	// ID is the asynq task ID.
	ID string
	// Task is what is to be done.
	Task tasks.Task
	// Intent is what the producer wanted beyond that: when it decided, when the
	// task expires, whether it is guarded, and which batch it belongs to.
	Intent tasks.Intent
	// RunAt is the time from which the task may run; zero if that is now.
	RunAt time.Time
}

// RequireEnqueued ends the test unless this task is outstanding exactly once. It
// returns the task with its intent, for further checks.
func RequireEnqueued(tb testing.TB, rdb redis.UniversalClient, want tasks.Task) Enqueued {
	tb.Helper()
	all := outstanding(tb, rdb)
	var found []Enqueued
	for _, e := range all {
		if e.Task == want {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 1:
		return found[0]
	case 0:
		tb.Fatalf("%s is not enqueued; the outstanding tasks are: %s", tasks.Identity(want), list(all))
	default:
		tb.Fatalf("%s is enqueued %d times: %s", tasks.Identity(want), len(found), list(found))
	}
	return Enqueued{}
}

// RequireNone ends the test if a task of one of these kinds is outstanding.
// Without kinds it ends the test if any task is.
func RequireNone(tb testing.TB, rdb redis.UniversalClient, kinds ...tasks.Kind) {
	tb.Helper()
	var found []Enqueued
	for _, e := range outstanding(tb, rdb) {
		if len(kinds) == 0 || slices.Contains(kinds, e.Task.Kind()) {
			found = append(found, e)
		}
	}
	if len(found) > 0 {
		tb.Fatalf("%d tasks are enqueued; want none: %s", len(found), list(found))
	}
}

// outstanding reads all queues except the dead letters.
func outstanding(tb testing.TB, rdb redis.UniversalClient) []Enqueued {
	tb.Helper()
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	var out []Enqueued
	for queue := range tasks.QueueWeights() {
		if queue == tasks.QueueDeadLetter {
			continue
		}
		for _, read := range []func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
			inspector.ListPendingTasks, inspector.ListScheduledTasks, inspector.ListRetryTasks, inspector.ListActiveTasks,
		} {
			infos, err := read(queue, asynq.PageSize(math.MaxInt32)) // the first page has all tasks
			if err != nil && !errors.Is(err, asynq.ErrQueueNotFound) {
				tb.Fatalf("read queue %s: %v", queue, err)
			}
			for _, info := range infos {
				task, intent, err := tasks.Decode(tasks.Kind(info.Type), info.Payload)
				if err != nil {
					tb.Fatalf("read queue %s: task %s: %v", queue, info.ID, err)
				}
				e := Enqueued{ID: info.ID, Task: task, Intent: intent}
				if info.State == asynq.TaskStateScheduled || info.State == asynq.TaskStateRetry {
					e.RunAt = info.NextProcessAt
				}
				out = append(out, e)
			}
		}
	}
	return out
}

// list returns the IDs of some tasks, for a message.
func list(all []Enqueued) string {
	const maxListed = 10
	var ids []string
	for _, e := range all {
		ids = append(ids, e.ID)
	}
	slices.Sort(ids)
	switch {
	case len(ids) == 0:
		return "none"
	case len(ids) > maxListed:
		return fmt.Sprintf("%s and %d more", strings.Join(ids[:maxListed], ", "), len(ids)-maxListed)
	default:
		return strings.Join(ids, ", ")
	}
}
