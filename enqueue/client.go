package enqueue

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// Config of a Client.
type Config struct {
	// Redis is the queue's client, and stays the caller's to close. It must
	// honour contexts (ContextTimeoutEnabled): otherwise a Redis that hangs
	// would hold every caller for seconds beyond its deadline.
	Redis redis.UniversalClient
	// MinReplicas is the number of replicas that must have a task before it
	// counts as enqueued; see NotReplicatedError. Not for clusters. Default 0:
	// the primary's word is enough, and a failover may lose what it had not
	// passed on.
	MinReplicas int
	// ReplicaTimeout is how long to wait for them. At least 1 ms; it must be
	// shorter than the client's ReadTimeout. Default 1 s.
	ReplicaTimeout time.Duration
	// Now is the clock behind a task's enqueued_at. Default time.Now.
	Now func() time.Time
}

// Client enqueues tasks. It is safe for concurrent use.
type Client struct {
	rdb       redis.UniversalClient
	asynq     *asynq.Client
	replicas  *replicated // nil unless some must acknowledge
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
	replicas, err := cfg.replicas()
	if err != nil {
		return nil, err
	}
	writer := cfg.Redis
	if replicas != nil {
		writer = replicas
	}
	c := &Client{
		rdb:       cfg.Redis,
		replicas:  replicas,
		asynq:     asynq.NewClientFromRedisClient(writer),
		inspector: asynq.NewInspectorFromRedisClient(cfg.Redis),
		now:       cfg.Now,
	}
	if c.now == nil {
		c.now = time.Now
	}
	return c, nil
}

// replicas returns the client that waits for replicas, nil if none are asked
// for.
func (cfg Config) replicas() (*replicated, error) {
	const defaultTimeout = time.Second
	within := cmp.Or(cfg.ReplicaTimeout, defaultTimeout)
	_, isCluster := cfg.Redis.(*redis.ClusterClient)
	switch {
	case cfg.MinReplicas < 0:
		return nil, fmt.Errorf("enqueue: min replicas is %d; want 0 or more", cfg.MinReplicas)
	case cfg.MinReplicas == 0:
		return nil, nil
	case isCluster:
		return nil, errors.New("enqueue: min replicas is not for a cluster, whose WAIT cannot be told which task it is for; want 0")
	case within < time.Millisecond:
		return nil, fmt.Errorf("enqueue: replica timeout is %s; want at least 1ms", within)
	}
	return &replicated{UniversalClient: cfg.Redis, want: cfg.MinReplicas, within: within}, nil
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
	// Duplicate: a task was outstanding already that does at least what this
	// one demands, and this one was not stored.
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
	intent := tasks.Intent{EnqueuedAt: now, NotAfter: o.deadline, NoGuard: o.noGuard}
	payload, err := tasks.Encode(t, intent)
	if err != nil {
		return Result{}, err
	}
	// The first place is the task's identity. Where what is outstanding there
	// does not do all that this order demands, orders with the same demands
	// share another, and only if that one is being carried out just now there
	// is a third.
	identity := tasks.Identity(t)
	for _, suffix := range []func() string{
		func() string { return "" },
		func() string { return ":" + demands(intent) },
		func() string { return ":" + uuid.NewString() },
	} {
		id := identity + suffix()
		res, taken, err := c.enqueueAs(ctx, id, t, payload, intent, o.runAt)
		if err != nil {
			return res, fmt.Errorf("enqueue %s: %w", id, err)
		}
		if !taken {
			return res, nil
		}
	}
	return Result{}, fmt.Errorf("enqueue %s: the tasks in its place keep changing; try again", identity)
}

// enqueueAs enqueues under one ID. The place is taken if a task is outstanding
// there that cannot stand for this one.
func (c *Client) enqueueAs(ctx context.Context, id string, t tasks.Task, payload []byte, intent tasks.Intent, runAt time.Time) (res Result, taken bool, err error) {
	const tries = 3 // each further one means that what was in the way has just gone
	var ack acknowledged
	if c.replicas != nil {
		ctx = context.WithValue(ctx, acknowledgedKey{}, &ack)
	}
	for range tries {
		_, err = c.asynq.EnqueueContext(ctx, asynq.NewTask(string(t.Kind()), payload), asynqx.TaskOptions(t.Queue(), id, runAt)...)
		if err == nil {
			if c.replicas != nil {
				err = c.replicas.enough(ack.replicas)
			}
			return Result{ID: id, Queue: t.Queue(), Status: Enqueued, RunAt: runAt}, false, err
		}
		if !errors.Is(err, asynq.ErrTaskIDConflict) {
			return Result{}, false, sayWhy(ctx, err)
		}
		other, err := c.inTheWay(ctx, t.Queue(), id)
		switch {
		case err != nil:
			return Result{}, false, err
		case other == nil:
			continue
		case !serves(other, payload, intent, runAt):
			return Result{}, true, nil
		}
		if c.replicas != nil { // another may have stored it, and not have waited
			err = c.replicas.barrier(ctx)
		}
		return Result{ID: id, Queue: t.Queue(), Status: Duplicate, RunAt: other.NextProcessAt}, false, err
	}
	return Result{}, true, nil
}

