package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/forecast"
	"github.com/kooworker/kooworker/worker/overview"
)

type batchCmd struct {
	List     batchListCmd     `cmd:"" help:"List batches, latest first. OK: succeeded; GONE: already gone; FAILED: dead, discarded or rejected; OTHER: superseded, cancelled, or a duplicate."`
	Show     batchShowCmd     `cmd:"" help:"Show the counts of a batch, and about how long the rest takes."`
	Watch    batchWatchCmd    `cmd:"" help:"Show the progress of a batch until it is done."`
	Wait     batchWaitCmd     `cmd:"" help:"Wait until a batch is done. Exit code 3: something is dead, discarded or rejected; 4: timed out."`
	Audit    batchAuditCmd    `cmd:"" help:"Count the states of a batch again, and compare them with its counters, its receipts and the queues. Exit code 1: they disagree."`
	Receipts batchReceiptsCmd `cmd:"" help:"Write the receipts of a batch as JSON lines: what became of each task."`
	Cancel   batchCancelCmd   `cmd:"" help:"Cancel what waits of a batch: it never runs, and its receipts say so. What is in flight finishes."`
	Hold     batchHoldCmd     `cmd:"" help:"Hold a batch: nothing more of it begins until it is released, or until a time."`
	Release  batchReleaseCmd  `cmd:"" help:"Release a batch that is held."`
	Delete   batchDeleteCmd   `cmd:"" help:"Delete a batch and its receipts."`
}

// batchID is the argument of all batch commands but list.
type batchID struct {
	ID string `arg:"" name:"id" help:"The batch's ID."`
}

type batchListCmd struct {
	JSON bool `help:"Print JSON lines."`
}

// Run implements the command.
func (c *batchListCmd) Run(e *env, store *batch.Store) error {
	if c.JSON {
		return writeJSONLines(e.stdout, false, store.List(e.ctx), func(b tasks.BatchStats) any { return b }, redisError)
	}
	table := terminal.NewTable(e.stdout, "CREATED", "ID", "TOTAL", terminal.Optional("QUEUED"), "OK", terminal.Optional("GONE"),
		terminal.Optional("FAILED"), terminal.Optional("OTHER"), "DONE")
	for b, err := range store.List(e.ctx) {
		if err != nil {
			return redisError(err)
		}
		table.Row(minutes(b.CreatedAt), terminal.ID(b.ID), b.Total, b.Queued,
			b.Succeeded, b.AlreadyGone, b.Dead+b.Discarded+b.Rejected, b.Superseded+b.Cancelled+b.Duplicate, yesNo(b.Done))
	}
	return table.Close("No batches.\n")
}

