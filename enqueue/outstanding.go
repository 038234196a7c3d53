package enqueue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/cancelable"
	"github.com/kooworker/kooworker/tasks"
)

// outstanding returns the task that has this ID, or nil if there is none any more.
func (c *Client) outstanding(ctx context.Context, queue, id string) (*asynq.TaskInfo, error) {
	info, err := cancelable.Call(ctx, func() (*asynq.TaskInfo, error) { return c.inspector.GetTaskInfo(queue, id) })
	if errors.Is(err, asynq.ErrTaskNotFound) {
		return nil, nil
	}
	if errors.Is(err, asynq.ErrQueueNotFound) {
		// The task exists, but asynq does not list its queue: Redis was emptied, or
		// the queue deleted, after this client had registered the queue.
		return nil, c.writer.SAdd(ctx, asynqx.AllQueuesKey, queue).Err()
	}
	if err != nil {
		return nil, fmt.Errorf("read the outstanding task: %w", err)
	}
	return info, nil
}

// covers reports whether an outstanding task does, whatever happens, at least
// what a new order demands. If it does not, calling the new order a duplicate
// would mean a deletion that never happens.
func covers(other *asynq.TaskInfo, payload []byte, order tasks.Intent, runAt time.Time) bool {
	if string(other.Payload) == string(payload) && other.State == asynq.TaskStateActive {
		return true // it is this very order: it was stored, the reply got lost, and it is running now
	}
	task, in, err := tasks.Decode(tasks.Kind(other.Type), other.Payload)
	if release, ok := task.(tasks.LockRelease); ok && release.Evidence != (tasks.SweepEvidence{}) {
		return false // a sweep's release is not carried out if the holder comes back
	}
	return err == nil && runsBy(other, runAt) && expiresNoEarlier(in, order) && asForceful(in, order)
}

// runsBy reports whether the outstanding task has yet to run, and will run no later
// than ordered. An active task does not count: KooDrive may have answered already,
// and the device may have been bound again since. An archived task never runs.
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

// expiresNoEarlier reports whether the outstanding task does not expire before
// the order would.
func expiresNoEarlier(in, order tasks.Intent) bool {
	return in.NotAfter.IsZero() || !order.NotAfter.IsZero() && !in.NotAfter.Before(order.NotAfter)
}

// asForceful reports whether the outstanding task removes every binding that the
// order would remove.
func asForceful(in, order tasks.Intent) bool {
	switch {
	case in.NoGuard, in.EnqueuedAt.IsZero(): // the guard does not apply to it
		return true
	case order.NoGuard:
		return false
	default:
		return order.EnqueuedAt.Sub(in.EnqueuedAt) < dedupWindow
	}
}

// dedupWindow is how far apart guarded orders may be to count as one. The guard
// may make an older task give way to a binding that was made after that task and
// before the new order.
const dedupWindow = 10 * time.Minute

// demandsHash identifies what an order demands beyond its target. The time of the
// order is rounded to dedupWindow.
func demandsHash(in tasks.Intent) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%t %d %d", in.NoGuard, in.NotAfter.UnixMilli(), in.EnqueuedAt.Unix()/int64(dedupWindow/time.Second)))
	return hex.EncodeToString(sum[:8])
}
