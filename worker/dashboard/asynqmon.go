package dashboard

import (
	"context"

	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/bulk"
	"github.com/kooworker/kooworker/worker/dashboard/monitoring"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// newMonitoring makes the handler of asynqmon.
func (d *Dashboard) newMonitoring() (*monitoring.Handler, error) {
	singles := history.NewStore(d.cfg.Redis)
	return monitoring.New(monitoring.Config{
		Redis: d.cfg.Redis, RootPath: d.prefix + "/monitoring", Audit: d.cfg.Audit.Record,
		Links: []monitoring.Link{{Text: "kooworker", Path: d.prefix + "/"}, {Text: "Dead letters", Path: d.prefix + "/dead"}, {Text: "Batches", Path: d.prefix + "/batches"}, {Text: "Queues", Path: d.prefix + "/queues"}},
		Discard: func(ctx context.Context, ids []string) (int, error) {
			res, err := d.letters.Discard(ctx, deadletter.Filter{IDs: ids}, deadletter.Options{
				RecordOutcomes: func(ctx context.Context, receipts []tasks.Receipt) error {
					return bulk.RecordOutcomes(ctx, d.batches, singles, receipts)
				},
			})
			return res.Done, err
		},
	})
}