// minutes writes a time for a table; a time that is not known is empty.
func minutes(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04")
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

type batchShowCmd struct {
	batchID
	JSON bool `help:"Print one JSON object."`
}

// Run implements the command.
func (c *batchShowCmd) Run(e *env, store *batch.Store, forecasts *forecast.Forecaster) error {
	b, err := store.Show(e.ctx, c.ID)
	if err != nil {
		return redisError(err)
	}
	return printStats(e, forecasts.WithTimeLeft(e.ctx, b), c.JSON)
}

// printStats writes the counts of a batch, and last what is unusual about them.
func printStats(e *env, b forecast.Batch, asJSON bool) error {
	if asJSON {
		err := writeJSON(e.stdout, b)
		warnGone(e.stderr, b.BatchStats)
		return err
	}
	writeStats(e.stdout, b)
	warnGone(e.stdout, b.BatchStats)
	return nil
}

// warnGone writes a line if an unusual share of a batch was already gone.
func warnGone(w io.Writer, b tasks.BatchStats) {
	if warning := b.GoneWarning(); warning != "" {
		fmt.Fprintln(w, warning)
	}
}

// writeStats writes the counts of a batch for people.
func writeStats(out io.Writer, b forecast.Batch) {
	table := terminal.NewTable(out)
	table.Row("batch", terminal.ID(b.ID))
	table.Row("created", b.CreatedAt.Local().Format(time.DateTime))
	for _, row := range []struct {
		name   string
		n      int64
		always bool // otherwise only if it is not 0
	}{
		{"queued", b.Queued, true}, {"succeeded", b.Succeeded, true}, {"already gone", b.AlreadyGone, true}, {"superseded", b.Superseded, false},
		{"cancelled", b.Cancelled, false}, {"dead", b.Dead, true}, {"discarded", b.Discarded, false}, {"duplicate", b.Duplicate, false}, {"rejected", b.Rejected, false},
		{"total", b.Total, true},
	} {
		if row.always || row.n > 0 {
			table.Row(row.name, row.n)
		}
	}
	table.Row("done", yesNo(b.Done))
	if !b.DueBy.IsZero() {
		table.Row("due by", dueText(b.BatchStats))
	}
	if b.Held != nil {
		table.Row("held", forecast.HeldText(*b.Held))
	}
	if left := b.TimeLeft(); left != "" {
		table.Row("time left", left)
	}
	if hint := b.Forecast.Blocked.Hint; hint != "" {
		table.Row("hint", hint)
	}
	_ = table.Close("") // nobody is left to be told if it fails
}

// dueText says when a batch should be complete.
func dueText(b tasks.BatchStats) string {
	text := b.DueBy.Local().Format(time.DateTime)
	if b.IsLate(time.Now()) {
		text += ": it is late"
	}
	return text
}

type batchWaitCmd struct {
	batchID
	Timeout time.Duration `env:"KOOWORKER_WAIT_TIMEOUT" placeholder:"DURATION" help:"Wait no longer than this."`
	MaxGone *float64      `name:"max-already-gone" env:"KOOWORKER_WAIT_MAX_ALREADY_GONE" placeholder:"F" help:"Exit code 3 if more than this share, 0 to 1, of the tasks that ended well was already gone: then the ids may be wrong."`
	JSON    bool          `help:"Print one JSON object."`
}

// Run implements the command.
func (c *batchWaitCmd) Run(e *env, store *batch.Store, forecasts *forecast.Forecaster) error {
	if c.Timeout < 0 {
		return usagef("--timeout: %s is negative; want a time such as 10m", c.Timeout)
	}
	if err := checkMaxGone(c.MaxGone); err != nil {
		return err
	}
	var notice blockedNotice
	away := awayNotice{id: c.ID, out: e.stderr}
	b, err := waitForBatch(e, store, c.ID, c.Timeout, batch.Observer{
		Counts: func(b tasks.BatchStats) { away.back(); notice.look(e, forecasts, b) },
		Away:   func(why error, since time.Time) { notice.said = overview.Cause{}; away.tell(why, since) },
	})
	return printWaited(e, b, c.JSON, cmp.Or(explain(err, notice.said), tooManyGone(b, c.MaxGone)))
}

// checkMaxGone checks the flag --max-already-gone, which is nil if it is not given.
func checkMaxGone(most *float64) error {
	if most != nil && !(*most >= 0 && *most <= 1) { // which NaN is not
		return usagef("--max-already-gone: %g is no share; want 0 to 1", *most)
	}
	return nil
}

// tooManyGone returns an error if a batch that is done has more tasks that were already
// gone than --max-already-gone allows.
func tooManyGone(b tasks.BatchStats, most *float64) error {
	if most == nil || !b.Done {
		return nil
	}
	if err := b.CheckGone(*most); err != nil {
		return commandError{err, exitPartial, ""}
	}
	return nil
}

type batchWatchCmd struct {
	batchID
	JSON bool `help:"Print one JSON object at the end."`
}

// Run implements the command.
func (c *batchWatchCmd) Run(e *env, store *batch.Store, forecasts *forecast.Forecaster) error {
	b, err := watchBatch(e, store, forecasts, c.ID, 0)
	return printWaited(e, b, c.JSON, err)
}

// printWaited prints the counts after a wait, if there are any, and chooses the exit
// code.
func printWaited(e *env, b tasks.BatchStats, asJSON bool, err error) error {
	if b.ID != "" {
		err = errors.Join(err, printStats(e, forecast.Batch{BatchStats: b}, asJSON))
	}
	if err == nil && b.Failed() > 0 {
		return errPartial
	}
	return err
}

// watchBatch waits until a batch is done, and shows the progress on stderr.
func watchBatch(e *env, store *batch.Store, forecasts *forecast.Forecaster, id string, timeout time.Duration) (tasks.BatchStats, error) {
	progress := terminal.StartProgress(e.stderr, terminal.ProgressOptions{Unit: "tasks"})
	defer progress.Finish()
	started := false
	var forecastAt time.Time
	var next forecast.Forecast
	away := awayNotice{id: id, out: progress}
	counts := func(b tasks.BatchStats) {
		if away.back() {
			forecastAt = time.Time{} // what was foreseen before says nothing
			progress.Set(b.Total - b.Queued)
			progress.Halt("")
		}
		if b.Queued > 0 && time.Since(forecastAt) >= forecastEvery {
			next = forecasts.Of(e.ctx, b.ID)
			progress.SetSpeed(next.Rate, next.Fastest)
			forecastAt = time.Now()
		}
		if !started {
			started = true
			progress.StartAt(b.Total - b.Queued) // what was done before does not count for the speed
		}
		progress.SetTotal(b.Total)
		progress.Set(b.Total - b.Queued)
		progress.SetDetail(watchDetail(b, next.Blocked.Text))
	}
	b, err := waitForBatch(e, store, id, timeout, batch.Observer{
		Counts: counts,
		Away:   func(why error, since time.Time) { next = forecast.Forecast{}; progress.Halt(away.tell(why, since)) },
	})
	return b, explain(err, next.Blocked)
}

// watchDetail is what a line of the progress ends with.
func watchDetail(b tasks.BatchStats, blocked string) string {
	var parts []string
	if b.Dead+b.Rejected > 0 {
		parts = append(parts, fmt.Sprintf("%d dead, %d rejected", b.Dead, b.Rejected))
	}
	if b.Queued > 0 && blocked != "" {
		parts = append(parts, blocked)
	}
	return strings.Join(parts, ", ")
}

// waitForBatch waits until a batch is done, and tells from time to time how that gets on.
// Redis may fail meanwhile. A timeout of 0 is none.
func waitForBatch(e *env, store *batch.Store, id string, timeout time.Duration, o batch.Observer) (tasks.BatchStats, error) {
	ctx, cancel := e.ctx, context.CancelFunc(func() {})
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(e.ctx, timeout)
	}
	defer cancel()
	var away error
	var since time.Time
	next := o
	next.Counts = func(b tasks.BatchStats) { away = nil; o.Counts(b) }
	next.Away = func(why error, at time.Time) { away, since = why, at; o.Away(why, at) }
	b, err := store.WaitObserved(ctx, id, next)
	switch {
	case err == nil:
		return b, nil
	case e.ctx.Err() != nil:
		return b, fmt.Errorf("interrupted; the batch itself continues, and kooworker batch watch %s continues waiting", id)
	case ctx.Err() != nil:
		err = fmt.Errorf("batch %s is not done after %s: %d of %s %s queued", b.ID, humanize.Duration(timeout), b.Queued, humanize.Count(b.Total, "tasks"), humanize.Plural(b.Queued, "is", "are"))
		hint := "check that a worker runs"
		if away != nil {
			hint = awayText(away, since) + ": " + overview.Unreachable(away).Hint
		}
		return b, commandError{err, exitTimeout, hint + "; kooworker batch watch " + id + " continues waiting"}
	case away != nil:
		hint := overview.Unreachable(away).Hint + "; kooworker batch watch " + id + " continues waiting"
		return b, commandError{fmt.Errorf("stopped waiting for batch %s: %s", id, awayText(away, since)), exitFailed, hint}
	}
	return b, redisError(err)
}

