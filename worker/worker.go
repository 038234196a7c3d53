package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/admin"
	"github.com/kooworker/kooworker/worker/clock"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/fetch"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/jobs"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/outage"
	"github.com/kooworker/kooworker/worker/overview"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/recovery"
	"github.com/kooworker/kooworker/worker/redischeck"
)

// Worker consumes tasks. Make one with New, then call either Run or Close, once.
type Worker struct {
	cfg      Config
	outage   *outage.Watch
	log      *zap.Logger           // the outage's; what does not talk to Redis has cfg.Logger
	rdb      redis.UniversalClient // the worker's own
	queues   redis.UniversalClient // the asynq servers'
	clock    *clock.Clock
	koodrive *koodrive.Client
	fleet    *fleet.Fleet
	gate     *gate.Gate
	fetcher  *fetch.Fetcher
	letters  *deadletter.Store
	notifier *jobs.BatchNotifier
	pipeline *pipeline.Pipeline
	repairer *recovery.Repairer
	pauses   *pauseWatch
	overview *overview.Shared
	metrics  *metrics
	history  *history.Store
	admin    *admin.Server
	backlog  atomic.Pointer[backlog]     // nil until it was read
	stops    atomic.Pointer[batch.Stops] // see followStops
}

// New checks a configuration and builds a worker. It connects to nothing and starts
// nothing.
func New(cfg Config) (*Worker, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	w := &Worker{cfg: cfg, rdb: cfg.Redis(), queues: cfg.Redis()}
	asynqx.GuardNodes(w.rdb)
	asynqx.GuardNodes(w.queues)
	w.outage = outage.New(w.rdb, outage.Keys(slices.Sorted(maps.Keys(tasks.QueueWeights()))), cfg.Logger)
	w.log = w.outage.Logger()
	if err := w.build(); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// build makes the parts, in the order in which they need each other.
func (w *Worker) build() (err error) {
	cfg := w.cfg
	w.clock = clock.New(w.rdb, w.log)
	w.pauses = newPauseWatch(w.rdb, w.log)
	w.overview = overview.NewShared(overview.SharedConfig{Redis: w.rdb, Grace: locks.DefaultGrace, Logger: w.log.Named("overview")})
	// The metrics are made when the gate is there; no call is made before Run.
	cfg.KooDrive.Observe = func(e koodrive.Exchange) { w.metrics.countCall(e) }
	if w.koodrive, err = koodrive.New(cfg.KooDrive); err != nil {
		return err
	}
	w.fleet = fleet.New(w.rdb, w.log)
	w.gate, err = gate.New(gate.Config{
		Rate: cfg.Rate, MaxInFlight: cfg.MaxInFlight, Fleet: w.fleet, Jitter: retryJitter, OnChange: logBreaker(w.log),
		Check:       func(ctx context.Context, user string) gate.Answer { return jobs.GateAnswer(w.koodrive.Ping(ctx, user)) },
		ThrottleMin: cfg.Policy.ThrottleMin, ThrottleMax: cfg.Policy.ThrottleMax,
	})
	if err != nil {
		return err
	}
	w.metrics, err = newMetrics(cfg, w.gate.Status, w.workersWanted, w.overview.Metrics())
	if err != nil {
		return err
	}
	handlers, err := jobs.New(jobs.Config{
		Redis: w.rdb, KooDrive: w.koodrive, Gate: w.gate, CallTimeout: cfg.KooDrive.CallTimeout, GuardAfter: cfg.GuardAfter,
		Sources: cfg.Sources, Releases: cfg.Releases, LedgerKeep: cfg.LedgerKeep,
		Webhook: cfg.Webhook, TracerProvider: cfg.TracerProvider, Logger: cfg.Logger,
	})
	if err != nil {
		return err
	}
	w.letters = deadletter.NewStore(w.rdb)
	w.notifier = jobs.NewBatchNotifier(w.rdb, cfg.Webhook != nil, w.log)
	w.history = history.NewStore(w.rdb)
	var singles pipeline.SingleStore
	if !cfg.NoHistory {
		singles = func(ctx context.Context, receipts []tasks.Receipt) error {
			return w.history.Record(ctx, receipts, cfg.HistoryKeep)
		}
	}
	receipts := pipeline.NewReceiptBatcher(batch.NewStore(w.rdb), singles, w.notifier.Completed, w.log)
	w.pipeline, err = pipeline.New(pipeline.Config{
		Jobs: handlers, DeadLetters: w.letters, Requeue: pipeline.NewRequeue(asynq.NewClientFromRedisClient(w.rdb)), Waited: pipeline.NewWaited(w.rdb), Receipts: receipts,
		Policy: cfg.Policy, Observe: func(e pipeline.Event) { w.metrics.countAttempt(e); cfg.Observe(e) }, Logger: w.log, NoSuccesses: cfg.LogNoSuccesses,
		Cancelled: w.isCancelled, Held: w.isHeld, TracerProvider: cfg.TracerProvider, PutBackAt: pipeline.NewPutBackAt(w.rdb),
	})
	if err != nil {
		return err
	}
	w.repairer, err = recovery.New(recovery.Config{
		Redis: w.rdb, Parker: w.letters, IndexDeath: w.letters.IndexDeath, Receipts: receipts, MaxCrashes: cfg.MaxCrashes, Hold: w.clock.Wrong,
		Logger: w.log.Named("recovery"), OnRepair: w.metrics.countRepairs,
	})
	if err != nil {
		return err
	}
	w.queues.AddHook(asynqx.SyncerHook())
	w.queues.AddHook(asynqx.RecovererHook())
	w.queues.AddHook(asynqx.HoldHook(w.holds))
	w.queues.AddHook(asynqx.ForwardHook(w.queues, slices.Collect(maps.Keys(tasks.QueueWeights()))))
	w.fetcher = fetch.New(fetch.Config{
		Redis: w.queues, Queues: tasks.QueueWeights(), Slots: cfg.Concurrency, Watch: singleQueues(), Poll: pollEvery, Hold: w.holds, Halt: w.clock.Wrong, Logger: w.log.Named("fetch"),
	})
	w.queues.AddHook(w.fetcher.Hook())
	w.queues.AddHook(asynqx.CoalesceHook(w.queues))
	if cfg.AdminAddr != "" {
		w.admin = admin.New(admin.Config{
			Addr: cfg.AdminAddr, Gatherer: cfg.Registry, Logger: cfg.Logger, Checks: map[string]admin.Check{"redis": w.ping, "clock": w.clock.Check},
		})
	}
	return nil
}

// retryJitter is the random part of the delay of a task that the gate has refused.
// It can be short: a task waits at the gate first, so few are refused at a time.
const retryJitter = 2 * time.Second

// logBreaker logs each change of the breaker. The gate calls it under its lock.
func logBreaker(log *zap.Logger) func(kind gate.Kind, from, to gate.State, reason tasks.Reason) {
	return func(kind gate.Kind, from, to gate.State, reason tasks.Reason) {
		fields := []zap.Field{zap.String("call", string(kind)), zap.Stringer("from", from), zap.Stringer("to", to), zap.String("reason", string(reason))}
		switch {
		case from == gate.Closed:
			log.Error("KooDrive cannot be used: all calls stop, except for a probe now and then; no task is charged", fields...)
		case to == gate.Closed:
			log.Info("KooDrive can be used again: calls resume, slowly at first", fields...)
		default:
			log.Debug("the breaker changed", fields...)
		}
	}
}

// Close closes a worker that does not run. Run closes its worker at its end.
func (w *Worker) Close() {
	for _, client := range []redis.UniversalClient{w.queues, w.rdb} {
		if err := client.Close(); err != nil {
			w.log.Debug("close Redis", zap.Error(err))
		}
	}
}

// AdminAddr returns the address of the admin server, once Run has started it. If
// the port in Config.AdminAddr is 0, it has the port that was chosen.
func (w *Worker) AdminAddr() string {
	if w.admin == nil {
		return ""
	}
	return w.admin.Addr()
}

// Run consumes tasks until ctx ends. Then it stops as the package comment says, and
// returns nil. An error means that it could not start. Run can be called once.
func (w *Worker) Run(ctx context.Context) error {
	// asynq panics if its client is closed while a server still uses it.
	serverStopped := true
	defer func() {
		if serverStopped {
			w.Close()
		}
	}()
	defer w.koodrive.CloseIdleConnections()
	if w.cfg.Webhook != nil {
		defer w.cfg.Webhook.CloseIdleConnections()
	}

	// 1. The admin server: it says that the process is alive, though not ready.
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

	// 3. The background work. It stops after the server.
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer func() { stopBackground(); wg.Wait() }()
	wg.Go(func() { w.outage.Run(background) })
	_ = w.clock.Measure(ctx) // otherwise the clock counts as wrong until Run has measured it
	w.readStops(ctx)         // before the first task is taken
	wg.Go(func() { w.followStops(background) })
	if err := w.history.SetKeep(ctx, w.cfg.historyKeep()); err != nil {
		w.log.Warn("cannot tell the commands how long receipts of single orders are kept", zap.Error(err))
	}
	wg.Go(func() { w.clock.Run(background) })
	wg.Go(func() { w.pauses.run(background) })
	wg.Go(func() { w.fleet.Run(background) })
	wg.Go(func() { w.fleet.Publish(background, newReporter(w).report) })
	wg.Go(func() { w.gate.Pace(background) })
	wg.Go(func() { _ = w.repairer.Run(background) }) // it returns nil
	wg.Go(func() { w.notifier.Run(background) })
	wg.Go(func() { w.housekeep(background) })
	wg.Go(func() { w.overview.Run(background) })
	for _, source := range w.cfg.Sources {
		wg.Go(func() { source.Heartbeat(background) })
	}

	// 4. The asynq server, and what fetches its tasks. The gate stops before them, so that
	// tasks that wait for a permit end at once.
	inFlight, cutShort := context.WithCancel(context.WithoutCancel(ctx))
	defer cutShort()
	fetching, stopFetching := context.WithCancel(background)
	fetched := make(chan struct{})
	go func() {
		defer close(fetched)
		w.fetcher.Run(fetching)
		w.fetcher.Close(background)
	}()
	server := asynq.NewServerFromRedisClient(w.queues, w.serverConfig())
	defer func() {
		w.gate.Stop()
		w.fetcher.Stop()
		stopFetching()
		serverStopped = w.stop(server, cutShort)
		<-fetched
	}()
	handler := dispatcher{w.pipeline, w.letters, recovery.NewSuspects(w.rdb, w.cfg.Concurrency/suspectsShare), inFlight, w.fetcher, w.pauses}
	if err := server.Start(handler); err != nil {
		return fmt.Errorf("start the asynq server: %w", err)
	}

	// 5. Ready.
	if w.admin != nil {
		w.admin.SetReady(true)
		defer w.admin.SetReady(false)
	}
	w.log.Info("worker is running", zap.Int("concurrency", w.cfg.Concurrency), zap.String("koodrive", w.cfg.KooDrive.BaseURL))
	<-ctx.Done()
	w.log.Info("stopping: no more tasks are taken", zap.Duration("shutdown_timeout", w.cfg.ShutdownTimeout))
	return nil
}

// suspectsShare is the share of the slots in which suspects may wait in place for
// their turn, for a second at most: one of two. Those that find no room come back a second
// later.
const suspectsShare = 2

// stopGrace is how long after ShutdownTimeout the stop ends whatever Redis does.
// asynq's last calls to Redis have no common time limit. If Redis hangs, they could
// take so long that the process is killed first.
const stopGrace = 5 * time.Second

// hurriedWait is how long tasks in flight have after Config.Hurry. Most calls take
// less, and need not be repeated.
const hurriedWait = 2 * time.Second

// stop shuts the server down. It returns whether it is down. If not, its tasks run again
// when their leases have expired.
func (w *Worker) stop(server *asynq.Server, cutShort func()) (stopped bool) {
	done := make(chan struct{})
	go func() { server.Shutdown(); close(done) }()
	limit, cancel := context.WithTimeout(context.Background(), w.cfg.ShutdownTimeout+stopGrace)
	defer cancel()
	go func() {
		select {
		case <-limit.Done():
		case <-w.cfg.Hurry:
			w.log.Warn("told to hurry: tasks in flight are put back soon", zap.Duration("wait", hurriedWait))
			time.AfterFunc(hurriedWait, cutShort)
			time.AfterFunc(hurriedWait+stopGrace, cancel)
		}
	}()
	select {
	case <-done:
		w.log.Info("stopped")
		return true
	case <-limit.Done():
		w.log.Error("stopped before asynq was done: Redis does not answer; unfinished tasks run again when their leases have expired")
		return false
	}
}

// handlers returns how many tasks the asynq server has at a time: as many as are worked on, and
// some whose outcome is on its way to Redis. If Redis is far away, that takes longer than
// a fast call.
func handlers(concurrency int) int {
	const enough = 128 // outcomes for thousands of tasks a second
	return concurrency + min(2*concurrency, max(concurrency, enough))
}

func (w *Worker) serverConfig() asynq.Config {
	return asynq.Config{
		Concurrency:              handlers(w.cfg.Concurrency),
		Queues:                   tasks.QueueWeights(),
		StrictPriority:           true, // package fetch takes turns; asynq would shuffle the queues for each task
		TaskCheckInterval:        taskCheckInterval,
		DelayedTaskCheckInterval: delayedCheckInterval,
		ShutdownTimeout:          w.cfg.ShutdownTimeout,
		RetryDelayFunc:           pipeline.RetryDelay,
		IsFailure:                pipeline.IsFailure,
		Logger:                   asynqx.NewLogger(w.outage.Library()),
		LogLevel:                 asynq.InfoLevel,
	}
}
