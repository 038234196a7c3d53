package dashboard

import (
	"context"
	"net/http"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/dashboard/access"
)

// batchPage shows one batch.
type batchPage struct {
	tasks.BatchStats
	States []stateRow
	Rate   float64
	Left   string // about how long the rest takes; empty if that is not known
	Held   *batch.Hold
	Late   bool
}

// stateRow is how many tasks of a batch are in a state.
type stateRow struct {
	Name  string
	Count int64
	Class string // of the bar
}

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
	if p.BatchStats, err = d.batches.Show(ctx, id); err != nil {
		return p, err
	}
	p.Late = p.IsLate(time.Now())
	p.States = statesOf(p.BatchStats)
	stops, err := d.batches.Stops(ctx, nil)
	if err != nil {
		return p, err
	}
	if h, ok := stops.HoldNow(id, time.Now()); ok {
		p.Held = &h
	}
	return p, nil
}

// statesOf returns the states that a batch has tasks in.
func statesOf(b tasks.BatchStats) (rows []stateRow) {
	for _, row := range []stateRow{
		{"queued", b.Queued, "wait"}, {"succeeded", b.Succeeded, "good"}, {"already gone", b.AlreadyGone, "good"},
		{"superseded", b.Superseded, "other"}, {"cancelled", b.Cancelled, "other"}, {"duplicate", b.Duplicate, "other"},
		{"dead", b.Dead, "bad"}, {"discarded", b.Discarded, "bad"}, {"rejected", b.Rejected, "bad"},
	} {
		if row.Count > 0 {
			rows = append(rows, row)
		}
	}
	return rows
}

// ended is how many tasks of a batch have ended.
func ended(b tasks.BatchStats) int64 { return b.Total - b.Queued }
