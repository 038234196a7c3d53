package enqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"

	"github.com/kooworker/kooworker/internal/tracing"
	"github.com/kooworker/kooworker/tasks"
)

// Config of a Client.
type Config struct {
	// Redis is the queue's client, and stays the caller's to close. It must
	// observe contexts (ContextTimeoutEnabled): otherwise a Redis that hangs would
	// hold every caller for seconds beyond its deadline.
	Redis redis.UniversalClient
	// MinReplicas is the number of replicas that must have a task before it counts as
	// enqueued; see NotReplicatedError. Not for clusters. Default 0: the primary
	// alone is enough, and a failover may lose what it has not yet passed on.
	MinReplicas int
	// ReplicaTimeout is how long to wait for the replicas. At least 1 ms; it must
	// be shorter than the client's ReadTimeout. Default 1 s.
	ReplicaTimeout time.Duration
	// TracerProvider makes a span of each task or bulk that is enqueued. Its parent is the
	// span in the caller's context, and it goes into the headers of the tasks. Default:
	// there are no spans, and no headers.
	TracerProvider trace.TracerProvider
	// Now is the clock for a task's enqueued_at. Default time.Now.
	Now func() time.Time
}

// Client enqueues tasks. It is safe for concurrent use.
type Client struct {
	rdb       redis.UniversalClient
	writer    redis.UniversalClient // rdb, or one that waits for replicas
	clock     *redisClock
	asynq     *asynq.Client
	replicas  *replicaWaiter // nil unless replicas must acknowledge
	inspector *asynq.Inspector
	tracer    trace.Tracer // nil if there are no spans
	now       func() time.Time
}

// New checks a configuration and returns a Client. It does not connect yet.
func New(cfg Config) (*Client, error) {
	if cfg.Redis == nil {
		return nil, errors.New("enqueue: Config.Redis is required")
	}
	if !observesContexts(cfg.Redis) {
		return nil, errors.New("enqueue: this Redis client ignores deadlines; make it with ContextTimeoutEnabled: true")
	}
	replicas, err := newReplicaWaiter(cfg)
	if err != nil {
		return nil, err
	}
	writer := cfg.Redis
	if replicas != nil {
		writer = replicas
	} else if cluster, ok := cfg.Redis.(*redis.ClusterClient); ok {
		writer = clusterWriter{cluster}
	}
	c := &Client{
		rdb:       cfg.Redis,
		writer:    writer,
		clock:     &redisClock{rdb: cfg.Redis},
		replicas:  replicas,
		asynq:     asynq.NewClientFromRedisClient(writer),
		inspector: asynq.NewInspectorFromRedisClient(cfg.Redis),
		tracer:    tracing.Tracer(cfg.TracerProvider, "enqueue"),
		now:       cfg.Now,
	}
	if c.now == nil {
		c.now = time.Now
	}
	return c, nil
}

// newReplicaWaiter returns nil if no replica has to acknowledge.
func newReplicaWaiter(cfg Config) (*replicaWaiter, error) {
	timeout := cmp.Or(cfg.ReplicaTimeout, time.Second)
	_, isCluster := cfg.Redis.(*redis.ClusterClient)
	switch {
	case cfg.MinReplicas < 0:
		return nil, fmt.Errorf("enqueue: min replicas is %d; want 0 or more", cfg.MinReplicas)
	case cfg.MinReplicas == 0:
		return nil, nil
	case isCluster:
		return nil, errors.New("enqueue: min replicas must be 0 for a cluster, where WAIT cannot be tied to one task")
	case timeout < time.Millisecond:
		return nil, fmt.Errorf("enqueue: replica timeout is %s; want at least 1ms", timeout)
	}
	return &replicaWaiter{UniversalClient: cfg.Redis, want: cfg.MinReplicas, timeout: timeout}, nil
}

