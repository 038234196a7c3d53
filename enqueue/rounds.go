package enqueue

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// Standing returns how the tasks stand that parent has led to, in its latest
// round. What a crash has kept from being enqueued is enqueued now. Workers call
// it.
func (c *Client) Standing(ctx context.Context, parent tasks.Task, place tasks.BatchRef) (tasks.ChildStatus, error) {
	brood, err := batch.NewStore(c.rdb).Children(ctx, place, tasks.Identity(parent))
	if err != nil || brood.Round == 0 {
		return tasks.ChildStatus{}, err
	}
	s := tasks.ChildStatus{Round: brood.Round, Since: brood.Since}
	if !brood.Enqueued {
		if err := c.enqueueRound(ctx, parent, place, brood); err != nil {
			return s, err
		}
	}
	// A task's key is there until its outcome is settled.
	var children []tasks.Task
	var outstanding, dead []*redis.IntCmd
	_, err = c.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for child, index := range brood.Indexes {
			t := childTask(parent, child)
			id := childID(parent, place, t, index)
			children = append(children, t)
			outstanding = append(outstanding, p.Exists(ctx, taskKey(t.Queue(), id)))
			dead = append(dead, p.Exists(ctx, taskKey(tasks.QueueDeadLetter, id)))
		}
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("look for the tasks of %s: %w", tasks.Identity(parent), err)
	}
	for i, t := range children {
		switch {
		case outstanding[i].Val() > 0:
			s.Outstanding++
		case dead[i].Val() > 0:
			s.Dead = append(s.Dead, t)
		}
	}
	return s, nil
}

// NextRound enqueues the tasks that parent leads to, unguarded, in its batch if
// it has a place in one. They are noted first: a crash in between is made good by
// Standing. A round that was begun before is not begun again.
func (c *Client) NextRound(ctx context.Context, parent tasks.Task, place tasks.BatchRef, round int, children []tasks.Task) error {
	store := batch.NewStore(c.rdb)
	noted := make([]batch.Child, len(children))
	for i, t := range children {
		if err := t.Validate(); err != nil {
			return err
		}
		noted[i] = batch.Child{Kind: t.Kind(), Target: t.Target()}
	}
	if err := store.NextRound(ctx, place, tasks.Identity(parent), round, noted); err != nil {
		return err
	}
	brood, err := store.Children(ctx, place, tasks.Identity(parent))
	if err != nil {
		return err
	}
	return c.enqueueRound(ctx, parent, place, brood)
}

// Forget drops what is noted of the tasks that parent has led to.
func (c *Client) Forget(ctx context.Context, parent tasks.Task, place tasks.BatchRef) error {
	return batch.NewStore(c.rdb).Forget(ctx, place, tasks.Identity(parent))
}

// enqueueRound enqueues what is noted. A place that is taken is taken by the
// task itself: it was enqueued before.
func (c *Client) enqueueRound(ctx context.Context, parent tasks.Task, place tasks.BatchRef, brood batch.Children) error {
	d := c.newDictation()
	now := c.now()
	var scripts []script
	var queues []any
	for child, index := range brood.Indexes {
		t := childTask(parent, child)
		intent := tasks.Intent{EnqueuedAt: now, NoGuard: true}
		if place.IsSet() {
			intent.BatchRef = tasks.BatchRef{Batch: place.Batch, Index: index}
		}
		payload, err := tasks.Encode(t, intent)
		if err != nil {
			return err
		}
		s, err := d.write(ctx, t, childID(parent, place, t, index), payload, now)
		if err != nil {
			return err
		}
		scripts, queues = append(scripts, s), append(queues, t.Queue())
	}
	if len(scripts) > 0 {
		if err := d.sendAll(ctx, scripts, queues); err != nil {
			return fmt.Errorf("enqueue the tasks of %s: %w", tasks.Identity(parent), err)
		}
	}
	return batch.NewStore(c.rdb).RoundEnqueued(ctx, place, tasks.Identity(parent), brood.Round)
}

// sendAll sends scripts, and again if Redis does not know them.
func (d *dictation) sendAll(ctx context.Context, scripts []script, queues []any) error {
	const tries = 2
	for try := range tries {
		unknown := false
		results, _, err := d.send(ctx, scripts, queues, nil)
		if err != nil {
			return err
		}
		for _, r := range results {
			if isNoScript(r.err) && try+1 < tries {
				unknown = true
			} else if r.err != nil {
				return r.err
			}
		}
		if !unknown {
			return nil
		}
		if err := d.load(ctx); err != nil {
			return err
		}
	}
	return nil
}

// childTask makes the task that a note names.
func childTask(parent tasks.Task, child batch.Child) tasks.Task {
	if child.Kind == tasks.KindLockRelease {
		return tasks.LockRelease{UserID: parent.User(), LockID: child.Target}
	}
	return tasks.DeviceUnbind{UserID: parent.User(), DeviceID: child.Target}
}

// childID is the asynq task ID of a child. It is the parent's own, so that no
// task that somebody else has enqueued for the same device stands for it: in a
// batch that one owes another receipt.
func childID(parent tasks.Task, place tasks.BatchRef, t tasks.Task, index int64) string {
	if place.IsSet() {
		return tasks.BatchIdentity(place.Batch, t) + ":" + strconv.FormatInt(index, 10)
	}
	return tasks.Identity(parent) + ":" + tasks.Identity(t)
}

// taskKey is asynq's key of a task.
func taskKey(queue, id string) string { return "asynq:{" + queue + "}:t:" + id }
