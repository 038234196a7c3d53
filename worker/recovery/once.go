package recovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// onceScanShare is the part of the time that [Repairer.RunOnce] scans. Somebody waits for it.
const onceScanShare = 0.5

// ErrLocked is what RunOnce returns if another process repairs.
var ErrLocked = errors.New("another process holds the lock of the repairer: a worker that runs repairs by itself, within a minute or some")

// RunOnce repairs what there is to repair now, and returns: it makes passes until one scan is
// complete, no archived task is left that the Parker takes, and Redis has answered for so long
// that expired leases may be judged, if there are some. It waits a moment for the lock of a process that has died; then it
// returns ErrLocked. It must not be called while Run runs.
func (r *Repairer) RunOnce(ctx context.Context) error {
	defer r.releaseLock(ctx)
	r.scanShare, r.isOnce = onceScanShare, true
	scans, began := r.scans, time.Now()
	failures := 0
	for {
		if r.cfg.Hold() {
			return errors.New("this machine's clock is wrong, and expired leases are judged by it")
		}
		before := r.repaired
		err := r.pass(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errNotHeld):
			if time.Since(began) > lockTTL+r.cfg.Interval {
				return ErrLocked
			}
		case err != nil:
			if failures++; failures == maxOnceFailures {
				return err
			}
		case r.scans > scans:
			more, err := r.hasMore(ctx, r.repaired > before)
			if err != nil || !more {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(r.cfg.Interval / 2):
		}
	}
}

// maxOnceFailures is how many passes may fail until RunOnce gives up.
const maxOnceFailures = 3

// hasMore reports whether another pass has something to do: archived tasks, as long as passes
// repair something; or expired leases that cannot be judged yet.
func (r *Repairer) hasMore(ctx context.Context, progresses bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	for _, q := range r.queues {
		archived, err := r.cfg.Redis.ZCard(ctx, asynqx.ArchivedKey(q.name)).Result()
		if err != nil {
			return false, fmt.Errorf("queue %s: count archived tasks: %w", q.name, err)
		}
		if archived > 0 && progresses {
			return true, nil
		}
		if r.upFor(q, r.cfg.MinUptime) {
			continue
		}
		n, err := r.cfg.Redis.ZCount(ctx, asynqx.LeaseKey(q.name), "-inf", r.expiredBefore()).Result()
		if err != nil {
			return false, fmt.Errorf("queue %s: count expired leases: %w", q.name, err)
		}
		if n > 0 {
			return true, nil
		}
	}
	return false, nil
}
