package enqueue

import (
	"context"
	"iter"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// EnqueueReleases enqueues the releases of a sweep as a batch of their own. It
// returns those that are enqueued, even with an error.
func (c *Client) EnqueueReleases(ctx context.Context, batchID string, releases iter.Seq2[tasks.Task, error]) (enqueued []tasks.Task, err error) {
	_, err = c.Bulk(ctx, releases, BulkOptions{
		Batch: &batch.Spec{ID: batchID},
		OnItem: func(item Item) {
			if item.Status == Enqueued {
				enqueued = append(enqueued, item.Task)
			}
		},
	})
	return enqueued, err
}
