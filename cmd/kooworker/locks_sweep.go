package main

import (
	"errors"
	"fmt"
	"math"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks"
)

// sweepFlags limit what a sweep releases.
type sweepFlags struct {
	Grace    time.Duration `group:"sweep" default:"${grace}" help:"A lock is stale when it has been expired for this long (${default})."`
	Max      *int64        `group:"sweep" placeholder:"N" help:"Most locks that one sweep releases (${max_locks}; locks sweep with --max-share: no limit)."`
	MaxShare *float64      `name:"max-share" group:"sweep" placeholder:"F" help:"Largest share of all locks, 0 to 1, that may be stale. If more are stale, none is released (${max_share}). It does not count while at most ${few_stale} locks are stale."`
}

// sweep checks the flags and returns the task. It refuses zeros: in the task a zero
// means the default, which is not what somebody who writes 0 wants.
func (f sweepFlags) sweep(from tasks.SourceKind) (tasks.LockSweep, error) {
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
	case f.MaxShare != nil && !(t.MaxShare > 0 && t.MaxShare <= 1): // NaN is refused, too
		return t, usagef("--max-share: %g; want more than 0, and at most 1", t.MaxShare)
	}
	return t, nil
}

type locksSweepCmd struct {
	sweepFlags
	Source sourceFlags   `embed:"" group:"source"`
	Force  bool          `group:"sweep" help:"Release all stale locks, whatever --max and --max-share say."`
	DryRun bool          `name:"dry-run" help:"Only list the locks that would be released."`
	Keep   time.Duration `name:"ledger-keep" default:"30d" placeholder:"DURATION" help:"Remember swept locks for this long (${default})."`
	JSON   bool          `help:"Print one JSON object."`
}

// Run implements the command.
func (c *locksSweepCmd) Run(e *env) error {
	from, err := c.Source.sourceToSweep("")
	if err != nil {
		return err
	}
	t, err := c.sweep(from)
	if err != nil {
		return err
	}
	t.Force = c.Force
	if c.MaxShare != nil && c.Max == nil {
		t.Max = math.MaxInt64 // the operator has chosen how many may be released: the default does not apply
	}
	if c.Keep <= 0 {
		return usagef("--ledger-keep: %s; want more than 0", c.Keep)
	}
	sources, err := c.Source.open()
	if err != nil {
		return err
	}
	defer closeSources(sources)
	rdb, err := e.redis(bulkPool)
	if err != nil {
		return err
	}
	producer, err := e.producer(enqueue.Config{Redis: rdb})
	if err != nil {
		return err
	}
	log := zap.NewNop()
	if !terminal.IsTerminal(e.stderr) { // what is held back belongs in a log as well
		log = e.flags.Log.build(e.stderr)
	}
	ledger := enqueuelocks.NewStore(rdb)
	sweeper := locks.Sweeper{Source: locks.Ledger{Store: ledger}, Store: ledger, Batches: batch.NewStore(rdb), Releases: producer, Logger: log}
	for _, source := range lockSources(rdb, sources) { // at most one, or swept had refused them
		sweeper.Source = source
	}
	o := locks.Options{LockSweep: t, Keep: c.Keep, DryRun: c.DryRun}
	if c.DryRun && !c.JSON {
		o.Each = func(l tasks.Lock) {
			fmt.Fprintf(e.stdout, "%s  %s  %s\n", l.ExpiresAt.Local().Format(time.DateTime), l.UserID, l.LockID)
		}
	}
	r, err := sweeper.Sweep(e.ctx, o)
	if err != nil {
		return c.explain(e, r, err)
	}
	if r.Enqueued > 0 && r.Source != tasks.SourceLedger {
		if has, err := enqueuelocks.NewSweptStore(rdb, r.Source).HasWorker(e.ctx); err == nil && !has {
			fmt.Fprint(e.stderr, "kooworker: no running worker knows this source: the releases wait for one\nhint: start the workers with the same --source-… flags as this command\n")
		}
	}
	return c.printReport(e, r)
}

// explain says how far a failed sweep came, and what to do.
func (c *locksSweepCmd) explain(e *env, r locks.SweepReport, err error) error {
	var listError *locks.ListError
	switch {
	case errors.Is(err, locks.ErrBusy):
		return fmt.Errorf("%w; try again when it is done", err)
	case e.ctx.Err() != nil:
		return fmt.Errorf("interrupted after %s; run the same command again to resume", humanize.Count(r.Enqueued, "releases"))
	case errors.As(err, &listError):
		return fmt.Errorf("nothing was enqueued: %w", listError)
	case r.Enqueued > 0:
		return fmt.Errorf("stopped after %s: %w; run the same command again to resume", humanize.Count(r.Enqueued, "releases"), redisError(err))
	default:
		return redisError(err)
	}
}

func (c *locksSweepCmd) printReport(e *env, r locks.SweepReport) error {
	stale := fmt.Sprintf("%d of %s %s stale", r.Stale, humanize.Count(r.Total, "locks"), humanize.Plural(r.Stale, "is", "are"))
	switch {
	case c.JSON:
		report := struct {
			locks.SweepReport
			DryRun bool `json:"dry_run"`
		}{r, c.DryRun}
		if err := writeJSON(e.stdout, report); err != nil {
			return err
		}
	case c.DryRun:
		fmt.Fprintf(e.stdout, "%s; %d would be released\n", stale, r.Enqueued)
	default:
		fmt.Fprintf(e.stdout, "%s; %s enqueued", stale, humanize.Count(r.Enqueued, "releases"))
		if r.Batch != "" {
			fmt.Fprintf(e.stdout, " in batch %s", r.Batch)
		}
		fmt.Fprintln(e.stdout)
	}
	if r.Unreadable > 0 {
		fmt.Fprintf(e.stderr, "kooworker: %s cannot be read, and %s; the first: %s\n", humanize.Count(r.Unreadable, "locks"), humanize.Plural(r.Unreadable, "stays", "stay"), r.FirstUnreadable)
	}
	if r.HeldBack > 0 {
		fmt.Fprintf(e.stderr, "kooworker: %s held back: %s\nhint: locks sweep --dry-run --force lists all of them; --max, --max-share or --force releases them\n", humanize.Count(r.HeldBack, "stale locks"), r.Why)
	}
	if r.Unreadable+r.HeldBack > 0 {
		return errPartial
	}
	return nil
}
