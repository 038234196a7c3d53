package worker

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/gate/quota"
	"github.com/kooworker/kooworker/worker/pipeline"
)

func TestMetrics_Quota(t *testing.T) {
	t.Parallel()
	status := gate.Status{Shared: 300, Quotas: map[gate.Kind]gate.QuotaStatus{
		gate.Unbind:  {Rate: 198.4, IsTold: true, Phase: quota.Following, Granted: 66.5, Calls: 1000, OverQuota: 3},
		gate.Release: {Rate: 1, Phase: quota.Closed, Calls: 50, OverQuota: 20},
		gate.List:    {Phase: quota.Closed, Untested: true, Calls: 7},
	}, Breakers: map[gate.Kind]gate.BreakerStatus{
		gate.Unbind: {State: gate.Open, Reason: tasks.Misrouted}, gate.Release: {State: gate.Open, Reason: tasks.Unauthorized, Untested: true},
	}}
	registry := prometheus.NewRegistry()
	if _, err := newMetrics(Config{Registry: registry}, func() gate.Status { return status }, func() int { return 3 }); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := ""
			for _, label := range metric.GetLabel() { // in the order of their names
				labels += " " + label.GetName() + "=" + label.GetValue()
			}
			if name := family.GetName(); strings.Contains(labels, "call=") || labels == " reason=unauthorized" || labels == " reason=misrouted" || name == "kooworker_workers_wanted" {
				got[strings.TrimPrefix(name, "kooworker_")+labels] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
			}
		}
	}
	want := map[string]float64{
		"gate_calls_total call=unbind":  1000,
		"gate_calls_total call=release": 50,
		"gate_calls_total call=list":    7,

		"gate_over_quota_total call=unbind":  3,
		"gate_over_quota_total call=release": 20,
		"gate_over_quota_total call=list":    0,

		"gate_quota_calls_per_second by=told call=unbind":    198.4,
		"gate_quota_calls_per_second by=learnt call=release": 1,
		"gate_quota_calls_per_second by=none call=list":      0,
		"gate_quota_calls_per_second by=told call=all":       300,

		"gate_quota_used_up call=unbind":  0,
		"gate_quota_used_up call=release": 1,
		"gate_quota_used_up call=list":    0,

		"gate_open reason=misrouted":    1,
		"gate_open reason=unauthorized": 0, // no task has come since that could try

		"gate_granted_calls_per_second call=unbind":  66.5,
		"gate_granted_calls_per_second call=release": 0,
		"gate_granted_calls_per_second call=list":    0,

		"workers_wanted": 3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// What was found long ago is told apart from what is so now.
func TestStoppedCalls(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 28, 1, 2, 3, 0, time.UTC)
	stopped, untested := stoppedCalls(gate.Status{
		Breakers: map[gate.Kind]gate.BreakerStatus{
			gate.Unbind: {State: gate.HalfOpen, Reason: tasks.Upstream, Since: at}, gate.Release: {State: gate.Open, Reason: tasks.Unauthorized, Since: at, Untested: true},
		},
		Quotas: map[gate.Kind]gate.QuotaStatus{gate.Unbind: {Phase: quota.Closed}, gate.List: {Phase: quota.Closed, Untested: true}},
	})
	if diff := cmp.Diff([]fleet.Stopped{{Call: gate.Unbind, Reason: tasks.Upstream, Since: at}}, stopped); diff != "" {
		t.Errorf("stopped (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]fleet.Stopped{{Call: gate.Release, Reason: tasks.Unauthorized, Since: at}, {Call: gate.List, Reason: tasks.Throttled}}, untested); diff != "" {
		t.Errorf("untested (-want +got):\n%s", diff)
	}
	if stopped, untested = stoppedCalls(gate.Status{Quotas: map[gate.Kind]gate.QuotaStatus{gate.List: {Phase: quota.Closed}}}); len(stopped) != 1 || len(untested) != 0 {
		t.Errorf("%+v, %+v; want that a quota is used up", stopped, untested)
	}
}

// The worker's report counts the outcomes, and not the attempts before them.
func TestFinishedTasks(t *testing.T) {
	t.Parallel()
	m, err := newMetrics(Config{Registry: prometheus.NewRegistry()}, func() gate.Status { return gate.Status{} }, func() int { return 1 })
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []pipeline.Decision{
		{Action: pipeline.Complete, Outcome: tasks.Succeeded, Reason: tasks.OK}, {Action: pipeline.Complete, Outcome: tasks.Succeeded, Reason: tasks.OK},
		{Action: pipeline.Retry, Reason: tasks.Upstream}, {Action: pipeline.Park, Outcome: tasks.Dead, Reason: tasks.Forbidden},
	} {
		m.countAttempt(pipeline.Event{Decision: d})
	}
	want := map[tasks.Outcome]int64{tasks.Succeeded: 2, tasks.Dead: 1, tasks.AlreadyGone: 0, tasks.Superseded: 0, tasks.Cancelled: 0}
	if diff := cmp.Diff(want, m.finishedTasks()); diff != "" {
		t.Errorf("finished (-want +got):\n%s", diff)
	}
}

// No server can make any number of time series.
func TestStatusLabel(t *testing.T) {
	t.Parallel()
	labels := map[string]bool{}
	for status := range 1000 {
		labels[statusLabel(status)] = true
	}
	if len(labels) > 21 || !labels["none"] || !labels["429"] || !labels["4xx"] {
		t.Errorf("labels %v; want a few", labels)
	}
}
