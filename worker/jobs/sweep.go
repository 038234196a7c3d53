package jobs

import (
	"cmp"
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// newSweepers returns a sweeper for each source.
func newSweepers(cfg Config, ledger *enqueuelocks.Store, batches *batch.Store) map[tasks.Source]*locks.Sweeper {
	log := cfg.Logger.Named("sweep")
	sweepers := make(map[tasks.Source]*locks.Sweeper)
	add := func(source locks.Source) {
		sweepers[source.Kind()] = &locks.Sweeper{Source: source, Store: ledger, Batches: batches, Releases: cfg.Releases, Logger: log}
	}
	add(locks.Ledger{Store: ledger})
	for _, source := range cfg.Sources {
		add(source)
	}
	return sweepers
}

// sweep looks for stale locks once, and enqueues their releases. It is charged for
// a source that fails, and for nothing else that stands in its way: Redis, another
// sweep, a worker without the source. id is the asynq task ID, which names the tick
// that the sweep is for.
func (j *Jobs) sweep(ctx context.Context, t tasks.LockSweep, id string) pipeline.Result {
	source := cmp.Or(t.Source, tasks.SourceLedger)
	sweeper := j.sweepers[source]
	if sweeper == nil {
		return *j.sources.missing(source)
	}
	scheduledFor, _ := locks.TickOf(id)
	report, err := sweeper.Sweep(ctx, locks.Options{LockSweep: t, ScheduledFor: scheduledFor, Keep: j.keepSwept})
	j.observeSweep(report)
	if errors.Is(err, locks.ErrDone) {
		return pipeline.Superseded(err.Error())
	}
	if failed, ok := errors.AsType[*locks.ListError](err); ok {
		return pipeline.Failed(pipeline.Problem{Reason: tasks.Unlisted, Detail: failed.Error(), Hint: failed.Hint()})
	}
	if err != nil {
		if !errors.Is(err, locks.ErrBusy) {
			j.log.Named("sweep").Warn("the sweep was cut short; what is left is for the next try", zap.String("source", string(source)), zap.Error(err))
		}
		return *unavailable(err)
	}
	return pipeline.Done(nil)
}
