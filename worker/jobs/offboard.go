package jobs

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// maxRounds is how many rounds an off-boarding makes. If something is bound or held
// after the last round, either the user keeps binding devices and taking locks, or
// it cannot be removed.
const maxRounds = 3

// offboard removes a user's devices and backup locks, in rounds:
//
//  1. List the devices, and the user's locks in the lock ledger. If there are none,
//     it is done.
//  2. Enqueue an unbind for each device and a release for each lock: the children.
//     Wait until all of them have an outcome.
//  3. Start again from 1, for what was bound or tracked in the meantime. After
//     maxRounds it fails with still_bound.
//
// While it waits, the task is put back uncharged, so that the worker is free for
// the children. A device or lock whose child is dead is not tried again. If nothing
// else is left, the off-boarding is dead as well, until it is replayed.
//
// The releases carry no evidence of a sweep, so they release live locks as well. If
// a sweep releases the same lock, the later of the two releases finds it gone.
//
// The children wait in the lane of their parent: those of a large batch must not hold up
// single orders.
//
// The children are saved before they are enqueued, so that a crash at any point
// repeats a step and skips none. A release removes its lock from the lock ledger
// before it gets its outcome. If a crash leaves a lock in the lock ledger, its
// release is still outstanding, and the off-boarding waits for it.
func (j *Jobs) offboard(ctx context.Context, t tasks.UserOffboard, ref tasks.BatchRef, lane tasks.Lane) pipeline.Result {
	status, err := j.children.Status(ctx, t, ref)
	if err != nil {
		return unavailable(err)
	}
	if status.Outstanding > 0 {
		return j.waitForChildren(status.Since)
	}
	bound, result := j.devices(ctx, t.UserID)
	if !result.Succeeded() {
		return result
	}
	// The locks are listed after the devices: so the list has every lock that a
	// device took before it was unbound.
	held, err := j.locks.ListByUser(ctx, t.UserID)
	if err != nil {
		return unavailable(err)
	}
	remaining, unsendable := remainingTasks(status.Dead, t.UserID, bound, held)
	if len(remaining) > 0 && status.Round < maxRounds {
		if err := j.children.Enqueue(ctx, t, ref, status.Round+1, lane, remaining); err != nil {
			return unavailable(err)
		}
		return j.waitForChildren(j.now())
	}
	// This is the last round. A replay starts from the first round. If the process
	// dies after this line and before the outcome is recorded, the task starts from
	// the first round as well, and finds its devices and locks already gone.
	if err := j.children.Forget(ctx, t, ref); err != nil {
		return unavailable(err)
	}
	switch dead := len(bound) + len(held) - len(remaining) - len(unsendable); {
	case len(bound)+len(held) > 0:
		detail := fmt.Sprintf("%d devices are bound and %d known locks are held after %d rounds, %d of them with an unbind or a release that is dead",
			len(bound), len(held), status.Round, dead)
		if len(unsendable) > 0 {
			detail += fmt.Sprintf(", %d of them with an id that cannot be sent: %.200s", len(unsendable), strings.Join(unsendable, " "))
		}
		return pipeline.Failed(pipeline.Problem{
			Reason: tasks.StillBound, Detail: detail, Hint: tasks.StillBound.Hint(),
		})
	case status.Round == 0:
		return pipeline.AlreadyGone()
	default:
		return pipeline.Done(nil)
	}
}

// remainingTasks returns an unbind for each device and a release for each lock,
// except for those that are dead. unsendable are the ids that the wire cannot carry.
func remainingTasks(dead []tasks.Task, userID string, bound []tasks.Device, held []enqueuelocks.Lock) (remaining []tasks.Task, unsendable []string) {
	skip := make(map[string]bool)
	for _, t := range dead {
		skip[tasks.Identity(t)] = true // the identity holds the kind: a device and a lock may have the same id
	}
	add := func(t tasks.Task) {
		switch {
		case skip[tasks.Identity(t)]:
		case t.Validate() != nil:
			unsendable = append(unsendable, strconv.QuoteToASCII(t.Target()))
		default:
			remaining = append(remaining, t)
		}
	}
	for _, d := range bound {
		add(unbindListed(userID, d.DeviceID))
	}
	for _, l := range held {
		add(tasks.LockRelease{UserID: userID, LockID: l.LockID})
	}
	return remaining, unsendable
}

// unbindListed unbinds a device as KooDrive has listed it.
func unbindListed(userID, deviceID string) tasks.DeviceUnbind {
	t := tasks.DeviceUnbind{UserID: userID, DeviceID: deviceID}
	t.Listed = t.Validate() != nil // an older worker reads what is not marked
	return t
}

// waitForChildren is the result while children are outstanding. The longer they
// take, the longer is the pause. This wait has no end of its own: no child waits for
// anything but KooDrive, Redis, and a queue that is paused, so each of them ends after that.
func (j *Jobs) waitForChildren(since time.Time) pipeline.Result {
	const least, most = time.Second, time.Minute
	return pipeline.Snooze(pipeline.Problem{
		Reason: tasks.Waiting, Detail: "its unbinds and releases are under way", RetryAfter: min(max(j.now().Sub(since)/4, least), most),
	})
}
