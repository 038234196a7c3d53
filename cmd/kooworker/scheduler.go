package main

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker"
	"github.com/kooworker/kooworker/worker/admin"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/outage"
	"github.com/kooworker/kooworker/worker/overview"
	"github.com/kooworker/kooworker/worker/redischeck"
)

// scheduleFlags say when stale locks are swept, and within which limits.
type scheduleFlags struct {
	Every time.Duration    `name:"sweep-every" group:"sweep" placeholder:"DURATION" help:"Time between sweeps, in whole seconds."`
	Cron  string           `name:"sweep-cron" group:"sweep" placeholder:"SPEC" help:"Sweep when this cron specification of five fields says so, such as '*/10 * * * *'."`
	From  tasks.SourceKind `name:"sweep-source" group:"sweep" enum:",ledger,file,sql" default:"" placeholder:"SOURCE" help:"Sweep the locks of this source: ledger, file or sql. Default: the one of --source-file or --source-dsn, else the ledger."`
	Zone  string           `name:"sweep-zone" group:"sweep" default:"UTC" placeholder:"ZONE" help:"Time zone of --sweep-cron, such as Europe/Berlin (${default})."`
	sweepFlags
	Source sourceFlags `embed:"" group:"source"`
}

type schedulerCmd struct {
	scheduleFlags
	AdminAddr string `name:"admin-addr" group:"sweep" placeholder:"HOST:PORT" help:"Serve /healthz, /readyz and /metrics here: the metrics of all workers together, also while none runs. Default: they are not served."`
}

// Run implements the command.
func (c *schedulerCmd) Run(e *env) error {
	rdb, err := e.redis(smallPool)
	if err != nil {
		return err
	}
	log := e.flags.Log.logger(e.stderr)
	away := outage.New(rdb, outage.Keys([]string{tasks.QueueSweep}), log)
	adoptRedis(away.Library())
	stopAdmin, err := c.serveAdmin(e.ctx, rdb, away.Logger())
	if err != nil {
		return err
	}
	defer stopAdmin()
	ended, err := c.start(e.ctx, rdb, away)
	if err != nil {
		return err
	}
	away.Run(e.ctx)
	<-ended
	log.Info("scheduler stopped")
	return nil
}

// serveAdmin serves the admin endpoints until stop, if an address is given.
func (c *schedulerCmd) serveAdmin(ctx context.Context, rdb redis.UniversalClient, log *zap.Logger) (stop func(), err error) {
	if c.AdminAddr == "" {
		return func() {}, nil
	}
	if err := checkAdminAddr(c.AdminAddr); err != nil {
		return nil, err
	}
	fleet := overview.NewShared(overview.SharedConfig{Redis: rdb, Grace: locks.DefaultGrace, Logger: log.Named("overview")})
	registry := worker.NewRegistry(build().Version, build().Commit)
	registry.MustRegister(fleet.Metrics())
	server := admin.New(admin.Config{
		Addr: c.AdminAddr, Gatherer: registry, Logger: log,
		Checks: map[string]admin.Check{"redis": func(ctx context.Context) error { return redischeck.Ping(ctx, rdb) }},
	})
	if err := server.Start(); err != nil {
		return nil, err
	}
	server.SetReady(true)
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() { defer close(ended); fleet.Run(ctx) }()
	return func() { cancel(); <-ended; server.Stop() }, nil
}

// start runs a scheduler until ctx ends, and then closes ended. While Redis cannot be
// reached it keeps trying.
func (f scheduleFlags) start(ctx context.Context, rdb redis.UniversalClient, away *outage.Watch) (ended <-chan struct{}, err error) {
	switch {
	case f.Every == 0 && f.Cron == "":
		return nil, usagef("want --sweep-every or --sweep-cron")
	case f.Every != 0 && f.Cron != "":
		return nil, usagef("--sweep-every, --sweep-cron: want one of them")
	case f.Cron == "" && f.Zone != "UTC":
		return nil, usagef("--sweep-zone: only with --sweep-cron")
	}
	zone, err := loadZone("--sweep-zone", f.Zone)
	if err != nil {
		return nil, err
	}
	from, err := f.Source.sourceToSweep(f.From)
	if err != nil {
		return nil, err
	}
	sweep, err := f.sweep(from)
	if err != nil {
		return nil, err
	}
	log := away.Logger().Named("scheduler")
	s, err := locks.NewScheduler(locks.SchedulerConfig{
		Redis: rdb, Schedule: locks.Schedule{Every: f.Every, Cron: f.Cron, Location: zone}, Sweep: sweep,
		Logger: log, AsynqLogger: asynqx.NewLogger(away.Library().Named("scheduler")),
	})
	if err != nil {
		return nil, usagef("--sweep-every, --sweep-cron: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		delays := backoff.NewExponentialBackOff(backoff.WithInitialInterval(500*time.Millisecond), backoff.WithMaxInterval(10*time.Second), backoff.WithMaxElapsedTime(0))
		_ = backoff.RetryNotify(func() error { return s.Run(ctx) }, backoff.WithContext(delays, ctx), func(err error, next time.Duration) {
			log.Warn("cannot schedule sweeps yet", zap.Error(err), zap.Duration("next_try", next))
		})
	}()
	return done, nil
}
