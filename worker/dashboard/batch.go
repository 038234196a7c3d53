package dashboard

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/batches"
	"github.com/kooworker/kooworker/worker/dashboard/access"
	"github.com/kooworker/kooworker/worker/forecast"
)

// batchPage shows one batch.
type batchPage struct {
	forecast.Batch
	States []stateRow
	Late   bool
	// Cancelled says that the whole batch is cancelled, also if tasks still wait; nil if it is not.
	Cancelled *batch.Cancellation
}

// stateRow is how many tasks of a batch are in a state.
type stateRow struct {
	Name  string
	Count int64
}

// Failures is how many of its tasks were given up.
func (p batchPage) Failures() int64 { return p.Dead + p.Discarded + p.Rejected }

const batchReload = 2 * time.Second

func (d *Dashboard) batch(r *http.Request, _ access.User) (reply, error) {
	p, err := d.readBatch(r.Context(), r.PathValue("id"))
	if err != nil {
		return reply{}, err
	}
	out := reply{page: "batch.html", title: "Batch " + p.ID, data: p}
	if !p.Done {
		out.reload = batchReload
	}
	return out, nil
}

func (d *Dashboard) readBatch(ctx context.Context, id string) (p batchPage, err error) {
	stats, err := d.batches.Show(ctx, id)
	if err != nil {
		return p, err
	}
	p.Batch = d.forecasts.WithTimeLeft(ctx, stats)
	p.Late = p.IsLate(time.Now())
	p.States = statesOf(stats)
	stops, err := d.batches.Stops(ctx, nil)
	if err != nil {
		return p, err
	}
	if c, ok := stops.Whole(id); ok {
		p.Cancelled = &c
	}
	return p, nil
}

// statesOf returns the states that a batch has tasks in.
func statesOf(b tasks.BatchStats) (rows []stateRow) {
	for _, row := range []stateRow{
		{"queued", b.Queued}, {"succeeded", b.Succeeded}, {"already gone", b.AlreadyGone},
		{"superseded", b.Superseded}, {"cancelled", b.Cancelled}, {"duplicate", b.Duplicate},
		{"dead", b.Dead}, {"discarded", b.Discarded}, {"rejected", b.Rejected},
	} {
		if row.Count > 0 {
			rows = append(rows, row)
		}
	}
	return rows
}

// ended is how many tasks of a batch have ended.
func ended(b tasks.BatchStats) int64 { return b.Total - b.Queued }

// cancelPage asks whether a batch should be cancelled.
type cancelPage struct{ tasks.BatchStats }

// Open is how many tasks would be cancelled.
func (p cancelPage) Open() int64 { return p.Queued + p.Dead }

func (d *Dashboard) confirmCancel(r *http.Request, user access.User) (reply, error) {
	if !user.IsOperator() {
		return reply{}, errViewer
	}
	b, err := d.batches.Show(r.Context(), r.PathValue("id"))
	return reply{page: "cancel.html", title: "Cancel batch " + b.ID, data: cancelPage{b}}, err
}

// cancelBatch cancels what waits of a batch. Workers learn of it within a second or two; taking the
// tasks out of their queues goes on without the browser. If the dashboard dies meanwhile, the
// audit log has the order, workers cancel each task when they come to it, and
// finishCancelling does the rest when a dashboard starts.
func (d *Dashboard) cancelBatch(r *http.Request, user access.User) (reply, error) {
	id := r.PathValue("id")
	b, err := d.batches.Show(r.Context(), id)
	if err != nil {
		return reply{}, err
	}
	if b.Done && b.Queued+b.Dead == 0 {
		return reply{}, badRequest("batch %s is done: there is nothing to cancel", id)
	}
	return d.changeBatch(r, user, "batch cancelled", "cancelled", func(ctx context.Context, id, reason string) (int64, error) {
		d.audit(r, user, audit.Entry{Action: "cancelling of a batch ordered", Subject: "batch " + id, Reason: reason}, nil)
		res, err := batches.Cancel(ctx, d.cfg.Redis, batch.Cancellation{Batch: id, Reason: reason, By: user.Name}, func(int64) {})
		return res.Cancelled, err
	})
}

// finishCancelling finishes the cancelling of whole batches that a process has begun which has died
// since. It does no harm if that process is alive.
func (d *Dashboard) finishCancelling(ctx context.Context) error {
	ongoing, err := d.batches.Ongoing(ctx)
	if err != nil {
		return err
	}
	stops, err := d.batches.Stops(ctx, nil)
	if err != nil {
		return err
	}
	for _, b := range ongoing {
		c, ok := stops.Whole(b.ID)
		if !ok {
			continue
		}
		res, err := batches.Cancel(ctx, d.cfg.Redis, c, func(int64) {})
		e := audit.Entry{By: c.By, Via: audit.Dashboard, Action: "cancelling of a batch finished", Subject: "batch " + b.ID, Count: res.Cancelled, Reason: c.Reason}
		d.cfg.Audit.Record(ctx, e.With(err))
	}
	return nil
}

// holdBatch holds a batch until it is released.
func (d *Dashboard) holdBatch(r *http.Request, user access.User) (reply, error) {
	return d.changeBatch(r, user, "batch held", "held", func(ctx context.Context, id, reason string) (int64, error) {
		res, err := batches.Hold(ctx, d.cfg.Redis, batch.Hold{Batch: id, Reason: reason, By: user.Name}, func(int64) {})
		return res.Moved, err
	})
}

// releaseBatch ends a hold. If the dashboard dies meanwhile, the page says that a release has
// begun and is not finished, and releasing again finishes it.
func (d *Dashboard) releaseBatch(r *http.Request, user access.User) (reply, error) {
	return d.changeBatch(r, user, "batch released", "released", func(ctx context.Context, id, _ string) (int64, error) {
		res, err := batches.Release(ctx, d.cfg.Redis, id, func(int64) {})
		return res.Moved, err
	})
}

// soon is how long an answer waits for a change of a batch, which may take longer.
const soon = 3 * time.Second

// changeBatch changes a batch. The change goes on when the browser goes, and when it takes long; it
// ends up in the audit log.
func (d *Dashboard) changeBatch(r *http.Request, user access.User, action, done string, change func(ctx context.Context, id, reason string) (int64, error)) (reply, error) {
	id := r.PathValue("id")
	reason, err := reasonOf(r)
	if err != nil {
		return reply{}, err
	}
	if _, err := d.batches.Show(r.Context(), id); err != nil {
		return reply{}, err
	}
	result := make(chan error, 1)
	started := d.background(func(ctx context.Context) {
		n, err := change(ctx, id, reason)
		d.audit(r, user, audit.Entry{Action: action, Subject: "batch " + id, Count: n, Reason: reason}, err)
		result <- err
	})
	if !started {
		return reply{}, errStopping
	}
	select {
	case err := <-result:
		if isRefused(err) {
			return reply{}, badRequest("%v", err)
		}
		if err != nil {
			return reply{}, err
		}
	case <-time.After(soon):
	}
	return reply{redirect: "/batches/" + id + "?done=" + done}, nil
}

// isRefused reports whether a change makes no sense for the batch as it is.
func isRefused(err error) bool {
	_, isDone := errors.AsType[*batches.DoneError](err)
	_, isEarlier := errors.AsType[*batches.EarlierError](err)
	return isDone || isEarlier
}
