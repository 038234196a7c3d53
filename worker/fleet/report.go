package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
)

// Report is what a worker says of itself, for people. Times are by the worker's clock.
type Report struct {
	// ID is the worker's own, and no other process's ever. ReadReports sets it.
	ID        string    `json:"-"`
	Host      string    `json:"host"`
	PID       int       `json:"pid"`
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
	// Settings are those that should be the same for all workers, by the names of their
	// flags. None of them is a secret.
	Settings map[string]string `json:"settings,omitempty"`

	// Stopped are the kinds of calls that the worker does not make, but for probes.
	Stopped []Stopped `json:"stopped,omitempty"`
	// Untested are the kinds of calls that were stopped when a task came last, long ago: nobody
	// knows whether they pass now, and the next task tries. They are not in Stopped.
	Untested []Stopped `json:"untested,omitempty"`
	// Calls are the calls a second that the worker has made since its last report, and
	// Refused those of them that KooDrive has answered with 429.
	Calls   map[gate.Kind]float64 `json:"calls,omitempty"`
	Refused map[gate.Kind]float64 `json:"refused,omitempty"`
	// InFlight are the calls under way, and Waiting the tasks that wait for theirs.
	InFlight int `json:"in_flight"`
	Waiting  int `json:"waiting"`
	// Finished are the tasks that have reached an outcome in this worker since it started, as
	// kooworker_tasks_finished_total counts them. An older version does not say.
	Finished map[tasks.Outcome]int64 `json:"finished,omitempty"`
	// Problem says why the worker takes no tasks; "" if it does.
	Problem string `json:"problem,omitempty"`
}

// Stopped is a kind of calls that a worker does not make for now.
type Stopped struct {
	Call gate.Kind `json:"call"`
	// Reason is the breaker's. It is tasks.Throttled if the quota is used up.
	Reason tasks.Reason `json:"reason"`
	Since  time.Time    `json:"since,omitzero"` // zero if it is not known
}

const (
	// reportEvery is the time between two reports of a worker.
	reportEvery = 2 * time.Second
	// reportTTL is how long a report is kept. A worker that Redis has not heard of for
	// heartbeatTTL is not read any more.
	reportTTL = 15 * time.Second
)

// reportKey is the key of a worker's report.
func reportKey(id string) string { return "{kooworker:fleet}:report:" + id }

// Publish publishes what report returns, every two seconds until ctx ends. Only people
// read it: a report that Redis does not take is left out.
func (f *Fleet) Publish(ctx context.Context, report func() Report) {
	defer f.withdraw(context.WithoutCancel(ctx))
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		if err := f.publish(ctx, report()); err != nil && ctx.Err() == nil {
			f.log.Debug("cannot publish the report of this worker", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (f *Fleet) publish(ctx context.Context, r Report) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the report of this worker: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	return f.rdb.Set(ctx, reportKey(f.id), text, reportTTL).Err()
}

func (f *Fleet) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	_ = f.rdb.Del(ctx, reportKey(f.id)).Err() // otherwise it expires
}

// maxReports bounds how many reports are read.
const maxReports = 1000

// ReadReports returns what the workers say of themselves that have sent a heartbeat in the
// last few seconds, ordered by host and process. A worker of an older version says nothing,
// and one that has just started may not have said anything yet: live counts them as well.
func ReadReports(ctx context.Context, rdb redis.UniversalClient) (reports []Report, live int, err error) {
	ids, err := rdb.ZRange(ctx, workersKey, 0, -1).Result()
	if err != nil {
		return nil, 0, fmt.Errorf("list the workers: %w", err)
	}
	keys := make([]string, 0, len(ids))
	for _, id := range ids[:min(len(ids), maxReports)] {
		keys = append(keys, reportKey(id))
	}
	if len(keys) == 0 {
		return nil, 0, nil
	}
	values, err := rdb.MGet(ctx, keys...).Result()
	if err != nil {
		return nil, 0, fmt.Errorf("read the reports of the workers: %w", err)
	}
	for i, value := range values {
		text, _ := value.(string)
		r := Report{ID: ids[i]}
		if json.Unmarshal([]byte(text), &r) == nil { // otherwise there is none, or a newer version has written it
			reports = append(reports, r)
		}
	}
	slices.SortFunc(reports, func(a, b Report) int { return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.PID, b.PID)) })
	return reports, len(ids), nil
}
