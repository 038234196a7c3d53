package jobs

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/tracing"
	"github.com/kooworker/kooworker/tasks"
)

// childEnqueuer enqueues the children of a task, in rounds, and follows them.
type childEnqueuer interface {
	// Status returns what became of the children of the latest round so far.
	Status(ctx context.Context, parent tasks.Task, ref tasks.BatchRef) (childStatus, error)
	// Enqueue starts a round, whose children wait in this lane.
	Enqueue(ctx context.Context, parent tasks.Task, ref tasks.BatchRef, round int, lane tasks.Lane, children []tasks.Task) error
	// Forget deletes the record of the rounds.
	Forget(ctx context.Context, parent tasks.Task, ref tasks.BatchRef) error
}

// childStatus says what became of the children of the latest round so far.
type childStatus struct {
	// Round counts from 1. It is 0 if there was no round yet.
	Round int
	// Since is when the round started, by Redis' clock.
	Since time.Time
	// Outstanding is the number of children without an outcome.
	Outstanding int
	// Dead lists the dead children.
	Dead []tasks.Task
}

// children is the childEnqueuer over Redis. The batch ledger saves which children
// a round has.
type children struct {
	rdb     redis.UniversalClient
	batches *batch.Store
	now     func() time.Time
}

var _ childEnqueuer = (*children)(nil)

// Status implements childEnqueuer. If the process died while it enqueued a round,
// Status enqueues the round again.
func (c *children) Status(ctx context.Context, parent tasks.Task, ref tasks.BatchRef) (childStatus, error) {
	saved, err := c.batches.Children(ctx, ref, tasks.Identity(parent))
	if err != nil || saved.Round == 0 {
		return childStatus{}, err
	}
	status := childStatus{Round: saved.Round, Since: saved.Since}
	if !saved.Enqueued {
		if err := c.enqueueSaved(ctx, parent, ref, saved); err != nil {
			return status, err
		}
	}
	// The key of a task exists until its outcome is recorded.
	var all []tasks.Task
	var outstanding, dead []*redis.IntCmd
	_, err = c.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for child, index := range saved.Indexes {
			t := childTask(parent, child)
			id := childID(parent, ref, t, index)
			all = append(all, t)
			outstanding = append(outstanding, p.Exists(ctx, asynqx.TaskKey(saved.Lane.Of(t.Queue()), id)))
			dead = append(dead, p.Exists(ctx, asynqx.TaskKey(tasks.QueueDeadLetter, id)))
		}
		return nil
	})
	if err != nil {
		return status, fmt.Errorf("look for the tasks of %s: %w", tasks.Identity(parent), err)
	}
	for i, t := range all {
		switch {
		case outstanding[i].Val() > 0:
			status.Outstanding++
		case dead[i].Val() > 0:
			status.Dead = append(status.Dead, t)
		}
	}
	return status, nil
}

// Enqueue implements childEnqueuer. The children are unguarded. If the parent is in
// a batch, so are the children. They are saved before they are enqueued: if the
// process dies in between, Status enqueues them. A round that was saved before is
// not replaced.
func (c *children) Enqueue(ctx context.Context, parent tasks.Task, ref tasks.BatchRef, round int, lane tasks.Lane, children []tasks.Task) error {
	list := make([]batch.Child, len(children))
	for i, t := range children {
		if err := t.Validate(); err != nil {
			return err
		}
		list[i] = batch.Child{Kind: t.Kind(), Target: t.Target()}
	}
	if err := c.batches.NextRound(ctx, ref, tasks.Identity(parent), round, lane, list); err != nil {
		return err
	}
	saved, err := c.batches.Children(ctx, ref, tasks.Identity(parent))
	if err != nil {
		return err
	}
	return c.enqueueSaved(ctx, parent, ref, saved)
}

// Forget implements childEnqueuer.
func (c *children) Forget(ctx context.Context, parent tasks.Task, ref tasks.BatchRef) error {
	return c.batches.Forget(ctx, ref, tasks.Identity(parent))
}

// enqueueSaved enqueues the saved children. If the ID of a child is taken, the
// child was enqueued before.
func (c *children) enqueueSaved(ctx context.Context, parent tasks.Task, ref tasks.BatchRef, saved batch.Children) error {
	now, headers := c.now(), tracing.Parent(ctx) // of the attempt that enqueues them
	var orders []asynqx.Order
	for child, index := range saved.Indexes {
		t := childTask(parent, child)
		intent := tasks.Intent{EnqueuedAt: now, NoGuard: true}
		if ref.IsSet() {
			intent.BatchRef = tasks.BatchRef{Batch: ref.Batch, Index: index}
		}
		payload, err := tasks.Encode(t, intent)
		if err != nil {
			return err
		}
		orders = append(orders, asynqx.Order{ID: childID(parent, ref, t, index), Kind: t.Kind(), Queue: saved.Lane.Of(t.Queue()), Payload: payload, Headers: headers, RunAt: now})
	}
	if err := asynqx.EnqueueAll(ctx, c.rdb, orders); err != nil {
		return fmt.Errorf("enqueue the tasks of %s: %w", tasks.Identity(parent), err)
	}
	return c.batches.RoundEnqueued(ctx, ref, tasks.Identity(parent), saved.Round)
}

// childTask makes the task of a saved child.
func childTask(parent tasks.Task, child batch.Child) tasks.Task {
	if child.Kind == tasks.KindLockRelease {
		return tasks.LockRelease{UserID: parent.User(), LockID: child.Target}
	}
	return unbindListed(parent.User(), child.Target)
}

// childID is the asynq task ID of a child. It holds the identity of the parent or
// the batch. Without that, a task that somebody else has enqueued for the same
// device would take the place of the child, and the child would get no receipt.
func childID(parent tasks.Task, ref tasks.BatchRef, t tasks.Task, index int64) string {
	if ref.IsSet() {
		return tasks.BatchIdentity(ref.Batch, t) + ":" + strconv.FormatInt(index, 10)
	}
	if unbind, ok := t.(tasks.DeviceUnbind); ok && unbind.Listed { // its id may hold a slash, which asynqmon has in its addresses
		return tasks.BatchIdentity(tasks.Identity(parent), t)
	}
	return tasks.Identity(parent) + ":" + tasks.Identity(t)
}
