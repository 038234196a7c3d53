package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

type batchCmd struct {
	List     batchListCmd     `cmd:"" help:"List batches, latest first."`
	Show     batchShowCmd     `cmd:"" help:"Show how a batch stands."`
	Watch    batchWatchCmd    `cmd:"" help:"Show the progress of a batch until it is done."`
	Wait     batchWaitCmd     `cmd:"" help:"Wait until a batch is done. Exit code 3: something is dead, discarded or rejected; 4: timed out."`
	Audit    batchAuditCmd    `cmd:"" help:"Count the states of a batch again, and compare them with its counters and receipts. Exit code 1: they disagree."`
	Receipts batchReceiptsCmd `cmd:"" help:"Write a batch's receipts as JSON lines: what became of each task."`
	Delete   batchDeleteCmd   `cmd:"" help:"Delete a batch and its receipts."`
}

// batchID is the argument of all but list.
type batchID struct {
	ID string `arg:"" name:"id" help:"The batch's ID."`
}

func batchStore(a *app) (store *batch.Store, done func(), err error) {
	a.flags.Log.quiet(a.stderr)
	rdb, err := a.flags.Redis.client(4)
	if err != nil {
		return nil, nil, err
	}
	return batch.NewStore(rdb), func() { _ = rdb.Close() }, nil
}

// batchError says what went wrong, with a hint.
func batchError(err error) error {
	if _, missing := errors.AsType[*batch.NotFoundError](err); err == nil || missing {
		return err
	}
	if _, none := errors.AsType[*batch.NoReceiptsError](err); none {
		return usageError{err}
	}
	return redisError{err}
}

type batchListCmd struct {
	JSON bool `help:"Print JSON lines."`
}

// Run implements the command.
func (c *batchListCmd) Run(a *app) error {
	store, done, err := batchStore(a)
	if err != nil {
		return err
	}
	defer done()
	out := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	n := 0
	for b, err := range store.List(a.ctx) {
		if err != nil {
			return batchError(err)
		}
		if n++; c.JSON {
			if err := writeJSON(a.stdout, b); err != nil {
				return err
			}
			continue
		}
		if n == 1 {
			say(out, "CREATED\tID\tTOTAL\tQUEUED\tSUCCEEDED\tALREADY GONE\tSUPERSEDED\tDEAD\tDISCARDED\tDUPLICATE\tREJECTED\tDONE\n")
		}
		say(out, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", b.CreatedAt.Local().Format(time.DateTime), b.ID, b.Total, b.Queued,
			b.Succeeded, b.AlreadyGone, b.Superseded, b.Dead, b.Discarded, b.Duplicate, b.Rejected, yesNo(b.Done))
	}
	if n == 0 && !c.JSON {
		say(out, "No batches.\n")
	}
	return out.Flush()
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
func (c *batchShowCmd) Run(a *app) error {
	store, done, err := batchStore(a)
	if err != nil {
		return err
	}
	defer done()
	b, err := store.Show(a.ctx, c.ID)
	if err != nil {
		return batchError(err)
	}
	if c.JSON {
		return writeJSON(a.stdout, b)
	}
	printBalance(a.stdout, b)
	return nil
}

// printBalance writes a balance for people.
func printBalance(out io.Writer, b tasks.BatchStats) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	say(w, "batch\t%s\ncreated\t%s\n", b.ID, b.CreatedAt.Local().Format(time.DateTime))
	for _, row := range []struct {
		name   string
		n      int64
		always bool
	}{
		{"queued", b.Queued, true}, {"succeeded", b.Succeeded, true}, {"already gone", b.AlreadyGone, true}, {"superseded", b.Superseded, false},
		{"dead", b.Dead, true}, {"discarded", b.Discarded, false}, {"duplicate", b.Duplicate, false}, {"rejected", b.Rejected, false},
		{"total", b.Total, true},
	} {
		if row.always || row.n > 0 {
			say(w, "%s\t%d\n", row.name, row.n)
		}
	}
	say(w, "done\t%s\n", yesNo(b.Done))
	_ = w.Flush() // into a terminal, or nobody reads it
}

type batchWaitCmd struct {
	batchID
	Timeout time.Duration `env:"KOOWORKER_WAIT_TIMEOUT" placeholder:"DURATION" help:"Wait no longer than this."`
	JSON    bool          `help:"Print one JSON object."`
}

// Run implements the command.
func (c *batchWaitCmd) Run(a *app) error {
	store, done, err := batchStore(a)
	if err != nil {
		return err
	}
	defer done()
	if c.Timeout < 0 {
		return usagef("--timeout: %s is negative; want a time such as 10m", c.Timeout)
	}
	b, err := waitFor(a, store, c.ID, c.Timeout, nil)
	return endOfBatch(a, b, c.JSON, err)
}

type batchWatchCmd struct {
	batchID
	JSON bool `help:"Print one JSON object at the end."`
}

// Run implements the command.
func (c *batchWatchCmd) Run(a *app) error {
	store, done, err := batchStore(a)
	if err != nil {
		return err
	}
	defer done()
	b, err := awaitBatch(a, store, c.ID, 0)
	return endOfBatch(a, b, c.JSON, err)
}

