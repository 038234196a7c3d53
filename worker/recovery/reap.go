package recovery

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

const (
	// reapChunks bounds what one pass reaps in a queue.
	reapChunks = 400
	// grace is how long after its lease expired a task is requeued. It is at least
	// 1 s, since asynq cuts the expiry to whole seconds and its owner does not.
	grace = 2 * time.Second
	// noisyFactor is how many times MaxCrashes it takes where other workers die too.
	noisyFactor = 3
)

// reap recovers the tasks whose leases have expired, chunk by chunk. There are at
// most as many as there were tasks running.
func (r *Repairer) reap(ctx context.Context, q queue) error {
	if !r.knowsServers || !r.upFor(q, r.cfg.MinUptime) {
		return nil // a living worker may not have had the time to send a heartbeat
	}
	stay := int64(0) // these are at the front of the list
	for range reapChunks {
		if err := r.ensureLock(ctx); err != nil {
			return err
		}
		items, err := r.expired(ctx, q, stay)
		if err != nil || len(items) == 0 {
			return err
		}
		n, err := r.recoverExpired(ctx, q, items)
		if err != nil {
			return err
		}
		stay += n
	}
	return nil
}

// expired reads tasks whose lease ended more than grace ago. It goes by Redis'
// clock at the last renewal of the lock, so it may miss those of the last second.
func (r *Repairer) expired(ctx context.Context, q queue, offset int64) ([]item, error) {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	seen, err := r.cfg.Redis.ZRangeByScoreWithScores(limited, asynqx.LeaseKey(q.name), &redis.ZRangeBy{
		Min: "-inf", Max: r.expiredBefore(), Offset: offset, Count: chunk,
	}).Result()
	if err != nil {
		return nil, fmt.Errorf("list expired leases: %w", err)
	}
	return r.read(ctx, q, inLease, seen)
}

// expiredBefore is the latest lease that has expired for long enough.
func (r *Repairer) expiredBefore() string {
	return strconv.FormatInt(r.uptime.last.Add(-grace).Unix(), 10)
}

// recoverExpired requeues or isolates each task of a chunk. It returns how many
// stay where they are, because their owner lives or the Parker refused them. It
// requeues first, so that trouble with the others does not hold that up.
func (r *Repairer) recoverExpired(ctx context.Context, q queue, items []item) (stay int64, err error) {
	all := len(items)
	if items, err = r.withoutOwner(ctx, items); err != nil {
		return 0, err
	}
	stay = int64(all - len(items))
	var again, isolated []item
	for _, it := range items {
		written := leaseWritten(it.score)
		if !r.downSince(q, written) {
			it = r.judge(it, written)
		}
		if it.raw == nil || it.err != nil || it.counted && r.isPoison(it.crashes) {
			isolated = append(isolated, it)
		} else {
			again = append(again, it)
		}
	}
	if err := r.requeue(ctx, q, inLease, again, Requeued); err != nil {
		return stay, err
	}
	for _, it := range isolated {
		gone, err := r.isolate(ctx, q, it)
		if err != nil {
			return stay, err
		}
		if !gone {
			stay++
		}
	}
	return stay, nil
}

// judge says what the crash of an item's worker means for the item. The package
// comment explains it.
func (r *Repairer) judge(it item, written time.Time) item {
	died := r.servers.diedNear(written)
	it.suspect = len(died) > 0 && r.mayHaveBegun(died, it.score)
	if it.died = owners(died, it.score); len(it.died) == 0 {
		it.died = died
	}
	if at, ok := died[it.alone]; ok && it.alone != "" {
		it.counted = true
		it.crashes.alone++
		if r.servers.calm(it.alone, at) {
			it.crashes.calm++
		}
	}
	return it
}

// isPoison reports whether a task has killed so many workers that it must not run
// again.
func (r *Repairer) isPoison(c crashes) bool {
	return c.calm >= r.cfg.MaxCrashes || c.alone >= noisyFactor*r.cfg.MaxCrashes
}

// parkCrashed parks a task that keeps killing its worker.
func (r *Repairer) parkCrashed(ctx context.Context, q queue, it item) (gone bool, err error) {
	if q.dead {
		text := fmt.Sprintf("%s: %d workers died while they worked on it", tasks.Crashed, it.crashes.alone)
		return true, r.repark(ctx, q, it, text, Crashed)
	}
	text := fmt.Sprintf("%s: it killed its worker %d times", tasks.Crashed, it.crashes.alone)
	return r.parkAndRemove(ctx, q, it, Crashed, it.letter(q, tasks.Crashed, text))
}
