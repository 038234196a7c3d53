package jobs

import (
	"context"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// guardMargin is how much later than its order a device must be bound to count as
// bound again. The two times come from two clocks: the producer's and KooDrive's.
// Clocks that are set by NTP differ by much less. So if the producer's clock is
// behind, a device that was bound shortly before its order is still unbound. The
// price is that a device which the user binds again within the margin is unbound as
// well. The user sees that, and can bind it again. But nobody would look for a device
// that stays bound although its deletion was ordered.
const guardMargin = time.Minute

// unbind removes a device from its user.
//
// An old order may be out of date: the user may have bound the device again since.
// So the guard lists the user's devices first, unless the order switches the guard
// off. The guard does not see a binding that is made between the list and the call.
func (j *Jobs) unbind(ctx context.Context, t tasks.DeviceUnbind, intent tasks.Intent) pipeline.Result {
	if j.guarded(intent) {
		devices, result := j.devices(ctx, t.UserID)
		if !result.Succeeded() {
			return result
		}
		if bound := boundAt(devices, t.DeviceID); bound.After(intent.EnqueuedAt.Add(guardMargin)) {
			return pipeline.Superseded("bound again at " + bound.UTC().Format(time.RFC3339) + ", after it was enqueued")
		}
	}
	permit, stop := j.acquire(ctx, gate.Call{Kind: gate.Unbind, User: t.UserID, Target: t.DeviceID})
	if stop != nil {
		return *stop
	}
	defer permit.Close()
	return report(ctx, permit, j.koodrive.Unbind(ctx, t.UserID, t.DeviceID))
}

// guarded reports whether the guard must check an order.
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
