package main

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue"
	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks"
	locksource "github.com/kooworker/kooworker/worker/locks/source"
)

// sweepFlags are the guard rails.
type sweepFlags struct {
	Grace    time.Duration `group:"sweep" default:"${grace}" help:"Time after the expiry for which a lock is left alone (${default})."`
	Max      *int64        `group:"sweep" placeholder:"N" help:"Most locks that one sweep releases (${max_locks}; of one by hand with --max-share, as many as that allows)."`
	MaxShare *float64      `name:"max-share" group:"sweep" placeholder:"F" help:"Greatest share of all locks, 0 to 1, that may be stale; if there are more, none is released (${max_share})."`
}

// sweep checks the flags. A zero would mean the default, and nobody means that
// who writes it.
func (f sweepFlags) sweep(from tasks.Source) (tasks.LockSweep, error) {
	t := tasks.LockSweep{Source: from, Grace: f.Grace}
	if f.Max != nil {
		t.Max = *f.Max
	}
	if f.MaxShare != nil {
		t.MaxShare = *f.MaxShare
	}
	switch {
	case t.Grace <= 0:
		return t, usagef("--grace: %s; want more than 0, such as 2m", t.Grace)
	case f.Max != nil && t.Max <= 0:
		return t, usagef("--max: %d; want more than 0", t.Max)
	case f.MaxShare != nil && !(t.MaxShare > 0 && t.MaxShare <= 1): // NaN is neither
		return t, usagef("--max-share: %g; want more than 0, and at most 1", t.MaxShare)
	}
	return t, nil
}

type locksSweepCmd struct {
	sweepFlags
	Source sourceFlags   `embed:""`
	Force  bool          `group:"sweep" help:"Release whatever is stale, in spite of --max and --max-share."`
	DryRun bool          `name:"dry-run" help:"Only say which would be released."`
	Keep   time.Duration `name:"ledger-keep" default:"720h" placeholder:"DURATION" help:"Remember what was swept for this long (${default})."`
	JSON   bool          `help:"Print one JSON object."`
}

// sweep is what is asked for. Whoever says by hand which share may go has said how
// many: the default of --max is for those who say nothing.
func (c *locksSweepCmd) sweep() (tasks.LockSweep, error) {
	from, err := c.Source.kind("")
	if err != nil {
		return tasks.LockSweep{}, err
	}
	t, err := c.sweepFlags.sweep(from)
	if c.MaxShare != nil && c.Max == nil {
		t.Max = math.MaxInt64
	}
	t.Force = c.Force
	return t, err
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
	if c.Keep <= 0 {
		return usagef("--ledger-keep: %s; want more than 0", c.Keep)
	}
	sources, err := c.Source.open()
	if err != nil {
		return err
	}
	defer closeSources(sources)
	rdb, err := a.flags.Redis.client(bulkPool)
	if err != nil {
		return err
	}
	defer func() { _ = rdb.Close() }()
	a.flags.Log.quiet(a.stderr)
	producer, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		return err
	}
	ledger := enqueuelocks.NewStore(rdb)
	sweeper := locks.Sweeper{Source: locks.Ledger{Store: ledger}, Store: ledger, Producer: producer, Logger: c.logger(a)}
	for _, source := range listed(rdb, sources) {
		sweeper.Source = source
	}
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
	if err != nil && a.ctx.Err() != nil {
		return fmt.Errorf("interrupted after %d releases; the same command again goes on", r.Enqueued)
	}
	if failed, ok := errors.AsType[*locks.ListError](err); ok {
		return fmt.Errorf("nothing was enqueued: %w", failed)
	}
	if err != nil && r.Enqueued > 0 {
		return fmt.Errorf("stopped after %d releases: %w; the same command again goes on", r.Enqueued, redisError{err})
	}
	if err != nil {
		return redisError{err}
	}
	if r.Enqueued > 0 {
		c.warn(a, rdb, sources)
	}
	return c.report(a, r)
}

// logger is for what is held back, which belongs into a log as well. People on a
// terminal are told by the command's own words.
func (c *locksSweepCmd) logger(a *app) *zap.Logger {
	if isTerminal(a.stderr) {
		return zap.NewNop()
	}
	return a.flags.Log.build(a.stderr)
}

// warn says what keeps the releases from being carried out.
func (c *locksSweepCmd) warn(a *app, rdb redis.UniversalClient, sources []locksource.Source) {
	for _, s := range sources {
		hasWorker, err := enqueuelocks.NewSweptStore(rdb, s.Kind()).HasWorker(a.ctx)
		if err == nil && !hasWorker {
			say(a.stderr, "kooworker: no running worker knows this source: the releases wait for one\nhint: start the workers with the same --source-… flags as this command\n")
		}
	}
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
	if r.Unreadable > 0 {
		say(a.stderr, "kooworker: %d cannot be read, and stay; the first: %s\n", r.Unreadable, r.FirstUnreadable)
	}
	if r.HeldBack > 0 {
		say(a.stderr, "kooworker: %d are held back: %s\nhint: locks sweep --dry-run --force lists them all; --max, --max-share and --force let them go\n", r.HeldBack, r.Why)
	}
	if r.Unreadable+r.HeldBack > 0 {
		return errPartial
	}
	return nil
}
