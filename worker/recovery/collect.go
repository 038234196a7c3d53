package recovery

import (
	"context"
	"fmt"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// collectChunks is how many chunks of archived tasks one pass parks per queue.
const collectChunks = 10

// collect parks the tasks of the queue's archived set. This program archives no task,
// but operators do, and asynq does when a task reaches asynq's own limit of retries.
// asynq keeps 9,999 archived tasks, for 90 days, and deletes the others silently.
func (r *Repairer) collect(ctx context.Context, q queue) error {
	for range collectChunks {
		if err := r.ensureLock(ctx); err != nil {
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
			gone, err := r.isolate(ctx, q, it)
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

// archived reads the next chunk of archived tasks.
func (r *Repairer) archived(ctx context.Context, q queue) ([]item, error) {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	from := r.skip[q.name]
	seen, err := r.cfg.Redis.ZRangeWithScores(limited, asynqx.ArchivedKey(q.name), from, from+chunk-1).Result()
	if err != nil {
		return nil, fmt.Errorf("list archived tasks: %w", err)
	}
	return r.read(ctx, q, inArchived, seen)
}

// parkArchived parks one archived task. In the queue of dead letters it is put
// back among the parked ones, since it is a dead letter already.
func (r *Repairer) parkArchived(ctx context.Context, q queue, it item) (gone bool, err error) {
	if q.dead {
		return true, r.repark(ctx, q, it, it.msg.ErrorMsg, Collected)
	}
	return r.parkAndRemove(ctx, q, it, Collected, it.letter(q, reasonOf(it.msg.ErrorMsg), it.msg.ErrorMsg))
}
