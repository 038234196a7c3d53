package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/redisurl"
	"github.com/kooworker/kooworker/cmd/kooworker/internal/telemetry"
	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker"
	"github.com/kooworker/kooworker/worker/jobs"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/recovery"
	"github.com/kooworker/kooworker/worker/redischeck"
	"github.com/kooworker/kooworker/worker/webhook"
)

type workerCmd struct {
	KooDrive koodriveFlags `embed:"" group:"koodrive"`
	Retry    retryFlags    `embed:"" group:"retry"`
	Webhook  webhookFlags  `embed:"" group:"webhook"`

	WithScheduler bool          `name:"with-scheduler" group:"sweep" help:"Run the scheduler of sweeps in this process as well."`
	Schedule      scheduleFlags `embed:""`
	LedgerKeep    time.Duration `name:"ledger-keep" group:"sweep" default:"30d" placeholder:"DURATION" help:"Remember swept locks for this long (${default})."`

	Concurrency     int           `group:"tasks" default:"${concurrency}" placeholder:"N" help:"Tasks that are worked on at a time (${default})."`
	Pollers         int           `hidden:"" placeholder:"N" help:"Without effect: one server fetches many tasks in a round trip. It is accepted so that old command lines still work."`
	LogSuccesses    bool          `name:"log-successes" group:"log" default:"true" negatable:"" help:"Log a line for each task that is done; --log-successes=false leaves them out."`
	HistoryKeep     time.Duration `name:"keep" env:"KOOWORKER_HISTORY_KEEP" group:"tasks" default:"30d" placeholder:"DURATION" help:"Keep the receipts of single orders for this long, for kooworker history (${default}). Batches have a --keep of their own."`
	NoHistory       bool          `name:"no-history" group:"tasks" help:"Write no receipts of single orders."`
	AdminAddr       string        `name:"admin-addr" group:"tasks" placeholder:"HOST:PORT" help:"Serve /healthz, /readyz and /metrics here. Default: they are not served."`
	MaxInFlight     int           `name:"max-in-flight" group:"koodrive" placeholder:"N" help:"Calls to KooDrive that run at a time, in this process; 0 is as many as --concurrency."`
	MaxCrashes      int           `name:"max-crashes" group:"tasks" default:"${max_crashes}" placeholder:"N" help:"Workers that a task may crash in a row, as the only suspect in flight, before it is dead (${default})."`
	GuardAfter      time.Duration `name:"guard-after" group:"tasks" default:"${guard_after}" help:"Before an unbind older than this, check whether its user has bound the device again (${default})."`
	StrictRedis     bool          `name:"strict-redis" group:"redis" help:"Refuse to start on a Redis that evicts keys, does not persist its data, is older than 6.2, or does not tell: its user must be allowed INFO and CONFIG GET. Default: only the log says so."`
	StartupTimeout  time.Duration `name:"startup-timeout" group:"redis" default:"${startup_timeout}" help:"Wait this long for Redis at the start (${default})."`
	ShutdownTimeout time.Duration `name:"shutdown-timeout" group:"tasks" default:"${shutdown_timeout}" help:"Let tasks in flight run this long after SIGTERM, and 2s after a second one; the others are put back, uncharged (${default})."`
}

// retryFlags make up the policy.
type retryFlags struct {
	MaxAttempts int                  `name:"max-attempts" default:"${max_attempts}" placeholder:"N" help:"Failed attempts after which a task is dead (${default})."`
	Attempts    map[tasks.Reason]int `mapsep:"," default:"${attempts}" placeholder:"REASON=N" help:"Smaller budgets for single reasons (${default})."`
	First       time.Duration        `name:"backoff-first" default:"${backoff_first}" help:"Delay after the first failed attempt, at least 1s (${default})."`
	Factor      float64              `name:"backoff-factor" default:"${backoff_factor}" placeholder:"F" help:"How many times longer each further delay is (${default})."`
	Jitter      float64              `name:"backoff-jitter" default:"${backoff_jitter}" placeholder:"F" help:"Share by which a delay varies at random, 0 to less than 1 (${default})."`
	Cap         time.Duration        `name:"backoff-max" default:"${backoff_max}" help:"Longest delay, before the jitter (${default})."`
	ThrottleMin time.Duration        `name:"throttle-min" default:"${throttle_min}" help:"Shortest wait when KooDrive throttles without Retry-After (${default})."`
	ThrottleMax time.Duration        `name:"throttle-max" default:"${throttle_max}" help:"Longest wait then (${default})."`
	Pause       time.Duration        `default:"${pause}" help:"Wait, plus or minus a half, when the credential is refused or the answer is not KooDrive's (${default})."`
	MaxWait     time.Duration        `name:"max-wait" default:"${max_wait}" help:"A task is dead when it has waited this long for something other than KooDrive and Redis, such as a source of locks that no worker has (${default})."`
}

