package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/tasks"
)

// queueRow is what is known of a queue, or of a lane of it.
type queueRow struct {
	Queue         string     `json:"queue"`
	Pending       int64      `json:"pending"`
	Scheduled     int64      `json:"scheduled"`
	Retry         int64      `json:"retry"`
	Active        int64      `json:"active"`
	OldestSeconds int64      `json:"oldest_seconds"` // the age of the oldest pending task
	Paused        bool       `json:"paused"`         // a lane of it at least
	Reason        string     `json:"reason"`         // of the first pause that has one
	Until         *time.Time `json:"until"`          // when the last pause ends; null: when somebody ends it

	lanes  int
	pauses []pauses.Group
}

// laneReplies are the answers about one lane.
type laneReplies struct {
	name                              string
	pending, scheduled, retry, active *redis.IntCmd
	oldest                            *redis.StringCmd // the ID of the oldest pending task
	since                             *redis.StringCmd // since when that is pending, in ns; nil: there is none
}

// read returns a row for each queue, or for each lane, and what is paused. It takes two round
// trips.
func (s queueStore) read(ctx context.Context, eachLane bool) ([]queueRow, pauses.Lanes, error) {
	var lanes []*laneReplies
	var readPauses func() (pauses.Lanes, error)
	var now *redis.TimeCmd
	err := s.pipelined(ctx, func(p redis.Pipeliner) {
		for _, queue := range tasks.Queues() {
			for _, lane := range tasks.LanesOf(queue) {
				lanes = append(lanes, &laneReplies{
					name: lane, pending: p.LLen(ctx, asynqx.PendingKey(lane)), scheduled: p.ZCard(ctx, asynqx.ScheduledKey(lane)),
					retry: p.ZCard(ctx, asynqx.RetryKey(lane)), active: p.LLen(ctx, asynqx.ActiveKey(lane)), oldest: p.LIndex(ctx, asynqx.PendingKey(lane), -1),
				})
			}
		}
		readPauses, now = pauses.ReadIn(ctx, p), p.Time(ctx)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read the queues: %w", err)
	}
	paused, err := readPauses()
	if err != nil {
		return nil, nil, fmt.Errorf("read which queues are paused: %w", err)
	}
	err = s.pipelined(ctx, func(p redis.Pipeliner) {
		for _, l := range lanes {
			if id := l.oldest.Val(); id != "" {
				l.since = p.HGet(ctx, asynqx.TaskKey(l.name, id), "pending_since")
			}
		}
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read since when tasks wait: %w", err)
	}
	return rowsOf(lanes, paused, now.Val(), eachLane), paused, nil
}

// pipelined sends commands in one round trip. That a key does not exist is no error.
func (s queueStore) pipelined(ctx context.Context, add func(redis.Pipeliner)) error {
	cmds, _ := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error { add(p); return nil }) // its error is the first, which may be redis.Nil
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
	}
	return nil
}

// rowsOf adds the lanes of each queue up, unless each lane has its row.
func rowsOf(lanes []*laneReplies, paused pauses.Lanes, now time.Time, eachLane bool) (rows []queueRow) {
	for _, l := range lanes {
		name := l.name
		if !eachLane {
			name, _ = tasks.SplitQueue(l.name)
		}
		if len(rows) == 0 || rows[len(rows)-1].Queue != name {
			rows = append(rows, queueRow{Queue: name})
		}
		row := &rows[len(rows)-1]
		row.lanes++
		row.Pending += l.pending.Val()
		row.Scheduled += l.scheduled.Val()
		row.Retry += l.retry.Val()
		row.Active += l.active.Val()
		row.OldestSeconds = max(row.OldestSeconds, l.age(now))
	}
	names := func(row queueRow) []string {
		if eachLane {
			return []string{row.Queue}
		}
		return tasks.LanesOf(row.Queue)
	}
	for i := range rows {
		setPauses(&rows[i], paused.Of(names(rows[i])))
	}
	return rows
}

// setPauses writes the pauses of a row.
func setPauses(r *queueRow, groups []pauses.Group) {
	r.pauses, r.Paused = groups, len(groups) > 0
	endless := false
	for _, g := range groups {
		if r.Reason == "" {
			r.Reason = g.Reason
		}
		if g.Until.IsZero() {
			endless = true
		} else if r.Until == nil || g.Until.After(*r.Until) {
			r.Until = new(g.Until.UTC())
		}
	}
	if endless {
		r.Until = nil
	}
}

// age returns for how long the oldest pending task waits, in seconds.
func (l *laneReplies) age(now time.Time) int64 {
	if l.since == nil {
		return 0
	}
	ns, err := strconv.ParseInt(l.since.Val(), 10, 64)
	if err != nil || ns <= 0 {
		return 0 // it was taken meanwhile
	}
	return max(int64(now.Sub(time.Unix(0, ns)).Seconds()), 0) // it is by the producer's clock
}

// writeRows writes JSON lines.
func writeRows(w io.Writer, rows []queueRow) error {
	for _, row := range rows {
		if err := writeJSON(w, row); err != nil {
			return err
		}
	}
	return nil
}
