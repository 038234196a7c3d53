package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/forecast"
)

// batchFlags put tasks into a batch.
type batchFlags struct {
	Batch       string        `env:"KOOWORKER_ENQUEUE_BATCH" placeholder:"ID" help:"Put the tasks into this batch, which records the outcome of each. The same command again enqueues what is missing."`
	Wait        bool          `help:"Wait until each task has its outcome. Without --batch, a new batch is created."`
	WaitTimeout time.Duration `name:"wait-timeout" placeholder:"DURATION" help:"Wait no longer than this; exit code 4."`
	MaxGone     *float64      `name:"max-already-gone" env:"KOOWORKER_ENQUEUE_MAX_ALREADY_GONE" placeholder:"F" help:"With --wait: exit code 3 if more than this share, 0 to 1, of the tasks that ended well was already gone: then the ids may be wrong."`
	Restore     bool          `help:"When resuming: also enqueue again tasks that the batch counts as queued although no queue holds them, because somebody deleted them there or Redis lost them."`
	NoReceipts  bool          `name:"no-receipts" help:"Count the outcomes of the batch, and keep no receipts."`
	DueBy       time.Time     `name:"due-by" env:"KOOWORKER_ENQUEUE_DUE_BY" placeholder:"TIME" help:"When the batch should be complete, such as 2026-12-01T00:00:00Z. Workers go on after it; status and the metrics say that it is late."`
	Keep        time.Duration `default:"30d" placeholder:"DURATION" help:"Keep the batch for this long after its completion (${default})."`
}

func (f batchFlags) wanted() bool { return f.Batch != "" || f.Wait }

func (f batchFlags) check() error {
	if f.Batch != "" {
		if err := tasks.ValidateBatchID(f.Batch); err != nil {
			return usagef("--batch: %w", err)
		}
	}
	switch {
	case f.NoReceipts && !f.wanted():
		return usagef("--no-receipts: only with --batch or --wait")
	case f.Restore && f.Batch == "":
		return usagef("--restore: only with --batch")
	case !f.DueBy.IsZero() && !f.wanted():
		return usagef("--due-by: only with --batch or --wait")
	case f.WaitTimeout != 0 && !f.Wait:
		return usagef("--wait-timeout: only with --wait")
	case f.MaxGone != nil && !f.Wait:
		return usagef("--max-already-gone: only with --wait")
	case f.WaitTimeout < 0:
		return usagef("--wait-timeout: %s is negative; want a time such as 10m", f.WaitTimeout)
	case f.Keep < time.Minute:
		return usagef("--keep: %s; want 1m or more", f.Keep)
	}
	return checkMaxGone(f.MaxGone)
}

func (f batchFlags) spec() *batch.Spec {
	if !f.wanted() {
		return nil
	}
	return &batch.Spec{ID: f.Batch, NoReceipts: f.NoReceipts, Keep: f.Keep, DueBy: f.DueBy}
}

// bulkSummary is what is printed of many tasks.
type bulkSummary struct {
	Batch     string            `json:"batch"`
	Total     int64             `json:"total"`
	Enqueued  int64             `json:"enqueued"`
	Duplicate int64             `json:"duplicate"`
	Rejected  int64             `json:"rejected"`
	Skipped   int64             `json:"skipped"`
	Seconds   float64           `json:"seconds"`
	RunAt     *time.Time        `json:"run_at,omitempty"`  // when the first of those runs that wait for their time
	Balance   *tasks.BatchStats `json:"balance,omitempty"` // with --wait

	later runTimes
}

// runTimes are the times of the tasks that were enqueued for a later time.
type runTimes struct {
	tasks       int64
	first, last time.Time
}

// add counts an item if it runs later.
func (r *runTimes) add(item enqueue.Item) {
	if item.Status != enqueue.Enqueued || !runsLater(item.RunAt) {
		return
	}
	r.tasks++
	if r.first.IsZero() || item.RunAt.Before(r.first) {
		r.first = item.RunAt
	}
	if item.RunAt.After(r.last) {
		r.last = item.RunAt
	}
}

// json returns the first time, and else that of --at.
func (r *runTimes) json(at time.Time) *time.Time {
	if r.tasks == 0 {
		return jsonTime(at)
	}
	return jsonTime(r.first)
}

// text says when they run. enqueued is how many tasks were enqueued.
func (r *runTimes) text(enqueued int64) string {
	first, last := r.first.UTC().Format(time.RFC3339), r.last.UTC().Format(time.RFC3339)
	switch {
	case r.tasks == 0:
		return ""
	case r.tasks < enqueued:
		return fmt.Sprintf("; %d of them wait for their time, from %s to %s", r.tasks, first, last)
	case first == last:
		return "; " + humanize.Plural(enqueued, "it runs", "they run") + " from " + first + " on"
	default:
		return fmt.Sprintf("; they wait for their time, from %s to %s", first, last)
	}
}

// String returns the summary for people.
func (s bulkSummary) String() string {
	text := fmt.Sprintf("%s: %d enqueued, %d duplicate, %d rejected", humanize.Count(s.Total, "lines"), s.Enqueued, s.Duplicate, s.Rejected)
	if s.Skipped > 0 {
		text += fmt.Sprintf(", %d skipped", s.Skipped)
	}
	text += fmt.Sprintf(", in %.1f s", s.Seconds)
	return text + s.later.text(s.Enqueued)
}

// plus adds the counts of a bulk.
func (s bulkSummary) plus(res enqueue.BulkResult) bulkSummary {
	s.Batch = cmp.Or(res.Batch, s.Batch)
	s.Total += res.Total
	s.Enqueued += res.Enqueued
	s.Duplicate += res.Duplicate
	s.Rejected += res.Rejected
	s.Skipped += res.Skipped
	return s
}

