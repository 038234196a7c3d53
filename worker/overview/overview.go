package overview

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
)

// Overview is what is known of a Redis and its workers at one moment. Its JSON is also what
// `kooworker status --json` prints.
type Overview struct {
	At      time.Time `json:"at"` // by Redis' clock
	Workers Workers   `json:"workers"`
	Gate    Gate      `json:"gate"`
	Quota   Quota     `json:"quota"`
	Queues  []Queue   `json:"queues"`
	// Retries are about how many tasks wait for another attempt, by why the last one ended.
	Retries map[tasks.Reason]int64 `json:"retries"`
	Dead    deadletter.Counts      `json:"dead"`
	Batches Batches                `json:"batches"`
	Locks   Locks                  `json:"locks"`
	Redis   Redis                  `json:"redis"`
	// Unread says what could not be read, and why. It is as if it were not there.
	Unread []string `json:"unread,omitempty"`

	unread map[string]bool // the names of these parts
	limits fleet.Quota
}

// Workers are the workers that have sent a heartbeat in the last few seconds.
type Workers struct {
	Live int            `json:"live"`
	List []fleet.Report `json:"list"` // those that have said something of themselves
}

// Gate says which calls are not made.
type Gate struct {
	Stopped []Stopped `json:"stopped"`
	// Untested are those that some workers did not make when a task came last, long ago. Nobody
	// knows whether they pass, and nothing waits for that.
	Untested []Stopped `json:"untested,omitempty"`
}

// Stopped is a kind of calls that some workers do not make.
type Stopped struct {
	fleet.Stopped     // the earliest that a worker reports
	Workers       int `json:"workers"` // how many report it, or reported it when a task came last
}

// Quota is how KooDrive limits the calls, and how many are made, by kind of call.
type Quota struct {
	Calls   map[gate.Kind]CallQuota `json:"calls"`
	Shared  float64                 `json:"shared"`  // calls a second of all kinds together; 0: no limit is known
	Ceiling float64                 `json:"ceiling"` // --rate; 0: none
}

// CallQuota is the quota of one kind of calls, in calls a second of all workers.
type CallQuota struct {
	Limit   float64 `json:"limit"`   // 0: no limit is known
	Used    float64 `json:"used"`    // in the last seconds, refused ones included
	Refused float64 `json:"refused"` // of these, answered with 429
}

// Locks are the backup locks that the lock ledger knows, and the last sweep of each source.
type Locks struct {
	Total  int64         `json:"total"`
	Stale  int64         `json:"stale"`
	Swept  int64         `json:"swept"` // their release is enqueued, or dead
	Sweeps []locks.Sweep `json:"sweeps"`
}

// Options of Read.
type Options struct {
	// Grace is for how long a lock must have been expired to count as stale.
	Grace time.Duration
	// BatchRates is how many of the batches get their rate and the time that is left: those
	// with the most queued tasks. Each of them takes a round trip.
	BatchRates int
	// SampleRetries is how many tasks of each lane are looked at to know why tasks wait for
	// another attempt. 0: Retries stays empty.
	SampleRetries int
}

// ForScreen are the options of a screen that shows everything: the rates of ten batches, and the
// reasons of fifty tasks of each lane.
func ForScreen(grace time.Duration) Options {
	return Options{Grace: grace, BatchRates: 10, SampleRetries: 50}
}

// Read reads an overview. It returns an error only if Redis does not answer a ping. What
// cannot be read later is named in Unread.
func Read(ctx context.Context, rdb redis.UniversalClient, o Options) (Overview, error) {
	var v Overview
	var err error
	if v.Redis, err = readRedis(ctx, rdb); err != nil {
		return Overview{Redis: v.Redis}, err
	}
	v.At = v.Redis.at
	for _, part := range []struct {
		name string
		read func() error
	}{
		{"workers", func() error { return v.readWorkers(ctx, rdb) }},
		{"quota", func() error { return v.readQuota(ctx, rdb) }},
		{"queues", func() (err error) { v.Queues, err = ReadQueues(ctx, rdb, false); return err }},
		{"retries", func() (err error) { v.Retries, err = readRetries(ctx, rdb, o.SampleRetries); return err }},
		{"dead", func() (err error) { v.Dead, err = deadletter.NewStore(rdb).Counts(ctx); return err }},
		{"batches", func() (err error) { v.Batches, err = v.readBatches(ctx, rdb, o.BatchRates); return err }},
		{"locks", func() error { return v.readLocks(ctx, rdb, o.Grace) }},
	} {
		if err := part.read(); err != nil {
			v.Unread = append(v.Unread, fmt.Sprintf("%s: %v", part.name, err))
			if v.unread == nil {
				v.unread = make(map[string]bool)
			}
			v.unread[part.name] = true
		}
	}
	return v, nil
}

