package worker

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/gate/quota"
)

// calls is what a gate knows of the calls of a kind.
func calls(seconds, perSecond float64) gate.QuotaStatus {
	const n = 100
	return gate.QuotaStatus{Rate: perSecond, Lately: gate.CallTimes{Calls: n, Seconds: n * seconds}}
}

func TestWorkersWanted(t *testing.T) {
	t.Parallel()
	const million = 1_000_000
	unbinds := func(q gate.QuotaStatus) gate.Status {
		return gate.Status{Quotas: map[gate.Kind]gate.QuotaStatus{gate.Unbind: q}}
	}
	waiting := func(n int64) backlog { return backlog{gate.Unbind: {waiting: n}} }
	ceiling := func(rate float64) Config { return Config{Rate: rate} }
	for name, tc := range map[string]struct {
		cfg    Config // of a worker with 64 slots
		status gate.Status
		tasks  backlog
		want   int
	}{
		"nothing to do":                      {Config{}, unbinds(calls(0.5, 0)), backlog{gate.Unbind: {}}, 1},
		"a short backlog":                    {Config{}, unbinds(calls(0.5, 0)), waiting(10_000), 1},
		"a long backlog":                     {Config{}, unbinds(calls(0.5, 0)), waiting(million), 18}, // 1,667 calls a second, 833 in flight
		"fast calls":                         {Config{}, unbinds(calls(0.02, 0)), waiting(million), 1},
		"a quota":                            {Config{}, unbinds(calls(0.5, 200)), waiting(million), 3}, // 100 in flight
		"a quota that is more than needed":   {Config{}, unbinds(calls(0.5, 20_000)), waiting(million), 18},
		"a quota that one worker uses":       {Config{}, unbinds(calls(0.05, 200)), waiting(million), 1},
		"a quota with many workers":          {Config{}, unbinds(calls(0.5, 200)), backlog{gate.Unbind: {waiting: million, running: 1280}}, 3},
		"busy workers":                       {Config{}, unbinds(calls(0.5, 0)), backlog{gate.Unbind: {running: 600}}, 10},
		"as many workers as are busy":        {Config{}, unbinds(calls(0.5, 0)), backlog{gate.Unbind: {waiting: 100, running: 640}}, 10},
		"calls of an unknown length":         {Config{}, gate.Status{}, backlog{gate.Unbind: {waiting: million, running: 128}}, 2},
		"slow calls count as two seconds":    {Config{}, unbinds(calls(20, 0)), waiting(60_000), 5}, // 100 calls a second
		"a ceiling":                          {ceiling(100), unbinds(calls(0.5, 200)), waiting(million), 2},
		"few calls in flight allowed":        {Config{MaxInFlight: 10}, unbinds(calls(0.5, 200)), waiting(million), 10},
		"a worker with one slot":             {Config{Concurrency: 1}, unbinds(calls(0.5, 200)), waiting(6000), 5},
		"a quota that is used up":            {Config{}, unbinds(gate.QuotaStatus{Rate: 1, Phase: quota.Closed, Lately: calls(0.5, 0).Lately}), waiting(million), 1},
		"an outage":                          {Config{}, gate.Status{Quotas: unbinds(calls(0.5, 0)).Quotas, Breakers: map[gate.Kind]gate.BreakerStatus{gate.Unbind: {State: gate.Open}}}, backlog{gate.Unbind: {waiting: million, running: 640}}, 1},
		"an outage of another kind of calls": {Config{}, gate.Status{Quotas: unbinds(calls(0.5, 0)).Quotas, Breakers: map[gate.Kind]gate.BreakerStatus{gate.Release: {State: gate.HalfOpen}}}, waiting(million), 18},
		"a limit of all kinds together":      {Config{}, gate.Status{Shared: 200, Quotas: map[gate.Kind]gate.QuotaStatus{gate.Unbind: calls(0.5, 0), gate.Release: calls(0.5, 0)}}, backlog{gate.Unbind: {waiting: million}, gate.Release: {waiting: million}}, 3},
		"a quota of each kind":               {Config{}, gate.Status{Quotas: map[gate.Kind]gate.QuotaStatus{gate.Unbind: calls(0.5, 200), gate.Release: calls(0.5, 200)}}, backlog{gate.Unbind: {waiting: million}, gate.Release: {waiting: million}}, 5},
		"unbinds that are guarded":           {Config{}, gate.Status{Quotas: map[gate.Kind]gate.QuotaStatus{gate.Unbind: calls(0.5, 200), gate.List: calls(0.5, 0)}}, waiting(million), 5},
		"lists that are not for the unbinds": {Config{}, gate.Status{Quotas: map[gate.Kind]gate.QuotaStatus{gate.Unbind: calls(0.5, 200), gate.List: {Lately: gate.CallTimes{Calls: 100_000, Seconds: 50_000}}}}, waiting(million), 5},
	} {
		if tc.cfg.Concurrency == 0 {
			tc.cfg.Concurrency = 64
		}
		if got := workersWanted(tc.cfg, tc.status, tc.tasks); got != tc.want {
			t.Errorf("%s: %d workers; want %d", name, got, tc.want)
		}
	}
}

