package main

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/alecthomas/kong"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/recovery"
	"github.com/kooworker/kooworker/worker/redischeck"
)

type workerCmd struct {
	KooDrive koodriveFlags `embed:""`
	Retry    retryFlags    `embed:""`
	Webhook  webhookFlags  `embed:""`

	WithScheduler bool          `name:"with-scheduler" group:"sweep" help:"Run the scheduler of sweeps in this process as well."`
	Schedule      scheduleFlags `embed:""`
	LedgerKeep    time.Duration `name:"ledger-keep" group:"sweep" default:"720h" placeholder:"DURATION" help:"Remember locks that were swept for this long (${default})."`

	Concurrency     int           `default:"${concurrency}" placeholder:"N" help:"Tasks worked on at a time (${default})."`
	Pollers         int           `default:"${pollers}" placeholder:"N" help:"asynq servers that share the concurrency; more of them take tasks from a distant Redis faster (${default})."`
	AdminAddr       string        `name:"admin-addr" placeholder:"HOST:PORT" help:"Serve /healthz, /readyz and /metrics here; without it nowhere."`
	MaxInFlight     int           `name:"max-in-flight" placeholder:"N" help:"Calls to KooDrive under way at a time, in this process; 0 is as many as --concurrency."`
	MaxCrashes      int           `name:"max-crashes" default:"${max_crashes}" placeholder:"N" help:"Workers that a task may kill before it is dead (${default})."`
	GuardAfter      time.Duration `name:"guard-after" default:"${guard_after}" help:"Before an unbind older than this, look whether its user has bound the device again (${default})."`
	StrictRedis     bool          `name:"strict-redis" help:"Refuse to start on a Redis that evicts keys, persists nothing, or is older than 6.2; otherwise the log says so."`
	StartupTimeout  time.Duration `name:"startup-timeout" default:"${startup_timeout}" help:"Wait for Redis at the start (${default})."`
	ShutdownTimeout time.Duration `name:"shutdown-timeout" default:"${shutdown_timeout}" help:"Let tasks in flight go on after SIGTERM; the rest is put back uncharged (${default})."`
}

// retryFlags make up the policy.
type retryFlags struct {
	MaxAttempts int            `name:"max-attempts" group:"retry" default:"${max_attempts}" placeholder:"N" help:"Failed attempts after which a task is dead (${default})."`
	Attempts    map[string]int `group:"retry" mapsep:"," default:"${attempts}" placeholder:"REASON=N" help:"Smaller budgets of single reasons (${default})."`
	First       time.Duration  `name:"backoff-first" group:"retry" default:"${backoff_first}" help:"Delay after the first failed attempt, at least 1s (${default})."`
	Factor      float64        `name:"backoff-factor" group:"retry" default:"${backoff_factor}" placeholder:"F" help:"Each further delay is so many times longer (${default})."`
	Jitter      float64        `name:"backoff-jitter" group:"retry" default:"${backoff_jitter}" placeholder:"F" help:"Share by which a delay varies at random, 0 to less than 1 (${default})."`
	Cap         time.Duration  `name:"backoff-max" group:"retry" default:"${backoff_max}" help:"Longest delay, before the jitter (${default})."`
	ThrottleMin time.Duration  `name:"throttle-min" group:"retry" default:"${throttle_min}" help:"Least wait when KooDrive throttles without Retry-After (${default})."`
	ThrottleMax time.Duration  `name:"throttle-max" group:"retry" default:"${throttle_max}" help:"Longest such wait (${default})."`
	Pause       time.Duration  `group:"retry" default:"${pause}" help:"Wait, give or take a half, when the credential is refused or the answer is not KooDrive's (${default})."`
}

// vars are the defaults that the packages decide.
func vars() kong.Vars {
	p := pipeline.DefaultPolicy()
	return kong.Vars{
		"concurrency":      itoa(worker.DefaultConcurrency),
		"pollers":          itoa(worker.DefaultPollers),
		"max_crashes":      itoa(recovery.DefaultMaxCrashes),
		"grace":            short(locks.DefaultGrace),
		"max_locks":        itoa(locks.DefaultMax),
		"max_share":        ftoa(locks.DefaultMaxShare),
		"guard_after":      short(pipeline.DefaultGuardAfter),
		"startup_timeout":  short(worker.DefaultStartupTimeout),
		"shutdown_timeout": short(worker.DefaultShutdownTimeout),
		"max_attempts":     itoa(p.MaxAttempts),
		"attempts":         attemptsText(p.Attempts),
		"backoff_first":    short(p.Backoff.First),
		"backoff_factor":   ftoa(p.Backoff.Factor),
		"backoff_jitter":   ftoa(p.Backoff.Jitter),
		"backoff_max":      short(p.Backoff.Cap),
		"throttle_min":     short(p.ThrottleMin),
		"throttle_max":     short(p.ThrottleMax),
		"pause":            short(p.Pause),
	}
}

