package overview

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
)

const (
	samplesKey  = "{kooworker:fleet}:overview:samples"  // a list, the latest last
	finishedKey = "{kooworker:fleet}:overview:finished" // the latest counters of each worker, in JSON

	// maxSamples bounds the list: a little more than an hour of them.
	maxSamples = 400
	// SamplesKept is for how long samples are kept, and both keys after the last one.
	SamplesKept = time.Hour
	// sampleVersion is that of what is stored. What has another one is not read.
	sampleVersion = 1
)

// SampleEvery is the time between two samples, as long as a process runs that takes them.
// Where the time between two is much longer, nobody ran or Redis was away.
const SampleEvery = readEvery

// Sample is what a chart shows of one moment.
type Sample struct {
	At time.Time // by Redis' clock
	// Backlog are the tasks that are not done, by queue: pending, scheduled, in retry and
	// active. Queues without any are not in it, and dead letters are in Dead.
	Backlog map[string]int64
	Dead    int64
	Workers int
	// Calls are the calls a second of all workers, by kind, and their limits. Shared is the
	// limit of all kinds together, and Ceiling is --rate; 0: none is known.
	Calls           map[gate.Kind]CallQuota
	Shared, Ceiling float64
	// Stopped are the kinds of calls that at least one worker did not make.
	Stopped []gate.Kind

	// Finished are the tasks to which workers have given an outcome since the sample before,
	// and Since is when that was. Finished is nil, and Since zero, if that is not known: of the
	// first sample, and if the counts have begun anew in between.
	//
	// What a worker finishes between the last sample before its end and its end is missing:
	// some seconds of one worker. What commands do, such as cancelling and discarding, is not
	// counted.
	Finished map[tasks.Outcome]int64
	Since    time.Time
}

// PerSecond returns how many tasks got an outcome a second since the sample before, NaN if that
// is not known.
func (s Sample) PerSecond(outcome tasks.Outcome) float64 {
	if took := s.At.Sub(s.Since).Seconds(); s.Finished != nil && took > 0 {
		return float64(s.Finished[outcome]) / took
	}
	return math.NaN()
}

// storedSample is a sample in Redis.
type storedSample struct {
	Version int                     `json:"v"`
	At      int64                   `json:"at"` // in ms
	Backlog map[string]int64        `json:"backlog,omitempty"`
	Dead    int64                   `json:"dead,omitempty"`
	Workers int                     `json:"workers,omitempty"`
	Calls   map[gate.Kind]CallQuota `json:"calls,omitempty"`
	Shared  float64                 `json:"shared,omitempty"`
	Ceiling float64                 `json:"ceiling,omitempty"`
	Stopped []gate.Kind             `json:"stopped,omitempty"`
	// Finished counts from when the counters began. A reader subtracts two samples. So it is
	// harmless if two processes take a sample at once, and if one is missing.
	Finished map[tasks.Outcome]int64 `json:"finished"`
}

// counters are what the workers have finished, in Redis.
type counters struct {
	Version int                      `json:"v"`
	Total   map[tasks.Outcome]int64  `json:"total"`
	Workers map[string]workerCounter `json:"workers"` // by ID
}

// workerCounter is what a worker has finished since it started, by its latest report.
type workerCounter struct {
	Finished map[tasks.Outcome]int64 `json:"finished"`
	Seen     int64                   `json:"seen"` // when that was read, in ms
}

// maxCounters bounds how many workers are remembered: more than there are reports, since some
// have gone.
const maxCounters = 2000

// keepSampleCmd keeps a sample, and the counters that it was made of.
//
// KEYS[1] -> {kooworker:fleet}:overview:samples
// KEYS[2] -> {kooworker:fleet}:overview:finished
// --
// ARGV[1] -> the sample in JSON
// ARGV[2] -> the counters in JSON
// ARGV[3] -> how many samples are kept
// ARGV[4] -> for how long both are kept, in ms.
var keepSampleCmd = redis.NewScript(`
redis.call("RPUSH", KEYS[1], ARGV[1])
redis.call("LTRIM", KEYS[1], -ARGV[3], -1)
redis.call("PEXPIRE", KEYS[1], ARGV[4])
redis.call("SET", KEYS[2], ARGV[2], "PX", ARGV[4])
return 1
`)

// keepSample keeps a sample of an overview and of what the workers report. If a part of it
// could not be read it keeps none: a gap in a chart is better than a zero.
func keepSample(ctx context.Context, rdb redis.UniversalClient, v *Overview, reports []fleet.Report) error {
	for _, part := range []string{"workers", "quota", "queues", "dead"} {
		if v.unread[part] {
			return nil
		}
	}
	before, err := readCounters(ctx, rdb)
	if err != nil {
		return err
	}
	now := before.add(reports, v.At)
	sample, err := json.Marshal(sampleOf(v, now.Total))
	if err != nil {
		return fmt.Errorf("encode a sample of the overview: %w", err)
	}
	state, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("encode what the workers have finished: %w", err)
	}
	if err := keepSampleCmd.Run(ctx, rdb, []string{samplesKey, finishedKey}, sample, state, maxSamples, SamplesKept.Milliseconds()).Err(); err != nil {
		return fmt.Errorf("keep a sample of the overview: %w", err)
	}
	return nil
}

