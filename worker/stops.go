package worker

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// readStopsEvery is the time between two looks at which batches are cancelled or held. A
// command that cancels one waits for longer, so that no worker begins a task of it
// after the command has returned.
const readStopsEvery = time.Second

// followStops reads which batches are cancelled or held, until ctx ends.
func (w *Worker) followStops(ctx context.Context) {
	tick := time.NewTicker(readStopsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.readStops(ctx)
		}
	}
}

// readStops reads which batches are cancelled or held. If Redis does not tell, what was
// known still holds.
func (w *Worker) readStops(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, housekeepTimeout)
	defer cancel()
	all, err := batch.NewStore(w.rdb).Stops(ctx, w.stops.Load())
	if err != nil {
		w.log.Debug("cannot read which batches are cancelled or held; trying again", zap.Error(err))
		return
	}
	w.stops.Store(all)
}

// isCancelled is pipeline.Config.Cancelled.
func (w *Worker) isCancelled(ref tasks.BatchRef, t tasks.Task) (why string, ok bool) {
	c, ok := w.stops.Load().Cancelled(ref, t)
	return c.Reason, ok
}

// isHeld is pipeline.Config.Held.
func (w *Worker) isHeld(ref tasks.BatchRef) (until time.Time, why string, ok bool) {
	h, ok := w.stops.Load().Held(ref, time.Now())
	return h.DueAt(), h.Reason, ok
}
