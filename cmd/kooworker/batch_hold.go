package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/batches"
)

type batchHoldCmd struct {
	batchID
	Until  time.Time `placeholder:"TIME" help:"The hold ends by itself then, such as 2026-12-01T00:00:00Z. Without it, it ends with batch release."`
	Reason string    `placeholder:"TEXT" help:"Why."`
	JSON   bool      `help:"Print one JSON object."`
}

// Run implements the command.
func (c *batchHoldCmd) Run(e *env, rdb redis.UniversalClient) error {
	if err := checkReason(c.Reason); err != nil {
		return err
	}
	if !c.Until.IsZero() && !c.Until.After(time.Now()) {
		return usagef("--until: %s has passed; want a time that is still to come", c.Until.Format(time.RFC3339))
	}
	progress := terminal.StartProgress(e.stderr, terminal.ProgressOptions{Unit: "tasks"})
	res, err := batches.Hold(e.ctx, rdb, batch.Hold{Batch: c.ID, Until: c.Until.Truncate(time.Second), Reason: c.Reason, By: operator()}, progress.Set)
	progress.Finish()
	switch {
	case is[*batches.EarlierError](err), is[*batches.DoneError](err):
		return usageError(err)
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted: run the same command again to be sure that nothing of it runs")
	case err != nil:
		return redisError(err)
	}
	e.audit(rdb, audit.Entry{Action: "batch held", Subject: subject("batch", c.ID, "until", untilText(c.Until, "")), Count: res.Moved, Reason: c.Reason}, nil)
	if c.JSON {
		return writeJSON(e.stdout, struct {
			Held     int64 `json:"held"`
			InFlight int64 `json:"in_flight"`
		}{res.Moved, res.InFlight})
	}
	fmt.Fprintf(e.stdout, "held %s: nothing more of it begins until %s\n", c.ID, untilText(c.Until, "kooworker batch release "+c.ID))
	if res.InFlight > 0 {
		fmt.Fprintf(e.stdout, "%d in flight; what is in flight ends by itself\n", res.InFlight)
	}
	return nil
}

// untilText is the end of a hold for people; otherwise is for a hold without an end.
func untilText(until time.Time, otherwise string) string {
	if until.IsZero() {
		return otherwise
	}
	return until.Format(time.RFC3339)
}

type batchReleaseCmd struct {
	batchID
	JSON bool `help:"Print one JSON object."`
}

// Run implements the command.
func (c *batchReleaseCmd) Run(e *env, rdb redis.UniversalClient) error {
	progress := terminal.StartProgress(e.stderr, terminal.ProgressOptions{Unit: "tasks"})
	res, err := batches.Release(e.ctx, rdb, c.ID, progress.Set)
	progress.Finish()
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted: some of the batch may still be put off; run the same command again to finish")
	case err != nil:
		return redisError(err)
	}
	e.audit(rdb, audit.Entry{Action: "batch released", Subject: subject("batch", c.ID), Count: res.Moved}, nil)
	if c.JSON {
		return writeJSON(e.stdout, struct {
			Released int64 `json:"released"`
		}{res.Moved})
	}
	fmt.Fprintf(e.stdout, "released %s: what waits of it runs\n", c.ID)
	return nil
}
