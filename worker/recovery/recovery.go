package recovery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// Repairer repairs the queues of one Redis. Make one with New and Run it once.
type Repairer struct {
	cfg     Config
	queues  []queue
	token   string
	log     *zap.Logger
	repairs *zap.Logger // log, sampled

	// The rest belongs to the goroutine of Run.
	holdsLock bool
	renewed   time.Time // when the lock was last renewed, by the local clock
	uptime    redisUptime
	uptimes   map[string]redisUptime // of a cluster's masters, by what is there: a queue, or the list of servers
	isCluster bool
	servers   serverRegistry
	// knowsServers: this pass has read the list of servers.
	knowsServers bool
	owned        map[string]bool      // tasks that living servers list, once this pass has read it
	dead         map[string]dead      // by nameOf
	recovered    map[string]recovered // by nameOf; "" are those of unknown workers

	paused   map[string]bool
	skip     map[string]int64 // archived tasks that the Parker refused, by queue
	refusals int              // of the Parker, in a row, in this pass
	refused  map[string]refusal
	scan     scanPosition
	scans    int // that have reached their end
	// scanShare is the part of its time that the repairer scans.
	scanShare float64
	isOnce    bool      // RunOnce is at work, and not Run
	pruned    time.Time // when asynq's lists of processes were last pruned

	repaired      int       // tasks, so far
	failures      int       // of passes, in a row
	failureLogged time.Time // when the last of them was logged
}

// New checks a configuration and returns a Repairer. It connects to nothing yet.
func New(cfg Config) (*Repairer, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	r := &Repairer{
		cfg: cfg, token: uuid.NewString(), log: cfg.Logger, repairs: sampled(cfg.Logger),
		servers: make(serverRegistry), uptimes: make(map[string]redisUptime), paused: make(map[string]bool), skip: make(map[string]int64),
		refused: make(map[string]refusal), dead: make(map[string]dead), recovered: make(map[string]recovered), scanShare: workerScanShare,
	}
	_, r.isCluster = cfg.Redis.(*redis.ClusterClient)
	for _, name := range cfg.Queues {
		r.queues = append(r.queues, queue{name: name, dead: name == tasks.QueueDeadLetter})
	}
	return r, nil
}

// Run repairs until ctx ends, and returns nil. While Redis fails it tries again
// with growing pauses. It may run in any number of processes. One of them acts;
// when it dies another takes over within lockTTL and an interval.
func (r *Repairer) Run(ctx context.Context) error {
	defer r.releaseLock(ctx)
	// The pauses stay below maxGap, so that short trouble does not count as an
	// outage.
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
		var err error
		if r.cfg.Hold() {
			r.releaseLock(ctx)
		} else {
			err = r.pass(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !errors.Is(err, errNotHeld):
			r.logFailure(err)
			timer.Reset(pause.NextBackOff())
		default:
			r.logSuccess()
			pause.Reset()
			timer.Reset(jitter(r.cfg.Interval))
		}
	}
}

// jitter returns d give or take a fifth, so that processes which started together
// do not act together.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // not a secret
}

// pass repairs each queue once, scans some pages, and prunes. It returns errNotHeld if
// another repairer holds the lock.
func (r *Repairer) pass(ctx context.Context) error {
	if err := r.renewLock(ctx); err != nil {
		return err
	}
	r.owned, r.refusals = nil, 0
	var failed []error
	switch err := r.servers.refresh(ctx, r.cfg.Redis); {
	case err == nil:
		r.reached(asynqx.AllServersKey)
		r.knowsServers = true
	case r.isSilent(err):
		r.knowsServers = false
		failed = append(failed, err)
	default:
		return err
	}
	maps.DeleteFunc(r.refused, func(_ string, x refusal) bool { return time.Since(x.until) > maxRefusalPause }) // those that are gone
	seen, err := r.look(ctx)
	if seen == nil && err != nil {
		return err
	}
	failed = append(failed, err)
	for _, q := range r.queues {
		if _, ok := seen[q.name]; !ok {
			continue
		}
		// A queue may fail by itself, for example because a key has a wrong type.
		// The failure must not stop the other queues. If Redis is away, the next
		// renewal of the lock fails.
		if err := r.repair(ctx, q, seen[q.name]); err != nil {
			failed = append(failed, fmt.Errorf("queue %s: %w", q.name, err))
		}
		if err := r.ensureLock(ctx); err != nil {
			return err
		}
	}
	return errors.Join(append(failed, r.scanPages(ctx, seen), r.prune(ctx))...)
}

// repair repairs one queue, as far as it needs it. It begins with the expired leases, which
// are urgent.
func (r *Repairer) repair(ctx context.Context, q queue, s sight) error {
	r.countPause(q, s.isPaused)
	var failed []error
	for _, step := range []struct {
		isNeeded bool
		do       func(context.Context, queue) error
	}{{s.hasExpired, r.reap}, {s.hasOrphans || r.isOnce, r.leaseOrphans}, {s.hasArchived, r.collect}, {s.isUnlisted, r.register}} {
		if !step.isNeeded {
			continue
		}
		if err := step.do(ctx, q); err != nil {
			failed = append(failed, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}