// bulkPool is the number of connections of a bulk: for its exchanges, and for
// looking up the tasks that conflict with new ones.
const bulkPool = 80

// runFile enqueues the tasks of the file.
func (c *enqueueFlags) runFile(e *env, kind tasks.Kind) error {
	in, rejects, err := c.File.open(e)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	err = c.runBulk(e, c.File.readTasks(kind, cancelableReader{e.ctx, in}, anyID(c.AllowAnyID)...), in, rejects)
	if closeErr := rejects.close(); closeErr != nil {
		return fmt.Errorf("--rejects: %w", closeErr) // it matters most: the file of refused lines must be complete
	}
	return err
}

// runBulk enqueues an input, and prints a summary also if an error or Ctrl-C ends it
// early. in and rejects are nil if the input is not a file.
func (c *enqueueFlags) runBulk(e *env, input iter.Seq2[tasks.Task, error], in *inputFile, rejects *rejects) error {
	rdb, client, err := c.client(e, bulkPool)
	if err != nil {
		return err
	}
	sum, err := c.bulk(e, client, input, in, rejects)
	if isUsage(err) && sum.Total == 0 {
		return usageError(err) // there is nothing to summarize
	}
	var after error // an error after everything was enqueued
	if err == nil && c.Batch.Wait {
		if !c.JSON {
			fmt.Fprintf(e.stderr, "%s; waiting for the outcomes\n", sum)
		}
		b, waitErr := watchBatch(e, batch.NewStore(rdb), forecast.New(rdb), sum.Batch, c.Batch.WaitTimeout)
		sum.Balance, after = &b, cmp.Or(waitErr, tooManyGone(b, c.Batch.MaxGone))
	}
	if printErr := c.printSummary(e, sum); after == nil {
		after = printErr
	}
	switch {
	case err != nil:
		return resumableError(err, sum)
	case after != nil:
		return after
	case sum.Rejected > 0 || sum.Balance != nil && sum.Balance.Failed() > 0:
		return errPartial
	}
	return nil
}

// bulk enqueues an input and shows the progress. The summary is valid even if there
// is an error.
func (c *enqueueFlags) bulk(e *env, client *enqueue.Client, input iter.Seq2[tasks.Task, error], in *inputFile, rejects *rejects) (bulkSummary, error) {
	out := e.stderr
	if in == nil {
		out = io.Discard // a single task needs no progress
	}
	progress := terminal.StartProgress(out, terminal.ProgressOptions{Unit: "lines"})
	defer progress.Finish()
	notes := e.stderr
	if in != nil {
		notes = progress // above the bar
	}
	if rejects != nil {
		rejects.stderr = progress
		input = teeRejects(rejects, input)
	}
	start, lines, later := time.Now(), int64(0), runTimes{}
	res, err := client.Bulk(e.ctx, input, enqueue.BulkOptions{
		Batch: c.Batch.spec(), Restore: c.Batch.Restore, Options: c.options(), Timeout: c.Timeout,
		OnStart: printBatch(notes),
		OnItem: func(item enqueue.Item) {
			lines++
			later.add(item)
			progress.Set(lines)
			if in != nil && in.size > 0 {
				progress.SetShare(float64(in.read.Load()) / float64(in.size))
			}
		},
	})
	if bad, ok := errors.AsType[*enqueue.InputError](err); ok {
		err = usagef("--file: %w", bad.Err)
	}
	sum := bulkSummary{Batch: c.Batch.Batch, Seconds: time.Since(start).Seconds(), RunAt: later.json(c.At)}
	sum.later = later
	return sum.plus(res), err
}

// printBatch prints which batch the tasks are put into.
func printBatch(stderr io.Writer) func(id string, resumed bool) {
	return func(id string, resumed bool) {
		if resumed {
			fmt.Fprintf(stderr, "resuming batch %s\n", id)
		} else {
			fmt.Fprintf(stderr, "batch %s\n", id)
		}
	}
}

func (c *enqueueFlags) printSummary(e *env, sum bulkSummary) error {
	switch {
	case c.JSON:
		err := writeJSON(e.stdout, sum)
		if sum.Balance != nil {
			warnGone(e.stderr, *sum.Balance)
		}
		return err
	case sum.Balance != nil:
		return printStats(e, forecast.Batch{BatchStats: *sum.Balance}, false)
	default:
		fmt.Fprintln(e.stdout, sum)
		return nil
	}
}

// isUsage reports whether an error is about the input, the options or the batch, not
// about Redis.
func isUsage(err error) bool {
	known, ok := errors.AsType[commandError](err)
	return ok && known.code == exitUsage ||
		is[*batch.InputError](err) || is[*batch.SpecError](err) || is[*batch.NameReservedError](err) || is[*batch.CancelledError](err) || is[*tasks.FieldError](err) ||
		is[*enqueue.OptionError](err)
}

// resumableError says how to resume after an error, if the same command would
// succeed.
func resumableError(err error, sum bulkSummary) error {
	lines, resume := humanize.Count(sum.Total, "lines"), "run the same command again to resume; outstanding tasks count as duplicates"
	if sum.Batch != "" {
		resume = "run the same command again with --batch " + sum.Batch + " to enqueue what is missing"
	}
	switch {
	case isUsage(err):
		return usageError(fmt.Errorf("stopped after %s: %w", lines, err))
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted after %s; %s", lines, resume)
	default:
		return fmt.Errorf("stopped after %s: %w; %s", lines, redisError(err), resume)
	}
}
