package dashboard

import (
	"cmp"
	"html/template"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/dashboard/chart"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/overview"
)

// chartGap is the time between two samples from which on a chart has a gap.
const chartGap = 3 * overview.SampleEvery

// charts draws the last hour: what waits, the calls against the quota, and what has ended.
func charts(samples []overview.Sample, now time.Time) (out []template.HTML) {
	if len(samples) == 0 {
		return nil
	}
	times := make([]time.Time, len(samples))
	for i, s := range samples {
		times[i] = s.At
	}
	timeline := func(title, unit string, series []chart.Series) chart.Timeline {
		return chart.Timeline{Title: title, Unit: unit, Times: times, Gap: chartGap, From: now.Add(-time.Hour), To: now, Series: series}
	}
	series := func(name string, value func(overview.Sample) float64) chart.Series {
		values := make([]float64, len(samples))
		for i, s := range samples {
			values[i] = value(s)
		}
		return chart.Series{Name: name, Values: values}
	}

	backlog := timeline("Backlog", "tasks", nil)
	for _, queue := range tasks.Queues() {
		if slices.ContainsFunc(samples, func(s overview.Sample) bool { return s.Backlog[queue] > 0 }) {
			backlog.Series = append(backlog.Series, series(queue, func(s overview.Sample) float64 { return float64(s.Backlog[queue]) }))
		}
	}
	backlog.Stacked = true

	calls := timeline("Calls to KooDrive", "/s", nil)
	for _, kind := range gate.Kinds() {
		if slices.ContainsFunc(samples, func(s overview.Sample) bool { return s.Calls[kind].Used > 0 }) {
			calls.Series = append(calls.Series, series(string(kind), func(s overview.Sample) float64 { return s.Calls[kind].Used }))
		}
	}
	calls.Series = append(calls.Series, series("refused", func(s overview.Sample) float64 {
		refused := 0.0
		for _, c := range s.Calls {
			refused += c.Refused
		}
		return refused
	}))
	limit := series("quota", quotaOf)
	calls.Limit = &limit

	ended := timeline("Tasks that ended", "/s", nil)
	for _, outcome := range []tasks.Outcome{tasks.Succeeded, tasks.AlreadyGone, tasks.Superseded, tasks.Dead, tasks.Cancelled} {
		if outcome == tasks.Succeeded || slices.ContainsFunc(samples, func(s overview.Sample) bool { return s.Finished[outcome] > 0 }) {
			ended.Series = append(ended.Series, series(strings.ReplaceAll(string(outcome), "_", " "), func(s overview.Sample) float64 { return s.PerSecond(outcome) }))
		}
	}
	for _, c := range []chart.Timeline{backlog, calls, ended} {
		out = append(out, c.HTML())
	}
	return out
}

// quotaOf is how many calls a second KooDrive allows of the kinds that are called, NaN if that is
// not known.
func quotaOf(s overview.Sample) float64 {
	limit := 0.0
	for _, c := range s.Calls {
		if c.Used > 0 && c.Limit == 0 && s.Shared == 0 {
			return cmp.Or(s.Ceiling, math.NaN())
		}
		if c.Used > 0 {
			limit += c.Limit
		}
	}
	if s.Shared > 0 {
		limit = s.Shared
	}
	if s.Ceiling > 0 && (limit == 0 || s.Ceiling < limit) {
		limit = s.Ceiling
	}
	return cmp.Or(limit, math.NaN())
}
