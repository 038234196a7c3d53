package jobs

import (
	"context"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// announcing returns the jobs for a task that may have killed a worker. If the worker
// dies while the task waits at the gate, that is not the task's fault. So the job says
// that it waits, except while it makes a call to KooDrive. A job without a gate may
// kill its worker at any time, so it says nothing.
func (j *Jobs) announcing(ctx context.Context, job pipeline.Job) (*Jobs, error) {
	switch job.Task.(type) {
	case tasks.LockSweep, tasks.BatchWebhook:
		return j, nil
	}
	if err := job.Calling(ctx, false); err != nil {
		return nil, err
	}
	suspect := *j
	suspect.koodrive = announcedCalls{j.koodrive, job.Calling}
	return &suspect, nil
}

// announcedCalls says when a call begins and when it has ended. A call whose beginning
// cannot be announced is made nevertheless: then it does not count if it kills the
// worker. If its end cannot be announced, the task counts as being called until its
// next call or its end.
type announcedCalls struct {
	koodrive KooDrive
	calling  func(ctx context.Context, calling bool) error
}

var _ KooDrive = announcedCalls{}

func (c announcedCalls) announce(ctx context.Context) (ended func()) {
	_ = c.calling(ctx, true)
	return func() { _ = c.calling(ctx, false) }
}

// Unbind implements KooDrive.
func (c announcedCalls) Unbind(ctx context.Context, userID, deviceID string) koodrive.Answer {
	defer c.announce(ctx)()
	return c.koodrive.Unbind(ctx, userID, deviceID)
}

// Release implements KooDrive.
func (c announcedCalls) Release(ctx context.Context, userID, lockID string) koodrive.Answer {
	defer c.announce(ctx)()
	return c.koodrive.Release(ctx, userID, lockID)
}

// Devices implements KooDrive.
func (c announcedCalls) Devices(ctx context.Context, userID string) ([]tasks.Device, koodrive.Answer) {
	defer c.announce(ctx)()
	return c.koodrive.Devices(ctx, userID)
}
