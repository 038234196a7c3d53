package worker

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// api is the KooDrive client as the pipeline wants it.
type api struct {
	client *koodrive.Client
}

var _ pipeline.API = api{}

// Do implements pipeline.API.
func (a api) Do(ctx context.Context, t tasks.Task) pipeline.Answer {
	switch t := t.(type) {
	case tasks.DeviceUnbind:
		return answer(a.client.Unbind(ctx, t.UserID, t.DeviceID))
	case tasks.LockRelease:
		return answer(a.client.Release(ctx, t.UserID, t.LockID))
	default:
		panic(fmt.Sprintf("no call for a %T", t)) // the set of tasks is closed
	}
}

// BoundSince implements pipeline.API.
func (a api) BoundSince(ctx context.Context, t tasks.DeviceUnbind) (time.Time, pipeline.Answer) {
	devices, ans := a.client.Devices(ctx, t.UserID)
	for _, d := range devices {
		if d.DeviceID == t.DeviceID {
			return d.CreateTime, answer(ans)
		}
	}
	return time.Time{}, answer(ans)
}

func answer(a koodrive.Answer) pipeline.Answer {
	detail := strings.TrimPrefix(strings.TrimPrefix(a.Error(), string(a.Reason)), ": ")
	return pipeline.Answer{Reason: a.Reason, Message: detail, Hint: a.Hint(), RetryAfter: a.RetryAfter, Held: a.Unreached}
}