// webhookFlags say where complete batches are announced.
type webhookFlags struct {
	URL     string        `name:"webhook-url" env:"KOOWORKER_WEBHOOK_URL" placeholder:"URL" help:"POST to this URL when a batch is complete. Give all workers of a Redis the same URL."`
	Timeout time.Duration `name:"webhook-timeout" env:"KOOWORKER_WEBHOOK_TIMEOUT" default:"10s" help:"Time-out of one POST (${default})."`

	InsecureHTTP bool `name:"webhook-insecure-http" env:"KOOWORKER_WEBHOOK_INSECURE_HTTP" help:"Allow plain HTTP to another machine."`
}

const webhookHelp = `Webhooks are signed as the Standard Webhooks specification says. The secret is in KOOWORKER_WEBHOOK_SECRET, or in the file that KOOWORKER_WEBHOOK_SECRET_FILE names, which is read again when it changes.`

// sender returns nil if there is no webhook.
func (f webhookFlags) sender() (*webhook.Sender, error) {
	if f.URL == "" {
		return nil, nil
	}
	secret, err := fromEnv([]variable[webhook.SecretSource]{
		{"KOOWORKER_WEBHOOK_SECRET", webhook.StaticSecret},
		{"KOOWORKER_WEBHOOK_SECRET_FILE", webhook.SecretFile},
	})
	if err != nil {
		return nil, fmt.Errorf("--webhook-url: %w", err)
	}
	sender, err := webhook.New(webhook.Config{
		URL: f.URL, Secret: secret, Timeout: f.Timeout, InsecureHTTP: f.InsecureHTTP, UserAgent: "kooworker/" + build().Version,
	})
	if err != nil {
		return nil, usagef("--webhook-url: %w", err)
	}
	return sender, nil
}

// fillDefaults puts the defaults that the packages decide into the flags. As kong.Vars they
// would make up half the time that it takes to begin a command: kong looks at each variable
// for each flag.
func fillDefaults(parser *kong.Kong) error {
	var pairs []string
	for name, value := range defaults() {
		pairs = append(pairs, "${"+name+"}", value)
	}
	filled := strings.NewReplacer(pairs...)
	return kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		if value, ok := node.(*kong.Value); ok {
			value.Default, value.Help = filled.Replace(value.Default), filled.Replace(value.Help)
		}
		return next(nil)
	})
}

// defaults returns the defaults of flags that the packages decide.
func defaults() map[string]string {
	p := pipeline.DefaultPolicy()
	return map[string]string{
		"concurrency":      fmt.Sprint(worker.DefaultConcurrency),
		"max_reason":       fmt.Sprint(pauses.MaxReason),
		"max_crashes":      fmt.Sprint(recovery.DefaultMaxCrashes),
		"grace":            humanize.Duration(locks.DefaultGrace),
		"max_locks":        fmt.Sprint(locks.DefaultMax),
		"max_share":        fmt.Sprint(locks.DefaultMaxShare),
		"few_stale":        fmt.Sprint(locks.FewStale),
		"guard_after":      humanize.Duration(jobs.DefaultGuardAfter),
		"startup_timeout":  humanize.Duration(worker.DefaultStartupTimeout),
		"shutdown_timeout": humanize.Duration(worker.DefaultShutdownTimeout),
		"max_attempts":     fmt.Sprint(p.MaxAttempts),
		"attempts":         attemptsFlag(p.Attempts),
		"backoff_first":    humanize.Duration(p.Backoff.First),
		"backoff_factor":   fmt.Sprint(p.Backoff.Factor),
		"backoff_jitter":   fmt.Sprint(p.Backoff.Jitter),
		"backoff_max":      humanize.Duration(p.Backoff.Cap),
		"throttle_min":     humanize.Duration(p.ThrottleMin),
		"throttle_max":     humanize.Duration(p.ThrottleMax),
		"pause":            humanize.Duration(p.Pause),
		"max_wait":         humanize.Duration(p.MaxWait),
	}
}

// attemptsFlag writes budgets as the flag --attempts takes them.
func attemptsFlag(budgets map[tasks.Reason]int) string {
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(budgets)) {
		parts = append(parts, fmt.Sprintf("%s=%d", reason, budgets[reason]))
	}
	return strings.Join(parts, ",")
}

