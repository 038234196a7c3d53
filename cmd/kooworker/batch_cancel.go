package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"unicode"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/batches"
)

type batchCancelCmd struct {
	batchID
	UserID string     `name:"user-id" placeholder:"ID" help:"Only the tasks about this user."`
	Kind   tasks.Kind `placeholder:"KIND" help:"Only the tasks of this kind, for example device:unbind."`
	Reason string     `placeholder:"TEXT" help:"Why; it is written into the receipts."`
	JSON   bool       `help:"Print one JSON object."`
}

// Run implements the command.
func (c *batchCancelCmd) Run(e *env, rdb redis.UniversalClient) error {
	if c.Kind != "" && !slices.Contains(orderKinds(), c.Kind) {
		return usagef("--kind: %q; want one of %v", c.Kind, orderKinds())
	}
	if err := (tasks.UserOffboard{UserID: c.UserID}).Validate(); c.UserID != "" && err != nil {
		return usagef("--user-id: %w", err)
	}
	if err := checkReason(c.Reason); err != nil {
		return err
	}
	res, err := cancelBatch(e, rdb, batch.Cancellation{Batch: c.ID, UserID: c.UserID, Kind: c.Kind, Reason: c.Reason})
	if is[*batch.NotFoundError](err) {
		return redisError(err)
	}
	switch {
	case !res.IsKnown: // the error says more
	case c.JSON:
		if printErr := writeJSON(e.stdout, res); err == nil {
			err = printErr
		}
	default:
		fmt.Fprintln(e.stdout, cancelSummary(res))
	}
	return err
}

// checkReason checks what an operator gives as the reason of something.
func checkReason(text string) error {
	const most = 200 // bytes
	switch {
	case len(text) > most:
		return usagef("--reason: it has %d bytes; want at most %d", len(text), most)
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return usagef("--reason: want one line of printable text")
	}
	return nil
}

// cancelSummary is for people.
func cancelSummary(res batches.CancelResult) string {
	text := humanize.Count(res.Cancelled, "tasks") + " cancelled"
	if res.InFlight > 0 {
		text += fmt.Sprintf("; %d in flight, which %s", res.InFlight, humanize.Plural(res.InFlight, "ends by itself", "end by themselves"))
	}
	if res.Left > 0 {
		text += fmt.Sprintf("; %d left", res.Left)
	}
	return text
}

// cancelBatch cancels tasks of a batch, and shows the progress.
func cancelBatch(e *env, rdb redis.UniversalClient, c batch.Cancellation) (batches.CancelResult, error) {
	c.By = operator()
	stats, err := batch.NewStore(rdb).Show(e.ctx, c.Batch)
	if err != nil {
		return batches.CancelResult{}, err
	}
	progress := terminal.StartProgress(e.stderr, terminal.ProgressOptions{Unit: "tasks"})
	if c.IsWhole() {
		progress.SetTotal(stats.Queued + stats.Dead)
	}
	res, err := batches.Cancel(e.ctx, rdb, c, progress.Set)
	progress.Finish()
	if is[*batch.NotFoundError](err) {
		return res, err
	}
	e.audit(rdb, audit.Entry{
		Action: "batch cancelled", Subject: subject("batch", c.Batch, "user", c.UserID, "kind", string(c.Kind)), Count: res.Cancelled, Reason: c.Reason,
	}, err)
	switch {
	case errors.Is(err, context.Canceled):
		return res, errors.New("interrupted: workers begin nothing more of it; run the same command again to finish")
	case err != nil:
		return res, redisError(fmt.Errorf("%w; if workers know of it, they begin nothing more of it; run the same command again to finish", err))
	}
	return res, nil
}

// operator names who runs this command.
func operator() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, _ := os.Hostname()
	return name + "@" + cmp.Or(host, "unknown")
}

// audit records what an operator did, whatever the log level. err is why it failed, if it did.
func (e *env) audit(rdb redis.UniversalClient, entry audit.Entry, err error) {
	log := e.flags.Log
	log.LogLevel = "info"
	entry.By, entry.Via = operator(), audit.Command
	audit.New(rdb, log.logger(e.stderr)).Record(e.ctx, entry.With(err))
}

// subject writes names and values for the audit log, without the values that are empty.
func subject(pairs ...string) string {
	var parts []string
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			parts = append(parts, pairs[i]+" "+pairs[i+1])
		}
	}
	return strings.Join(parts, ", ")
}
