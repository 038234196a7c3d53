package recovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// Repairer repairs the queues of one Redis. Make one with New and Run it once.
type Repairer struct {
	cfg     Config
	queues  []queue
	token   string
	log     *zap.Logger
	repairs *zap.Logger // log, sampled

	// The rest belongs to the goroutine of Run.
	held    bool
	beaten  time.Time // the last beat, by the local clock
	contact contact
	census  census

	paused   map[string]bool
	skip     map[string]int64 // archived tasks that the Parker refused, by queue
	refusals int              // of the Parker, in a row, in this pass
	sweep    sweep

	failures   int
	complained time.Time
}

// New checks a configuration. Nothing is connected and nothing runs yet.
func New(cfg Config) (*Repairer, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	r := &Repairer{
		cfg: cfg, token: uuid.NewString(), log: cfg.Logger, repairs: sampled(cfg.Logger),
		paused: make(map[string]bool), skip: make(map[string]int64),
	}
	for _, name := range cfg.Queues {
		r.queues = append(r.queues, newQueue(name, cfg.DeadLetter))
	}
	return r, nil
}

// Run repairs until ctx ends, and returns nil. While Redis fails it tries again
// with growing pauses. It may run in any number of processes: one of them acts,
// and when it dies another takes over within lockLife and an interval.
func (r *Repairer) Run(ctx context.Context) error {
	defer r.release(ctx)
	// The pauses stay below maxGap, so that a short trouble is no break.
	pause := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(250*time.Millisecond), backoff.WithMaxInterval(2*time.Second), backoff.WithMaxElapsedTime(0))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		err := r.pass(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			r.complain(err)
			timer.Reset(pause.NextBackOff())
		default:
			r.recovered()
			pause.Reset()
			timer.Reset(jitter(r.cfg.Interval))
		}
	}
}

// jitter spreads the processes of a fleet that started together.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // not a secret
}

// pass is one round over all queues.
func (r *Repairer) pass(ctx context.Context) error {
	if err := r.beat(ctx); err != nil {
		return unlessNotHeld(err)
	}
	if err := r.census.take(ctx, r.cfg.Redis); err != nil {
		return err
	}
	r.refusals = 0
	var failed []error
	for _, q := range r.queues {
		// A queue that fails by itself, for a key of a wrong type, say, must not
		// stop the others. If Redis is away the next beat says so.
		if err := r.repair(ctx, q); err != nil {
			failed = append(failed, fmt.Errorf("queue %s: %w", q.name, err))
		}
		if err := r.keep(ctx); err != nil {
			return unlessNotHeld(err)
		}
	}
	if err := r.sweepOn(ctx); err != nil {
		failed = append(failed, err)
	}
	return unlessNotHeld(errors.Join(failed...))
}

func unlessNotHeld(err error) error {
	if errors.Is(err, errNotHeld) {
		return nil
	}
	return err
}

// repair looks after one queue. Leases come first: they are what is urgent.
func (r *Repairer) repair(ctx context.Context, q queue) error {
	var failed []error
	for _, step := range []func(context.Context, queue) error{r.reap, r.leaseOrphans, r.collect, r.look} {
		if err := step(ctx, q); err != nil {
			failed = append(failed, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// look registers the queue, which asynq's clients do once in their lives only,
// and reports a pause. The pause stays: whoever made it has a reason. Repairs go
// on meanwhile, since none of them runs a task.
func (r *Repairer) look(ctx context.Context, q queue) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	var added, paused *redis.IntCmd
	_, err := r.cfg.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		added, paused = p.SAdd(ctx, allQueues, q.name), p.Exists(ctx, q.paused)
		return nil
	})
	if err != nil {
		return fmt.Errorf("register the queue: %w", err)
	}
	if added.Val() > 0 {
		r.cfg.Observer.Repaired(q.name, Registered, 1)
		r.log.Info("registered the queue", zap.String("queue", q.name))
	}
	if now := paused.Val() > 0; now != r.paused[q.name] {
		r.paused[q.name] = now
		if now {
			r.cfg.Observer.Repaired(q.name, Paused, 1)
			r.log.Warn("the queue is paused: its tasks wait until somebody lifts the pause", zap.String("queue", q.name))
		} else {
			r.log.Info("the queue is no longer paused", zap.String("queue", q.name))
		}
	}
	return nil
}
