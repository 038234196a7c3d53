package overview

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
)

// reportOf is a report of a worker that has finished some tasks.
func reportOf(id string, succeeded, dead int64) fleet.Report {
	return fleet.Report{ID: id, Finished: map[tasks.Outcome]int64{tasks.Succeeded: succeeded, tasks.Dead: dead}}
}

// publish leaves the report of a worker in Redis, as fleet does, and keeps it alive.
func publish(t *testing.T, rdb redis.UniversalClient, r fleet.Report) {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	rdb.ZAdd(t.Context(), "{kooworker:fleet}:workers", redis.Z{Score: float64(time.Now().UnixMilli()), Member: r.ID})
	rdb.Set(t.Context(), "{kooworker:fleet}:report:"+r.ID, text, time.Minute)
}

// take has the process take a sample, as if it were ten seconds later.
func take(t *testing.T, s *Shared) {
	t.Helper()
	s.cfg.Redis.Del(t.Context(), turnKey)
	if err := s.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func readSamples(t *testing.T, rdb redis.UniversalClient) []Sample {
	t.Helper()
	samples, err := ReadSamples(t.Context(), rdb)
	if err != nil {
		t.Fatal(err)
	}
	return samples
}

func TestReadSamples(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	fill(t, rdb)
	if got := readSamples(t, rdb); len(got) != 0 {
		t.Errorf("%v before anybody ran; want no samples", got)
	}
	one, other := NewShared(SharedConfig{Redis: rdb, Logger: zap.NewNop()}), NewShared(SharedConfig{Redis: server.Client(), Logger: zap.NewNop()})
	r := reportOf("a", 100, 1)
	r.Calls, r.Refused = map[gate.Kind]float64{gate.Unbind: 12.3456}, map[gate.Kind]float64{gate.Unbind: 0.5}
	r.Stopped = []fleet.Stopped{{Call: gate.Release, Reason: tasks.Upstream}}
	publish(t, rdb, r)
	before := time.Now().Add(-time.Second)
	take(t, one)
	r = reportOf("a", 130, 3)
	publish(t, rdb, r)
	publish(t, rdb, reportOf("b", 5, 0)) // has started since
	take(t, other)

	got := readSamples(t, rdb)
	if len(got) != 2 {
		t.Fatalf("%d samples; want one of each process", len(got))
	}
	for i, s := range got {
		if s.At.Before(before) || s.At.After(time.Now().Add(time.Second)) {
			t.Errorf("sample %d is of %s; want now", i, s.At)
		}
	}
	want := []Sample{
		{
			At: got[0].At, Backlog: map[string]int64{tasks.QueueUnbind: 4}, Dead: 2, Workers: 1,
			Calls: map[gate.Kind]CallQuota{gate.Unbind: {Used: 12.35, Refused: 0.5}}, Stopped: []gate.Kind{gate.Release},
		},
		{
			At: got[1].At, Backlog: map[string]int64{tasks.QueueUnbind: 4}, Dead: 2, Workers: 2,
			Finished: map[tasks.Outcome]int64{tasks.Succeeded: 35, tasks.Dead: 2}, Since: got[0].At,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
	for _, key := range []string{samplesKey, finishedKey} {
		if ttl := rdb.TTL(t.Context(), key).Val(); ttl <= 0 || ttl > SamplesKept {
			t.Errorf("%s expires in %s; want within %s", key, ttl, SamplesKept)
		}
	}
}

func TestSample_PerSecond(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := Sample{At: now, Since: now.Add(-10 * time.Second), Finished: map[tasks.Outcome]int64{tasks.Succeeded: 35}}
	if got := []float64{s.PerSecond(tasks.Succeeded), s.PerSecond(tasks.Dead)}; got[0] != 3.5 || got[1] != 0 {
		t.Errorf("%v; want 3.5 and 0 a second", got)
	}
	for _, unknown := range []Sample{{At: now}, {At: now, Since: now, Finished: s.Finished}} {
		if got := unknown.PerSecond(tasks.Succeeded); !math.IsNaN(got) {
			t.Errorf("%v a second of %+v; want NaN", got, unknown)
		}
	}
}

// Another process whose turn it is not keeps no sample.
func TestReadSamples_OnePerTurn(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	for range 3 {
		if err := NewShared(SharedConfig{Redis: rdb, Logger: zap.NewNop()}).refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := readSamples(t, rdb); len(got) != 1 {
		t.Errorf("%d samples; want one", len(got))
	}
}

// What cannot be read is a gap, and no zero.
func TestReadSamples_BrokenPart(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	s := NewShared(SharedConfig{Redis: rdb, Logger: zap.NewNop()})
	rdb.Set(t.Context(), "asynq:{unbind}:pending", "of another version", 0)
	take(t, s)
	if got := readSamples(t, rdb); len(got) != 0 {
		t.Errorf("%v; want no sample while the queues cannot be read", got)
	}
	rdb.Del(t.Context(), "asynq:{unbind}:pending")
	rdb.Set(t.Context(), "kooworker:batches:open", "of another version", 0)
	take(t, s)
	if got := readSamples(t, rdb); len(got) != 1 {
		t.Errorf("%d samples; want one, which needs no batches", len(got))
	}
}

// Entries of other versions, old ones and a clock that was put back are no reason to show
// nothing.
func TestReadSamples_Tolerant(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	at := time.Now().Truncate(time.Second)
	push := func(text string) { rdb.RPush(t.Context(), samplesKey, text) }
	sample := func(age time.Duration, finished map[tasks.Outcome]int64) {
		text, err := json.Marshal(storedSample{Version: sampleVersion, At: at.Add(-age).UnixMilli(), Finished: finished})
		if err != nil {
			t.Fatal(err)
		}
		push(string(text))
	}
	counted := func(n int64) map[tasks.Outcome]int64 { return map[tasks.Outcome]int64{tasks.Succeeded: n} }
	push("not JSON")
	push(`{"v":2,"at":"in words"}`)
	push(fmt.Sprintf(`{"v":%d,"at":%d}`, sampleVersion+1, at.UnixMilli()))
	sample(2*time.Hour, counted(1))
	sample(30*time.Minute, counted(10))
	sample(29*time.Minute, counted(70))
	sample(9*time.Minute, counted(0)) // nobody ran for a while, and the counts began anew
	sample(7*time.Minute, map[tasks.Outcome]int64{tasks.Succeeded: 6, tasks.Dead: 1})
	sample(8*time.Minute, counted(5))
	var got []string
	for _, s := range readSamples(t, rdb) {
		since := ""
		if !s.Since.IsZero() {
			since = at.Sub(s.Since).String()
		}
		got = append(got, fmt.Sprintf("%s: %v since %q", at.Sub(s.At), s.Finished, since))
	}
	want := []string{
		`30m0s: map[] since ""`, `29m0s: map[succeeded:60] since "30m0s"`, `9m0s: map[] since ""`,
		`8m0s: map[succeeded:5] since "9m0s"`, `7m0s: map[dead:1 succeeded:1] since "8m0s"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The sum over workers that come and go only grows, and misses little.
func TestCounters(t *testing.T) {
	t.Parallel()
	var c *counters
	now := time.Now()
	for i, step := range []struct {
		after                   time.Duration
		reports                 []fleet.Report
		wantSucceeded, wantDead int64
		why                     string
	}{
		{0, []fleet.Report{reportOf("a", 1000, 10)}, 0, 0, "nothing was known before"},
		{0, []fleet.Report{reportOf("a", 1007, 10)}, 7, 0, "a worked on"},
		{0, []fleet.Report{reportOf("a", 1007, 10), reportOf("b", 20, 1), {ID: "old"}}, 27, 1, "b has started; a worker of an older version says nothing"},
		{0, []fleet.Report{reportOf("b", 21, 1)}, 28, 1, "a has died"},
		{0, nil, 28, 1, "no report can be read"},
		{30 * time.Minute, []fleet.Report{reportOf("b", 25, 1), reportOf("a2", 3, 0)}, 35, 1, "b is back, and a was started again"},
		{0, []fleet.Report{reportOf("b", 24, 1), reportOf("a2", 3, 0)}, 35, 1, "an older report was read later"},
		{0, []fleet.Report{reportOf("b", 25, 1)}, 35, 1, "and the newer one again"},
		{0, []fleet.Report{reportOf("a", 1010, 11)}, 38, 2, "a was not dead"},
	} {
		now = now.Add(step.after)
		// It goes through Redis each time.
		c = c.add(step.reports, now)
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		c = &counters{}
		if err := json.Unmarshal(text, c); err != nil {
			t.Fatal(err)
		}
		if c.Total[tasks.Succeeded] != step.wantSucceeded || c.Total[tasks.Dead] != step.wantDead {
			t.Errorf("step %d: %v; want %d succeeded and %d dead: %s", i, c.Total, step.wantSucceeded, step.wantDead, step.why)
		}
	}
	if len(c.add(nil, now.Add(2*SamplesKept)).Workers) != 0 {
		t.Error("workers are remembered that were not seen for two hours; want none")
	}
	for i := range 2 * maxCounters {
		c.Workers[fmt.Sprint("w-", i)] = workerCounter{Seen: now.UnixMilli() - 2}
	}
	if c = c.add([]fleet.Report{reportOf("new", 1, 0)}, now); len(c.Workers) != maxCounters || c.Workers["new"].Finished == nil {
		t.Errorf("%d workers are remembered, the new one: %+v; want %d and the latest", len(c.Workers), c.Workers["new"], maxCounters)
	}
}

// An hour and more of samples of a large fleet stays small.
func TestSamples_Bounded(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	v := Overview{Workers: Workers{Live: 1000}, Quota: Quota{Calls: make(map[gate.Kind]CallQuota), Shared: 12345.67, Ceiling: 300}}
	for _, queue := range tasks.Queues() {
		v.Queues = append(v.Queues, Queue{Name: queue, Pending: 1_000_000_000})
	}
	for _, kind := range gate.Kinds() {
		v.Quota.Calls[kind] = CallQuota{Limit: 1234.5678, Used: 1234.5678, Refused: 12.3456}
		v.Gate.Stopped = append(v.Gate.Stopped, Stopped{Stopped: fleet.Stopped{Call: kind}})
	}
	reports := make([]fleet.Report, 1000)
	for i := range reports {
		reports[i] = reportOf(fmt.Sprintf("kooworker-7d9c8b6f5d-%05d:1:019abcde-0000-7000-8000-000000000001", i), 1_000_000_000, 1_000_000)
	}
	for i := range maxSamples + 50 {
		v.At = time.Now().Add(time.Duration(i) * time.Second)
		some := reports[:1]
		if i == maxSamples+49 { // the others before would only take time
			some = reports
		}
		if err := keepSample(t.Context(), rdb, &v, some); err != nil {
			t.Fatal(err)
		}
	}
	if n := rdb.LLen(t.Context(), samplesKey).Val(); n != maxSamples {
		t.Errorf("%d samples are kept; want %d", n, maxSamples)
	}
	bytes, state := rdb.MemoryUsage(t.Context(), samplesKey).Val(), rdb.MemoryUsage(t.Context(), finishedKey).Val()
	t.Logf("samples take %d bytes, counters of 1000 workers %d", bytes, state)
	if bytes > 400_000 || state > 400_000 {
		t.Errorf("samples take %d bytes, and counters %d; want at most 400,000 each", bytes, state)
	}
}
