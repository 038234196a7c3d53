package batches

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/waiting"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// Missing returns the tasks that the ledger counts as queued or dead, and that are in
// no queue and among no dead letters.
func Missing(ctx context.Context, rdb redis.UniversalClient, id string) (missing []batch.Missing, err error) {
	ledger, queues := batch.NewStore(rdb), waiting.NewStore(rdb)
	stats, err := ledger.Show(ctx, id)
	if err != nil || stats.Queued+stats.Dead == 0 {
		return nil, err
	}
	lane, err := ledger.Lane(ctx, id)
	if err != nil {
		return nil, err
	}
	search, err := ledger.Search(ctx, id)
	if err != nil {
		return nil, err
	}
	live := waiting.OfBatch(id, lane, nil)
	dead := live
	dead.Queues = []string{tasks.QueueDeadLetter}
	dead.Decode = deadletter.DecodeTask
	const looks = 2
	for range looks {
		for _, query := range []waiting.Query{live, dead} {
			for t, err := range queues.Each(ctx, query) {
				if err != nil {
					return nil, err
				}
				search.Found(t.Intent.BatchRef.Index)
			}
		}
		if missing, err = search.Missing(ctx); err != nil || len(missing) == 0 {
			return nil, err
		}
	}
	return missing, nil
}
