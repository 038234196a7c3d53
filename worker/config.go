package worker

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/recovery"
	"github.com/kooworker/kooworker/worker/webhook"
)

// Config is what a worker needs. Redis, KooDrive and Releases are required. A zero
// in any other field means its default.
type Config struct {
	// Redis makes a client for the queue's Redis. The client should honour contexts
	// (ContextTimeoutEnabled) and hold PoolSize connections. The worker makes two
	// clients, one for itself and one for the asynq servers, whose scripts must not
	// be cancelled. It closes both at the end of Run.
	Redis func() redis.UniversalClient
	// KooDrive says how to reach the API. The worker sets its Concurrency, its
	// TracerProvider and its Observe.
	KooDrive koodrive.Config
	// Releases enqueues the releases of sweeps: an *enqueue.Client over the same
	// Redis.
	Releases locks.ReleaseEnqueuer
	// Sources list locks that are not in the lock ledger, at most one of each kind.
	// Default: none.
	Sources []*locks.External
	// LedgerKeep is how long a swept lock is remembered: a lock of the lock ledger
	// from its expiry, and a lock of Sources from when it was last seen there.
	// Default 30 days.
	LedgerKeep time.Duration
	// HistoryKeep is how long the receipts of tasks outside any batch are kept. A minute to
	// ten years. Default history.DefaultKeep.
	HistoryKeep time.Duration
	// NoHistory: tasks outside any batch get no receipts. Default false.
	NoHistory bool
	// Webhook announces each complete batch. Default: none.
	Webhook *webhook.Sender

	// Concurrency is the maximum number of calls in flight, and of tasks that are worked on
	// at a time, but for a few that get ready. Some outcomes may be on their way to Redis
	// meanwhile. 1 to 10,000. Default 64.
	Concurrency int
	// Rate is the maximum of calls a second that all workers over this Redis make
	// together. Default 0: no limit.
	Rate float64
	// MaxInFlight is the maximum number of calls that this worker has in flight.
	// Default 0: as many as Concurrency.
	MaxInFlight int
	// MaxCrashes is the number of workers that a task may kill before it is dead; see
	// package recovery. Default recovery.DefaultMaxCrashes.
	MaxCrashes int
	// Policy decides how often a task is tried. Default pipeline.DefaultPolicy.
	Policy *pipeline.Policy
	// GuardAfter is the age from which an unbind is guarded: the worker first checks
	// whether the user has bound the device again. Default jobs.DefaultGuardAfter.
	GuardAfter time.Duration

	// StrictRedis refuses to start on a Redis that evicts keys, persists nothing, is
	// older than 6.2, or does not tell. Default false: it is logged as an error.
	StrictRedis bool

	// AdminAddr is the address (host:port) of /healthz, /readyz and /metrics.
	// Default: they are not served.
	AdminAddr string
	// StartupTimeout bounds the wait for Redis at the start. Default 30 s.
	StartupTimeout time.Duration
	// ShutdownTimeout is how long tasks in flight may run after the stop.
	// Default 25 s.
	ShutdownTimeout time.Duration
	// Hurry shortens a stop when it is closed: tasks in flight have 2 s more then.
	// Default: nothing does.
	Hurry <-chan struct{}

	// Version and Revision say which build runs, for operators. Default: "devel" and
	// "unknown".
	Version, Revision string
	// Logger gets all log lines, those of asynq included. Default: none.
	Logger *zap.Logger
	// LogNoSuccesses: no line is logged for a task that is done, or was already.
	// Default false.
	LogNoSuccesses bool
	// TracerProvider makes the spans of attempts, of the waits before them, and of calls; see
	// package internal/tracing for what is in them. Default: there are none.
	TracerProvider trace.TracerProvider
	// Registry holds the metrics, which /metrics serves. Default: NewRegistry.
	Registry *prometheus.Registry
	// Observe is called with each attempt, as the metrics are. It must not block.
	// Default: nothing is called.
	Observe func(pipeline.Event)
}

// Defaults of Config.
const (
	DefaultConcurrency     = 64
	DefaultStartupTimeout  = 30 * time.Second
	DefaultShutdownTimeout = 25 * time.Second
)

// How often an idle worker looks for tasks where Redis does not tell it, and any worker for
// retries that are due. With asynq's defaults of 1 s and 5 s a task would wait half a
// second, and a retry up to five seconds. asynq asks package fetch again at once: it is
// that which waits for a task.
const (
	pollEvery            = 20 * time.Millisecond
	taskCheckInterval    = time.Millisecond
	delayedCheckInterval = time.Second
)

// PoolSize is the maximum number of connections that a worker of this size uses of
// one Redis client: one for each task, and some for what goes on beside them.
func PoolSize(concurrency int) int { return concurrency + 10 }

func (c Config) withDefaults() Config {
	c.Concurrency = cmp.Or(c.Concurrency, DefaultConcurrency)
	c.HistoryKeep = cmp.Or(c.HistoryKeep, history.DefaultKeep)
	c.Version, c.Revision = cmp.Or(c.Version, "devel"), cmp.Or(c.Revision, "unknown")
	c.MaxCrashes = cmp.Or(c.MaxCrashes, recovery.DefaultMaxCrashes)
	c.StartupTimeout = cmp.Or(c.StartupTimeout, DefaultStartupTimeout)
	c.ShutdownTimeout = cmp.Or(c.ShutdownTimeout, DefaultShutdownTimeout)
	if c.Policy == nil {
		policy := pipeline.DefaultPolicy()
		c.Policy = &policy
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Observe == nil {
		c.Observe = func(pipeline.Event) {}
	}
	if c.Registry == nil {
		c.Registry = NewRegistry(c.Version, c.Revision)
	}
	c.KooDrive.Concurrency, c.KooDrive.TracerProvider = c.Concurrency, c.TracerProvider
	return c
}

func (c Config) validate() error {
	const maxConcurrency = 10_000
	switch {
	case c.Redis == nil:
		return errors.New("worker: Config.Redis is required")
	case c.Releases == nil:
		return errors.New("worker: Config.Releases is required; see enqueue.New")
	case c.Concurrency < 1 || c.Concurrency > maxConcurrency:
		return fmt.Errorf("worker: concurrency is %d; want 1 to %d", c.Concurrency, maxConcurrency)
	case c.StartupTimeout < 0:
		return fmt.Errorf("worker: startup timeout is %s; want more than 0", c.StartupTimeout)
	case c.ShutdownTimeout < time.Second:
		return fmt.Errorf("worker: shutdown timeout is %s; want at least 1s", c.ShutdownTimeout)
	}
	if err := history.CheckKeep(c.HistoryKeep); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	return nil
}

// historyKeep is how long receipts of single orders are kept.
func (c Config) historyKeep() time.Duration {
	if c.NoHistory {
		return history.Off
	}
	return c.HistoryKeep
}
