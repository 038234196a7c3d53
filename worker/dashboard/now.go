package dashboard

import (
	"context"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/kooworker/kooworker/internal/cancelable"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/dashboard/access"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/overview"
)

// nowPage is what `kooworker status` says.
type nowPage struct {
	overview.Overview
	OK      bool
	Waiting int64
	Causes  []overview.Cause
	Kinds   []callRow
	Dead    []reasonRow
	Retry   []reasonRow
	Charts  []template.HTML
}

// callRow is a kind of calls.
type callRow struct {
	Kind    gate.Kind
	Used    float64
	Limit   float64 // 0: not known
	Refused float64
	Stopped []tasks.Reason
}

// reasonRow is a reason with its count.
type reasonRow struct {
	Reason tasks.Reason
	Count  int64
	Hint   string
	Href   string // where the tasks are; empty if no page shows them
}

const nowReload = 2 * time.Second

func (d *Dashboard) now(r *http.Request, _ access.User) (reply, error) {
	v, err := d.overview(r.Context())
	if err != nil { // it reports only that Redis does not answer
		return reply{}, fmt.Errorf("%w: %w", errAway, err)
	}
	p := nowPage{Overview: v, Waiting: v.Waiting(), Causes: v.Causes(), Dead: d.deadRows(v.Dead.ByReason), Retry: reasonRows(v.Retries)}
	samples, err := overview.ReadSamples(r.Context(), d.cfg.Redis)
	if err != nil {
		return reply{}, err
	}
	p.Charts = charts(samples, v.At)
	p.OK = !slices.ContainsFunc(p.Causes, func(c overview.Cause) bool { return c.Wrong })
	for _, kind := range gate.Kinds() {
		q := v.Quota.Calls[kind]
		row := callRow{Kind: kind, Used: q.Used, Limit: q.Limit, Refused: q.Refused}
		if row.Limit == 0 {
			row.Limit = v.Quota.Shared
		}
		for _, s := range v.Gate.Stopped {
			if s.Call == kind {
				row.Stopped = append(row.Stopped, s.Reason)
			}
		}
		p.Kinds = append(p.Kinds, row)
	}
	return reply{page: "now.html", title: "Now", data: p, reload: nowReload}, nil
}

// overview reads the overview. It gives up when ctx ends, also if Redis hangs.
func (d *Dashboard) overview(ctx context.Context) (overview.Overview, error) {
	return cancelable.Call(ctx, func() (overview.Overview, error) {
		return overview.Read(ctx, d.cfg.Redis, overview.ForScreen(d.cfg.Grace))
	})
}

// reasonRows returns counts by reason, the most frequent first.
func reasonRows(counts map[tasks.Reason]int64) (rows []reasonRow) {
	for _, reason := range overview.MostFrequent(counts) {
		rows = append(rows, reasonRow{Reason: reason, Count: counts[reason], Hint: reason.Hint()})
	}
	return rows
}
