package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/kooworker/kooworker/enqueue"
	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks"
)

// sweepFlags are the guard rails.
type sweepFlags struct {
	Grace    time.Duration `group:"sweep" default:"${grace}" help:"Time after the expiry for which a lock is left alone (${default})."`
	Max      int64         `group:"sweep" default:"${max_locks}" placeholder:"N" help:"Most locks that one sweep releases (${default})."`
	MaxShare float64       `name:"max-share" group:"sweep" default:"${max_share}" placeholder:"F" help:"Greatest share of all locks, 0 to 1, that may be stale; if there are more, none is released (${default})."`
}

// sweep checks the flags. A zero would mean the default, and nobody means that
// who writes it.
func (f sweepFlags) sweep() (tasks.LockSweep, error) {
	t := tasks.LockSweep{Grace: f.Grace, Max: f.Max, MaxShare: f.MaxShare}
	if f.Grace == 0 || f.Max == 0 || f.MaxShare == 0 {
		return t, usagef("--grace, --max, --max-share: want more than 0")
	}
	if err := t.Validate(); err != nil {
		return t, usageError{err}
	}
	return t, nil
}

type locksSweepCmd struct {
	sweepFlags
	Force  bool          `group:"sweep" help:"Release whatever is stale, in spite of --max and --max-share."`
	DryRun bool          `name:"dry-run" help:"Only say which would be released."`
	Keep   time.Duration `name:"ledger-keep" default:"720h" placeholder:"DURATION" help:"Remember what was swept for this long (${default})."`
	JSON   bool          `help:"Print one JSON object."`
}

// sweepReport is the contract's object.
type sweepReport struct {
	locks.Report
	DryRun bool `json:"dry_run"`
}

// Run implements the command.
func (c *locksSweepCmd) Run(a *app) error {
	t, err := c.sweep()
	if err != nil {
		return err
	}
	t.Force = c.Force
	if c.Keep <= 0 {
		return usagef("--ledger-keep: %s; want more than 0", c.Keep)
	}
	rdb, err := a.flags.Redis.client(bulkPool)
	if err != nil {
		return err
	}
	defer func() { _ = rdb.Close() }()
	log := a.flags.Log
	a.flags.Log.quiet(a.stderr)
	producer, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		return err
	}
	ledger := enqueuelocks.Keeping{Store: enqueuelocks.NewStore(rdb)}
	sweeper := locks.Sweeper{Name: tasks.SourceLedger, Source: ledger, Lease: ledger, Producer: producer, Logger: log.logger(a.stderr)}
	o := locks.Options{LockSweep: t, Keep: c.Keep, DryRun: c.DryRun}
	if c.DryRun && !c.JSON {
		o.Each = func(l tasks.Lock) {
			say(a.stdout, "%s  %s  %s\n", l.ExpiresAt.Local().Format(time.DateTime), l.UserID, l.LockID)
		}
	}
	r, err := sweeper.Sweep(a.ctx, o)
	if errors.Is(err, locks.ErrBusy) {
		return fmt.Errorf("%w; try again when it is done", err)
	}
	if err != nil {
		return redisError{err}
	}
	return c.report(a, r)
}

func (c *locksSweepCmd) report(a *app, r locks.Report) error {
	switch {
	case c.JSON:
		if err := writeJSON(a.stdout, sweepReport{r, c.DryRun}); err != nil {
			return err
		}
	case c.DryRun:
		say(a.stdout, "%d of %d locks are stale; %d would be released\n", r.Stale, r.Total, r.Enqueued)
	default:
		say(a.stdout, "%d of %d locks are stale; %d releases enqueued", r.Stale, r.Total, r.Enqueued)
		if r.Batch != "" {
			say(a.stdout, " in batch %s", r.Batch)
		}
		say(a.stdout, "\n")
	}
	if r.HeldBack == 0 {
		return nil
	}
	say(a.stderr, "kooworker: %d are held back: %s\nhint: look at them with --dry-run; --max, --max-share and --force let them go\n", r.HeldBack, r.Why)
	return errPartial
}
