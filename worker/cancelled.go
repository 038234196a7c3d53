package worker

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// readCancelledEvery is the time between two looks at which batches are cancelled. A
// command that cancels one waits for longer, so that no worker begins a task of it
// after the command has returned.
const readCancelledEvery = time.Second

// followCancellations reads which batches are cancelled, until ctx ends.
func (w *Worker) followCancellations(ctx context.Context) {
	tick := time.NewTicker(readCancelledEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.readCancellations(ctx)
		}
	}
}

// readCancellations reads which batches are cancelled. If Redis does not tell, what was
// known still holds: a cancellation is not taken back.
func (w *Worker) readCancellations(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, housekeepTimeout)
	defer cancel()
	all, err := batch.NewStore(w.rdb).Cancellations(ctx, w.cancelled.Load())
	if err != nil {
		w.log.Debug("cannot read which batches are cancelled; trying again", zap.Error(err))
		return
	}
	w.cancelled.Store(all)
}

// isCancelled is pipeline.Config.Cancelled.
func (w *Worker) isCancelled(ref tasks.BatchRef, t tasks.Task) (why string, ok bool) {
	c, ok := w.cancelled.Load().Of(ref, t)
	return c.Reason, ok
}
