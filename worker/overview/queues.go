package overview

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/tasks"
)

// Queue is what is known of a queue, or of a lane of it.
type Queue struct {
	Name          string     `json:"queue"`
	Pending       int64      `json:"pending"`
	Scheduled     int64      `json:"scheduled"`
	Retry         int64      `json:"retry"`
	Active        int64      `json:"active"`
	OldestSeconds int64      `json:"oldest_seconds"` // the age of the oldest pending task
	Paused        bool       `json:"paused"`         // a lane of it at least
	Reason        string     `json:"reason"`         // of the first pause that has one
	Until         *time.Time `json:"until"`          // when the last pause ends; null: when somebody ends it

	// Lanes is how many lanes the numbers are of, and Pauses who has paused them, and why.
	Lanes  int            `json:"-"`
	Pauses []pauses.Group `json:"-"`
	// These are for the metrics. Processed and Failed are asynq's counters, which only grow.
	Archived  int64 `json:"-"`
	Completed int64 `json:"-"`
	Processed int64 `json:"-"`
	Failed    int64 `json:"-"`
}

// lane has the answers about one lane.
type lane struct {
	name                                                   string
	pending, active, scheduled, retry, archived, completed *redis.IntCmd
	processed, failed                                      *redis.StringCmd
	oldest                                                 *redis.StringCmd // the ID of the oldest pending task
	since                                                  *redis.StringCmd // since when that is pending, in ns; nil: there is none
}

// ReadQueues returns what is known of each queue, or of each lane, in the order of
// tasks.Queues. It takes two round trips. Dead letters are the retries of their queue.
func ReadQueues(ctx context.Context, rdb redis.UniversalClient, eachLane bool) ([]Queue, error) {
	var lanes []*lane
	var readPauses func() (pauses.Lanes, error)
	var now *redis.TimeCmd
	err := pipelined(ctx, rdb, func(p redis.Pipeliner) {
		for _, queue := range tasks.Queues() {
			for _, name := range tasks.LanesOf(queue) {
				lanes = append(lanes, &lane{
					name: name, pending: p.LLen(ctx, asynqx.PendingKey(name)), active: p.LLen(ctx, asynqx.ActiveKey(name)),
					scheduled: p.ZCard(ctx, asynqx.ScheduledKey(name)), retry: p.ZCard(ctx, asynqx.RetryKey(name)),
					archived: p.ZCard(ctx, asynqx.ArchivedKey(name)), completed: p.ZCard(ctx, asynqx.CompletedKey(name)),
					processed: p.Get(ctx, asynqx.ProcessedKey(name)), failed: p.Get(ctx, asynqx.FailedKey(name)),
					oldest: p.LIndex(ctx, asynqx.PendingKey(name), -1),
				})
			}
		}
		readPauses, now = pauses.ReadIn(ctx, p), p.Time(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("read the queues: %w", err)
	}
	paused, err := readPauses()
	if err != nil {
		return nil, fmt.Errorf("read which queues are paused: %w", err)
	}
	err = pipelined(ctx, rdb, func(p redis.Pipeliner) {
		for _, l := range lanes {
			if id := l.oldest.Val(); id != "" {
				l.since = p.HGet(ctx, asynqx.TaskKey(l.name, id), "pending_since")
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read since when tasks wait: %w", err)
	}
	return queuesOf(lanes, paused, now.Val(), eachLane), nil
}

// queuesOf adds the lanes of each queue up, unless each lane has its row.
func queuesOf(lanes []*lane, paused pauses.Lanes, now time.Time, eachLane bool) (queues []Queue) {
	for _, l := range lanes {
		name := l.name
		if !eachLane {
			name, _ = tasks.SplitQueue(l.name)
		}
		if len(queues) == 0 || queues[len(queues)-1].Name != name {
			queues = append(queues, Queue{Name: name})
		}
		q := &queues[len(queues)-1]
		q.Lanes++
		q.Pending += l.pending.Val()
		q.Active += l.active.Val()
		q.Scheduled += l.scheduled.Val()
		q.Retry += l.retry.Val()
		q.Archived += l.archived.Val()
		q.Completed += l.completed.Val()
		q.Processed += number(l.processed)
		q.Failed += number(l.failed)
		q.OldestSeconds = max(q.OldestSeconds, l.age(now))
	}
	names := func(q Queue) []string {
		if eachLane {
			return []string{q.Name}
		}
		return tasks.LanesOf(q.Name)
	}
	for i := range queues {
		queues[i].setPauses(paused.Of(names(queues[i])))
	}
	return queues
}

// number returns the value of a counter, 0 if there is none.
func number(cmd *redis.StringCmd) int64 {
	n, _ := strconv.ParseInt(cmd.Val(), 10, 64)
	return n
}

// setPauses writes the pauses of a queue.
func (q *Queue) setPauses(groups []pauses.Group) {
	q.Pauses, q.Paused = groups, len(groups) > 0
	endless := false
	for _, g := range groups {
		if q.Reason == "" {
			q.Reason = g.Reason
		}
		if g.Until.IsZero() {
			endless = true
		} else if q.Until == nil || g.Until.After(*q.Until) {
			q.Until = new(g.Until.UTC())
		}
	}
	if endless {
		q.Until = nil
	}
}

// age returns for how long the oldest pending task waits, in seconds.
func (l *lane) age(now time.Time) int64 {
	if l.since == nil {
		return 0
	}
	ns, err := strconv.ParseInt(l.since.Val(), 10, 64)
	if err != nil || ns <= 0 {
		return 0 // it was taken meanwhile
	}
	return max(int64(now.Sub(time.Unix(0, ns)).Seconds()), 0) // it is by the producer's clock
}
