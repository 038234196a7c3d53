package worker

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// koodriveAPI is KooDrive as the worker needs it.
type koodriveAPI interface {
	// Do carries a task out.
	Do(ctx context.Context, t tasks.Task) pipeline.Answer
	// Devices lists what a user has bound. The list is valid only if the answer's
	// reason is OK.
	Devices(ctx context.Context, userID string) ([]koodrive.Device, pipeline.Answer)
}

// gated is an API whose calls go through the gate, each of them: the guard's
// look at a user's devices is a call like any other.
type gated struct {
	api  koodriveAPI
	gate *gate.Gate
}

var (
	_ koodriveAPI = gated{}
	_ lister      = gated{}
)

// Do implements koodriveAPI.
func (g gated) Do(ctx context.Context, t tasks.Task) pipeline.Answer {
	return g.through(ctx, func(ctx context.Context) pipeline.Answer { return g.api.Do(ctx, t) })
}

// Devices implements koodriveAPI.
func (g gated) Devices(ctx context.Context, userID string) (devices []koodrive.Device, answer pipeline.Answer) {
	answer = g.through(ctx, func(ctx context.Context) pipeline.Answer {
		var a pipeline.Answer
		devices, a = g.api.Devices(ctx, userID)
		return a
	})
	return devices, answer
}

// Bound implements lister.
func (g gated) Bound(ctx context.Context, userID string) ([]string, pipeline.Answer) {
	devices, answer := g.Devices(ctx, userID)
	ids := make([]string, len(devices))
	for i, d := range devices {
		ids[i] = d.DeviceID
	}
	return ids, answer
}

func (g gated) through(ctx context.Context, call func(context.Context) pipeline.Answer) pipeline.Answer {
	permit, refusal := g.gate.Acquire(ctx)
	if refusal != nil {
		return pipeline.Answer{Reason: refusal.Reason, Message: refusal.Message, Hint: refusal.Hint, Held: true, Uncalled: true, RetryAfter: refusal.Delay}
	}
	defer permit.Close()
	answer := call(ctx)
	if answer.Uncalled {
		permit.Cancel()
		return answer
	}
	if refusal := permit.Report(ctx, gate.Answer{Reason: answer.Reason, RetryAfter: answer.RetryAfter}); refusal != nil {
		answer.Held, answer.RetryAfter = true, refusal.Delay // what KooDrive said is worth more than the gate's message
	}
	return answer
}

// gateChanged is told of the breaker. It is called under the gate's lock.
func gateChanged(log *zap.Logger) func(from, to gate.State, reason tasks.Reason) {
	return func(from, to gate.State, reason tasks.Reason) {
		fields := []zap.Field{zap.Stringer("from", from), zap.Stringer("to", to), zap.String("reason", string(reason))}
		switch {
		case from == gate.Closed:
			log.Error("KooDrive cannot be used: calls stop, but for a probe now and then; no task is charged", fields...)
		case to == gate.Closed:
			log.Info("KooDrive can be used again: calls go on, slowly at first", fields...)
		default:
			log.Debug("the breaker changed", fields...)
		}
	}
}

// gateMetrics reads the gate's status when it is asked for.
type gateMetrics struct {
	status func() gate.Status

	open, live, limit, inFlight, waiting *prometheus.Desc
	calls, probes, refused               *prometheus.Desc
}

var _ prometheus.Collector = (*gateMetrics)(nil)

func newGateMetrics(status func() gate.Status) *gateMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("kooworker_gate_"+name, help, labels, nil)
	}
	return &gateMetrics{
		status:   status,
		open:     desc("open", "1 while the breaker is not closed, by the reason that opened it.", "reason"),
		live:     desc("live_workers", "Workers that share the rate."),
		limit:    desc("limit_calls_per_second", "Calls a second that this worker may make; 0 is no limit."),
		inFlight: desc("calls_in_flight", "Calls under way."),
		waiting:  desc("waiting_tasks", "Tasks that wait in place for their call."),
		calls:    desc("calls_total", "Calls made, probes included."),
		probes:   desc("probes_total", "Probes answered."),
		refused:  desc("refused_total", "Tasks put back uncharged, by what held them back.", "cause"),
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
	for _, reason := range []tasks.Reason{tasks.Upstream, tasks.TimedOut, tasks.Network, tasks.Protocol, tasks.Unauthorized, tasks.Misrouted} {
		open := 0.0
		if s.State != gate.Closed && s.Reason == reason {
			open = 1
		}
		gauge(m.open, open, string(reason))
	}
	gauge(m.live, float64(s.Live))
	gauge(m.limit, s.Limit)
	gauge(m.inFlight, float64(s.InFlight))
	gauge(m.waiting, float64(s.Waiting))
	counter(m.calls, s.Calls)
	counter(m.probes, s.Probes)
	for _, cause := range gate.Causes() {
		counter(m.refused, s.Refused[cause], string(cause))
	}
}
