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

// maxRounds is how many rounds an off-boarding makes. What is bound or held after
// the last one was bound or taken by somebody who means it, or cannot be removed.
const maxRounds = 3

// offboard removes a user's devices and backup locks, in rounds:
//
//	1  list the devices, and the locks that the ledger knows; none: done
//	2  enqueue one unbind or release for each, and wait until they have their
//	   outcomes
//	3  again from 1, for what was bound or tracked meanwhile; after maxRounds:
//	   still_bound
//
// It waits as a task that is put back uncharged, so that a worker is free for the
// unbinds. What has an unbind or a release that is dead is not tried again. If
// nothing else is left, the off-boarding is dead as well, until it is replayed.
//
// The releases carry no evidence of a sweep: a live lock is released as well. One
// that a sweep is about to release is found gone by whichever comes second.
//
// The children are noted before they are enqueued, so that a crash at any point
// repeats a step and skips none. A release takes its lock out of the ledger before
// it has its outcome: a lock that a crash leaves in the ledger has an outstanding
// release, and the off-boarding waits for it.
func (j *Jobs) offboard(ctx context.Context, t tasks.UserOffboard, ref tasks.BatchRef) pipeline.Result {
	status, err := j.children.Status(ctx, t, ref)
	if err != nil {
		return *unavailable(err)
	}
	if status.Outstanding > 0 {
		return j.waitForChildren(status.Since)
	}
	bound, listed := j.devices(ctx, t.UserID)
	if listed.Kind != pipeline.IsDone && listed.Kind != pipeline.IsAlreadyGone {
		return listed
	}
	// After the devices: a lock that one of those took before it was unbound is in
	// this list.
	held, err := j.locks.ListByUser(ctx, t.UserID)
	if err != nil {
		return *unavailable(err)
	}
	remaining, unsendable := remainingTasks(status.Dead, t.UserID, bound, held)
	if len(remaining) > 0 && status.Round < maxRounds {
		if err := j.children.Enqueue(ctx, t, ref, status.Round+1, remaining); err != nil {
			return *unavailable(err)
		}
		return j.waitForChildren(j.now())
	}
	// The end: a replay begins from the first round. If the process dies after this
	// line and before the outcome is noted, the task begins again as well, and finds
	// already gone what it has removed.
	if err := j.children.Forget(ctx, t, ref); err != nil {
		return *unavailable(err)
	}
	switch dead := len(bound) + len(held) - len(remaining) - len(unsendable); {
	case len(bound)+len(held) > 0:
		detail := fmt.Sprintf("%d devices are bound and %d known locks are held after %d rounds, %d of them with an unbind or a release that is dead",
			len(bound), len(held), status.Round, dead)
		if len(unsendable) > 0 {
			detail += fmt.Sprintf(", %d of them with an id that cannot be sent: %.200s", len(unsendable), strings.Join(unsendable, " "))
		}
		return pipeline.Failed(pipeline.Problem{
			Reason: tasks.StillBound, Detail: detail,
			Hint: "see why the unbinds and releases of this user are dead, mend that, and replay this task: it removes what is bound and held then",
		})
	case status.Round == 0:
		return pipeline.AlreadyGone()
	default:
		return pipeline.Done(nil)
	}
}

// remainingTasks returns an unbind for each device and a release for each lock,
// except for those that are dead. unsendable are the ids that the wire cannot
// carry.
func remainingTasks(dead []tasks.Task, userID string, bound []tasks.Device, held []enqueuelocks.Lock) (remaining []tasks.Task, unsendable []string) {
	skip := make(map[string]bool)
	for _, t := range dead {
		skip[tasks.Identity(t)] = true // which holds the kind: a device and a lock may have one id
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

// waitForChildren comes back sooner at first, and less often the longer the
// children take.
func (j *Jobs) waitForChildren(since time.Time) pipeline.Result {
	const least, most = time.Second, time.Minute
	return *waitFor("its unbinds and releases are under way", "", min(max(j.now().Sub(since)/4, least), most))
}
