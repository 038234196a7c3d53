package worker

import (
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/recovery"
)

// metrics counts what the pipeline did. Labels come from closed sets, so that
// no producer can blow up their number.
type metrics struct {
	finished *prometheus.CounterVec
	attempts *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	repairs  *prometheus.CounterVec
	sweeps   *prometheus.GaugeVec
}

var (
	_ pipeline.Observer = (*metrics)(nil)
	_ recovery.Observer = (*metrics)(nil)
)

func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

func newMetrics(r prometheus.Registerer, status func() gate.Status) (*metrics, error) {
	m := &metrics{
		finished: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kooworker_tasks_finished_total",
			Help: "Tasks that reached an outcome: succeeded, already_gone, superseded or dead.",
		}, []string{"kind", "outcome"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kooworker_attempts_total",
			Help: "Attempts by the reason they ended with, and whether they were charged to the task.",
		}, []string{"kind", "reason", "charged"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kooworker_attempt_duration_seconds",
			Help:    "Duration of attempts, from decoding to settling.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}, []string{"kind"}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kooworker_repairs_total",
			Help: "What was found amiss in the queues, and put right or reported.",
		}, []string{"queue", "repair"}),
		sweeps: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kooworker_sweep_locks",
			Help: "Backup locks that the last sweep of this worker found: all, stale, enqueued for their release, held back by the guard rails, and unreadable.",
		}, []string{"source", "state"}),
	}
	for _, c := range []prometheus.Collector{m.finished, m.attempts, m.seconds, m.repairs, m.sweeps, newGateMetrics(status)} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("worker: metrics: %w", err)
		}
	}
	// A counter that appears only with its first event hides that event from
	// rate(): begin them at zero.
	for _, kind := range tasks.Kinds() {
		for _, outcome := range []tasks.Outcome{tasks.Succeeded, tasks.AlreadyGone, tasks.Superseded, tasks.Dead} {
			m.finished.WithLabelValues(string(kind), string(outcome))
		}
	}
	return m, nil
}

// Observe implements pipeline.Observer.
func (m *metrics) Observe(e pipeline.Event) {
	kind := "unknown"
	if e.Task != nil {
		kind = string(e.Task.Kind())
	}
	v := e.Decision
	m.attempts.WithLabelValues(kind, string(v.Reason), strconv.FormatBool(v.CountsAsAttempt)).Inc()
	m.seconds.WithLabelValues(kind).Observe(e.Took.Seconds())
	if v.Action != pipeline.Retry {
		m.finished.WithLabelValues(kind, string(v.Outcome)).Inc()
	}
}

// swept takes note of a sweep, unless it knows nothing: it did not come so far.
func (m *metrics) swept(r locks.Report) {
	if r.Source == "" {
		return
	}
	for state, n := range map[string]int64{"all": r.Total, "stale": r.Stale, "enqueued": r.Enqueued, "held_back": r.HeldBack, "unreadable": r.Unreadable} {
		m.sweeps.WithLabelValues(string(r.Source), state).Set(float64(n))
	}
}

// Repaired implements recovery.Observer.
func (m *metrics) Repaired(queue string, repair recovery.Repair, n int) {
	m.repairs.WithLabelValues(queue, string(repair)).Add(float64(n))
}

// observers passes an event on to each that is there.
type observers []pipeline.Observer

// Observe implements pipeline.Observer.
func (o observers) Observe(e pipeline.Event) {
	for _, each := range o {
		if each != nil {
			each.Observe(e)
		}
	}
}