// observesContexts checks the clients of go-redis. For any other implementation
// the caller is responsible.
func observesContexts(rdb redis.UniversalClient) bool {
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

// Status is what became of a task, or of an item of a bulk.
type Status string

// The statuses. Only an item of a bulk can be Rejected or Skipped.
const (
	// Enqueued: this call has stored the task.
	Enqueued Status = "enqueued"
	// Duplicate: an outstanding task does at least what this one demands, so this
	// one was not stored.
	Duplicate Status = "duplicate"
	// Rejected: the item is not a task; see Item.Err.
	Rejected Status = "rejected"
	// Skipped: the batch has the item already, from an earlier run.
	Skipped Status = "skipped"
)

// Result says what became of a task.
type Result struct {
	// ID is the asynq task ID; of a duplicate, the outstanding task's.
	ID string
	// Queue is the queue in which the task waits. The lane is not part of its name.
	Queue string
	// Status is Enqueued or Duplicate.
	Status Status
	// RunAt is the time from which the task may run: now, unless it was enqueued
	// with a delay. Of a duplicate it is the outstanding task's, and zero while
	// that task is running.
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

// Offboard enqueues the off-boarding of a user: a worker unbinds every device that KooDrive
// lists for the user, and releases the backup locks of the user that the ledger knows.
// These unbinds are never guarded: every binding must go.
func (c *Client) Offboard(ctx context.Context, t tasks.UserOffboard, opts ...Option) (Result, error) {
	return c.Enqueue(ctx, t, opts...)
}

// Enqueue enqueues any task. For a task that is not well formed, or whose ids no
// system gives (see AllowAnyID), it returns a *tasks.FieldError and sends nothing. The time
// of a tasks.Timed counts instead of the options In and At.
func (c *Client) Enqueue(ctx context.Context, t tasks.Task, opts ...Option) (Result, error) {
	ctx, span, headers := c.startSpan(ctx, t)
	res, err := c.enqueue(ctx, t, headers, opts)
	endSpan(span, res, err)
	return res, err
}

// enqueue is Enqueue for a task with these headers.
func (c *Client) enqueue(ctx context.Context, t tasks.Task, headers map[string]string, opts []Option) (Result, error) {
	if timed, ok := t.(tasks.Timed); ok {
		t, opts = timed.Task, append(slices.Clone(opts), In(0), At(timed.RunAt))
	}
	now := c.now()
	o, err := c.buildOptions(ctx, opts)
	if err != nil {
		return Result{}, err
	}
	intent := tasks.Intent{EnqueuedAt: now, NotAfter: o.deadline, NoGuard: o.noGuard}
	payload, err := tasks.Encode(t, intent)
	if err == nil && !o.anyID {
		err = tasks.CheckPlausible(t)
	}
	if err != nil {
		return Result{}, err
	}
	if o.delay > 0 {
		headers = tracing.WithDue(headers, o.runAt)
	}
	message := asynq.NewTaskWithHeaders(string(t.Kind()), payload, headers)
	// The first ID to try is the task's identity. If the task that has it does not
	// cover this order, the second ID is shared by all orders with the same demands.
	// If the task with that ID does not cover it either, because it is running just
	// now, the order gets an ID of its own.
	identity := tasks.Identity(t)
	for _, id := range []string{identity, identity + ":" + demandsHash(intent), identity + ":" + uuid.NewString()} {
		res, conflict, err := c.enqueueAs(ctx, id, t, message, intent, o)
		if err != nil {
			return res, fmt.Errorf("enqueue %s: %w", id, err)
		}
		if !conflict {
			return res, nil
		}
	}
	return Result{}, fmt.Errorf("enqueue %s: the tasks with this ID keep changing; try again", identity)
}

// enqueueAs enqueues a task under one ID. There is a conflict if an outstanding
// task has this ID and does not cover the order.
func (c *Client) enqueueAs(ctx context.Context, id string, t tasks.Task, message *asynq.Task, intent tasks.Intent, o options) (res Result, conflict bool, err error) {
	const tries = 3 // another try is needed only if the outstanding task was finished meanwhile
	queue := o.lane.Of(t.Queue())
	var acks replicaAcks
	if c.replicas != nil {
		ctx = context.WithValue(ctx, replicaAcksKey{}, &acks)
	}
	for range tries {
		err = c.store(ctx, message, queue, id, o)
		if err == nil {
			if c.replicas != nil {
				err = c.replicas.checkAcks(acks.count)
			}
			return Result{ID: id, Queue: t.Queue(), Status: Enqueued, RunAt: o.runAt}, false, err
		}
		if !errors.Is(err, asynq.ErrTaskIDConflict) {
			return Result{}, false, withContextError(ctx, err)
		}
		other, err := c.outstanding(ctx, queue, id)
		switch {
		case err != nil:
			return Result{}, false, err
		case other == nil:
			continue
		case !covers(other, message.Payload(), intent, o.runAt):
			return Result{}, true, nil
		}
		if c.replicas != nil { // another client may have stored it without waiting for replicas
			err = c.replicas.barrier(ctx)
		}
		return Result{ID: id, Queue: t.Queue(), Status: Duplicate, RunAt: other.NextProcessAt}, false, err
	}
	return Result{}, true, nil
}

// withContextError adds the context's error, which callers test for with
// errors.Is. asynq reports it as text only.
func withContextError(ctx context.Context, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil && !errors.Is(err, ctxErr) {
		return fmt.Errorf("%w (%w)", ctxErr, err)
	}
	return err
}