// readWorkers reads the reports of the workers, and what they say of the gate.
func (v *Overview) readWorkers(ctx context.Context, rdb redis.UniversalClient) (err error) {
	v.Workers.List, v.Workers.Live, err = fleet.ReadReports(ctx, rdb)
	v.setStopped()
	return err
}

// setStopped says which calls are not made, by the reports of the workers.
func (v *Overview) setStopped() {
	v.Gate = Gate{Stopped: MergeStopped(v.Workers.List), Untested: mergeUntested(v.Workers.List)}
}

// MergeStopped returns which calls some workers do not make, by kind and reason. A worker that
// found the same when a task came last, and has had none since, counts: a few tasks that wait
// are in one worker at a time.
func MergeStopped(reports []fleet.Report) (all []Stopped) {
	for _, r := range reports {
		all = merge(all, r.Stopped)
	}
	for _, r := range reports {
		for _, s := range r.Untested {
			if i := indexOf(all, s); i >= 0 {
				all[i].Workers++
			}
		}
	}
	return all
}

// mergeUntested returns what some workers found when a task came last, long ago, and no worker
// finds now.
func mergeUntested(reports []fleet.Report) (all []Stopped) {
	for _, r := range reports {
		all = merge(all, r.Untested)
	}
	known := MergeStopped(reports)
	return slices.DeleteFunc(all, func(s Stopped) bool { return indexOf(known, s.Stopped) >= 0 })
}

// merge adds what one worker reports.
func merge(all []Stopped, reported []fleet.Stopped) []Stopped {
	for _, s := range reported {
		i := indexOf(all, s)
		if i < 0 {
			all = append(all, Stopped{Stopped: s, Workers: 1})
			continue
		}
		all[i].Workers++
		if s.Since.Before(all[i].Since) {
			all[i].Since = s.Since
		}
	}
	return all
}

func indexOf(all []Stopped, s fleet.Stopped) int {
	return slices.IndexFunc(all, func(other Stopped) bool { return other.Call == s.Call && other.Reason == s.Reason })
}

// makeNone reports whether none of the workers makes calls of a kind, as far as they know. A
// quota is that of all workers: if one has seen that it is used up, the others see it soon.
func makeNone(reports []fleet.Report, kind gate.Kind) bool {
	if indexOf(MergeStopped(reports), fleet.Stopped{Call: kind, Reason: tasks.Throttled}) >= 0 {
		return true
	}
	isIt := func(s fleet.Stopped) bool { return s.Call == kind }
	return !slices.ContainsFunc(reports, func(r fleet.Report) bool {
		return !slices.ContainsFunc(r.Stopped, isIt) && !slices.ContainsFunc(r.Untested, isIt)
	})
}

func (v *Overview) readQuota(ctx context.Context, rdb redis.UniversalClient) error {
	v.Quota.Calls = make(map[gate.Kind]CallQuota)
	limits, err := fleet.ReadQuota(ctx, rdb)
	v.limits, v.Quota.Shared, v.Quota.Ceiling = limits, limits.Shared, limits.Ceiling
	for _, kind := range gate.Kinds() {
		q := CallQuota{Limit: limits.Kinds[kind]}
		for _, r := range v.Workers.List {
			q.Used += r.Calls[kind]
			q.Refused += r.Refused[kind]
		}
		v.Quota.Calls[kind] = q
	}
	return err
}

func (v *Overview) readLocks(ctx context.Context, rdb redis.UniversalClient, grace time.Duration) error {
	ledger := locks.NewStore(rdb)
	counts, err := ledger.Counts(ctx, grace)
	if err != nil {
		return err
	}
	v.Locks = Locks{Total: counts.Total, Stale: counts.Stale, Swept: counts.Swept}
	v.Locks.Sweeps, err = ledger.LastSweeps(ctx)
	return err
}

// Waiting returns how many tasks could run now, or run: dead letters that are replayed
// included.
func (v *Overview) Waiting() (n int64) {
	for _, q := range v.Queues {
		n += q.Pending + q.Active
	}
	return n
}

// retrying returns how many tasks wait for another attempt, and the reasons, the most
// frequent first.
func (v *Overview) retrying() (n int64, reasons []tasks.Reason) {
	for _, count := range v.Retries {
		n += count
	}
	return n, MostFrequent(v.Retries)
}

// MostFrequent returns the reasons that are counted, the most frequent first.
func MostFrequent(counts map[tasks.Reason]int64) []tasks.Reason {
	return slices.SortedFunc(maps.Keys(counts), func(a, b tasks.Reason) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
}
