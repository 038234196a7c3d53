package overview

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// readRetries returns about how many tasks wait for another attempt, by why the last one
// ended. It looks at some tasks of each lane, those that are due first, and takes the others
// to be like them. The reason of a task whose error does not name one is "".
func readRetries(ctx context.Context, rdb redis.UniversalClient, sample int) (map[tasks.Reason]int64, error) {
	out := make(map[tasks.Reason]int64)
	if sample <= 0 {
		return out, nil
	}
	type lane struct {
		name  string
		count *redis.IntCmd
		first *redis.StringSliceCmd
		tasks []*redis.StringCmd
	}
	var lanes []*lane
	err := pipelined(ctx, rdb, func(p redis.Pipeliner) {
		for _, queue := range tasks.Queues() {
			if queue == tasks.QueueDeadLetter {
				continue // what waits there is dead
			}
			for _, name := range tasks.LanesOf(queue) {
				key := asynqx.RetryKey(name)
				lanes = append(lanes, &lane{name: name, count: p.ZCard(ctx, key), first: p.ZRange(ctx, key, 0, int64(sample)-1)})
			}
		}
	})
	if err != nil {
		return out, fmt.Errorf("list the tasks that wait for another attempt: %w", err)
	}
	err = pipelined(ctx, rdb, func(p redis.Pipeliner) {
		for _, l := range lanes {
			for _, id := range l.first.Val() {
				l.tasks = append(l.tasks, p.HGet(ctx, asynqx.TaskKey(l.name, id), asynqx.FieldMsg))
			}
		}
	})
	if err != nil {
		return out, fmt.Errorf("read tasks that wait for another attempt: %w", err)
	}
	for _, l := range lanes {
		counts, read := make(map[tasks.Reason]int64), int64(0)
		for _, task := range l.tasks {
			if m, err := asynqx.ParseMessage([]byte(task.Val())); err == nil && task.Err() == nil {
				counts[reasonOf(m.ErrorMsg)]++
				read++
			}
		}
		for reason, n := range counts {
			out[reason] += max(n*l.count.Val()/read, 1)
		}
	}
	return out, nil
}

// reasonOf returns the reason that an error begins with.
func reasonOf(text string) tasks.Reason {
	word, _, _ := strings.Cut(text, ":")
	if reason := tasks.Reason(word); reason.Known() {
		return reason
	}
	return ""
}

// pipelined sends commands in one round trip. That a key does not exist is no error.
func pipelined(ctx context.Context, rdb redis.UniversalClient, add func(redis.Pipeliner)) error {
	cmds, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error { add(p); return nil }) // its error is the first, which may be redis.Nil
	asynqx.EachReply(cmds, err)
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
	}
	return nil
}
