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
func newSweepers(cfg Config, ledger *enqueuelocks.Store, batches *batch.Store) map[tasks.SourceKind]*locks.Sweeper {
	log := cfg.Logger.Named("sweep")
	sweepers := make(map[tasks.SourceKind]*locks.Sweeper)
	add := func(source locks.Source) {
		sweepers[source.Kind()] = &locks.Sweeper{Source: source, Store: ledger, Batches: batches, Releases: cfg.Releases, Logger: log}
	}
	add(locks.Ledger{Store: ledger})
	for _, source := range cfg.Sources {
		add(source)
	}
	return sweepers
}

// sweep searches one source for stale locks, and enqueues their releases. If the
// source fails, the task is charged. If Redis fails, if another sweep runs, or if
// this worker does not know the source, the task waits uncharged. id is the asynq
// task ID, which names the tick of the schedule that the sweep is for.
func (j *Jobs) sweep(ctx context.Context, t tasks.LockSweep, id string) pipeline.Result {
	source := cmp.Or(t.Source, tasks.SourceLedger)
	sweeper := j.sweepers[source]
	if sweeper == nil {
		return j.sources.missing(source)
	}
	scheduledFor, _ := locks.TickOf(id)
	_, err := sweeper.Sweep(ctx, locks.Options{LockSweep: t, ScheduledFor: scheduledFor, Keep: j.ledgerKeep})
	if errors.Is(err, locks.ErrDone) {
		return pipeline.Superseded(err.Error())
	}
	if failed, ok := errors.AsType[*locks.ListError](err); ok {
		return pipeline.Failed(pipeline.Problem{Reason: tasks.Unlisted, Detail: failed.Error(), Hint: failed.Hint()})
	}
	if errors.Is(err, locks.ErrBusy) {
		return waitFor(err.Error(), "", unavailablePause)
	}
	if err != nil {
		j.log.Named("sweep").Warn("the sweep stopped early; the next try does the rest", zap.String("source", string(source)), zap.Error(err))
		return unavailable(err)
	}
	return pipeline.Done(nil)
}
