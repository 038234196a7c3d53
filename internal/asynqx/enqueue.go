package asynqx

import (
	"context"
	"fmt"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Order is a task to enqueue under an ID.
type Order struct {
	ID      string
	Kind    tasks.Kind
	Queue   string
	Payload []byte
	Headers map[string]string
	RunAt   time.Time // zero or past: now
}

// EnqueueAll enqueues tasks in one exchange. An ID that is taken already counts as
// enqueued. On an error some of them may be enqueued.
func EnqueueAll(ctx context.Context, rdb redis.UniversalClient, orders []Order) error {
	if len(orders) == 0 {
		return nil
	}
	capture := NewScriptCapture(rdb)
	scripts := make([]Script, len(orders))
	for i, o := range orders {
		var err error
		if scripts[i], err = capture.Capture(ctx, asynq.NewTaskWithHeaders(string(o.Kind), o.Payload, o.Headers), TaskOptions(o.Queue, o.ID, o.RunAt)...); err != nil {
			return fmt.Errorf("enqueue %s: %w", o.ID, err)
		}
	}
	err := run(ctx, rdb, orders, scripts)
	if IsNoScript(err) { // Redis was started, or failed over, since
		if err = capture.Load(ctx); err == nil {
			err = run(ctx, rdb, orders, scripts)
		}
	}
	return err
}

func run(ctx context.Context, rdb redis.UniversalClient, orders []Order, scripts []Script) error {
	_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, script := range scripts {
			p.SAdd(ctx, AllQueuesKey, orders[i].Queue) // each time, in case Redis was emptied
			script.EvalSha(ctx, p)
		}
		return nil
	})
	return err
}
