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

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/admin"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/jobs"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/recovery"
	"github.com/kooworker/kooworker/worker/redischeck"
)

// Worker consumes tasks. Make one with New and run it once, or close it.
type Worker struct {
	cfg      Config
	log      *zap.Logger
	rdb      redis.UniversalClient // the worker's own
	queues   redis.UniversalClient // the asynq servers'
	koodrive *koodrive.Client
	fleet    *fleet.Fleet
	gate     *gate.Gate
	letters  *deadletter.Store
	notifier *jobs.BatchNotifier
	pipeline *pipeline.Pipeline
	repairer *recovery.Repairer
	admin    *admin.Server
}

// New checks a configuration and builds a worker. Nothing is connected and nothing
// runs yet.
func New(cfg Config) (*Worker, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	w := &Worker{cfg: cfg, log: cfg.Logger, rdb: cfg.Redis(), queues: cfg.Redis()}
	if err := w.build(); err != nil {
		w.closeRedis()
		return nil, err
	}
	return w, nil
}

// Close releases what New has made, for a worker that is not run. Run does so by
// itself.
func (w *Worker) Close() { w.closeRedis() }

// build makes the parts, from KooDrive to the queue.
func (w *Worker) build() (err error) {
	cfg := w.cfg
	if w.koodrive, err = koodrive.New(cfg.KooDrive); err != nil {
		return err
	}
	w.fleet = fleet.New(w.rdb, w.log)
	w.gate, err = gate.New(gate.Config{
		Rate: cfg.Rate, MaxInFlight: cfg.MaxInFlight, Fleet: w.fleet, Jitter: retryJitter, OnChange: logBreaker(w.log),
		ThrottleMin: cfg.Policy.ThrottleMin, ThrottleMax: cfg.Policy.ThrottleMax,
	})
	if err != nil {
		return err
	}
	metrics, err := newMetrics(cfg.Registry, w.gate.Status)
	if err != nil {
		return err
	}
	handlers, err := jobs.New(jobs.Config{
		Redis: w.rdb, KooDrive: w.koodrive, Gate: w.gate, CallTimeout: cfg.KooDrive.CallTimeout, GuardAfter: cfg.GuardAfter,
		Sources: cfg.Sources, Releases: cfg.Releases, KeepSwept: cfg.LedgerKeep, ObserveSweep: metrics.observeSweep,
		Webhook: cfg.Webhook, Logger: w.log,
	})
	if err != nil {
		return err
	}
	w.letters = deadletter.NewStore(w.rdb)
	w.notifier = jobs.NewBatchNotifier(w.rdb, cfg.Webhook != nil, w.log)
	receipts := pipeline.NewReceiptBatcher(batch.NewStore(w.rdb), w.notifier.Completed)
	w.pipeline, err = pipeline.New(pipeline.Config{
		Jobs: handlers, DeadLetters: w.letters, Requeuer: pipeline.NewRequeuer(asynq.NewClientFromRedisClient(w.rdb)), Receipts: receipts,
		Policy: cfg.Policy, Observer: observers{metrics, cfg.Observer}, Logger: w.log,
	})
	if err != nil {
		return err
	}
	w.repairer, err = recovery.New(recovery.Config{
		Redis: w.rdb, Parker: w.letters, Receipts: receipts, MaxCrashes: cfg.MaxCrashes,
		Logger: w.log.Named("recovery"), OnRepair: metrics.repaired,
	})
	if err != nil {
		return err
	}
	w.queues.AddHook(asynqx.ErrorBackoffHook())
	w.queues.AddHook(asynqx.SyncerHook())
	if cfg.AdminAddr != "" {
		w.admin = admin.New(admin.Config{
			Addr: cfg.AdminAddr, Gatherer: cfg.Registry, Logger: w.log, Checks: map[string]admin.Check{"redis": w.ping},
		})
	}
	return nil
}

// retryJitter is the random part of the delay of a task that the gate has refused.
// Tasks wait in place first, so there are never many of them.
const retryJitter = 2 * time.Second

