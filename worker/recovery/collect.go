package recovery

import (
	"context"
	"fmt"
)

// collectChunks is how many chunks of archived tasks one pass moves in a queue.
const collectChunks = 10

// collect empties the queue's archived set. Nothing of ours archives a task,
// but operators do, and asynq does when its own retry limit is reached; then it
// keeps 9,999 of them, for 90 days, and deletes the rest without a word.
func (r *Repairer) collect(ctx context.Context, q queue) error {
	for range collectChunks {
		if err := r.keep(ctx); err != nil {
			return err
		}
		items, err := r.archived(ctx, q)
		if err != nil {
			return err
		}
		if len(items) == 0 {
			r.skip[q.name] = 0 // the next pass begins at the front again
			return nil
		}
		for _, it := range items {
			gone, err := r.moveOut(ctx, q, it)
			if err != nil {
				return err
			}
			if !gone {
				r.skip[q.name]++
			}
		}
	}
	return nil
}

func (r *Repairer) archived(ctx context.Context, q queue) ([]item, error) {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	from := r.skip[q.name]
	seen, err := r.cfg.Redis.ZRangeWithScores(limited, q.archived, from, from+chunk-1).Result()
	if err != nil {
		return nil, fmt.Errorf("list archived tasks: %w", err)
	}
	if len(seen) == 0 {
		return nil, nil
	}
	return r.read(ctx, q, inArchived, seen)
}

// moveOut decides on one archived task.
func (r *Repairer) moveOut(ctx context.Context, q queue, it item) (gone bool, err error) {
	switch {
	case it.raw == nil:
		return true, r.drop(ctx, q, it)
	case it.err != nil:
		return r.quarantine(ctx, q, it)
	default:
		return r.archive(ctx, q, it)
	}
}