func (f retryFlags) policy() *pipeline.Policy {
	p := pipeline.Policy{
		MaxAttempts: f.MaxAttempts,
		Attempts:    make(map[tasks.Reason]int, len(f.Attempts)),
		Backoff:     pipeline.Backoff{First: f.First, Factor: f.Factor, Jitter: f.Jitter, Cap: f.Cap},
		ThrottleMin: f.ThrottleMin, ThrottleMax: f.ThrottleMax, Pause: f.Pause,
	}
	for reason, n := range f.Attempts {
		p.Attempts[tasks.Reason(reason)] = n
	}
	return &p
}

// check refuses zeros, which would mean the default in worker.Config and which
// nobody meant who wrote them, and an address that cannot be one.
func (c *workerCmd) check() error {
	for _, f := range []struct {
		flag string
		zero bool
	}{
		{"--concurrency", c.Concurrency == 0}, {"--pollers", c.Pollers == 0}, {"--max-crashes", c.MaxCrashes == 0},
		{"--max-attempts", c.Retry.MaxAttempts == 0}, {"--guard-after", c.GuardAfter == 0},
		{"--startup-timeout", c.StartupTimeout == 0}, {"--shutdown-timeout", c.ShutdownTimeout == 0},
	} {
		if f.zero {
			return usagef("%s: want more than 0", f.flag)
		}
	}
	if c.AdminAddr == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(c.AdminAddr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return usagef("--admin-addr: %q is no address; want host:port, such as 127.0.0.1:8080 or :8080", c.AdminAddr)
	}
	return nil
}

// Run implements the command.
func (c *workerCmd) Run(a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	api, err := c.KooDrive.config()
	if err != nil {
		return err
	}
	log := a.flags.Log.logger(a.stderr)
	newRedis, err := a.flags.Redis.factory(worker.PoolSize(c.Concurrency, c.Pollers))
	if err != nil {
		return err
	}
	hook, err := c.Webhook.sender()
	if err != nil {
		return err
	}
	sources, err := c.Schedule.Source.open()
	if err != nil {
		return err
	}
	defer closeSources(sources)
	shared := newRedis()
	defer func() { _ = shared.Close() }()
	producer, err := enqueue.New(enqueue.Config{Redis: shared})
	if err != nil {
		return usageError{err}
	}
	w, err := worker.New(worker.Config{
		Redis: newRedis, KooDrive: api, Logger: log, Ledger: batch.NewStore(shared), Producer: producer, Webhook: hook,
		Locks: enqueuelocks.NewStore(shared), Sources: listed(shared, sources), LedgerKeep: c.LedgerKeep,
		Concurrency: c.Concurrency, Pollers: c.Pollers, Policy: c.Retry.policy(), GuardAfter: c.GuardAfter, Rate: c.KooDrive.Rate, MaxInFlight: c.MaxInFlight, MaxCrashes: c.MaxCrashes,
		AdminAddr: c.AdminAddr, StrictRedis: c.StrictRedis, StartupTimeout: c.StartupTimeout, ShutdownTimeout: c.ShutdownTimeout,
	})
	if err != nil {
		return usageError{err}
	}
	ctx, stop := context.WithCancel(a.ctx)
	defer stop()
	if err := checkSources(ctx, sources); err != nil {
		log.Error("sweeps and releases wait until this is put right", zap.Error(err))
	}
	if c.WithScheduler {
		ended, err := c.Schedule.start(ctx, shared, log)
		if err != nil {
			return err
		}
		defer func() { stop(); <-ended }()
	}
	err = w.Run(ctx)
	if _, unfit := errors.AsType[*redischeck.Error](err); unfit {
		return usageError{err}
	}
	return err
}