// logBreaker is told when the breaker changes. It is called under the gate's lock.
func logBreaker(log *zap.Logger) func(from, to gate.State, reason tasks.Reason) {
	return func(from, to gate.State, reason tasks.Reason) {
		fields := []zap.Field{zap.Stringer("from", from), zap.Stringer("to", to), zap.String("reason", string(reason))}
		switch {
		case from == gate.Closed:
			log.Error("KooDrive cannot be used: calls stop, but for a probe now and then; no task is charged", fields...)
		case to == gate.Closed:
			log.Info("KooDrive can be used again: calls go on, slowly at first", fields...)
		default:
			log.Debug("the breaker changed", fields...)
		}
	}
}

// dispatcher is the handler of all pollers. It tells queues apart by their exact
// names, and the decoder kinds: asynq's ServeMux would match prefixes.
type dispatcher struct {
	pipeline *pipeline.Pipeline
	letters  *deadletter.Store
}

var _ asynq.Handler = dispatcher{}

// ProcessTask implements asynq.Handler.
func (s dispatcher) ProcessTask(ctx context.Context, t *asynq.Task) error {
	d := pipeline.NewDelivery(ctx, t)
	if d.Queue == tasks.QueueDeadLetter {
		return s.processLetter(ctx, d)
	}
	return pipeline.ToAsynqError(d, s.pipeline.Process(ctx, d))
}

// processLetter parks a letter that has just arrived in the dead-letter queue, and
// carries out one that somebody wants replayed; see package deadletter.
func (s dispatcher) processLetter(ctx context.Context, d pipeline.Delivery) error {
	letter := deadletter.Decode(d.ID, string(d.Kind), d.Payload)
	d.Replay, d.Payload = true, letter.Payload
	decision := pipeline.Decision{Action: pipeline.Park, Reason: letter.Reason, Error: letter.Error}
	if arrives := d.Retries == 0; !arrives {
		d.Attempts = letter.Attempts + d.Retries - 1
		decision = s.pipeline.Process(ctx, d)
	}
	if decision.Action == pipeline.Complete {
		_ = s.letters.Unindex(ctx, d.ID) // an entry without a letter is removed when it is read
	}
	if decision.Action == pipeline.Park {
		// A letter that came by Park is in the index. One that somebody put here by
		// hand, or that died of another reason now, is not.
		if err := s.letters.IndexReason(ctx, d.ID, decision.Reason); err != nil {
			decision = pipeline.Decision{Action: pipeline.Retry, Reason: decision.Reason, Error: err.Error(), Delay: time.Second}
		}
	}
	return pipeline.ToAsynqError(d, decision)
}

func (w *Worker) closeRedis() {
	for _, client := range []redis.UniversalClient{w.queues, w.rdb} {
		if err := client.Close(); err != nil {
			w.log.Debug("close Redis", zap.Error(err))
		}
	}
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
// returns nil. An error means that it could not start. Run can be called once.
func (w *Worker) Run(ctx context.Context) error {
	// asynq panics when its client is closed while a server still uses it.
	serversStopped := true
	defer func() {
		if serversStopped {
			w.closeRedis()
		}
	}()
	defer w.koodrive.CloseIdleConnections()
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
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer func() { stopBackground(); wg.Wait() }()
	wg.Go(func() { w.fleet.Run(background) })
	wg.Go(func() { _ = w.repairer.Run(background) }) // it returns nil
	wg.Go(func() { w.notifier.Run(background) })
	for _, source := range w.cfg.Sources {
		wg.Go(func() { source.Heartbeat(background) })
	}

	// 4. The pollers. When they stop, the gate stops first: tasks that wait for
	// their call give way at once.
	var servers []*asynq.Server
	defer func() { w.gate.Stop(); serversStopped = w.stop(servers) }()
	for _, share := range shares(w.cfg.Concurrency, w.cfg.Pollers) {
		server := asynq.NewServerFromRedisClient(w.queues, w.serverConfig(share))
		if err := server.Start(dispatcher{w.pipeline, w.letters}); err != nil {
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
func (w *Worker) stop(servers []*asynq.Server) (stopped bool) {
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
