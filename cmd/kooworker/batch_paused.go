package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/cancelable"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/tasks"
)

// paused says which queues of a batch are paused. It is empty if none is.
func (f *forecaster) paused(ctx context.Context, id string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, forecastPatience)
	defer cancel()
	return cancelable.Call(ctx, func() (string, error) {
		recent, err := batch.NewStore(f.rdb).Recent(ctx, id)
		if err != nil {
			recent = batch.Recent{}
		}
		return f.pausedOf(ctx, id, recent.Kinds)
	})
}

// pausedOf is paused, given the kinds of the latest tasks of the batch. If no task has
// ended, the kinds are not known: a paused queue counts if tasks wait in the lane of the
// batch there.
func (f *forecaster) pausedOf(ctx context.Context, id string, kinds []tasks.Kind) (string, error) {
	lane, err := batch.NewStore(f.rdb).Lane(ctx, id)
	if err != nil {
		return "", err
	}
	paused, err := pauses.Read(ctx, f.rdb)
	if err != nil || len(paused) == 0 {
		return "", err
	}
	names := queuesOf(kinds)
	for i, queue := range names {
		names[i] = lane.Of(queue)
	}
	names = slices.DeleteFunc(names, func(name string) bool { _, isPaused := paused[name]; return !isPaused })
	if len(kinds) == 0 {
		if names, err = f.notEmpty(ctx, names); err != nil {
			return "", err
		}
	}
	var texts []string
	for _, name := range names {
		queue, _ := tasks.SplitQueue(name)
		texts = append(texts, paused[name].Of(queue)) // not of the lane: all tasks of the batch are in that one
	}
	return strings.Join(texts, "; "), nil
}

// queuesOf returns the queues of tasks of some kinds. No kinds: those of all tasks that a
// batch may have.
func queuesOf(kinds []tasks.Kind) (queues []string) {
	for _, q := range []struct {
		kind tasks.Kind
		name string
	}{
		{tasks.KindLockRelease, tasks.QueueRelease},
		{tasks.KindDeviceUnbind, tasks.QueueUnbind},
		{tasks.KindUserOffboard, tasks.QueueOffboard},
	} {
		if len(kinds) == 0 || slices.Contains(kinds, q.kind) {
			queues = append(queues, q.name)
		}
	}
	return queues
}

// notEmpty returns those of asynq's queues in which tasks wait.
func (f *forecaster) notEmpty(ctx context.Context, names []string) (out []string, err error) {
	if len(names) == 0 {
		return nil, nil
	}
	answers := make(map[string][]*redis.IntCmd)
	_, err = f.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, name := range names {
			for _, key := range []string{asynqx.PendingKey(name), asynqx.ScheduledKey(name), asynqx.RetryKey(name)} {
				answers[name] = append(answers[name], p.Exists(ctx, key))
			}
		}
		return nil
	})
	for _, name := range names {
		if slices.ContainsFunc(answers[name], func(answer *redis.IntCmd) bool { return answer.Val() > 0 }) {
			out = append(out, name)
		}
	}
	return out, err
}

// pauseNotice tells those who wait for a batch that a queue of it is paused.
type pauseNotice struct {
	at   time.Time // of the latest look
	said string
}

// look looks from time to time, and writes a line for each change.
func (n *pauseNotice) look(e *env, forecasts *forecaster, b tasks.BatchStats) {
	if b.Queued == 0 || time.Since(n.at) < forecastEvery {
		return
	}
	n.at = time.Now()
	paused, err := forecasts.paused(e.ctx, b.ID)
	switch {
	case err != nil || paused == n.said:
		return
	case paused == "":
		fmt.Fprintf(e.stderr, "batch %s: its queue is not paused any more\n", b.ID)
	default:
		fmt.Fprintf(e.stderr, "batch %s waits: %s\n", b.ID, paused)
	}
	n.said = paused
}
