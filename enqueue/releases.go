package enqueue

import (
	"context"
	"errors"
	"iter"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// Abandon ends the batch of a sweep that has died before it had enqueued all.
// Workers call it.
func (c *Client) Abandon(ctx context.Context, batchID string) error {
	_, err := batch.NewStore(c.rdb).Abandon(ctx, batchID)
	if _, gone := errors.AsType[*batch.NotFoundError](err); gone { // or it was never made
		return nil
	}
	return err
}

// Releases enqueues the releases of a sweep in a batch of their own. It returns
// those that are enqueued, even with an error. Workers call it.
func (c *Client) Releases(ctx context.Context, batchID string, releases iter.Seq2[tasks.Task, error]) (enqueued []tasks.Task, err error) {
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
