package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/admin"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/recovery"
	"github.com/kooworker/kooworker/worker/redischeck"
)

// Worker consumes tasks. Make one with New and Run it once, or Close it.
type Worker struct {
	cfg      Config
	log      *zap.Logger
	rdb      redis.UniversalClient // the worker's own
	queues   redis.UniversalClient // the asynq servers'
	client   *koodrive.Client
	fleet    *fleet.Fleet
	gate     *gate.Gate
	repairer *recovery.Repairer
	router   *router
	announce *announcer
	admin    *admin.Server
}

// New checks a configuration and puts a worker together. Nothing is connected
// and nothing runs yet.
func New(cfg Config) (*Worker, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	w := &Worker{cfg: cfg, log: cfg.Logger, rdb: cfg.Redis(), queues: cfg.Redis()}
	if err := w.compose(); err != nil {
		w.closeRedis()
		return nil, err
	}
	return w, nil
}

// Close releases what New has made, for a worker that is not going to be run.
// Run does so by itself.
func (w *Worker) Close() { w.closeRedis() }

// compose puts the parts together, from KooDrive to the queue.
func (w *Worker) compose() (err error) {
	if w.client, err = koodrive.New(w.cfg.KooDrive); err != nil {
		return err
	}
	w.fleet = fleet.New(w.rdb, w.log)
	w.gate, err = gate.New(gate.Config{
		Rate: w.cfg.Rate, MaxInFlight: w.cfg.MaxInFlight, Fleet: w.fleet, Jitter: comeBackSpread, OnChange: gateChanged(w.log),
		ThrottleMin: w.cfg.Policy.ThrottleMin, ThrottleMax: w.cfg.Policy.ThrottleMax,
	})
	if err != nil {
		return err
	}
	metrics, err := newMetrics(w.cfg.Registry, w.gate.Status)
	if err != nil {
		return err
	}
	letters := deadletter.NewStore(w.rdb)
	w.announce = newAnnouncer(w.cfg.Ledger, asynq.NewClientFromRedisClient(w.rdb), w.cfg.Webhook, w.log)
	ledger := newSettler(w.cfg.Ledger, w.announce.completed)
	sources := newListed(w.cfg.Sources, w.log)
	upstream := gated{lookout{api{w.client}, sources}, w.gate}
	flow, err := pipeline.New(pipeline.Config{
		API: calls{
			koodrive: newKeeper(upstream, newLockLedger(w.cfg.Locks), sources, w.cfg.KooDrive),
			sweep:    newSweeps(w.cfg, sources, metrics),
			offboard: &offboarder{lister: upstream, held: newLockLedger(w.cfg.Locks), producer: w.cfg.Producer, now: time.Now},
			announce: w.announce,
		},
		Queue:      newQueue(w.rdb, letters),
		Ledger:     ledger,
		Policy:     w.cfg.Policy,
		GuardAfter: w.cfg.GuardAfter,
		Observer:   observers{metrics, w.cfg.Observer},
		Logger:     w.log,
	})
	if err != nil {
		return err
	}
	w.router = &router{flow: flow, letters: letters}
	w.repairer, err = recovery.New(recovery.Config{
		Redis: w.rdb, Parker: parker{letters, ledger}, MaxCrashes: w.cfg.MaxCrashes, Logger: w.log.Named("recovery"), Observer: metrics,
	})
	if err != nil {
		return err
	}
	w.queues.AddHook(asynqx.ErrorBackoffHook())
	w.queues.AddHook(asynqx.SyncerHook())
	if w.cfg.AdminAddr != "" {
		w.admin = admin.New(admin.Config{
			Addr: w.cfg.AdminAddr, Gatherer: w.cfg.Registry, Logger: w.log, Checks: map[string]admin.Check{"redis": w.ping},
		})
	}
	return nil
}

func (w *Worker) closeRedis() {
	for _, client := range []redis.UniversalClient{w.queues, w.rdb} {
		if err := client.Close(); err != nil {
			w.log.Debug("close Redis", zap.Error(err))
		}
	}
}

// comeBackSpread is the random part of the delay of a task that the gate has
// refused. Tasks wait in place first, so there are never many of them.
const comeBackSpread = 2 * time.Second

// AdminAddr returns the address that the admin server listens on, once Run has
// started it; with port 0 in Config.AdminAddr this is how to learn the port.
func (w *Worker) AdminAddr() string {
	if w.admin == nil {
		return ""
	}
	return w.admin.Addr()
}

