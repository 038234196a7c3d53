package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// batchFlags put tasks into a batch.
type batchFlags struct {
	Batch       string        `env:"KOOWORKER_ENQUEUE_BATCH" placeholder:"ID" help:"Put them into this batch, which keeps account of each. The same command again goes on with what is missing."`
	Wait        bool          `help:"Wait until each has its outcome. Without --batch, a new one is made."`
	WaitTimeout time.Duration `name:"wait-timeout" placeholder:"DURATION" help:"Wait no longer than this; exit code 4."`
	Restore     bool          `help:"Resuming: enqueue again as well what the batch counts as queued and no queue holds, because it was deleted there or Redis has lost it."`
	NoReceipts  bool          `name:"no-receipts" help:"Count the batch's outcomes, and keep no receipts."`
	Keep        time.Duration `default:"720h" placeholder:"DURATION" help:"Keep the batch for this long after its completion (${default})."`
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
	case f.WaitTimeout != 0 && !f.Wait:
		return usagef("--wait-timeout: only with --wait")
	case f.WaitTimeout < 0 || f.Keep < time.Minute:
		return usagef("--wait-timeout, --keep: want more than 0, and to keep it for 1m at least")
	}
	return nil
}

func (f batchFlags) spec() *batch.Spec {
	if !f.wanted() {
		return nil
	}
	return &batch.Spec{ID: f.Batch, NoReceipts: f.NoReceipts, Keep: f.Keep}
}

// bulkSummary is the contract's object for many tasks. With --wait it holds the
// batch's balance as well.
type bulkSummary struct {
	Batch     string            `json:"batch"`
	Total     int64             `json:"total"`
	Enqueued  int64             `json:"enqueued"`
	Duplicate int64             `json:"duplicate"`
	Rejected  int64             `json:"rejected"`
	Skipped   int64             `json:"skipped"`
	Seconds   float64           `json:"seconds"`
	Balance   *tasks.BatchStats `json:"balance,omitempty"`
}

// bulkPool is the number of connections of a bulk: its exchanges, and the looks
// at what is in their way.
const bulkPool = 80

// many enqueues an input. Redis failing, or Ctrl-C, ends it with what was done so
// far, and says how to go on. in and rejects are nil where there is no file.
func (c *enqueueFlags) many(a *app, input iter.Seq2[tasks.Task, error], in *source, rejects *rejects) error {
	client, done, err := c.client(a, bulkPool)
	if err != nil {
		return err
	}
	defer done()
	shown := c.progress(a, in)
	defer shown.finish()
	if rejects != nil {
		rejects.stderr = shown // above the bar
		input = keepRejects(rejects, input)
	}
	batchID := c.Batch.Batch
	start := time.Now()
	lines := int64(0)
	res, err := client.Bulk(a.ctx, input, enqueue.BulkOptions{
		Batch: c.Batch.spec(), Restore: c.Batch.Restore, Options: c.options(), Timeout: c.Timeout,
		OnStart: func(id string, resumed bool) {
			batchID = id
			word := "batch"
			if resumed {
				word = "resuming batch"
			}
			say(a.stderr, "%s %s\n", word, id)
		},
		OnItem: func(enqueue.Item) {
			lines++
			shown.set(lines)
			if in != nil && in.size > 0 {
				shown.setShare(float64(in.read.Load()) / float64(in.size))
			}
		},
	})
	shown.finish()
	if bad, ok := errors.AsType[*enqueue.InputError](err); ok {
		err = usagef("--file: %w", bad.Err)
	}
	if unusable(err) && res.Total == 0 {
		return usageError{err} // nothing was done that could be summed up
	}
	sum := bulkSummary{
		Batch: batchID, Total: res.Total, Enqueued: res.Enqueued, Duplicate: res.Duplicate, Rejected: res.Rejected, Skipped: res.Skipped,
		Seconds: time.Since(start).Seconds(),
	}
	var waited error
	if err == nil && c.Batch.Wait {
		c.sayEnqueued(a, sum)
		sum.Balance, waited = c.await(a, res.Batch)
	}
	if printErr := c.printSummary(a, sum); err == nil && waited == nil {
		waited = printErr
	}
	switch {
	case err != nil:
		return stopped(err, res.Total, batchID)
	case waited != nil:
		return waited
	case res.Rejected > 0 || sum.Balance != nil && sum.Balance.Failed() > 0:
		return errPartial
	}
	return nil
}

// progress shows how far the input is, on stderr; of a single task, nowhere.
func (c *enqueueFlags) progress(a *app, in *source) *progress {
	out := a.stderr
	if in == nil {
		out = io.Discard
	}
	return newProgress(out, progressOptions{unit: "lines"})
}

// await waits for the batch's end.
func (c *enqueueFlags) await(a *app, id string) (*tasks.BatchStats, error) {
	rdb, err := a.flags.Redis.client(2)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rdb.Close() }()
	b, err := awaitBatch(a, batch.NewStore(rdb), id, c.Batch.WaitTimeout)
	return &b, err
}

// unusable reports whether an error is about the input or the batch, and not
// about Redis.
func unusable(err error) bool {
	var (
		usage usageError
		other *batch.InputError
		spec  *batch.SpecError
		used  *batch.NameReservedError
		field *tasks.FieldError
	)
	return errors.As(err, &usage) || errors.As(err, &other) || errors.As(err, &spec) || errors.As(err, &used) || errors.As(err, &field)
}

// stopped says how to go on after an error, where the same command would.
func stopped(err error, lines int64, batchID string) error {
	goOn := "the same command again goes on, what is outstanding is a duplicate"
	if batchID != "" {
		goOn = "the same command with --batch " + batchID + " goes on with what is missing"
	}
	switch {
	case unusable(err):
		return usageError{fmt.Errorf("stopped after %d lines: %w", lines, err)}
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted after %d lines; %s", lines, goOn)
	default:
		return fmt.Errorf("stopped after %d lines: %w; %s", lines, redisError{err}, goOn)
	}
}

// sayEnqueued tells people that the first half is done.
func (c *enqueueFlags) sayEnqueued(a *app, sum bulkSummary) {
	if !c.JSON {
		say(a.stderr, "%s; waiting for their outcomes\n", sum)
	}
}

// String is the summary for people.
func (s bulkSummary) String() string {
	text := fmt.Sprintf("%d lines: %d enqueued, %d duplicate, %d rejected", s.Total, s.Enqueued, s.Duplicate, s.Rejected)
	if s.Skipped > 0 {
		text += fmt.Sprintf(", %d skipped", s.Skipped)
	}
	return text + fmt.Sprintf(", in %.1f s", s.Seconds)
}

func (c *enqueueFlags) printSummary(a *app, sum bulkSummary) error {
	switch {
	case c.JSON:
		return writeJSON(a.stdout, sum)
	case sum.Balance != nil:
		printBalance(a.stdout, *sum.Balance)
	default:
		say(a.stdout, "%s\n", sum)
	}
	return nil
}
