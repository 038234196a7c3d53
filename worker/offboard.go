package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// Producer enqueues what a task leads to: the unbinds of an off-boarding, which
// come in rounds, and the releases of a sweep. Package enqueue's Client is one.
type Producer interface {
	Rounds
	locks.Producer
}

// Rounds enqueues what a task leads to, in rounds.
type Rounds interface {
	// Standing returns how the parent's latest round stands. What a crash has
	// kept from being enqueued is enqueued now.
	Standing(ctx context.Context, parent tasks.Task, place tasks.Place) (tasks.Standing, error)
	// NextRound enqueues the children, in the parent's batch if it has a place in
	// one. A round that was begun before is not begun again.
	NextRound(ctx context.Context, parent tasks.Task, place tasks.Place, round int, children []tasks.Task) error
	// Forget drops what is known of the parent's rounds.
	Forget(ctx context.Context, parent tasks.Task, place tasks.Place) error
}

// lister lists what a user has bound. The list is valid only if the answer's
// reason is OK.
type lister interface {
	Bound(ctx context.Context, userID string) (deviceIDs []string, answer pipeline.Answer)
}

// maxRounds is how often an off-boarding goes round. What is bound after the
// last time is bound by somebody who means it, or cannot be unbound.
const maxRounds = 3

// offboarder takes a user's devices away, in rounds:
//
//	1  list the devices; none: done
//	2  enqueue one unbind for each, and wait until they have their outcomes
//	3  again from 1, for what was bound meanwhile; after maxRounds: still_bound
//
// It waits as a task that is put back uncharged, so that a worker is free for
// the unbinds. Devices whose unbind is dead are not tried again; if no others
// are left the off-boarding is dead as well, until it is replayed.
//
// What it has enqueued is noted before it is enqueued, so that a crash at any
// point repeats a step and skips none.
type offboarder struct {
	lister   lister
	producer Rounds
	now      func() time.Time
}

func (o *offboarder) do(ctx context.Context, t tasks.UserOffboard, place tasks.Place) pipeline.Answer {
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
	children := without(bound, s.Dead, t.UserID)
	if len(children) > 0 && s.Round < maxRounds {
		if err := o.producer.NextRound(ctx, t, place, s.Round+1, children); err != nil {
			return unavailable(err)
		}
		return o.wait(tasks.Standing{Since: o.now()})
	}
	// The end: a replay begins from the first round. Who dies after this and
	// before the outcome is noted leaves a task that begins again as well; what
	// it has done already is already gone then.
	if err := o.producer.Forget(ctx, t, place); err != nil {
		return unavailable(err)
	}
	switch {
	case len(bound) > 0:
		return pipeline.Answer{
			Reason:  tasks.StillBound,
			Message: fmt.Sprintf("%d devices are bound after %d rounds, %d of them with an unbind that is dead", len(bound), s.Round, len(bound)-len(children)),
			Hint:    "see why the unbinds of this user are dead, mend that, and replay this task: it unbinds what is bound then",
		}
	case s.Round == 0:
		return pipeline.Answer{Reason: tasks.Gone}
	default:
		return pipeline.Answer{Reason: tasks.OK}
	}
}

// without returns an unbind for each device, but for those whose unbind is dead.
func without(bound []string, dead []tasks.Task, userID string) []tasks.Task {
	skip := make(map[string]bool)
	for _, t := range dead {
		skip[t.Target()] = true
	}
	var children []tasks.Task
	for _, id := range bound {
		if !skip[id] {
			children = append(children, tasks.DeviceUnbind{UserID: userID, DeviceID: id})
		}
	}
	return children
}

const (
	leastLook = time.Second
	mostLook  = time.Minute
)

// wait comes back sooner at first, and less often the longer it takes.
func (o *offboarder) wait(s tasks.Standing) pipeline.Answer {
	delay := min(max(o.now().Sub(s.Since)/4, leastLook), mostLook)
	return pipeline.Answer{Reason: tasks.Waiting, Message: "its unbinds are under way", Held: true, Uncalled: true, RetryAfter: delay}
}

// unavailable is the answer when Redis fails: not the task's fault.
func unavailable(err error) pipeline.Answer {
	return pipeline.Answer{Reason: tasks.Waiting, Message: err.Error(), Held: true, Uncalled: true, RetryAfter: 2 * time.Second}
}
