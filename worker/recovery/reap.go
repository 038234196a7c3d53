package recovery

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// maxChunks bounds what one step does in one pass.
const maxChunks = 400

// reap takes up the tasks whose leases have expired. The whole list is gone
// through in chunks; it is as long as what was in flight, at most.
func (r *Repairer) reap(ctx context.Context, q queue) error {
	if !r.contact.lasts(r.cfg.Settle) {
		return nil // a living worker may not have had the time to say so
	}
	refused := int64(0) // these stay at the front of the list
	for range maxChunks {
		if err := r.keep(ctx); err != nil {
			return err
		}
		items, err := r.expired(ctx, q, refused)
		if err != nil || len(items) == 0 {
			return err
		}
		n, err := r.takeUp(ctx, q, items)
		if err != nil {
			return err
		}
		refused += n
	}
	return nil
}

// expired lists tasks whose lease ended more than Grace ago, by Redis' clock at
// the last beat, so if anything a second too few.
func (r *Repairer) expired(ctx context.Context, q queue, offset int64) ([]item, error) {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	seen, err := r.cfg.Redis.ZRangeByScoreWithScores(limited, q.lease, &redis.ZRangeBy{
		Min: "-inf", Max: strconv.FormatInt(r.contact.last.Add(-r.cfg.Grace).Unix(), 10), Offset: offset, Count: chunk,
	}).Result()
	if err != nil {
		return nil, fmt.Errorf("list expired leases: %w", err)
	}
	if len(seen) == 0 {
		return nil, nil
	}
	return r.read(ctx, q, inLease, seen)
}

// takeUp decides on each task of a chunk, and returns how many stay where they
// are because the Parker refused them. What runs again comes first, so that
// trouble with one of the others does not hold it up.
func (r *Repairer) takeUp(ctx context.Context, q queue, items []item) (refused int64, err error) {
	var again []requeued
	var aside []item
	for _, it := range items {
		crashed := r.crashed(it)
		if it.raw == nil || it.err != nil || crashed && it.crashes+1 >= r.cfg.MaxCrashes {
			aside = append(aside, it)
		} else {
			again = append(again, requeued{it, crashed})
		}
	}
	if err := r.requeue(ctx, q, inLease, again, Requeued); err != nil {
		return 0, err
	}
	for _, it := range aside {
		gone, err := r.putAside(ctx, q, it)
		if err != nil {
			return refused, err
		}
		if !gone {
			refused++
		}
	}
	return refused, nil
}

// putAside takes out of use what must not run again.
func (r *Repairer) putAside(ctx context.Context, q queue, it item) (gone bool, err error) {
	switch {
	case it.raw == nil:
		return true, r.drop(ctx, q, it)
	case it.err != nil:
		return r.quarantine(ctx, q, it)
	default:
		return r.parkCrashed(ctx, q, it)
	}
}

// crashed decides whether an expired lease counts as a crash; see the package
// comment.
func (r *Repairer) crashed(it item) bool {
	written := time.Unix(int64(it.score), 0).Add(-leaseLife)
	return r.census.died(written) && !r.contact.brokenSince(written)
}

// parkCrashed takes a task out of use that keeps killing its worker.
func (r *Repairer) parkCrashed(ctx context.Context, q queue, it item) (bool, error) {
	if q.dead {
		text := fmt.Sprintf("%s: %d workers died while they worked on it", tasks.Crashed, it.crashes+1)
		return true, r.repark(ctx, q, it, text, Crashed)
	}
	return r.hand(ctx, q, it, Crashed, func(ctx context.Context) error {
		t := it.task(q)
		t.Crashes++
		t.Reason = tasks.Crashed
		return r.cfg.Parker.ParkCrashed(ctx, t)
	})
}
