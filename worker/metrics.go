package worker

import (
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/gate/quota"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/recovery"
)

// metrics are the worker's metrics. Labels come from closed sets, so that no
// producer can create any number of time series.
type metrics struct {
	finished *prometheus.CounterVec
	attempts *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	calls    *prometheus.HistogramVec
	repairs  *prometheus.CounterVec
	// outcomes counts what finished counts, by outcome, for the worker's reports.
	outcomes map[tasks.Outcome]*atomic.Int64
}

// NewRegistry returns a registry with the metrics of Go and of the process, and with
// kooworker_build_info.
func NewRegistry(version, revision string) *prometheus.Registry {
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kooworker_build_info", Help: "1; its labels say which build runs.",
	}, []string{"version", "revision", "goversion"})
	build.WithLabelValues(version, revision, runtime.Version()).Set(1)
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build)
	return r
}

func newMetrics(cfg Config, status func() gate.Status, workersWanted func() int, others ...prometheus.Collector) (*metrics, error) {
	m := &metrics{
		finished: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kooworker_tasks_finished_total",
			Help: "Tasks that reached an outcome (succeeded, already_gone, superseded, cancelled or dead), and why.",
		}, []string{"kind", "outcome", "reason"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kooworker_attempts_total",
			Help: "Attempts by the reason they ended with, and whether they were charged to the task.",
		}, []string{"kind", "reason", "charged"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kooworker_attempt_duration_seconds",
			Help:    "Duration of attempts, from decoding to settling.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}, []string{"kind"}),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kooworker_api_call_duration_seconds",
			Help:    "Duration of HTTP exchanges with KooDrive, by the kind of call and the status of the answer: none if there was no answer.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}, []string{"call", "status"}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kooworker_repairs_total",
			Help: "What was found amiss in the queues, and put right or reported.",
		}, []string{"queue", "repair"}),
		outcomes: make(map[tasks.Outcome]*atomic.Int64),
	}
	for _, outcome := range []tasks.Outcome{tasks.Succeeded, tasks.AlreadyGone, tasks.Superseded, tasks.Cancelled, tasks.Dead} {
		m.outcomes[outcome] = new(atomic.Int64)
	}
	wanted := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kooworker_workers_wanted",
		Help: "Workers with the concurrency of this one that would be of use, from the backlog, KooDrive's quota and how long calls take; at least 1.",
	}, func() float64 { return float64(workersWanted()) })
	for _, c := range append(others, m.finished, m.attempts, m.seconds, m.calls, m.repairs, wanted, newGateMetrics(status)) {
		if err := cfg.Registry.Register(c); err != nil {
			return nil, fmt.Errorf("worker: metrics: %w", err)
		}
	}
	// rate() does not see the first event of a counter that did not exist before. So
	// the counters start at zero.
	for _, kind := range tasks.Kinds() {
		for outcome, reason := range map[tasks.Outcome]tasks.Reason{
			tasks.Succeeded: tasks.OK, tasks.AlreadyGone: tasks.Gone, tasks.Superseded: tasks.Outdated, tasks.Cancelled: tasks.CalledOff,
		} {
			m.finished.WithLabelValues(string(kind), string(outcome), string(reason))
		}
		for _, reason := range tasks.Reasons() {
			if reason.Hint() != "" {
				m.finished.WithLabelValues(string(kind), string(tasks.Dead), string(reason))
			}
		}
	}
	for _, queue := range tasks.Queues() {
		for _, repair := range recovery.AllRepairs() {
			m.repairs.WithLabelValues(queue, string(repair))
		}
	}
	return m, nil
}

// countAttempt counts an attempt.
func (m *metrics) countAttempt(e pipeline.Event) {
	kind := "unknown"
	if e.Task != nil {
		kind = string(e.Task.Kind())
	}
	decision := e.Decision
	m.attempts.WithLabelValues(kind, string(decision.Reason), strconv.FormatBool(decision.CountsAsAttempt)).Inc()
	m.seconds.WithLabelValues(kind).Observe(e.Took.Seconds())
	if decision.Action != pipeline.Retry {
		m.finished.WithLabelValues(kind, string(decision.Outcome), string(decision.Reason)).Inc()
		if n, known := m.outcomes[decision.Outcome]; known {
			n.Add(1)
		}
	}
}

