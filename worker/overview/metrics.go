package overview

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/redischeck"
)

// Metrics returns the metrics of the overview. They are the same in all processes over one
// Redis: a query takes their max, and not their sum. While nothing is known, or if it is more
// than a minute old, they are absent. Those of the connection to Redis are of this process.
func (s *Shared) Metrics() prometheus.Collector { return (*collector)(s) }

type collector Shared

var _ prometheus.Collector = (*collector)(nil)

// asynqQueue are the numbers of a queue that only the metrics show.
type asynqQueue struct {
	Name      string `json:"queue"`
	Archived  int64  `json:"archived"`
	Completed int64  `json:"completed"`
	Processed int64  `json:"processed"`
	Failed    int64  `json:"failed"`
}

func asynqQueues(queues []Queue) (out []asynqQueue) {
	for _, q := range queues {
		out = append(out, asynqQueue{q.Name, q.Archived, q.Completed, q.Processed, q.Failed})
	}
	return out
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// The first are those of asynq, with the names and helps of its own exporter.
var (
	tasksDesc     = desc("asynq_tasks_enqueued_total", "Number of tasks enqueued; broken down by queue and state.", "queue", "state")
	sizeDesc      = desc("asynq_queue_size", "Number of tasks in a queue.", "queue")
	latencyDesc   = desc("asynq_queue_latency_seconds", "Number of seconds the oldest pending task is waiting in pending state to be processed.", "queue")
	processedDesc = desc("asynq_tasks_processed_total", "Number of tasks processed (both succeeded and failed); broken down by queue.", "queue")
	failedDesc    = desc("asynq_tasks_failed_total", "Number of tasks failed; broken down by queue.", "queue")
	pausedDesc    = desc("asynq_queue_paused_total", "1 while a queue, or a lane of it, is paused.", "queue")

	workersDesc     = desc("kooworker_workers", "Workers that are alive.")
	lettersDesc     = desc("kooworker_dead_letters", "Dead letters, by reason. A letter that somebody has deleted in asynqmon counts for some hours more.", "reason")
	openDesc        = desc("kooworker_batches_open", "Batches that are not complete.")
	lateDesc        = desc("kooworker_batches_late", "Batches that are not complete, and should have been by now (--due-by).")
	batchTasksDesc  = desc("kooworker_batch_tasks", "Tasks of the batches that are not complete, by state: queued, or an outcome.", "state")
	locksDesc       = desc("kooworker_locks", "Backup locks that the lock ledger knows: all (known), stale ones, and those whose release is enqueued (swept).", "state")
	sweepDesc       = desc("kooworker_sweep_locks", "Backup locks that the last sweep of a source found: all, stale, enqueued for their release, held back by the guard rails, and unreadable.", "source", "state")
	sweptAtDesc     = desc("kooworker_last_sweep_timestamp_seconds", "When the last complete sweep of a source began.", "source")
	problemDesc     = desc("kooworker_redis_problem", "1 if Redis may lose tasks because of its configuration or its disk, by what is wrong.", "problem")
	usedDesc        = desc("kooworker_redis_memory_used_bytes", "Memory that Redis uses.")
	maxDesc         = desc("kooworker_redis_memory_max_bytes", "Memory that Redis may use; 0 is no limit.")
	readAtDesc      = desc("kooworker_overview_timestamp_seconds", "When these figures of all workers together were read.")
	redisUpDesc     = desc("kooworker_redis_up", "1 if Redis has served this process in the last ten seconds or so: it answers, and takes what is written.")
	redisSecondDesc = desc("kooworker_redis_latency_seconds", "How long Redis took for the latest answer to this process.")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		tasksDesc, sizeDesc, latencyDesc, processedDesc, failedDesc, pausedDesc, workersDesc, lettersDesc, openDesc, lateDesc, batchTasksDesc,
		locksDesc, sweepDesc, sweptAtDesc, problemDesc, usedDesc, maxDesc, readAtDesc, redisUpDesc, redisSecondDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := (*Shared)(c)
	if ping := s.ping.Load(); ping != nil {
		gauge(redisUpDesc, flag(ping.Up))
		gauge(redisSecondDesc, ping.Seconds)
	}
	v := s.get()
	if v == nil {
		return
	}
	gauge(readAtDesc, float64(v.At.UnixMilli())/1000)
	gauge(workersDesc, float64(v.Workers.Live))
	collectQueues(ch, v)
	for _, reason := range tasks.Reasons() {
		if reason.Hint() != "" || v.Dead.ByReason[reason] > 0 {
			gauge(lettersDesc, float64(v.Dead.ByReason[reason]), string(reason))
		}
	}
	gauge(openDesc, float64(v.Batches.Open))
	gauge(lateDesc, float64(v.Batches.Late))
	for _, state := range batchStates {
		gauge(batchTasksDesc, float64(v.Batches.Tasks[state.name]), state.name)
	}
	for state, n := range map[string]int64{"known": v.Locks.Total, "stale": v.Locks.Stale, "swept": v.Locks.Swept} {
		gauge(locksDesc, float64(n), state)
	}
	for _, sweep := range v.Locks.Sweeps {
		source := string(sweep.Source)
		gauge(sweptAtDesc, float64(sweep.Began.UnixMilli())/1000, source)
		for state, n := range map[string]int64{"all": sweep.Total, "stale": sweep.Stale, "enqueued": sweep.Enqueued, "held_back": sweep.HeldBack, "unreadable": sweep.Unreadable} {
			gauge(sweepDesc, float64(n), source, state)
		}
	}
	for _, name := range redischeck.Names() {
		found := false
		for _, p := range v.Redis.Problems {
			found = found || p.Name == name
		}
		gauge(problemDesc, flag(found), name)
	}
	gauge(usedDesc, float64(v.Redis.UsedBytes))
	gauge(maxDesc, float64(v.Redis.MaxBytes))
}

// collectQueues collects the metrics that asynq's own exporter has as well.
func collectQueues(ch chan<- prometheus.Metric, v *shared) {
	metric := func(d *prometheus.Desc, kind prometheus.ValueType, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, float64(n), labels...)
	}
	if len(v.Asynq) != len(v.Queues) {
		return // another version has read them
	}
	for i, q := range v.Queues {
		a := v.Asynq[i]
		size := int64(0)
		for _, state := range []struct {
			name string
			n    int64
		}{{"pending", q.Pending}, {"active", q.Active}, {"scheduled", q.Scheduled}, {"retry", q.Retry}, {"archived", a.Archived}, {"completed", a.Completed}} {
			metric(tasksDesc, prometheus.GaugeValue, state.n, q.Name, state.name)
			size += state.n
		}
		metric(sizeDesc, prometheus.GaugeValue, size, q.Name)
		metric(latencyDesc, prometheus.GaugeValue, q.OldestSeconds, q.Name)
		metric(processedDesc, prometheus.CounterValue, a.Processed, q.Name)
		metric(failedDesc, prometheus.CounterValue, a.Failed, q.Name)
		metric(pausedDesc, prometheus.GaugeValue, int64(flag(q.Paused)), q.Name)
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
