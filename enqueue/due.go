package enqueue

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/cancelable"
)

// redisClock tells the time by Redis' clock. It asks Redis once, and again when the
// answer is old. In between it counts on with the monotonic clock, which does not jump
// when somebody sets this machine's clock. It is wrong by the answer's round trip at
// most, and by what the two clocks drift apart in a minute.
type redisClock struct {
	rdb redis.UniversalClient

	mu   sync.Mutex
	told time.Time // what Redis answered
	at   time.Time // when it was asked, with a monotonic reading
}

// askAgain is how long an answer is used.
const askAgain = time.Minute

func (c *redisClock) now(ctx context.Context) (time.Time, error) {
	c.mu.Lock()
	told, at := c.told, c.at
	c.mu.Unlock()
	if told.IsZero() || time.Since(at) > askAgain {
		at = time.Now()
		var err error
		if told, err = cancelable.Call(ctx, func() (time.Time, error) { return c.rdb.Time(ctx).Result() }); err != nil {
			return time.Time{}, fmt.Errorf("ask Redis for its time: %w", err)
		}
		c.mu.Lock()
		c.told, c.at = told, at
		c.mu.Unlock()
	}
	// The question was on its way before Redis told the time, so this is not early: a
	// delay must not be cut short.
	return told.Add(time.Since(at)), nil
}

// buildOptions builds options whose times go by Redis' clock, since this
// machine's clock may be wrong.
func (c *Client) buildOptions(ctx context.Context, opts []Option) (options, error) {
	var wanted options
	for _, opt := range opts {
		opt(&wanted)
	}
	now := c.now()
	if wanted.delay > 0 || !wanted.at.IsZero() {
		var err error
		if now, err = c.clock.now(ctx); err != nil {
			return options{}, err
		}
	}
	return buildOptions(now, opts)
}

// schedule stores a task that is due at a time by Redis' clock. The error is
// asynq.ErrTaskIDConflict if another task has the ID.
func (c *Client) schedule(ctx context.Context, t *asynq.Task, queue, id string, due time.Time) error {
	capture := asynqx.NewScriptCapture(c.rdb)
	script, err := capture.CaptureDue(ctx, t, due, asynqx.TaskOptions(queue, id, time.Time{})...)
	if err != nil {
		return err
	}
	if err := c.writer.SAdd(ctx, asynqx.AllQueuesKey, queue).Err(); err != nil {
		return err
	}
	stored, err := script.Run(ctx, c.writer).Int()
	if asynqx.IsNoScript(err) {
		if err = capture.Load(ctx); err == nil {
			stored, err = script.Run(ctx, c.writer).Int()
		}
	}
	if err == nil && stored == 0 {
		return asynq.ErrTaskIDConflict
	}
	return err
}

// store lets asynq store a task, at once or delayed.
func (c *Client) store(ctx context.Context, t *asynq.Task, queue, id string, o options) error {
	if o.delay > 0 {
		return c.schedule(ctx, t, queue, id, o.runAt)
	}
	_, err := c.asynq.EnqueueContext(ctx, t, asynqx.TaskOptions(queue, id, time.Time{})...)
	return err
}