func (f retryFlags) policy() *pipeline.Policy {
	return &pipeline.Policy{
		MaxAttempts: f.MaxAttempts, Attempts: f.Attempts,
		Backoff:     pipeline.Backoff{First: f.First, Factor: f.Factor, Jitter: f.Jitter, Cap: f.Cap},
		ThrottleMin: f.ThrottleMin, ThrottleMax: f.ThrottleMax, Pause: f.Pause, MaxWait: f.MaxWait,
	}
}

// check refuses an address that cannot be one, and zeros. In worker.Config a zero
// means the default, which is not what somebody who writes 0 wants.
func (c *workerCmd) check() error {
	for _, f := range []struct {
		flag string
		zero bool
	}{
		{"--concurrency", c.Concurrency == 0}, {"--max-crashes", c.MaxCrashes == 0},
		{"--max-attempts", c.Retry.MaxAttempts == 0}, {"--guard-after", c.GuardAfter == 0},
		{"--keep", c.HistoryKeep == 0}, {"--startup-timeout", c.StartupTimeout == 0}, {"--shutdown-timeout", c.ShutdownTimeout == 0},
	} {
		if f.zero {
			return usagef("%s: want more than 0", f.flag)
		}
	}
	if c.AdminAddr == "" {
		return nil
	}
	return checkAdminAddr(c.AdminAddr)
}

// checkAdminAddr checks the flag --admin-addr.
func checkAdminAddr(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return usagef("--admin-addr: %q is not an address; want host:port, such as 127.0.0.1:8080 or :8080", addr)
	}
	return nil
}

// workerFlushTimeout is how long a worker waits for the collector of traces at its end. It has
// more spans to export than a command.
const workerFlushTimeout = 3 * time.Second

// Run implements the command.
func (c *workerCmd) Run(e *env) error {
	if err := c.check(); err != nil {
		return err
	}
	koodrive, err := c.KooDrive.config()
	if err != nil {
		return err
	}
	log := e.flags.Log.logger(e.stderr)
	hurry, stopSignals := workerSignals(log, func() { koodrive.Authorizer.Renew("") })
	defer stopSignals()
	if c.Pollers != 0 {
		log.Warn("--pollers has no effect any more: one server fetches many tasks in a round trip")
	}
	poolSize := worker.PoolSize(c.Concurrency)
	shared, err := e.redis(poolSize)
	if err != nil {
		return err
	}
	newRedis := func() redis.UniversalClient {
		client, _ := redisurl.Address(e.flags.Redis).Client(poolSize) // succeeds, as it did for shared
		return client
	}
	webhook, err := c.Webhook.sender()
	if err != nil {
		return err
	}
	sources, err := c.Schedule.Source.open()
	if err != nil {
		return err
	}
	defer closeSources(sources)
	traces := e.tracing(log, telemetry.Config{AlwaysID: koodrive.TraceHeader != "", FlushTimeout: workerFlushTimeout})
	producer, err := enqueue.New(enqueue.Config{Redis: shared, TracerProvider: traces})
	if err != nil {
		return usageError(err)
	}
	w, err := worker.New(worker.Config{
		Redis: newRedis, KooDrive: koodrive, Logger: log, Releases: producer, Webhook: webhook, Sources: lockSources(shared, sources), LedgerKeep: c.LedgerKeep,
		Concurrency: c.Concurrency, Policy: c.Retry.policy(), GuardAfter: c.GuardAfter, Rate: c.KooDrive.Rate, MaxInFlight: c.MaxInFlight, MaxCrashes: c.MaxCrashes,
		AdminAddr: c.AdminAddr, StrictRedis: c.StrictRedis, StartupTimeout: c.StartupTimeout, ShutdownTimeout: c.ShutdownTimeout, Hurry: hurry, LogNoSuccesses: !c.LogSuccesses,
		HistoryKeep: c.HistoryKeep, NoHistory: c.NoHistory, Version: build().Version, Revision: build().Commit, TracerProvider: traces,
	})
	if err != nil {
		return usageError(err)
	}
	adoptRedis(w.Outage().Library())
	ctx, stop := context.WithCancel(e.ctx)
	defer stop()
	if err := checkSources(ctx, sources); err != nil {
		log.Error("a source of locks cannot be read: its sweeps and releases wait until it can", zap.Error(err))
	}
	if c.WithScheduler {
		ended, err := c.Schedule.start(ctx, shared, w.Outage())
		if err != nil {
			return err
		}
		defer func() { stop(); <-ended }()
	}
	err = w.Run(ctx)
	if is[*redischeck.Error](err) {
		return usageError(err)
	}
	return err
}
