package worker

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/worker/deadletter"
)

const (
	// housekeepEvery is the time between two pages of housekeeping. A page costs Redis
	// about a millisecond, so every worker may read them. One worker alone reads
	// 700,000 dead letters in four hours.
	housekeepEvery = 10 * time.Second
	// housekeepTimeout bounds one exchange with Redis.
	housekeepTimeout = 5 * time.Second
)

// housekeep removes entries of lists when what they name is gone, until ctx ends. It
// is for what nobody removes at once: dead letters that somebody deletes in asynqmon,
// and batches that Redis lets expire. docs/redis-keys.md names every key, and what
// bounds its size. It also reads how many tasks wait, and warns of those that are missing.
// Of dead letters it adds to the index what an earlier version has not written.
func (w *Worker) housekeep(ctx context.Context) {
	var letters deadletter.IndexPosition
	var reindex deadletter.ReindexPosition
	var batches, stops batch.ListPosition
	store := batch.NewStore(w.rdb)
	missing := missingWatch{rdb: w.rdb, log: w.log, warned: make(map[string]bool)}
	tick := time.NewTicker(housekeepEvery)
	defer tick.Stop()
	for {
		// Once for a Redis, after an upgrade, this may take a minute.
		if err := w.letters.EnsureIndex(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("cannot complete the index of dead letters; trying again", zap.Error(err))
		}
		limited, cancel := context.WithTimeout(ctx, housekeepTimeout)
		if err := w.readBacklog(limited); err != nil && ctx.Err() == nil {
			w.log.Warn("cannot read how many tasks wait: the metric kooworker_workers_wanted is out of date; trying again", zap.Error(err))
		}
		if err := missing.look(limited); err != nil && ctx.Err() == nil {
			w.log.Warn("cannot look for tasks that are missing; trying again", zap.Error(err))
		}
		for _, step := range []func() (int64, error){
			func() (int64, error) { return w.letters.PruneIndex(limited, &letters) },
			func() (int64, error) { return w.letters.Reindex(limited, &reindex) },
			func() (int64, error) { return store.PruneList(limited, &batches) },
			func() (int64, error) { return store.PruneStops(limited, &stops) },
		} {
			if _, err := step(); err != nil && ctx.Err() == nil {
				w.log.Warn("cannot remove entries whose subject is gone; trying again", zap.Error(err))
			}
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
