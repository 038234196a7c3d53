package worker

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/hibiken/asynq"
	"go.uber.org/zap"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// sweeps carries lock:sweep tasks out.
type sweeps struct {
	sweepers map[tasks.Source]*locks.Sweeper
	sources  *listed
	keep     time.Duration
	metrics  *metrics
	log      *zap.Logger
}

func newSweeps(cfg Config, sources *listed, m *metrics) *sweeps {
	s := &sweeps{sweepers: make(map[tasks.Source]*locks.Sweeper), sources: sources, keep: cfg.LedgerKeep, metrics: m, log: cfg.Logger.Named("sweep")}
	if cfg.Locks != nil {
		s.add(cfg, locks.Ledger{Store: cfg.Locks})
		for _, listed := range cfg.Sources {
			s.add(cfg, listed)
		}
	}
	return s
}

func (s *sweeps) add(cfg Config, source locks.Source) {
	s.sweepers[source.Kind()] = &locks.Sweeper{Source: source, Store: cfg.Locks, Producer: cfg.Producer, Logger: s.log}
}

// do sweeps once. A sweep is charged for a source that fails, and for nothing
// else that stands in its way: Redis, another sweep, a worker without the source.
func (s *sweeps) do(ctx context.Context, t tasks.LockSweep) pipeline.Answer {
	source := cmp.Or(t.Source, tasks.SourceLedger)
	sweeper := s.sweepers[source]
	if sweeper == nil {
		return s.sources.wait(source)
	}
	id, _ := asynq.GetTaskID(ctx)
	tick, _ := locks.TickOf(id)
	report, err := sweeper.Sweep(ctx, locks.Options{LockSweep: t, ScheduledFor: tick, Keep: s.keep})
	s.metrics.swept(report)
	if errors.Is(err, locks.ErrDone) {
		return pipeline.Answer{Reason: tasks.OK, Superseded: true, Uncalled: true, Message: err.Error()}
	}
	if failed, ok := errors.AsType[*locks.ListError](err); ok {
		return pipeline.Answer{Reason: tasks.Unlisted, Message: failed.Error(), Hint: failed.Hint(), Uncalled: true}
	}
	if err != nil {
		if !errors.Is(err, locks.ErrBusy) {
			s.log.Warn("the sweep was cut short; what is left is for the next try", zap.String("source", string(source)), zap.Error(err))
		}
		return unavailable(err)
	}
	return pipeline.Answer{Reason: tasks.OK}
}

// lockLedger is the ledger of locks in the words of releases and off-boardings.
type lockLedger struct {
	*enqueuelocks.Store
}

// newLockLedger returns nil if no ledger is kept.
func newLockLedger(store *enqueuelocks.Store) Locks {
	if store == nil {
		return nil
	}
	return lockLedger{store}
}

// Claim implements Locks.
func (l lockLedger) Claim(ctx context.Context, t tasks.LockRelease, hold time.Duration) (ticket int64, refused string, err error) {
	claim := l.Store.Claim
	if t.Evidence.Source != tasks.SourceLedger {
		claim = l.ClaimExternal
	}
	c, err := claim(ctx, tasks.LockID{UserID: t.UserID, LockID: t.LockID}, t.Evidence.ExpiredAt, hold)
	if err != nil || c.Status == enqueuelocks.Claimed {
		return c.FencingToken, "", err
	}
	return 0, string(c.Status), nil
}

// End implements Locks.
func (l lockLedger) End(ctx context.Context, t tasks.LockRelease, ticket int64, gone bool) error {
	c := enqueuelocks.Claim{ID: tasks.LockID{UserID: t.UserID, LockID: t.LockID}, Seen: t.Evidence.ExpiredAt, FencingToken: ticket}
	if gone {
		return l.Released(ctx, []enqueuelocks.Claim{c})
	}
	if ticket == 0 {
		return nil
	}
	return l.Unclaim(ctx, c)
}

// Held implements Holdings.
func (l lockLedger) Held(ctx context.Context, userID string) (lockIDs []string, err error) {
	held, err := l.ListByUser(ctx, userID)
	for _, lock := range held {
		lockIDs = append(lockIDs, lock.LockID)
	}
	return lockIDs, err
}
