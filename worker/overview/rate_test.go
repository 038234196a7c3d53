package overview

import (
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
)

// A batch is promised no rate while its calls are not made, and none that the quota does not
// allow.
func TestOverview_SetRate(t *testing.T) {
	t.Parallel()
	recent := batch.Recent{Kinds: []tasks.Kind{tasks.KindDeviceUnbind}, Tasks: 20, Attempts: 20, Span: 10 * time.Second}
	stops := func(call gate.Kind, reason tasks.Reason) fleet.Report {
		return fleet.Report{Stopped: []fleet.Stopped{{Call: call, Reason: reason}}}
	}
	works := fleet.Report{}
	for name, tc := range map[string]struct {
		reports []fleet.Report
		quota   float64
		rate    float64
		left    int64
	}{
		"no quota is known":           {[]fleet.Report{works}, 0, 2, 90},
		"the quota allows more":       {[]fleet.Report{works}, 50, 2, 90},
		"the quota allows less":       {[]fleet.Report{works}, 0.01, 0.01, 18_000},
		"the quota is used up":        {[]fleet.Report{stops(gate.Unbind, tasks.Throttled)}, 0, 0, 0},
		"a worker has not noticed":    {[]fleet.Report{stops(gate.Unbind, tasks.Throttled), works}, 0, 0, 0},
		"an outage":                   {[]fleet.Report{stops(gate.Unbind, tasks.Upstream)}, 0, 0, 0},
		"an outage for one worker":    {[]fleet.Report{stops(gate.Unbind, tasks.Upstream), works}, 0, 2, 90},
		"other calls are stopped":     {[]fleet.Report{stops(gate.Release, tasks.Throttled)}, 0, 2, 90},
		"no worker runs":              {nil, 0, 0, 0},
		"the only worker has trouble": {[]fleet.Report{{Problem: "the clock"}}, 0, 0, 0},
	} {
		var v Overview
		v.Workers.List, v.Workers.Live = tc.reports, len(tc.reports)
		v.setStopped()
		v.limits.Kinds = map[gate.Kind]float64{gate.Unbind: tc.quota}
		b := Batch{BatchStats: tasks.BatchStats{Queued: 180}}
		v.setRate(&b, recent)
		if b.Rate != tc.rate || b.LeftSeconds != tc.left {
			t.Errorf("%s: %g/s, %d s left; want %g/s, %d s", name, b.Rate, b.LeftSeconds, tc.rate, tc.left)
		}
	}
	v := Overview{unread: map[string]bool{"workers": true}}
	b := Batch{BatchStats: tasks.BatchStats{Queued: 180}}
	if v.setRate(&b, recent); b.Rate != 2 {
		t.Errorf("%g/s while nothing is known of the workers; want what was measured", b.Rate)
	}
}