// Run consumes until ctx ends, then stops as the package comment says and
// returns nil. An error means that it could not start. Run can be called once.
func (w *Worker) Run(ctx context.Context) error {
	// asynq panics when its client is closed while a server still uses it.
	down := true
	defer func() {
		if down {
			w.closeRedis()
		}
	}()
	defer w.client.CloseIdleConnections()
	if w.cfg.Webhook != nil {
		defer w.cfg.Webhook.CloseIdleConnections()
	}

	// 1. The admin server comes first: alive, though not ready.
	if w.admin != nil {
		if err := w.admin.Start(); err != nil {
			return err
		}
		defer w.admin.Stop()
	}

	// 2. Redis.
	if err := w.awaitRedis(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if err := redischeck.Check(ctx, w.rdb, w.cfg.StrictRedis, w.log); err != nil {
		return err
	}

	// 3. What runs beside the tasks, and a little longer than they do.
	beside, stopBeside := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer func() { stopBeside(); wg.Wait() }()
	wg.Go(func() { w.fleet.Run(beside) })
	wg.Go(func() { _ = w.repairer.Run(beside) }) // it returns nil
	wg.Go(func() { w.announce.run(beside) })
	for _, source := range w.cfg.Sources {
		wg.Go(func() { source.Heartbeat(beside) })
	}

	// 4. The pollers. When they stop, the gate stops first: tasks that wait for
	// their call give way at once.
	var servers []*asynq.Server
	defer func() { w.gate.Stop(); down = w.stop(servers) }()
	for _, share := range shares(w.cfg.Concurrency, w.cfg.Pollers) {
		server := asynq.NewServerFromRedisClient(w.queues, w.serverConfig(share))
		if err := server.Start(w.router); err != nil {
			return fmt.Errorf("start a poller: %w", err)
		}
		servers = append(servers, server)
	}

	// 5. Ready.
	if w.admin != nil {
		w.admin.SetReady(true)
		defer w.admin.SetReady(false)
	}
	w.log.Info("worker is running", zap.Int("concurrency", w.cfg.Concurrency), zap.Int("pollers", len(servers)), zap.String("koodrive", w.cfg.KooDrive.BaseURL))
	<-ctx.Done()
	w.log.Info("stopping: no more tasks are taken", zap.Duration("shutdown_timeout", w.cfg.ShutdownTimeout))
	return nil
}

// stopGrace is the time beyond ShutdownTimeout after which the stop is over
// whatever Redis does. asynq's own calls at the end have no limit in common, and
// with a Redis that hangs they would outlast whoever kills the process.
const stopGrace = 5 * time.Second

// stop shuts the pollers down together: one after the other they would take the
// sum of their times. It returns whether they are down. If not, their tasks come
// back when their leases have run out.
func (w *Worker) stop(servers []*asynq.Server) (down bool) {
	var wg sync.WaitGroup
	for _, server := range servers {
		wg.Go(server.Shutdown)
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	limit := time.NewTimer(w.cfg.ShutdownTimeout + stopGrace)
	defer limit.Stop()
	select {
	case <-done:
		w.log.Info("stopped")
		return true
	case <-limit.C:
		w.log.Error("stopped, though asynq is not done: Redis does not answer; unfinished tasks come back when their leases have run out")
		return false
	}
}

func (w *Worker) serverConfig(concurrency int) asynq.Config {
	return asynq.Config{
		Concurrency:              concurrency,
		Queues:                   tasks.QueueWeights(),
		TaskCheckInterval:        taskCheckInterval,
		DelayedTaskCheckInterval: delayedCheckInterval,
		ShutdownTimeout:          w.cfg.ShutdownTimeout,
		RetryDelayFunc:           pipeline.RetryDelay,
		IsFailure:                pipeline.IsFailure,
		Logger:                   asynqx.NewLogger(w.log),
		LogLevel:                 asynq.InfoLevel,
	}
}

// UnreachableError means that Redis did not answer in time at the start.
type UnreachableError struct {
	Waited time.Duration
	Err    error
}

// Error implements error.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("Redis did not answer within %s: %v", e.Waited, e.Err)
}

// Unwrap returns the last error of the connection.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *UnreachableError) Hint() string {
	return "check --redis-url, and that the server runs and can be reached from here (redis-cli PING); --startup-timeout waits longer"
}

// awaitRedis waits for Redis with growing pauses.
func (w *Worker) awaitRedis(ctx context.Context) error {
	pause := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(3*time.Second), backoff.WithMaxElapsedTime(w.cfg.StartupTimeout))
	limited, cancel := context.WithTimeout(ctx, w.cfg.StartupTimeout)
	defer cancel()
	var last error
	err := backoff.RetryNotify(func() error {
		err := w.ping(limited)
		if err != nil && limited.Err() == nil {
			last = err
		}
		return err
	}, backoff.WithContext(pause, limited), func(err error, next time.Duration) {
		w.log.Warn("Redis does not answer yet", zap.Error(err), zap.Duration("next_try", next))
	})
	if err == nil {
		return nil
	}
	if last == nil {
		last = err
	}
	return &UnreachableError{Waited: w.cfg.StartupTimeout, Err: last}
}

// pingTimeout keeps readiness prompt when Redis hangs.
const pingTimeout = 2 * time.Second

func (w *Worker) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, pingTimeout, errors.New("no answer within "+pingTimeout.String()))
	defer cancel()
	if err := w.rdb.Ping(ctx).Err(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return nil
}
