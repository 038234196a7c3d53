// Package enqueuetest asserts in your tests what your code has enqueued.
//
// It looks into the Redis that the code under test was given, a real one or
// miniredis, with no worker at it: what a worker has finished is gone. Nothing
// is changed.
//
// It imports the vocabulary, asynq and go-redis, and nothing of the worker.
package enqueuetest

import (
	"errors"
	"fmt"
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
	// Intent is what the producer wanted beyond that: when it decided, until when
	// the task is wanted, whether it is guarded, and its place in a batch.
	Intent tasks.Intent
	// RunAt is the time from which it may run; zero if that is now.
	RunAt time.Time
}

// RequireEnqueued ends the test unless this task is outstanding, once. It
// returns it, for further looks at its intent.
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
		tb.Fatalf("%s is not enqueued; there is %s", tasks.Identity(want), list(all))
	default:
		tb.Fatalf("%s is enqueued %d times: %s", tasks.Identity(want), len(found), list(found))
	}
	return Enqueued{}
}

// RequireNone ends the test if a task of these kinds is outstanding; without
// kinds, of any kind.
func RequireNone(tb testing.TB, rdb redis.UniversalClient, kinds ...tasks.Kind) {
	tb.Helper()
	var found []Enqueued
	for _, e := range outstanding(tb, rdb) {
		if len(kinds) == 0 || slices.Contains(kinds, e.Task.Kind()) {
			found = append(found, e)
		}
	}
	if len(found) > 0 {
		tb.Fatalf("%d tasks are enqueued, and none was wanted: %s", len(found), list(found))
	}
}

// outstanding reads all queues but the dead letters.
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
			found, err := readAll(read, queue)
			if err != nil {
				tb.Fatalf("read queue %s: %v", queue, err)
			}
			out = append(out, found...)
		}
	}
	return out
}

func readAll(read func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error), queue string) ([]Enqueued, error) {
	const pageSize = 1000
	var out []Enqueued
	for page := 1; ; page++ {
		infos, err := read(queue, asynq.Page(page), asynq.PageSize(pageSize))
		if errors.Is(err, asynq.ErrQueueNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for _, info := range infos {
			task, intent, err := tasks.Decode(tasks.Kind(info.Type), info.Payload)
			if err != nil {
				return nil, fmt.Errorf("task %s: %w", info.ID, err)
			}
			e := Enqueued{ID: info.ID, Task: task, Intent: intent}
			if info.State == asynq.TaskStateScheduled || info.State == asynq.TaskStateRetry {
				e.RunAt = info.NextProcessAt
			}
			out = append(out, e)
		}
		if len(infos) < pageSize {
			return out, nil
		}
	}
}

// list names some tasks.
func list(all []Enqueued) string {
	const most = 10
	var ids []string
	for _, e := range all {
		ids = append(ids, e.ID)
	}
	slices.Sort(ids)
	switch {
	case len(ids) == 0:
		return "nothing"
	case len(ids) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(ids[:most], ", "), len(ids)-most)
	default:
		return strings.Join(ids, ", ")
	}
}