type batchReceiptsCmd struct {
	batchID
	UserID  string `name:"user-id" placeholder:"ID" help:"Only the receipts of this user."`
	Follow  bool   `help:"Continue with receipts that are written meanwhile, until the batch is done."`
	History bool   `help:"All receipts of a task that was replayed, not only the last."`
}

// Run implements the command.
func (c *batchReceiptsCmd) Run(e *env, store *batch.Store) error {
	receipts := store.Receipts(e.ctx, c.ID, batch.ReceiptOptions{History: c.History, Follow: c.Follow, UserID: c.UserID})
	return writeJSONLines(e.stdout, c.Follow, receipts, func(r tasks.Receipt) any { return r }, func(err error) error {
		if e.ctx.Err() != nil {
			return errors.New("interrupted: not all receipts were written; the same command writes all of them")
		}
		if is[*batch.NoReceiptsError](err) {
			return usageError(err)
		}
		return redisError(err)
	})
}

type batchDeleteCmd struct {
	batchID
	Force bool `help:"If it is not done, cancel it first."`
}

// Run implements the command.
func (c *batchDeleteCmd) Run(e *env, store *batch.Store, rdb redis.UniversalClient) error {
	err := store.Delete(e.ctx, c.ID, false)
	if is[*batch.NotDoneError](err) {
		if !c.Force {
			return usagef("%w; cancel it first with kooworker batch cancel %s, or let --force do both", err, c.ID)
		}
		res, err := cancelBatch(e, rdb, batch.Cancellation{Batch: c.ID, Reason: "deleted"})
		if err != nil {
			return err
		}
		fmt.Fprintln(e.stdout, cancelSummary(res))
		if res.InFlight > 0 {
			fmt.Fprintln(e.stdout, "their outcomes are in the log of the workers")
		}
		if err := store.Delete(e.ctx, c.ID, true); err != nil {
			return redisError(err)
		}
	} else if err != nil {
		return redisError(err)
	}
	fmt.Fprintf(e.stdout, "deleted %s\n", c.ID)
	return nil
}