// inTheWay looks at the task that holds the ID; nil means that it has gone.
func (c *Client) inTheWay(ctx context.Context, queue, id string) (*asynq.TaskInfo, error) {
	info, err := underContext(ctx, func() (*asynq.TaskInfo, error) { return c.inspector.GetTaskInfo(queue, id) })
	if errors.Is(err, asynq.ErrTaskNotFound) {
		return nil, nil
	}
	if errors.Is(err, asynq.ErrQueueNotFound) {
		// Redis was emptied, or the queue deleted, while clients lived that
		// had registered it: the task is there, and nobody lists it.
		return nil, c.rdb.SAdd(ctx, asynqx.AllQueuesKey, queue).Err()
	}
	if err != nil {
		return nil, fmt.Errorf("look at the outstanding task: %w", err)
	}
	return info, nil
}

// serves reports whether an outstanding task stands for a new order: whether,
// whatever happens, it does at least what the new one demands. If it does not,
// calling the new one a duplicate would be a deletion that never happens.
func serves(other *asynq.TaskInfo, payload []byte, order tasks.Intent, runAt time.Time) bool {
	if string(other.Payload) == string(payload) && other.State == asynq.TaskStateActive {
		return true // this very order: it was stored, the reply got lost, and it is under way
	}
	task, in, err := tasks.Decode(tasks.Kind(other.Type), other.Payload)
	if release, ok := task.(tasks.LockRelease); ok && release.Evidence != (tasks.SweepEvidence{}) {
		return false // a sweep's, which gives way to a holder who came back
	}
	return err == nil && runsBy(other, runAt) && lasts(in, order) && insists(in, order)
}

// runsBy: the task is still to be carried out, and not later than ordered. One
// that is active does not count: KooDrive may have answered already, and the
// device be bound again since. One that was archived will not run.
func runsBy(other *asynq.TaskInfo, at time.Time) bool {
	switch other.State {
	case asynq.TaskStatePending, asynq.TaskStateRetry:
		return true
	case asynq.TaskStateScheduled:
		return !other.NextProcessAt.After(at.Add(time.Second)) // asynq keeps whole seconds
	default:
		return false
	}
}

// lasts: the task does not expire before the order would.
func lasts(in, order tasks.Intent) bool {
	return in.NotAfter.IsZero() || !order.NotAfter.IsZero() && !in.NotAfter.Before(order.NotAfter)
}

// insists: the task does not give way to a binding to which the order would
// not.
func insists(in, order tasks.Intent) bool {
	switch {
	case in.NoGuard, in.EnqueuedAt.IsZero(): // the guard never looks at it
		return true
	case order.NoGuard:
		return false
	default:
		return order.EnqueuedAt.Sub(in.EnqueuedAt) < fresh
	}
}

// fresh is for how long orders count as one. An older task may give way to a
// binding that was made after it and before the order.
const fresh = 10 * time.Minute

// demands names what an order asks for beyond its target, in steps of fresh.
func demands(in tasks.Intent) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%t %d %d", in.NoGuard, in.NotAfter.UnixMilli(), in.EnqueuedAt.Unix()/int64(fresh/time.Second)))
	return hex.EncodeToString(sum[:8])
}

// underContext ends with ctx what does not: asynq's inspector takes none, and
// go-redis waits for a Redis that hangs until its time-out, though ctx was
// cancelled. What f works on is left to it.
func underContext[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// sayWhy puts the context's error where callers look for it: asynq reports a
// deadline as text.
func sayWhy(ctx context.Context, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil && !errors.Is(err, ctxErr) {
		return fmt.Errorf("%w (%w)", ctxErr, err)
	}
	return err
}
