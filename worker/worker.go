package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/hibiken/asynq"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/admin"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// Worker consumes tasks. Make one with New and Run it once.
type Worker struct {
	cfg    Config
	log    *zap.Logger
	client *koodrive.Client
	router *router
	admin  *admin.Server
}

// New checks a configuration and puts a worker together. Nothing is connected
// and nothing runs yet.
func New(cfg Config) (*Worker, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	client, err := koodrive.New(cfg.KooDrive)
	if err != nil {
		return nil, err
	}
	metrics, err := newMetrics(cfg.Registry)
	if err != nil {
		return nil, err
	}
	flow, err := pipeline.New(pipeline.Config{
		API:        api{client},
		Queue:      newQueue(cfg.Redis, deadletter.NewStore(cfg.Redis)),
		Policy:     cfg.Policy,
		GuardAfter: cfg.GuardAfter,
		Observer:   observers{metrics, cfg.Observer},
		Logger:     cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	w := &Worker{cfg: cfg, log: cfg.Logger, client: client, router: &router{flow: flow}}
	if cfg.AdminAddr != "" {
		w.admin = admin.New(admin.Config{
			Addr:     cfg.AdminAddr,
			Gatherer: cfg.Registry,
			Logger:   cfg.Logger,
			Checks:   map[string]admin.Check{"redis": w.ping},
		})
	}
	return w, nil
}

// AdminAddr returns the address that the admin server listens on, once Run has
// started it; with port 0 in Config.AdminAddr this is how to learn the port.
func (w *Worker) AdminAddr() string {
	if w.admin == nil {
		return ""
	}
	return w.admin.Addr()
}

// Run consumes until ctx ends, then stops as the package comment says and
// returns nil. An error means that it could not start.
func (w *Worker) Run(ctx context.Context) error {
	// 1. The admin server comes first: alive, though not ready.
	if w.admin != nil {
		if err := w.admin.Start(); err != nil {
			return err
		}
		defer w.admin.Stop()
	}
	defer w.client.CloseIdleConnections()

	// 2. Redis.
	if err := w.awaitRedis(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}

	// 3. The pollers.
	var servers []*asynq.Server
	defer func() { w.stop(servers) }()
	for _, share := range shares(w.cfg.Concurrency, w.cfg.Pollers) {
		server := asynq.NewServerFromRedisClient(w.cfg.Redis, w.serverConfig(share))
		if err := server.Start(w.router); err != nil {
			return fmt.Errorf("start a poller: %w", err)
		}
		servers = append(servers, server)
	}

	// 4. Ready.
	if w.admin != nil {
		w.admin.SetReady(true)
		defer w.admin.SetReady(false)
	}
	w.log.Info("worker is running", zap.Int("concurrency", w.cfg.Concurrency), zap.Int("pollers", len(servers)), zap.String("koodrive", w.cfg.KooDrive.BaseURL))
	<-ctx.Done()
	w.log.Info("stopping: no more tasks are taken", zap.Duration("shutdown_timeout", w.cfg.ShutdownTimeout))
	return nil
}

// stop shuts the pollers down together: one after the other they would take the
// sum of their times.
func (w *Worker) stop(servers []*asynq.Server) {
	var wg sync.WaitGroup
	for _, server := range servers {
		wg.Go(server.Shutdown)
	}
	wg.Wait()
	if len(servers) > 0 {
		w.log.Info("stopped")
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
		Logger:                   newAsynqLogger(w.log),
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
	if err := w.cfg.Redis.Ping(ctx).Err(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return nil
}
