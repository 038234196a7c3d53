package worker

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// sweeps carries lock:sweep tasks out.
type sweeps struct {
	sweeper *locks.Sweeper // nil: no ledger of locks is kept
	keep    time.Duration
	metrics *metrics
}

func newSweeps(cfg Config, m *metrics) *sweeps {
	s := &sweeps{keep: cfg.LedgerKeep, metrics: m}
	if cfg.Locks != nil {
		s.sweeper = &locks.Sweeper{
			Name: tasks.SourceLedger, Source: cfg.Locks, Lease: cfg.Locks, Producer: cfg.Producer, Logger: cfg.Logger.Named("sweep"),
		}
	}
	return s
}

// do sweeps once. A sweep is not charged for what stands in its way: all that it
// needs is Redis, and another sweep's end.
func (s *sweeps) do(ctx context.Context, t tasks.LockSweep) pipeline.Answer {
	if s.sweeper == nil {
		return pipeline.Answer{Reason: tasks.Waiting, Message: "this worker keeps no ledger of locks", Held: true, Uncalled: true, RetryAfter: announceEvery}
	}
	report, err := s.sweeper.Sweep(ctx, locks.Options{LockSweep: t, Keep: s.keep})
	if err != nil {
		if !errors.Is(err, locks.ErrBusy) {
			s.sweeper.Logger.Warn("the sweep was cut short; what is left is for the next try", zap.Error(err))
		}
		return unavailable(err)
	}
	s.metrics.swept(report)
	return pipeline.Answer{Reason: tasks.OK}
}
