package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// lookForMissingEvery is the time between two looks for tasks that are missing.
const lookForMissingEvery = time.Minute

// missingWatch warns of batches whose tasks somebody has deleted from the queues. They
// would be waited for without an end.
type missingWatch struct {
	rdb    redis.UniversalClient
	log    *zap.Logger
	looked time.Time
	warned map[string]bool // the batches, so that each is warned of once
}

// look warns if the batches of a lane to which nothing happens have more queued tasks
// than the lane holds. It reads counters only, so it may miss some: the other tasks of the
// lane count as theirs. The audit of a batch is exact.
func (m *missingWatch) look(ctx context.Context) error {
	if time.Since(m.looked) < lookForMissingEvery {
		return nil
	}
	m.looked = time.Now()
	stalled, err := batch.NewStore(m.rdb).Stalled(ctx, batch.StalledAfter)
	if err != nil {
		return err
	}
	queued := make(map[tasks.Lane]int64)
	ids := make(map[string]bool)
	for _, b := range stalled {
		queued[b.Lane] += b.Queued
		ids[b.ID] = true
	}
	maps.DeleteFunc(m.warned, func(id string, _ bool) bool { return !ids[id] })
	held, err := m.countTasks(ctx, slices.Collect(maps.Keys(queued)))
	if err != nil {
		return err
	}
	for _, b := range stalled {
		if queued[b.Lane] <= held[b.Lane] || m.warned[b.ID] {
			continue
		}
		m.warned[b.ID] = true
		m.log.Warn("tasks are missing: batches to which nothing happens count more of them as queued than the queues hold; somebody has deleted them, or Redis has lost them",
			zap.String("batch", b.ID), zap.Int64("queued", queued[b.Lane]), zap.Int64("held", held[b.Lane]),
			zap.String("hint", "kooworker batch audit "+b.ID+" names them, and says how to restore or cancel them"))
	}
	return nil
}

// countTasks returns how many tasks the queues hold where the batches of a lane have theirs.
func (m *missingWatch) countTasks(ctx context.Context, lanes []tasks.Lane) (map[tasks.Lane]int64, error) {
	counts := make(map[tasks.Lane][]*redis.IntCmd)
	_, err := m.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, lane := range lanes {
			for _, queue := range tasks.BatchQueues(lane) {
				counts[lane] = append(counts[lane], p.LLen(ctx, asynqx.PendingKey(queue)), p.LLen(ctx, asynqx.ActiveKey(queue)),
					p.ZCard(ctx, asynqx.ScheduledKey(queue)), p.ZCard(ctx, asynqx.RetryKey(queue)), p.ZCard(ctx, asynqx.ArchivedKey(queue)))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count the tasks of batches: %w", err)
	}
	held := make(map[tasks.Lane]int64)
	for lane, cmds := range counts {
		for _, cmd := range cmds {
			held[lane] += cmd.Val()
		}
	}
	return held, nil
}
