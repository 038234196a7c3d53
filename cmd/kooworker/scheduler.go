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
	"github.com/kooworker/kooworker/worker/outage"
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

type schedulerCmd struct{ scheduleFlags }

// Run implements the command.
func (c *schedulerCmd) Run(e *env) error {
	rdb, err := e.redis(smallPool)
	if err != nil {
		return err
	}
	log := e.flags.Log.logger(e.stderr)
	away := outage.New(rdb, outage.Keys([]string{tasks.QueueSweep}), log)
	adoptRedis(away.Library())
	ended, err := c.start(e.ctx, rdb, away)
	if err != nil {
		return err
	}
	away.Run(e.ctx)
	<-ended
	log.Info("scheduler stopped")
	return nil
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
