package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/enqueue/waiting"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
)

type cancelCmd struct {
	ID       []string     `group:"orders" placeholder:"ID" help:"Task ID, as enqueue prints it; may be given several times."`
	UserID   string       `name:"user-id" group:"orders" placeholder:"ID" help:"KooDrive user."`
	DeviceID string       `name:"device-id" group:"orders" placeholder:"ID" help:"Device."`
	LockID   string       `name:"lock-id" group:"orders" placeholder:"ID" help:"Lock."`
	Kind     []tasks.Kind `group:"orders" placeholder:"KIND" help:"For example device:unbind."`
	All      bool         `help:"All single orders, without a filter."`
	DryRun   bool         `name:"dry-run" help:"Only print how many there are."`
	JSON     bool         `help:"Print one JSON object."`
}

// cancelReport is what the command prints as JSON.
type cancelReport struct {
	Matched   int64 `json:"matched"` // those that waited
	Cancelled int64 `json:"cancelled"`
	InFlight  int64 `json:"in_flight"`
}

// orderKinds are the kinds of tasks that somebody orders one by one.
func orderKinds() []tasks.Kind {
	return []tasks.Kind{tasks.KindDeviceUnbind, tasks.KindLockRelease, tasks.KindUserOffboard}
}

func (c *cancelCmd) check() error {
	for _, kind := range c.Kind {
		if !slices.Contains(orderKinds(), kind) {
			return usagef("--kind: %q; want one of %v", kind, orderKinds())
		}
	}
	hasFilter := len(c.ID)+len(c.Kind) > 0 || c.UserID+c.DeviceID+c.LockID != ""
	switch {
	case hasFilter == c.All:
		return usagef("want a filter, such as --id or --user-id, or --all")
	case c.DeviceID != "" && c.LockID != "":
		return usagef("--device-id, --lock-id: want one of them; no order is about both")
	}
	return nil
}

// query looks for the single orders that match. Those of batches do not.
func (c *cancelCmd) query() waiting.Query {
	q := waiting.Query{Queues: tasks.QueuesIn(tasks.LaneSingle, tasks.LaneUrgent, tasks.LaneBulk)}
	for _, kind := range orderKinds() {
		if c.UserID != "" { // see tasks.Identity
			q.IDPrefixes = append(q.IDPrefixes, string(kind)+":"+c.UserID+":")
		}
	}
	if len(c.ID) > 0 {
		q.IDPrefixes = c.ID
	}
	q.Matches = func(t waiting.Task) bool {
		kind, target := t.Task.Kind(), t.Task.Target()
		return !t.Intent.BatchRef.IsSet() &&
			(len(c.ID) == 0 || slices.Contains(c.ID, tasks.Identity(t.Task)) || slices.Contains(c.ID, t.ID)) &&
			(len(c.Kind) == 0 || slices.Contains(c.Kind, kind)) &&
			(c.UserID == "" || c.UserID == t.Task.User()) &&
			(c.DeviceID == "" || kind == tasks.KindDeviceUnbind && c.DeviceID == target) &&
			(c.LockID == "" || kind == tasks.KindLockRelease && c.LockID == target)
	}
	return q
}

// Run implements the command.
func (c *cancelCmd) Run(e *env, rdb redis.UniversalClient, queues *waiting.Store, singles *history.Store) error {
	if err := c.check(); err != nil {
		return err
	}
	var report cancelReport
	var err error
	if c.DryRun {
		report, err = c.count(e.ctx, queues)
	} else {
		report, err = c.cancel(e.ctx, queues, singles)
		report.Matched = report.Cancelled
		e.audit(rdb, audit.Entry{Action: "orders cancelled", Subject: c.subject(), Count: report.Cancelled}, err)
	}
	switch {
	case c.JSON:
		if printErr := writeJSON(e.stdout, report); err == nil && printErr != nil {
			return printErr
		}
	case c.DryRun:
		fmt.Fprintf(e.stdout, "%s would be cancelled; %d in flight\n", humanize.Count(report.Matched, "orders"), report.InFlight)
	default:
		fmt.Fprintln(e.stdout, c.summary(report))
	}
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted: run the same command again to cancel the rest")
	case err != nil:
		return redisError(fmt.Errorf("%w; run the same command again to cancel the rest", err))
	}
	return nil
}

// subject says for the audit log which orders were meant.
func (c *cancelCmd) subject() string {
	if c.All {
		return "all single orders"
	}
	return subject("id", strings.Join(c.ID, " "), "user", c.UserID, "device", c.DeviceID, "lock", c.LockID, "kind", words(c.Kind))
}

func (c *cancelCmd) summary(report cancelReport) string {
	text := humanize.Count(report.Cancelled, "orders") + " cancelled"
	if report.InFlight > 0 {
		text += fmt.Sprintf("; %d in flight: a call that succeeds cannot be cancelled any more; if it fails, the order is tried again, so run the same command again", report.InFlight)
	}
	return strings.TrimSpace(text)
}

// receiptsOf are the receipts of single orders that are cancelled.
func receiptsOf(page []waiting.Task) (receipts []tasks.Receipt) {
	for _, t := range page {
		r := t.CancelledReceipt(tasks.CalledOff)
		r.Source = tasks.SourceOfSingle(t.ID)
		receipts = append(receipts, r)
	}
	return receipts
}

// count counts the orders that match.
func (c *cancelCmd) count(ctx context.Context, queues *waiting.Store) (report cancelReport, err error) {
	q := c.query()
	active, err := queues.CountActive(ctx, q)
	if err != nil {
		return report, err
	}
	for _, err := range queues.Each(ctx, q) {
		if err != nil {
			return report, err
		}
		report.Matched++
	}
	report.InFlight = int64(active)
	report.Matched = max(report.Matched-report.InFlight, 0)
	return report, nil
}

// cancel removes the orders that match. An order that is in flight has a few seconds to end: if
// its call fails, it is removed then.
func (c *cancelCmd) cancel(ctx context.Context, queues *waiting.Store, singles *history.Store) (report cancelReport, err error) {
	const patience, pause = 5 * time.Second, 200 * time.Millisecond
	q := c.query()
	keep, err := singles.Keep(ctx)
	if err != nil {
		return report, err
	}
	record := func(ctx context.Context, page []waiting.Task) error {
		return singles.Record(ctx, receiptsOf(page), keep)
	}
	for began := time.Now(); ; {
		removed, err := queues.Remove(ctx, q, record)
		report.Cancelled += removed
		if err != nil {
			return report, err
		}
		active, err := queues.CountActive(ctx, q)
		if err != nil {
			return report, err
		}
		if report.InFlight = int64(active); removed == 0 && (active == 0 || time.Since(began) > patience) {
			return report, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return report, ctx.Err()
		}
	}
}
