package enqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Config of a Client.
type Config struct {
	// Redis is the queue's client, and stays the caller's to close. It must
	// honour contexts (ContextTimeoutEnabled): otherwise a Redis that hangs
	// would hold every caller for seconds beyond its deadline.
	Redis redis.UniversalClient
	// Now is the clock behind a task's enqueued_at. Default time.Now.
	Now func() time.Time
}

// Client enqueues tasks. It is safe for concurrent use.
type Client struct {
	asynq     *asynq.Client
	inspector *asynq.Inspector
	now       func() time.Time
}

// New checks a configuration and returns a Client. Nothing is connected yet.
func New(cfg Config) (*Client, error) {
	if cfg.Redis == nil {
		return nil, errors.New("enqueue: Config.Redis is required")
	}
	if !honoursContexts(cfg.Redis) {
		return nil, errors.New("enqueue: this Redis client ignores deadlines; make it with ContextTimeoutEnabled: true")
	}
	c := &Client{
		asynq:     asynq.NewClientFromRedisClient(cfg.Redis),
		inspector: asynq.NewInspectorFromRedisClient(cfg.Redis),
		now:       cfg.Now,
	}
	if c.now == nil {
		c.now = time.Now
	}
	return c, nil
}

// honoursContexts looks at the clients of go-redis. Of any other
// implementation it is the caller's to know.
func honoursContexts(rdb redis.UniversalClient) bool {
	switch rdb := rdb.(type) {
	case *redis.Client:
		return rdb.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		return rdb.Options().ContextTimeoutEnabled
	case *redis.Ring:
		return rdb.Options().ContextTimeoutEnabled
	default:
		return true
	}
}

// Status is what became of a call to enqueue.
type Status string

// The statuses.
const (
	// Enqueued: the task was stored by this call.
	Enqueued Status = "enqueued"
	// Duplicate: a task for the same target was outstanding already, and this
	// one was not stored.
	Duplicate Status = "duplicate"
)

// Result tells what became of a task.
type Result struct {
	// ID is the asynq task ID, of the outstanding task if it is a duplicate.
	ID string
	// Queue is the queue it waits in.
	Queue string
	// Status is Enqueued or Duplicate.
	Status Status
	// RunAt is the time from which the task may run: now, unless it was
	// enqueued with a delay. Of a duplicate it is the outstanding task's, and
	// zero while that one is running.
	RunAt time.Time
}

// Unbind enqueues the removal of a device from its user.
func (c *Client) Unbind(ctx context.Context, t tasks.DeviceUnbind, opts ...Option) (Result, error) {
	return c.Enqueue(ctx, t, opts...)
}

// Release enqueues the release of a backup lock.
func (c *Client) Release(ctx context.Context, t tasks.LockRelease, opts ...Option) (Result, error) {
	return c.Enqueue(ctx, t, opts...)
}

// Enqueue enqueues any task. A task that is not well formed is a
// *tasks.FieldError, and nothing is sent.
func (c *Client) Enqueue(ctx context.Context, t tasks.Task, opts ...Option) (Result, error) {
	now := c.now()
	o, err := compose(now, opts)
	if err != nil {
		return Result{}, err
	}
	payload, err := tasks.Encode(t, tasks.Intent{EnqueuedAt: now, NotAfter: o.deadline, NoGuard: o.noGuard})
	if err != nil {
		return Result{}, err
	}
	id := tasks.Identity(t)
	const tries = 3 // each further one means that what was in the way has just gone
	for range tries {
		_, err = c.asynq.EnqueueContext(ctx, asynq.NewTask(string(t.Kind()), payload),
			asynq.TaskID(id), asynq.Queue(t.Queue()), asynq.ProcessAt(o.runAt),
			asynq.MaxRetry(tasks.MaxRetry), asynq.Timeout(tasks.Timeout))
		if err == nil {
			return Result{ID: id, Queue: t.Queue(), Status: Enqueued, RunAt: o.runAt}, nil
		}
		if !errors.Is(err, asynq.ErrTaskIDConflict) {
			return Result{}, fmt.Errorf("enqueue %s: %w", id, sayWhy(ctx, err))
		}
		other, outstanding, err := c.inTheWay(ctx, t.Queue(), id)
		if err != nil {
			return Result{}, fmt.Errorf("enqueue %s: %w", id, err)
		}
		if !outstanding {
			continue
		}
		if o.noGuard && !demandsNoGuard(other) && id == tasks.Identity(t) {
			// The outstanding task may yet give way to a newer binding, and
			// this one must not: it is no duplicate.
			id += noGuardSuffix
			continue
		}
		return Result{ID: id, Queue: t.Queue(), Status: Duplicate, RunAt: other.NextProcessAt}, nil
	}
	return Result{}, fmt.Errorf("enqueue %s: the task in its place keeps changing; try again", id)
}

// noGuardSuffix sets a task without the guard apart from one with it.
const noGuardSuffix = ":no-guard"

// inTheWay looks at the task that holds the ID. One that was archived, by hand
// or by a limit that another producer set, will not run, and asynq deletes it
// in time: taking it for outstanding would be a deletion that never happens. It
// is removed, to make room.
func (c *Client) inTheWay(ctx context.Context, queue, id string) (info *asynq.TaskInfo, outstanding bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	info, err = c.inspector.GetTaskInfo(queue, id)
	switch {
	case errors.Is(err, asynq.ErrTaskNotFound), errors.Is(err, asynq.ErrQueueNotFound):
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("look at the outstanding task: %w", err)
	case info.State != asynq.TaskStateArchived && info.State != asynq.TaskStateCompleted:
		return info, true, nil
	}
	if err := c.inspector.DeleteTask(queue, id); err != nil && !errors.Is(err, asynq.ErrTaskNotFound) {
		return nil, false, fmt.Errorf("remove the archived task in its place: %w", err)
	}
	return nil, false, nil
}

func demandsNoGuard(info *asynq.TaskInfo) bool {
	_, in, err := tasks.Decode(tasks.Kind(info.Type), info.Payload)
	return err == nil && in.NoGuard
}

// sayWhy puts the context's error where callers look for it: asynq reports a
// deadline as text.
func sayWhy(ctx context.Context, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil && !errors.Is(err, ctxErr) {
		return fmt.Errorf("%w (%w)", ctxErr, err)
	}
	return err
}
