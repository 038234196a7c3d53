package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// calls carries tasks out: each kind by the part that knows how.
type calls struct {
	koodrive koodriveAPI
	offboard *offboarder
	sweep    *sweeps
	announce *announcer
}

var _ pipeline.API = calls{}

// Do implements pipeline.API.
func (c calls) Do(ctx context.Context, t tasks.Task, in tasks.Intent) pipeline.Answer {
	switch t := t.(type) {
	case tasks.UserOffboard:
		return c.offboard.do(ctx, t, in.Place)
	case tasks.LockSweep:
		return c.sweep.do(ctx, t)
	case tasks.BatchWebhook:
		return c.announce.send(ctx, t)
	default:
		return c.koodrive.Do(ctx, t)
	}
}

// BoundSince implements pipeline.API.
func (c calls) BoundSince(ctx context.Context, t tasks.DeviceUnbind) (time.Time, pipeline.Answer) {
	devices, ans := c.koodrive.Devices(ctx, t.UserID)
	for _, d := range devices {
		if d.DeviceID == t.DeviceID {
			return d.CreateTime, ans
		}
	}
	return time.Time{}, ans
}

// api is the KooDrive client as the pipeline wants it.
type api struct {
	client *koodrive.Client
}

var _ koodriveAPI = api{}

// Do implements koodriveAPI.
func (a api) Do(ctx context.Context, t tasks.Task) pipeline.Answer {
	switch t := t.(type) {
	case tasks.DeviceUnbind:
		ans := a.client.Unbind(ctx, t.UserID, t.DeviceID)
		out := answer(ans)
		out.Device = ans.Device
		return out
	case tasks.LockRelease:
		return answer(a.client.Release(ctx, t.UserID, t.LockID))
	default:
		panic(fmt.Sprintf("no call for a %T", t)) // the set of tasks is closed
	}
}

// Devices implements koodriveAPI.
func (a api) Devices(ctx context.Context, userID string) ([]koodrive.Device, pipeline.Answer) {
	devices, ans := a.client.Devices(ctx, userID)
	return devices, answer(ans)
}

func answer(a koodrive.Answer) pipeline.Answer {
	return pipeline.Answer{Reason: a.Reason, Message: a.Detail(), Hint: a.Hint(), RetryAfter: a.RetryAfter, Held: a.NoServerReached}
}
