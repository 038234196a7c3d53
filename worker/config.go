package worker

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/recovery"
	"github.com/kooworker/kooworker/worker/webhook"
)

// Config is what a worker needs. Redis, KooDrive and Releases are required; a zero
// in any other field means its default.
type Config struct {
	// Redis makes a client of the queue's Redis, which should honour contexts
	// (ContextTimeoutEnabled) and hold PoolSize connections. The worker makes two,
	// one for itself and one for the asynq servers, whose scripts must not be
	// cancelled; it closes both at the end of Run.
	Redis func() redis.UniversalClient
	// KooDrive tells how to reach the API. Its Concurrency is set by the worker.
	KooDrive koodrive.Config
	// Releases enqueues the releases of sweeps: an *enqueue.Client over the same
	// Redis.
	Releases locks.ReleaseEnqueuer
	// Sources are where locks are known besides the ledger, one of a kind. Default:
	// none.
	Sources []*locks.External
	// LedgerKeep is how long it is remembered what was swept: of the ledger, from
	// its expiry, and of Sources, from when it was last seen there. Default 30 days.
	LedgerKeep time.Duration
	// Webhook is told of each batch that is complete. Default: nobody.
	Webhook *webhook.Sender

	// Concurrency is the number of tasks worked on at a time. 1 to 10,000.
	// Default 64.
	Concurrency int
	// Pollers is the number of asynq servers that share the concurrency; more
	// than Concurrency are not started. 1 to 256. Default 8.
	Pollers int
	// Rate is the most calls a second that all workers over this Redis make
	// together. Default 0: no limit.
	Rate float64
	// MaxInFlight is the most calls that this worker has under way at a time.
	// Default 0: as many as Concurrency.
	MaxInFlight int
	// MaxCrashes is the number of workers that a task may kill before it is
	// dead. Default recovery.DefaultMaxCrashes.
	MaxCrashes int
	// Policy decides about repetition. Default pipeline.DefaultPolicy.
	Policy *pipeline.Policy
	// GuardAfter is the age from which an unbind is checked against a newer
	// binding. Default jobs.DefaultGuardAfter.
	GuardAfter time.Duration

	// StrictRedis refuses to start on a Redis that evicts keys, persists
	// nothing, is older than 6.2, or does not tell. Default false: it is said loudly.
	StrictRedis bool

	// AdminAddr is where /healthz, /readyz and /metrics are served, as
	// host:port. Empty: nowhere.
	AdminAddr string
	// StartupTimeout bounds the wait for Redis at the start. Default 30 s.
	StartupTimeout time.Duration
	// ShutdownTimeout is how long tasks in flight may go on after the stop.
	// Default 25 s.
	ShutdownTimeout time.Duration
	// Hurry shortens a stop when it is closed: tasks in flight have 2 s more then.
	Hurry <-chan struct{}

	// Logger receives everything, asynq's own lines included. Default: none.
	Logger *zap.Logger
	// Registry is where metrics are registered and /metrics reads them.
	// Default: a new one, with Go's and the process's own metrics.
	Registry *prometheus.Registry
	// Observer is told of every attempt, besides the metrics. Default: nobody.
	Observer pipeline.Observer
}

// Defaults of Config.
const (
	DefaultConcurrency     = 64
	DefaultPollers         = 8
	DefaultStartupTimeout  = 30 * time.Second
	DefaultShutdownTimeout = 25 * time.Second
)

// How often the servers look. asynq's own 1 s and 5 s would let a task wait for
// half a second on an idle worker, and a retry for up to five.
const (
	taskCheckInterval    = 100 * time.Millisecond
	delayedCheckInterval = time.Second
)

// PoolSize is the number of connections that a worker of this size keeps busy
// at most with one Redis client: one for each task that is settling, and for each poller its
// dequeue, heartbeat, lease, forwarder and janitor.
func PoolSize(concurrency, pollers int) int { return concurrency + 5*pollers + 5 }

func (c Config) withDefaults() Config {
	c.Concurrency = cmp.Or(c.Concurrency, DefaultConcurrency)
	c.Pollers = cmp.Or(c.Pollers, DefaultPollers)
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
	if c.Registry == nil {
		c.Registry = newRegistry()
	}
	c.KooDrive.Concurrency = c.Concurrency
	return c
}

func (c Config) validate() error {
	const maxConcurrency, maxPollers = 10_000, 256
	switch {
	case c.Redis == nil:
		return errors.New("worker: Config.Redis is required")
	case c.Releases == nil:
		return errors.New("worker: Config.Releases is required; see enqueue.New")
	case c.Concurrency < 1 || c.Concurrency > maxConcurrency:
		return fmt.Errorf("worker: concurrency is %d; want 1 to %d", c.Concurrency, maxConcurrency)
	case c.Pollers < 1 || c.Pollers > maxPollers:
		return fmt.Errorf("worker: pollers is %d; want 1 to %d", c.Pollers, maxPollers)
	case c.StartupTimeout < 0:
		return fmt.Errorf("worker: startup timeout is %s; want more than 0", c.StartupTimeout)
	case c.ShutdownTimeout < time.Second:
		return fmt.Errorf("worker: shutdown timeout is %s; want at least 1s", c.ShutdownTimeout)
	}
	return nil
}

// shares divides the concurrency among the pollers, as evenly as it goes.
func shares(concurrency, pollers int) []int {
	pollers = min(pollers, concurrency)
	out := make([]int, pollers)
	for i := range out {
		out[i] = concurrency / pollers
		if i < concurrency%pollers {
			out[i]++
		}
	}
	return out
}