// finishedTasks returns how many tasks have reached an outcome since the worker started.
func (m *metrics) finishedTasks() map[tasks.Outcome]int64 {
	counts := make(map[tasks.Outcome]int64, len(m.outcomes))
	for outcome, n := range m.outcomes {
		counts[outcome] = n.Load()
	}
	return counts
}

// countCall counts an exchange with KooDrive.
func (m *metrics) countCall(e koodrive.Exchange) {
	m.calls.WithLabelValues(e.Call, statusLabel(e.Status)).Observe(e.Took.Seconds())
}

// statusLabel returns the label for a status. A server may answer with any number, and must
// not make as many time series: those that KooDrive is known to send have their own.
func statusLabel(status int) string {
	switch status {
	case 0:
		return "none"
	case http.StatusOK, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return strconv.Itoa(status)
	default:
		return strconv.Itoa(status/100) + "xx"
	}
}

// countRepairs counts repairs. The lanes of a queue count together.
func (m *metrics) countRepairs(queue string, repair recovery.Repair, n int) {
	queue, _ = tasks.SplitQueue(queue)
	m.repairs.WithLabelValues(queue, string(repair)).Add(float64(n))
}

// gateMetrics reads the gate's status at each collection.
type gateMetrics struct {
	status func() gate.Status

	open, live, limit, inFlight, waiting *prometheus.Desc
	calls, probes, refused, overQuota    *prometheus.Desc
	quota, usedUp, granted               *prometheus.Desc
}

var _ prometheus.Collector = (*gateMetrics)(nil)

func newGateMetrics(status func() gate.Status) *gateMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("kooworker_gate_"+name, help, labels, nil)
	}
	return &gateMetrics{
		status:    status,
		open:      desc("open", "1 while a breaker is not closed, by the reason.", "reason"),
		live:      desc("live_workers", "Workers of the fleet."),
		limit:     desc("limit_calls_per_second", "Calls a second that the fleet may make, of the kind with the lowest limit; 0 is no limit."),
		inFlight:  desc("calls_in_flight", "Calls under way."),
		waiting:   desc("waiting_tasks", "Tasks that wait in place for their call."),
		calls:     desc("calls_total", "Calls made, probes included, by the kind of call.", "call"),
		probes:    desc("probes_total", "Probes answered."),
		overQuota: desc("over_quota_total", "Calls that KooDrive answered with 429, by the kind of call.", "call"),
		quota:     desc("quota_calls_per_second", "Calls a second that the fleet may make, by the kind of call, and of all kinds together; told by KooDrive, learnt, or none: 0 is no limit.", "call", "by"),
		usedUp:    desc("quota_used_up", "1 while KooDrive refuses every call because a quota is used up, so that only probes are made.", "call"),
		granted:   desc("granted_calls_per_second", "Calls a second of the quota that this worker got in the last second or so; 0 if there is no limit.", "call"),
		refused:   desc("refused_total", "Tasks put back uncharged, by what held them back.", "cause"),
	}
}

// Describe implements prometheus.Collector.
func (m *gateMetrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m *gateMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for _, reason := range gate.OpenReasons() {
		open := 0.0
		for _, b := range s.Breakers {
			if b.State != gate.Closed && b.Reason == reason && !b.Untested {
				open = 1
			}
		}
		gauge(m.open, open, string(reason))
	}
	gauge(m.live, float64(s.Live))
	gauge(m.limit, s.Limit)
	gauge(m.inFlight, float64(s.InFlight))
	gauge(m.waiting, float64(s.Waiting))
	counter(m.probes, s.Probes)
	for _, kind := range gate.Kinds() {
		q, usedUp := s.Quotas[kind], 0.0
		if q.Phase == quota.Closed && !q.Untested {
			usedUp = 1
		}
		counter(m.calls, q.Calls, string(kind))
		counter(m.overQuota, q.OverQuota, string(kind))
		gauge(m.quota, q.Rate, string(kind), quotaBy(q.Rate, q.IsTold))
		gauge(m.usedUp, usedUp, string(kind))
		gauge(m.granted, q.Granted, string(kind))
	}
	const isTold = true // nobody learns a limit of all kinds together
	gauge(m.quota, s.Shared, gate.SharedBucket, quotaBy(s.Shared, isTold))
	for _, cause := range gate.Causes() {
		counter(m.refused, s.Refused[cause], string(cause))
	}
}

// quotaBy says where a quota is known from.
func quotaBy(rate float64, isTold bool) string {
	switch {
	case rate == 0:
		return "none"
	case isTold:
		return "told"
	default:
		return "learnt"
	}
}
