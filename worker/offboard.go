package worker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// Producer enqueues what a task leads to: the unbinds and releases of an
// off-boarding, which come in rounds, and the releases of a sweep. Package
// enqueue's Client is one.
type Producer interface {
	Rounds
	locks.Producer
}

// Rounds enqueues what a task leads to, in rounds.
type Rounds interface {
	// Standing returns how the parent's latest round stands. What a crash has
	// kept from being enqueued is enqueued now.
	Standing(ctx context.Context, parent tasks.Task, place tasks.BatchRef) (tasks.ChildStatus, error)
	// NextRound enqueues the children, in the parent's batch if it has a place in
	// one. A round that was begun before is not begun again.
	NextRound(ctx context.Context, parent tasks.Task, place tasks.BatchRef, round int, children []tasks.Task) error
	// Forget drops what is known of the parent's rounds.
	Forget(ctx context.Context, parent tasks.Task, place tasks.BatchRef) error
}

// lister lists what a user has bound. The list is valid only if the answer's
// reason is OK.
type lister interface {
	Bound(ctx context.Context, userID string) (deviceIDs []string, answer pipeline.Answer)
}

// Holdings knows which locks each user has.
type Holdings interface {
	// Held lists the locks of one user that are not known to be released, live
	// ones and swept ones included.
	Held(ctx context.Context, userID string) (lockIDs []string, err error)
}

// maxRounds is how often an off-boarding goes round. What is bound or held after
// the last time is so by somebody who means it, or cannot be taken away.
const maxRounds = 3

// offboarder takes a user's devices and backup locks away, in rounds:
//
//	1  list the devices, and the locks that the ledger knows; none: done
//	2  enqueue one unbind or release for each, and wait until they have their
//	   outcomes
//	3  again from 1, for what was bound or tracked meanwhile; after maxRounds:
//	   still_bound
//
// It waits as a task that is put back uncharged, so that a worker is free for
// the unbinds. What has an unbind or a release that is dead is not tried again;
// if nothing else is left the off-boarding is dead as well, until it is replayed.
//
// The releases are bound to no expiry: a live lock goes as well, and one that a
// sweep is about to release is found gone by whoever comes second.
//
// What it has enqueued is noted before it is enqueued, so that a crash at any
// point repeats a step and skips none. A release takes its lock off the ledger
// before it has its outcome: what a crash leaves in the ledger is outstanding,
// and the off-boarding waits for it.
type offboarder struct {
	lister   lister
	held     Holdings // nil: no ledger of locks is kept
	producer Rounds
	now      func() time.Time
}

func (o *offboarder) do(ctx context.Context, t tasks.UserOffboard, place tasks.BatchRef) pipeline.Answer {
	s, err := o.producer.Standing(ctx, t, place)
	if err != nil {
		return unavailable(err)
	}
	if s.Outstanding > 0 {
		return o.wait(s)
	}
	bound, answer := o.lister.Bound(ctx, t.UserID)
	if answer.Reason != tasks.OK && answer.Reason != tasks.Gone {
		return answer
	}
	// After the devices: what one of those took that are gone is in this list.
	var held []string
	if o.held != nil {
		if held, err = o.held.Held(ctx, t.UserID); err != nil {
			return unavailable(err)
		}
	}
	children := without(s.Dead, t.UserID, bound, held)
	if len(children) > 0 && s.Round < maxRounds {
		if err := o.producer.NextRound(ctx, t, place, s.Round+1, children); err != nil {
			return unavailable(err)
		}
		return o.wait(tasks.ChildStatus{Since: o.now()})
	}
	// The end: a replay begins from the first round. Who dies after this and
	// before the outcome is noted leaves a task that begins again as well; what
	// it has done already is already gone then.
	if err := o.producer.Forget(ctx, t, place); err != nil {
		return unavailable(err)
	}
	switch {
	case len(bound)+len(held) > 0:
		return pipeline.Answer{
			Reason: tasks.StillBound,
			Message: fmt.Sprintf("%d devices are bound and %d known locks are held after %d rounds, %d of them with an unbind or a release that is dead",
				len(bound), len(held), s.Round, len(bound)+len(held)-len(children)),
			Hint: "see why the unbinds and releases of this user are dead, mend that, and replay this task: it takes away what is bound and held then",
		}
	case s.Round == 0:
		return pipeline.Answer{Reason: tasks.Gone}
	default:
		return pipeline.Answer{Reason: tasks.OK}
	}
}

// without returns an unbind for each device and a release for each lock, but for
// those that are dead.
func without(dead []tasks.Task, userID string, bound, held []string) []tasks.Task {
	skip := make(map[string]bool)
	for _, t := range dead {
		skip[tasks.Identity(t)] = true // a device and a lock may have one id
	}
	var children []tasks.Task
	for _, id := range bound {
		children = append(children, tasks.DeviceUnbind{UserID: userID, DeviceID: id})
	}
	for _, id := range held {
		children = append(children, tasks.LockRelease{UserID: userID, LockID: id})
	}
	return slices.DeleteFunc(children, func(t tasks.Task) bool { return skip[tasks.Identity(t)] })
}

const (
	leastLook = time.Second
	mostLook  = time.Minute
)

// wait comes back sooner at first, and less often the longer it takes.
func (o *offboarder) wait(s tasks.ChildStatus) pipeline.Answer {
	delay := min(max(o.now().Sub(s.Since)/4, leastLook), mostLook)
	return pipeline.Answer{Reason: tasks.Waiting, Message: "its unbinds and releases are under way", Held: true, Uncalled: true, RetryAfter: delay}
}

// unavailable is the answer when Redis fails: not the task's fault.
func unavailable(err error) pipeline.Answer {
	return pipeline.Answer{Reason: tasks.Waiting, Message: err.Error(), Held: true, Uncalled: true, RetryAfter: 2 * time.Second}
}
