package enqueue

import (
	"context"
	"iter"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// Releases enqueues the releases of a sweep in a batch of their own. It returns
// those that are enqueued, even with an error. Workers call it.
func (c *Client) Releases(ctx context.Context, batchID string, releases iter.Seq2[tasks.Task, error]) (enqueued []tasks.Task, err error) {
	_, err = c.Bulk(ctx, releases, BulkOptions{
		Batch: &batch.Spec{ID: batchID},
		Each: func(item Item) {
			if item.Status == Enqueued {
				enqueued = append(enqueued, item.Task)
			}
		},
	})
	return enqueued, err
}
