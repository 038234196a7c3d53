package bulk

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// Config is what a Runner needs. Redis is required; a zero in any other field means its
// default.
type Config struct {
	// Redis should honour contexts (ContextTimeoutEnabled). It stays the caller's to close
	// after Run.
	Redis redis.UniversalClient
	// Poll is the time between two looks for jobs. Default 500 ms.
	Poll time.Duration
	// LeaseTTL is how long a job stands still after the process that runs it has died.
	// At least 100 ms. Default 4 s.
	LeaseTTL time.Duration
	// OnEnd is called when a job has ended in this process, and that is written down. If the
	// process dies in between, it is not called. Default: nothing.
	OnEnd func(ctx context.Context, j Job)
	// Logger receives a line when a job begins, goes on and ends. Default: none.
	Logger *zap.Logger
}

// maxRunning is how many jobs a Runner runs at once.
const maxRunning = 4

// Runner runs jobs. Any number of processes may have one.
type Runner struct {
	cfg     Config
	store   *Store
	letters *deadletter.Store
	batches *batch.Store
	singles *history.Store

	mu      sync.Mutex
	running map[string]bool
	pauseAt map[string]time.Time // when to try a job again that Redis has failed
}

// New returns a Runner. Run starts it.
func New(cfg Config) (*Runner, error) {
	cfg.Poll, cfg.LeaseTTL = cmp.Or(cfg.Poll, 500*time.Millisecond), cmp.Or(cfg.LeaseTTL, 4*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	switch {
	case cfg.Redis == nil:
		return nil, errors.New("bulk: Config.Redis is required")
	case cfg.Poll < 0:
		return nil, fmt.Errorf("bulk: poll is %s; want more than 0", cfg.Poll)
	case cfg.LeaseTTL < 100*time.Millisecond:
		return nil, fmt.Errorf("bulk: lease TTL is %s; want at least 100ms", cfg.LeaseTTL)
	}
	return &Runner{
		cfg: cfg, store: NewStore(cfg.Redis), letters: deadletter.NewStore(cfg.Redis), batches: batch.NewStore(cfg.Redis),
		singles: history.NewStore(cfg.Redis), running: make(map[string]bool), pauseAt: make(map[string]time.Time),
	}, nil
}

// Run takes jobs and runs them until ctx ends. Then it puts them down, for another Runner or
// the next start, and returns.
func (r *Runner) Run(ctx context.Context) {
	var jobs sync.WaitGroup
	defer jobs.Wait()
	tick := time.NewTicker(r.cfg.Poll)
	defer tick.Stop()
	failing := false
	for {
		err := r.takeAll(ctx, &jobs)
		if err != nil && ctx.Err() == nil && !failing {
			r.cfg.Logger.Warn("cannot look for jobs; trying again", zap.Error(err))
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// takeAll takes the open jobs that nobody runs, the oldest first.
func (r *Runner) takeAll(ctx context.Context, jobs *sync.WaitGroup) error {
	ids, err := r.cfg.Redis.ZRange(ctx, openKey, 0, -1).Result()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if !r.begin(id) {
			continue
		}
		l := lease{r.cfg.Redis, id, rand.Text(), r.cfg.LeaseTTL}
		held, _, err := l.take(ctx, false)
		if !held {
			r.end(id, 0)
			if err != nil {
				return err
			}
			continue
		}
		jobs.Go(func() {
			r.end(id, r.run(ctx, l))
		})
	}
	return nil
}

// begin reports whether this process may run a job now, and notes that it does.
func (r *Runner) begin(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running[id] || len(r.running) >= maxRunning || time.Now().Before(r.pauseAt[id]) {
		return false
	}
	r.running[id] = true
	return true
}

// end notes that this process does not run the job any more, and tries it again after a
// pause.
func (r *Runner) end(id string, pause time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, id)
	delete(r.pauseAt, id)
	if pause > 0 {
		r.pauseAt[id] = time.Now().Add(pause)
	}
}

// run runs a job to its end, or until the lease is lost or ctx ends. It returns for how long
// to leave the job alone.
func (r *Runner) run(ctx context.Context, l lease) (pause time.Duration) {
	working, cancel := context.WithCancelCause(ctx)
	var keeping sync.WaitGroup
	keeping.Go(func() { l.keep(working, cancel) })
	defer keeping.Wait()
	defer cancel(nil)
	defer l.release(ctx) // first, so that the lease is given back while it is still kept

	log := r.cfg.Logger.With(zap.String("job", l.id))
	err := r.work(working, l, log)
	if err != nil && working.Err() != nil {
		err = context.Cause(working) // what has failed because of it says less
	}
	switch {
	case ctx.Err() != nil:
		return 0 // this process stops; another one goes on
	case errors.Is(err, deadletter.ErrFenced):
		log.Info("another process runs the job")
		return 0
	case err != nil && !errors.Is(err, deadletter.ErrStopped) && asynqx.IsUnavailable(err):
		log.Warn("Redis has failed; the job goes on later", zap.Error(err))
		return time.Second
	}
	state, fields := Done, []any{"error", "", "hint", ""}
	switch canary, isCanary := errors.AsType[*deadletter.CanaryError](err); {
	case errors.Is(err, deadletter.ErrStopped):
		state = Stopped
	case isCanary:
		state = Failed
		fields = []any{"error", canary.Error(), "hint", canary.Hint(), "canary_replayed", canary.Replayed, "canary_succeeded", canary.Succeeded}
	case err != nil:
		state = Failed
		fields = []any{"error", httpx.ErrorLine(err.Error()), "hint", hintOf(err)}
	}
	limited, stop := context.WithTimeout(ctx, r.cfg.LeaseTTL)
	defer stop()
	if err := l.write(limited, true, append([]any{"state", string(state)}, fields...)...); err != nil {
		log.Warn("cannot write down how the job has ended; it ends later", zap.Error(err))
		return time.Second
	}
	r.logEnd(ctx, log, l.id, err)
	return 0
}

func (r *Runner) logEnd(ctx context.Context, log *zap.Logger, id string, err error) {
	j, getErr := r.store.Get(ctx, id)
	if getErr != nil {
		return
	}
	fields := []zap.Field{
		zap.String("kind", string(j.Kind)), zap.String("state", string(j.State)), zap.String("by", j.By), zap.String("reason", j.Reason),
		zap.Int64("matched", j.Matched), zap.Int64("done", j.Done), zap.Int64("skipped", j.Skipped),
	}
	if err != nil && !errors.Is(err, deadletter.ErrStopped) {
		log.Error("the job has failed", append(fields, zap.Error(err))...)
	} else {
		log.Info("the job has ended", fields...)
	}
	if r.cfg.OnEnd != nil {
		r.cfg.OnEnd(ctx, j)
	}
}

// work does what the job has still to do.
func (r *Runner) work(ctx context.Context, l lease, log *zap.Logger) error {
	rec, err := r.store.record(ctx, l.id)
	if err != nil {
		return err
	}
	if rec.isStopped {
		return deadletter.ErrStopped
	}
	sent, err := r.cfg.Redis.HGetAll(ctx, canaryKey(l.id)).Result()
	if err != nil {
		return fmt.Errorf("read the canary: %w", err)
	}
	o := deadletter.Options{
		Rate: rec.Rate,
		RecordOutcomes: func(ctx context.Context, receipts []tasks.Receipt) error {
			return RecordOutcomes(ctx, r.batches, r.singles, receipts)
		},
		Fence: &deadletter.Fence{
			Lease: leaseKey(l.id), Token: l.token, Record: recordKey(l.id), Canary: canaryKey(l.id),
			At: rec.position, Matched: int(rec.Matched), CanarySent: sent,
			OnCanary: func(ctx context.Context, replayed, succeeded int) error {
				return l.write(ctx, false, "canary_passed", 1, "canary_replayed", replayed, "canary_succeeded", succeeded, "state", string(Running))
			},
		},
	}
	state := Running
	if rec.Canary > 0 && !rec.canaryPassed {
		state = Canary
		if o.Canary, err = r.canary(ctx, rec, len(sent)); err != nil {
			return err
		}
	}
	fields := []any{"state", string(state)}
	if rec.StartedAt.IsZero() {
		fields = append(fields, "started_at", "now")
	}
	if err := l.write(ctx, false, fields...); err != nil {
		return err
	}
	log.Info("runs a job", zap.String("kind", string(rec.Kind)), zap.Int64("done", rec.Done), zap.Bool("goes_on", !rec.StartedAt.IsZero()))
	if rec.Kind == Discard {
		_, err = r.letters.Discard(ctx, rec.Filter, o)
	} else {
		_, err = r.letters.Replay(ctx, rec.Filter, o)
	}
	return err
}

// canary returns the canary of a job. If the whole of it was sent by a process that has died, it
// is waited for until the same time.
func (r *Runner) canary(ctx context.Context, rec record, sent int) (deadletter.Canary, error) {
	c := deadletter.Canary{Size: rec.Order.Canary, MinSuccess: rec.MinSuccess, Timeout: cmp.Or(rec.CanaryTimeout, deadletter.DefaultCanaryTimeout)}
	if sent < c.Size {
		return c, nil
	}
	now, err := r.cfg.Redis.Time(ctx).Result()
	if err != nil {
		return c, fmt.Errorf("ask Redis for the time: %w", err)
	}
	const look = time.Second // enough to see what has become of the letters
	c.Timeout = max(c.Timeout-now.Sub(rec.canarySentAt), look)
	return c, nil
}

// hintOf returns what an error says about what to do.
func hintOf(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return "see the error; what the job has not changed is dead as before, and another job can be ordered"
}