func endOfBatch(a *app, b tasks.BatchStats, asJSON bool, err error) error {
	if b.ID != "" {
		if asJSON {
			err = errors.Join(err, writeJSON(a.stdout, b))
		} else {
			printBalance(a.stdout, b)
		}
	}
	if err == nil && b.Failed() > 0 {
		return errPartial
	}
	return err
}

// awaitBatch waits, and shows the progress on stderr.
func awaitBatch(a *app, store *batch.Store, id string, timeout time.Duration) (tasks.BatchStats, error) {
	shown := newProgress(a.stderr, progressOptions{unit: "tasks"})
	defer shown.finish()
	begun := false
	return waitFor(a, store, id, timeout, func(b tasks.BatchStats) {
		if !begun {
			begun = true
			shown.startAt(b.Total - b.Queued) // what was done before is no part of the rate
		}
		shown.setTotal(b.Total)
		shown.set(b.Total - b.Queued)
		if n := b.Dead + b.Rejected; n > 0 {
			shown.detail(fmt.Sprintf("%d dead, %d rejected", b.Dead, b.Rejected))
		}
	})
}

// timedOutError is a wait that took too long: exit code 4.
type timedOutError struct {
	b      tasks.BatchStats
	waited time.Duration
}

// Error implements error.
func (e timedOutError) Error() string {
	return fmt.Sprintf("batch %s is not done after %s: %d of %d tasks are queued", e.b.ID, short(e.waited), e.b.Queued, e.b.Total)
}

// Hint says what to do about it.
func (e timedOutError) Hint() string {
	return "is a worker running? kooworker batch watch " + e.b.ID + " goes on waiting"
}

// waitFor waits until a batch is done. Redis may fail in between.
func waitFor(a *app, store *batch.Store, id string, timeout time.Duration, each func(tasks.BatchStats)) (tasks.BatchStats, error) {
	ctx, cancel := a.ctx, context.CancelFunc(func() {})
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(a.ctx, timeout)
	}
	defer cancel()
	b, err := store.Wait(ctx, id, each)
	switch {
	case err == nil:
		return b, nil
	case a.ctx.Err() != nil:
		return b, fmt.Errorf("interrupted; the batch goes on, and kooworker batch watch %s goes on waiting", id)
	case ctx.Err() != nil:
		return b, timedOutError{b, timeout}
	}
	return b, batchError(err)
}

type batchAuditCmd struct {
	batchID
	JSON bool `help:"Print one JSON object."`
}

// auditReport is what audit prints.
type auditReport struct {
	ID    string `json:"id"`
	Clean bool   `json:"clean"`
	batch.Audit
}

// Run implements the command.
func (c *batchAuditCmd) Run(a *app) error {
	store, done, err := batchStore(a)
	if err != nil {
		return err
	}
	defer done()
	audit, err := store.Audit(a.ctx, c.ID)
	if err != nil {
		return batchError(err)
	}
	if c.JSON {
		if err := writeJSON(a.stdout, auditReport{c.ID, audit.Clean(), audit}); err != nil {
			return err
		}
	} else if audit.Clean() {
		say(a.stdout, "clean: %d tasks, each state counted again", audit.Stats.Total)
		if audit.Receipts >= 0 {
			say(a.stdout, "; %d receipts", audit.Receipts)
		}
		say(a.stdout, "\n")
	}
	if !audit.Clean() {
		return fmt.Errorf("batch %s does not balance: %s", c.ID, strings.Join(audit.Problems, "; "))
	}
	return nil
}

type batchReceiptsCmd struct {
	batchID
	Follow  bool `help:"Go on with what is written meanwhile, until the batch is done."`
	History bool `help:"All receipts of a task that was replayed, not only the last."`
}

// Run implements the command.
func (c *batchReceiptsCmd) Run(a *app) error {
	store, done, err := batchStore(a)
	if err != nil {
		return err
	}
	defer done()
	out := bufio.NewWriter(a.stdout)
	for r, err := range store.Receipts(a.ctx, c.ID, batch.ReceiptOptions{History: c.History, Follow: c.Follow}) {
		if err != nil {
			_ = out.Flush()
			if a.ctx.Err() != nil {
				return errors.New("interrupted: not all receipts were written")
			}
			return batchError(err)
		}
		if err := writeJSON(out, r); err != nil {
			return err
		}
		if c.Follow {
			if err := out.Flush(); err != nil {
				return fmt.Errorf("write the output: %w", err)
			}
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

type batchDeleteCmd struct {
	batchID
	Force bool `help:"Even if it is not done; its tasks are carried out all the same, and leave no receipt."`
}

// Run implements the command.
func (c *batchDeleteCmd) Run(a *app) error {
	store, done, err := batchStore(a)
	if err != nil {
		return err
	}
	defer done()
	err = store.Delete(a.ctx, c.ID, c.Force)
	if _, open := errors.AsType[*batch.NotDoneError](err); open {
		return usagef("%w; want --force", err)
	}
	if err != nil {
		return batchError(err)
	}
	say(a.stdout, "deleted %s\n", c.ID)
	return nil
}