// readCounters returns the counters of the sample before; nil if there is none, or if another
// version has written them.
func readCounters(ctx context.Context, rdb redis.UniversalClient) (*counters, error) {
	text, err := rdb.Get(ctx, finishedKey).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what the workers had finished: %w", err)
	}
	c := new(counters)
	if json.Unmarshal(text, c) != nil || c.Version != sampleVersion {
		c = nil
	}
	return c, nil
}

// add returns the counters after c, given what the workers report at a time. A worker that was
// not there before has started since, so all that it has finished counts. If nothing was there
// before, nothing is known of when the workers finished what they report: it does not count.
//
// A worker whose report is missing is remembered for an hour. It may come back, and what it had
// finished must not count twice.
func (c *counters) add(reports []fleet.Report, now time.Time) *counters {
	out := &counters{Version: sampleVersion, Total: make(map[tasks.Outcome]int64), Workers: make(map[string]workerCounter)}
	if c != nil {
		maps.Copy(out.Total, c.Total)
		maps.Copy(out.Workers, c.Workers)
	}
	for _, r := range reports {
		if r.Finished == nil { // of an older version
			continue
		}
		last, latest := out.Workers[r.ID].Finished, make(map[tasks.Outcome]int64)
		for outcome, n := range r.Finished {
			latest[outcome] = max(n, last[outcome])
			if c != nil {
				out.Total[outcome] += latest[outcome] - last[outcome]
			}
		}
		out.Workers[r.ID] = workerCounter{Finished: latest, Seen: now.UnixMilli()}
	}
	out.forget(now.Add(-SamplesKept))
	return out
}

// forget forgets the workers that were not seen since a time, and the oldest of too many.
func (c *counters) forget(since time.Time) {
	maps.DeleteFunc(c.Workers, func(_ string, w workerCounter) bool { return w.Seen < since.UnixMilli() })
	if len(c.Workers) <= maxCounters {
		return
	}
	ids := slices.SortedFunc(maps.Keys(c.Workers), func(a, b string) int { return cmp.Compare(c.Workers[a].Seen, c.Workers[b].Seen) })
	for _, id := range ids[:len(ids)-maxCounters] {
		delete(c.Workers, id)
	}
}

// sampleOf returns the sample of an overview. Digits that no chart shows are cut.
func sampleOf(v *Overview, finished map[tasks.Outcome]int64) storedSample {
	round := func(rate float64) float64 { return math.Round(100*rate) / 100 }
	s := storedSample{
		Version: sampleVersion, At: v.At.UnixMilli(), Backlog: make(map[string]int64), Dead: v.Dead.Total, Workers: v.Workers.Live,
		Calls: make(map[gate.Kind]CallQuota), Shared: round(v.Quota.Shared), Ceiling: round(v.Quota.Ceiling), Finished: finished,
	}
	for _, q := range v.Queues {
		if n := q.Pending + q.Scheduled + q.Retry + q.Active; n > 0 && q.Name != tasks.QueueDeadLetter {
			s.Backlog[q.Name] = n
		}
	}
	for _, kind := range gate.Kinds() {
		q := v.Quota.Calls[kind]
		if q != (CallQuota{}) {
			s.Calls[kind] = CallQuota{Limit: round(q.Limit), Used: round(q.Used), Refused: round(q.Refused)}
		}
		if v.isStopped(kind) {
			s.Stopped = append(s.Stopped, kind)
		}
	}
	return s
}

// ReadSamples returns the samples of the last hour, the oldest first. While no worker,
// scheduler with metrics or dashboard runs, there is none: where the time between two samples
// is much longer than SampleEvery, a chart has a gap. Samples of other versions are left out.
func ReadSamples(ctx context.Context, rdb redis.UniversalClient) ([]Sample, error) {
	var texts *redis.StringSliceCmd
	var now *redis.TimeCmd
	err := pipelined(ctx, rdb, func(p redis.Pipeliner) {
		texts, now = p.LRange(ctx, samplesKey, 0, -1), p.Time(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("read the samples of the overview: %w", err)
	}
	var stored []storedSample
	for _, text := range texts.Val() {
		var s storedSample
		if json.Unmarshal([]byte(text), &s) == nil && s.Version == sampleVersion && now.Val().Sub(time.UnixMilli(s.At)) <= SamplesKept {
			stored = append(stored, s)
		}
	}
	// Redis' clock may have been put back.
	slices.SortStableFunc(stored, func(a, b storedSample) int { return cmp.Compare(a.At, b.At) })
	samples := make([]Sample, len(stored))
	for i, s := range stored {
		samples[i] = Sample{
			At: time.UnixMilli(s.At).UTC(), Backlog: s.Backlog, Dead: s.Dead, Workers: s.Workers,
			Calls: s.Calls, Shared: s.Shared, Ceiling: s.Ceiling, Stopped: s.Stopped,
		}
		if i == 0 {
			continue
		}
		if finished, ok := finishedBetween(stored[i-1], s); ok {
			samples[i].Finished, samples[i].Since = finished, samples[i-1].At
		}
	}
	return samples, nil
}

// finishedBetween returns what was finished between two samples. It is not ok if the counts have
// begun anew.
func finishedBetween(before, now storedSample) (finished map[tasks.Outcome]int64, ok bool) {
	finished = make(map[tasks.Outcome]int64)
	for outcome, n := range now.Finished {
		finished[outcome] = n - before.Finished[outcome]
	}
	for outcome, n := range before.Finished {
		if now.Finished[outcome] < n {
			return nil, false
		}
	}
	return finished, true
}
