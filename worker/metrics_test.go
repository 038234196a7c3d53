package worker

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/locks"
)

func TestMetrics_ObserveSweep(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	m, err := newMetrics(registry, func() gate.Status { return gate.Status{} })
	if err != nil {
		t.Fatal(err)
	}
	m.observeSweep(locks.SweepReport{Source: tasks.SourceLedger, Total: 100, Stale: 12, Enqueued: 10, HeldBack: 2, Unreadable: 1})
	m.observeSweep(locks.SweepReport{}) // of a sweep that did not come so far
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if labels := metric.GetLabel(); len(labels) == 2 && labels[0].GetValue() == "ledger" && labels[1].GetName() == "state" {
				got[labels[1].GetValue()] = metric.GetGauge().GetValue()
			}
		}
	}
	for state, want := range map[string]float64{"all": 100, "stale": 12, "enqueued": 10, "held_back": 2, "unreadable": 1} {
		if got[state] != want {
			t.Errorf("the metric %s is %g; want %g", state, got[state], want)
		}
	}
}
