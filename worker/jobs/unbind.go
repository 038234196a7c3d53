package jobs

import (
	"context"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// unbind removes a device from its user.
//
// An old order may not be wanted any more: the user may have bound the device
// again since. So the guard looks at the user's devices first, unless the order
// switches it off. Between the look and the call a binding is not seen.
func (j *Jobs) unbind(ctx context.Context, t tasks.DeviceUnbind, intent tasks.Intent) pipeline.Result {
	if j.guarded(intent) {
		devices, listed := j.devices(ctx, t.UserID)
		if listed.Kind != pipeline.IsDone && listed.Kind != pipeline.IsAlreadyGone {
			return listed
		}
		if bound := boundAt(devices, t.DeviceID); bound.After(intent.EnqueuedAt) {
			return pipeline.Superseded("bound again at " + bound.UTC().Format(time.RFC3339) + ", after it was enqueued")
		}
	}
	permit, stop := j.acquire(ctx)
	if stop != nil {
		return *stop
	}
	defer permit.Close()
	return report(ctx, permit, j.koodrive.Unbind(ctx, t.UserID, t.DeviceID))
}

// guarded reports whether an order is old enough to be checked.
func (j *Jobs) guarded(intent tasks.Intent) bool {
	return !intent.NoGuard && !intent.EnqueuedAt.IsZero() && j.now().Sub(intent.EnqueuedAt) >= j.guardAfter
}

// boundAt returns when a device was bound, zero if it is not bound.
func boundAt(devices []tasks.Device, deviceID string) time.Time {
	for _, d := range devices {
		if d.DeviceID == deviceID {
			return d.CreateTime
		}
	}
	return time.Time{}
}
