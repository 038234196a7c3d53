package jobs

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// childEnqueuer enqueues the children of a task, in rounds.
type childEnqueuer interface {
	// Status returns how the children of the latest round are.
	Status(ctx context.Context, parent tasks.Task, ref tasks.BatchRef) (childStatus, error)
	// Enqueue begins a round.
	Enqueue(ctx context.Context, parent tasks.Task, ref tasks.BatchRef, round int, children []tasks.Task) error
	// Forget drops what is known of the rounds.
	Forget(ctx context.Context, parent tasks.Task, ref tasks.BatchRef) error
}

// childStatus is how the children of a task are, in its latest round.
type childStatus struct {
	// Round counts from 1; 0 if there was none yet.
	Round int
	// Since is when it began, by Redis' clock.
	Since time.Time
	// Outstanding is the number of those that have no outcome yet.
	Outstanding int
	// Dead are those that are dead.
	Dead []tasks.Task
}

// children is the childEnqueuer over Redis. The ledger of batches keeps the note of
// the children.
type children struct {
	rdb   redis.UniversalClient
	notes *batch.Store
	now   func() time.Time
}

var _ childEnqueuer = (*children)(nil)

// Status implements childEnqueuer. What a crash has kept from being enqueued is
// enqueued now.
func (c *children) Status(ctx context.Context, parent tasks.Task, ref tasks.BatchRef) (childStatus, error) {
	noted, err := c.notes.Children(ctx, ref, tasks.Identity(parent))
	if err != nil || noted.Round == 0 {
		return childStatus{}, err
	}
	status := childStatus{Round: noted.Round, Since: noted.Since}
	if !noted.Enqueued {
		if err := c.enqueueNoted(ctx, parent, ref, noted); err != nil {
			return status, err
		}
	}
	// A task's key is there until its outcome is recorded.
	var all []tasks.Task
	var outstanding, dead []*redis.IntCmd
	_, err = c.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for child, index := range noted.Indexes {
			t := childTask(parent, child)
			id := childID(parent, ref, t, index)
			all = append(all, t)
			outstanding = append(outstanding, p.Exists(ctx, asynqx.TaskKey(t.Queue(), id)))
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

// Enqueue implements childEnqueuer. The children are unguarded, and in the parent's
// batch if it is in one. They are noted first: if the process dies in between,
// Status enqueues them. A round that was begun before is not begun again.
func (c *children) Enqueue(ctx context.Context, parent tasks.Task, ref tasks.BatchRef, round int, children []tasks.Task) error {
	note := make([]batch.Child, len(children))
	for i, t := range children {
		if err := t.Validate(); err != nil {
			return err
		}
		note[i] = batch.Child{Kind: t.Kind(), Target: t.Target()}
	}
	if err := c.notes.NextRound(ctx, ref, tasks.Identity(parent), round, note); err != nil {
		return err
	}
	noted, err := c.notes.Children(ctx, ref, tasks.Identity(parent))
	if err != nil {
		return err
	}
	return c.enqueueNoted(ctx, parent, ref, noted)
}

// Forget implements childEnqueuer.
func (c *children) Forget(ctx context.Context, parent tasks.Task, ref tasks.BatchRef) error {
	return c.notes.Forget(ctx, ref, tasks.Identity(parent))
}

// enqueueNoted enqueues what is noted. An ID that is taken is the child's own: it
// was enqueued before.
func (c *children) enqueueNoted(ctx context.Context, parent tasks.Task, ref tasks.BatchRef, noted batch.Children) error {
	now := c.now()
	var orders []asynqx.Order
	for child, index := range noted.Indexes {
		t := childTask(parent, child)
		intent := tasks.Intent{EnqueuedAt: now, NoGuard: true}
		if ref.IsSet() {
			intent.BatchRef = tasks.BatchRef{Batch: ref.Batch, Index: index}
		}
		payload, err := tasks.Encode(t, intent)
		if err != nil {
			return err
		}
		orders = append(orders, asynqx.Order{ID: childID(parent, ref, t, index), Kind: t.Kind(), Queue: t.Queue(), Payload: payload, RunAt: now})
	}
	if err := asynqx.EnqueueAll(ctx, c.rdb, orders); err != nil {
		return fmt.Errorf("enqueue the tasks of %s: %w", tasks.Identity(parent), err)
	}
	return c.notes.RoundEnqueued(ctx, ref, tasks.Identity(parent), noted.Round)
}

// childTask makes the task that a note names.
func childTask(parent tasks.Task, child batch.Child) tasks.Task {
	if child.Kind == tasks.KindLockRelease {
		return tasks.LockRelease{UserID: parent.User(), LockID: child.Target}
	}
	return unbindListed(parent.User(), child.Target)
}

// childID is the asynq task ID of a child. It is the parent's own, so that no task
// that somebody else has enqueued for the same device stands for it: in a batch
// that one owes another receipt.
func childID(parent tasks.Task, ref tasks.BatchRef, t tasks.Task, index int64) string {
	if ref.IsSet() {
		return tasks.BatchIdentity(ref.Batch, t) + ":" + strconv.FormatInt(index, 10)
	}
	if unbind, ok := t.(tasks.DeviceUnbind); ok && unbind.Listed { // its id may hold a slash, which asynqmon has in its addresses
		return tasks.BatchIdentity(tasks.Identity(parent), t)
	}
	return tasks.Identity(parent) + ":" + tasks.Identity(t)
}