// If an autoscaler follows the number, no task waits for long unless a quota is in the
// way, and in the end there are as few workers as the tasks need that come all the time.
func TestWorkersWanted_FollowedByAnAutoscaler(t *testing.T) {
	t.Parallel()
	const slots, seconds = 64, 0.5 // that a call takes
	for name, tc := range map[string]struct {
		waiting, perSecond, quota float64
		minutes, most, atEnd      int
	}{
		"a backlog":                      {waiting: 1_000_000, minutes: 13, most: 18, atEnd: 1},
		"a backlog before a quota":       {waiting: 1_000_000, quota: 200, minutes: 90, most: 3, atEnd: 1},
		"a steady stream":                {perSecond: 500, minutes: 30, most: 6, atEnd: 4},
		"a stream beyond the quota":      {perSecond: 500, quota: 200, minutes: 60, most: 3, atEnd: 3},
		"a backlog, and a steady stream": {waiting: 200_000, perSecond: 500, minutes: 30, most: 10, atEnd: 4},
	} {
		workers, most, waiting, made := 1, 1, tc.waiting, 0.0
		for range tc.minutes {
			const minute = 60
			made = min(float64(workers)*slots/seconds, waiting/minute+tc.perSecond)
			running := made * seconds
			if tc.quota > 0 && made > tc.quota {
				made, running = tc.quota, float64(workers*slots) // the others wait
			}
			waiting += (tc.perSecond - made) * minute
			s := gate.Status{Quotas: map[gate.Kind]gate.QuotaStatus{gate.Unbind: calls(seconds, tc.quota)}}
			workers = workersWanted(Config{Concurrency: slots}, s, backlog{gate.Unbind: {waiting: int64(waiting), running: int64(running)}})
			most = max(most, workers)
		}
		isLate := waiting > made*drainIn.Seconds() && tc.quota == 0
		if isLate || most > tc.most || workers != tc.atEnd {
			t.Errorf("%s: %.0f tasks wait after %d minutes, with %d workers, and %d at most; want less than ten minutes' tasks, %d and %d", name, waiting, tc.minutes, workers, most, tc.atEnd, tc.most)
		}
	}
}

// The backlog is what waits in the queues whose tasks call KooDrive. Nobody works on a
// queue that is paused, and no more tasks run than there are slots.
func TestReadBacklog(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	ctx := t.Context()
	w := &Worker{rdb: rdb, cfg: Config{Concurrency: 6}}
	for server, ttl := range map[string]time.Duration{"here": time.Minute, "there": time.Minute, "dead": -time.Minute} {
		rdb.ZAdd(ctx, asynqx.AllServersKey, redis.Z{Score: float64(time.Now().Add(ttl).Unix()), Member: server})
	}
	if got := w.workersWanted(); got != 1 {
		t.Errorf("%d workers before the backlog was read; want 1", got)
	}
	for i, queue := range []string{tasks.QueueUnbind, tasks.QueueRelease, tasks.QueueOffboard, tasks.QueueDeadLetter, tasks.QueueSweep, tasks.QueueWebhook} {
		push(ctx, rdb, asynqx.PendingKey(queue), 1+i)
		push(ctx, rdb, asynqx.ActiveKey(queue), 10+i)
	}
	rdb.Set(ctx, asynqx.PausedKey(tasks.QueueRelease), "1", 0)
	if err := w.readBacklog(ctx); err != nil {
		t.Fatal(err)
	}
	want := backlog{gate.Unbind: {1 + 4, 12}, gate.Release: {0, 11}, gate.List: {3, 12}}
	for kind, load := range want {
		if got := (*w.backlog.Load())[kind]; got != load {
			t.Errorf("%s: %+v; want %+v", kind, got, load)
		}
	}
	if n := len(*w.backlog.Load()); n != len(want) {
		t.Errorf("%d kinds; want %d", n, len(want))
	}
}

func push(ctx context.Context, rdb *redis.Client, key string, n int) {
	for range n {
		rdb.LPush(ctx, key, "id")
	}
}
