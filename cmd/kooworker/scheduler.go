package main

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks"
)

// scheduleFlags say when stale locks are swept, and within which rails.
type scheduleFlags struct {
	Every time.Duration `name:"sweep-every" group:"sweep" placeholder:"DURATION" help:"Sweep so often, in whole seconds."`
	Cron  string        `name:"sweep-cron" group:"sweep" placeholder:"SPEC" help:"Sweep when this cron specification of five fields says so, such as '*/10 * * * *'."`
	From  tasks.Source  `name:"sweep-source" group:"sweep" enum:",ledger,file,sql" default:"" placeholder:"SOURCE" help:"Sweep what this source knows: ledger, file or sql (the one of --source-file or --source-dsn, else the ledger)."`
	Zone  string        `name:"sweep-zone" group:"sweep" default:"UTC" placeholder:"ZONE" help:"Time zone of --sweep-cron, such as Europe/Berlin (${default})."`
	sweepFlags
	Source sourceFlags `embed:""`
}

type schedulerCmd struct {
	scheduleFlags
}

// Run implements the command.
func (c *schedulerCmd) Run(a *app) error {
	rdb, err := a.flags.Redis.client(4)
	if err != nil {
		return err
	}
	defer func() { _ = rdb.Close() }()
	ended, err := c.start(a.ctx, rdb, a.flags.Log.logger(a.stderr))
	if err != nil {
		return err
	}
	<-ended
	return nil
}

// start runs a scheduler until ctx ends, and then closes ended. While Redis is
// away it goes on trying.
func (f scheduleFlags) start(ctx context.Context, rdb redis.UniversalClient, log *zap.Logger) (ended <-chan struct{}, err error) {
	switch {
	case f.Every == 0 && f.Cron == "":
		return nil, usagef("want --sweep-every or --sweep-cron")
	case f.Every != 0 && f.Cron != "":
		return nil, usagef("--sweep-every, --sweep-cron: want one of them")
	case f.Cron == "" && f.Zone != "UTC":
		return nil, usagef("--sweep-zone: only with --sweep-cron")
	}
	zone, err := zoneOf("--sweep-zone", f.Zone)
	if err != nil {
		return nil, err
	}
	from, err := f.Source.kind(f.From)
	if err != nil {
		return nil, err
	}
	sweep, err := f.sweep(from)
	if err != nil {
		return nil, err
	}
	log = log.Named("scheduler")
	s, err := locks.NewScheduler(locks.SchedulerConfig{
		Redis: rdb, Schedule: locks.Schedule{Every: f.Every, Cron: f.Cron, Location: zone}, Sweep: sweep,
		Logger: log, AsynqLogger: asynqx.NewLogger(log),
	})
	if err != nil {
		return nil, usagef("--sweep-every, --sweep-cron: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		pause := backoff.NewExponentialBackOff(backoff.WithInitialInterval(500*time.Millisecond), backoff.WithMaxInterval(10*time.Second), backoff.WithMaxElapsedTime(0))
		_ = backoff.RetryNotify(func() error { return s.Run(ctx) }, backoff.WithContext(pause, ctx), func(err error, next time.Duration) {
			log.Warn("sweeps cannot be scheduled yet", zap.Error(err), zap.Duration("next_try", next))
		})
	}()
	return done, nil
}
